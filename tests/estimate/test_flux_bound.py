# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The guaranteed bound against exact solutions, and the flux it is made of."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np
import pytest
import scipy.linalg
from sample import COMM, expect_error
from utils import (
    CELLS,
    box,
    cell_field,
    clamp,
    diffusion,
    from_points,
    gdim,
    jiggle,
    l_shape,
    mass,
    rough,
)

import basix.ufl
import ufl
from dolfinx import fem, mesh
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid, FilteredBasis, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.estimate import bound_error
from dolfinx_msnn.estimate.equilibration import balance
from dolfinx_msnn.estimate.flux_bound import _flux
from dolfinx_msnn.estimate.patches import Patches
from dolfinx_msnn.petsc import LinearProblem

HIGH = {"metadata": {"quadrature_degree": 8}}


def shear(msh, amount=0.3):
    """Make parallelograms of the cells."""
    msh.geometry.x[:, 0] += amount * msh.geometry.x[:, 1]
    return msh


def solve(V, kappa, f, g, bcs, coarse, modes=4, basis=None):
    """The multiscale solution of -div(kappa grad u) = f, flux g."""
    a, v = diffusion(V, kappa), ufl.TestFunction(V)
    L = f * v * ufl.dx(domain=V.mesh, **HIGH) + g * v * ufl.ds(domain=V.mesh, **HIGH)
    basis = SpectralBasis(modes) if basis is None else basis
    with (
        multiscale_functionspace(V, coarse, basis, a, mass(V, kappa), bcs) as W,
        LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="majorant_") as problem,
    ):
        return problem.solve()


def distance(u, exact, kappa=1.0):
    """Energy norm of u - exact, by quadrature."""
    e = ufl.grad(u - exact)
    total = fem.assemble_scalar(fem.form(kappa * ufl.inner(e, e) * ufl.dx(degree=8)))
    return np.sqrt(u.function_space.mesh.comm.allreduce(total))


@pytest.mark.parametrize("cell", CELLS)
def test_linear_solution_has_no_error(cell):
    """Flux, boundary data, everything exact: what is left are rounding errors."""
    d = gdim(cell)
    msh = shear(box(COMM, cell, 6))
    V = fem.functionspace(msh, ("Lagrange", 1))
    x = ufl.SpatialCoordinate(msh)
    u = fem.Function(V)
    u.interpolate(fem.Expression(1 + 2 * x[0] - x[1], V.element.interpolation_points))
    # Neumann at the top side, whose normal is (0, 1, 0) whatever the shear.
    sides = mesh.locate_entities_boundary(msh, d - 1, lambda p: np.ones(p.shape[1], bool))
    top = mesh.locate_entities_boundary(msh, d - 1, lambda p: np.isclose(p[1], 1))
    rest = np.setdiff1d(sides, top)
    bcs = [fem.dirichletbc(u, fem.locate_dofs_topological(V, d - 1, rest))]
    coarse, g = CoarseGrid(msh, [2] * d), -1.0
    found = bound_error(u, 1.0, 0.0, None, bcs=bcs, g=g)
    assert found.upper < 1e-11 and found.oscillation < 1e-14
    # Wrong data are an error, and not a small one.
    assert bound_error(u, 1.0, 0.0, None, bcs=bcs, g=g + 0.1).upper > 1e-2
    # The closest flux of every patch is not the closest in sum.
    assert bound_error(u, 1.0, 0.0, coarse, bcs=bcs, g=g).upper < 0.1 * distance(u, 0 * x[0])


@pytest.mark.parametrize(
    ("cell", "degree"), [*((c, 1) for c in CELLS), (CELLS[0], 2), (CELLS[1], 2)]
)
def test_smooth_solution(cell, degree):
    """Oscillating f, and g on a part of the boundary; never below, and close."""
    d = gdim(cell)
    msh = box(COMM, cell, 16 if d == 2 else 4)
    V = fem.functionspace(msh, ("Lagrange", degree))
    x = ufl.SpatialCoordinate(msh)
    exact = x[0] * ufl.sin(2 * x[0] + x[1]) + ufl.cos(2 * x[d - 1]) * x[0]
    slope = ufl.grad(exact)
    # Outward normal derivative where x0 > 0.
    g = ufl.conditional(ufl.gt(x[0], 1 - 1e-9), slope[0], 0)
    for k in range(1, d):
        g += ufl.conditional(ufl.gt(x[k], 1 - 1e-9), slope[k], 0)
        g -= ufl.conditional(ufl.lt(x[k], 1e-9), slope[k], 0)
    f = -ufl.div(slope)
    bcs = [clamp(V, lambda p: np.isclose(p[0], 0), 0.0)]
    coarse = CoarseGrid(msh, [2] * d)
    u = solve(V, cell_field(msh, lambda p: 1 + 0 * p[0]), f, g, bcs, coarse)
    true = distance(u, exact)
    found = bound_error(u, 1.0, f, coarse, bcs=bcs, g=g)
    assert found.oscillation > 0
    # The flux is of lowest order, whatever the degree.
    assert true <= found.upper <= (1.5 + degree) * true
    assert found.correction < 1e-2 * true
    total = COMM.allreduce(found.cells @ found.cells)
    assert found.upper == pytest.approx(np.sqrt(total + found.correction**2), rel=1e-12)
    sharper = bound_error(u, 1.0, f, None, bcs=bcs, g=g)
    assert true <= sharper.upper <= found.upper * (1 + 1e-9)


@pytest.mark.parametrize("basis", [SpectralBasis(3), FilteredBasis(num_modes=3)])
@pytest.mark.parametrize(
    ("cell", "overlap"),
    [(CellType.triangle, None), (CellType.quadrilateral, None), (CellType.triangle, 1)],
)
def test_rough_coefficient(cell, overlap, basis):
    """Against a solution on a mesh four times finer; the same on any number of ranks."""
    n = 12

    def lattice(x):
        return (np.floor(x * n * (1 + 1e-12)) + 0.5) / n

    def problem(comm, refine):
        msh = box(comm, cell, n * refine)
        V = fem.functionspace(msh, ("Lagrange", 1))
        kappa = cell_field(msh, lambda x: rough(1e4)(lattice(x)))
        f = cell_field(msh, lambda x: np.cos(3 * lattice(x)[0]) + lattice(x)[1])
        bcs = [clamp(V, lambda x: np.isclose(x[0], 0), 0.5)]
        return V, kappa, f, bcs

    def functional(u, kappa, f):
        J = (kappa * ufl.inner(ufl.grad(u), ufl.grad(u)) / 2 - f * u) * ufl.dx - 0.7 * u * ufl.ds
        return u.function_space.mesh.comm.allreduce(fem.assemble_scalar(fem.form(J)))

    def fine(comm):
        from dolfinx.fem.petsc import LinearProblem as FineProblem

        V, kappa, f, bcs = problem(comm, 4)
        v = ufl.TestFunction(V)
        options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
        u = FineProblem(
            diffusion(V, kappa),
            f * v * ufl.dx + 0.7 * v * ufl.ds,
            bcs=bcs,
            petsc_options=options,
            petsc_options_prefix="fine_",
        ).solve()
        return functional(u, kappa, f)

    least = fine(COMM)
    results = []
    for comm in (COMM, MPI.COMM_SELF):
        V, kappa, f, bcs = problem(comm, 1)
        coarse = CoarseGrid(V.mesh, (3, 3), overlap=overlap)
        u = solve(V, kappa, f, 0.7, bcs, coarse, basis=basis)
        # The energy is quadratic about its minimum, and the finer solution is not below it.
        true = np.sqrt(2 * (functional(u, kappa, f) - least))
        found = bound_error(u, kappa, f, coarse, bcs=bcs, g=0.7)
        assert true <= found.upper <= 1.6 * true
        assert found.oscillation < 1e-12 and found.correction < 1e-6 * true
        results.append(found.upper)
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_any_function_is_bounded():
    """Not a Galerkin solution: hat functions are added first, and the bound holds."""
    msh = box(COMM, CellType.quadrilateral, 16)
    V = fem.functionspace(msh, ("Lagrange", 1))
    x = ufl.SpatialCoordinate(msh)
    exact = x[0] * (1 - x[0]) * x[1] * (1 - x[1])
    f = -ufl.div(ufl.grad(exact))
    bcs = [clamp(V, lambda p: np.isclose(p * (1 - p), 0)[:2].any(axis=0), 0.0)]
    coarse = CoarseGrid(msh, (4, 4))
    u = fem.Function(V)
    for amount in (0.0, 0.1, 3.0):
        u.interpolate(
            lambda p, s=amount: p[0] * (1 - p[0]) * p[1] * (1 - p[1]) * (1 + s * np.cos(9 * p[0]))
        )
        before = u.x.array.copy()
        true = distance(u, exact)
        found = bound_error(u, 1.0, f, coarse, bcs=bcs)
        np.testing.assert_array_equal(u.x.array, before)
        assert true <= found.upper <= 2 * true
        if amount > 0:
            assert found.correction > 0.01 * true


@pytest.mark.parametrize("cell", CELLS)
def test_flux_is_equilibrated(cell):
    """Opposite flows on the two sides of a facet, sources and Neumann data met exactly."""
    d = gdim(cell)
    msh = shear(box(COMM, cell, 6 if d == 2 else 4))
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, rough(1e3))
    f = cell_field(msh, lambda x: np.cos(5 * x[0]))
    bcs = [clamp(V, lambda p: np.isclose(p[1], 0), 1.0)]
    coarse = CoarseGrid(msh, [2] * d)
    u = solve(V, kappa, f, 0.25, bcs, coarse)
    patches = Patches(u, kappa, f, 0.25, coarse, bcs)
    balance(patches)
    q, facets = _flux(patches), patches.cells.facets
    scale = COMM.allreduce(np.abs(q).max(initial=0.0), op=MPI.MAX)
    volume = patches.weights.sum(axis=1)
    assert COMM.allreduce(volume.sum()) == pytest.approx(1.0)
    source = f.x.array[f.function_space.dofmap.list[: len(q), 0]] * volume
    np.testing.assert_allclose(q.sum(axis=1), source, atol=1e-11 * scale)
    numbers = np.concatenate(COMM.allgather(facets.reshape(-1)))
    flows = np.concatenate(COMM.allgather(q.reshape(-1)))
    count, total = np.bincount(numbers), np.bincount(numbers, weights=flows)
    assert np.abs(total[count == 2]).max() < 1e-10 * scale
    neumann = patches.cells.exterior & ~patches.dirichlet
    expected = -0.25 * patches.cells.facet_measures()[neumann]
    np.testing.assert_allclose(q[neumann], expected, atol=1e-11 * scale)
    assert (count[facets[patches.cells.exterior]] == 1).all()


@pytest.mark.parametrize("cell", CELLS)
def test_constants_of_the_oscillation(cell):
    """Poincaré's and the trace constant against the largest eigenvalues on a single cell."""
    d = gdim(cell)
    corners = np.array(basix.geometry(basix.CellType[cell.name]))
    stretch = np.diag([1.0, 3.0, 0.4][:d]) + 0.3 * np.tri(d, k=-1)
    points = corners @ stretch.T
    msh = mesh.create_mesh(
        MPI.COMM_SELF,
        np.arange(len(points), dtype=np.int64)[None],
        basix.ufl.element("Lagrange", cell.name, 1, shape=(d,)),
        points,
    )
    V = fem.functionspace(msh, ("Lagrange", 1))
    patches = Patches(fem.Function(V), 2.0, 0.0, 0.0, CoarseGrid(msh, [1] * d), [])
    space = fem.functionspace(msh, ("Lagrange", 4))
    v, w = ufl.TrialFunction(space), ufl.TestFunction(space)

    def dense(form):
        return fem.assemble_matrix(fem.form(form)).to_dense()

    A = dense(2.0 * ufl.inner(ufl.grad(v), ufl.grad(w)) * ufl.dx)
    M = dense(v * w * ufl.dx)
    # Subtract the mean over the cell.
    mean = np.eye(len(M)) - np.outer(np.ones(len(M)), M.sum(axis=0)) / M.sum()
    cases = [(M, patches.cells.diameter[0] / np.pi / np.sqrt(2.0))]
    msh.topology.create_connectivity(d - 1, d)
    links = msh.topology.connectivity(d, d - 1).links(0)
    measures = patches.cells.facet_measures()
    for k, facet in enumerate(links):
        tags = mesh.meshtags(msh, d - 1, np.array([facet]), np.array([1], dtype=np.int32))
        ds = ufl.Measure("ds", msh, subdomain_data=tags)
        B = dense(v * w * ds(1))
        assert B.sum() == pytest.approx(measures[0, k], rel=1e-10)
        cases.append((B, patches.cells.trace_constants()[0, k] / np.sqrt(2.0)))
    for B, constant in cases:
        largest = scipy.linalg.eigvalsh(mean.T @ B @ mean, A + np.outer(M.sum(0), M.sum(0)))[-1]
        assert 0.1 * constant < np.sqrt(largest) <= constant


def test_sweeps_lead_to_the_global_flux():
    """Each pass lowers the bound, down to that of the closest flux of all, and stays a bound."""
    msh = box(COMM, CellType.quadrilateral, 16)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa, f = cell_field(msh, rough(1e5)), cell_field(msh, lambda x: np.cos(5 * x[0]))
    bcs = [clamp(V, lambda p: np.isclose(p[1], 0), 1.0)]
    coarse = CoarseGrid(msh, (4, 4))
    u = solve(V, kappa, f, 0.25, bcs, coarse, modes=2)
    uppers = [
        bound_error(u, kappa, f, coarse, bcs=bcs, g=0.25, sweeps=k).upper for k in (0, 1, 4, 40)
    ]
    least = bound_error(u, kappa, f, None, bcs=bcs, g=0.25).upper
    assert uppers[0] > uppers[1] > uppers[2] >= uppers[3] >= least * (1 - 1e-9)
    assert uppers[3] < 1.001 * least < uppers[0]
    with expect_error(ValueError, "sweeps must be a non-negative integer, got -1"):
        bound_error(u, kappa, f, coarse, sweeps=-1)


def test_pure_neumann():
    msh = box(COMM, CellType.quadrilateral, 12)
    V = fem.functionspace(msh, ("Lagrange", 1))
    x = ufl.SpatialCoordinate(msh)
    coarse = CoarseGrid(msh, (3, 3))
    exact = ufl.cos(ufl.pi * x[0])
    f = ufl.pi**2 * exact
    u = solve(V, cell_field(msh, lambda p: 1 + 0 * p[0]), f, 0.0, [], coarse)
    true = distance(u, exact)
    found = bound_error(u, 1.0, f, coarse)
    assert true <= found.upper <= 2 * true
    with expect_error(ValueError, "expected data in equilibrium"):
        bound_error(u, 1.0, f, coarse, g=1.0)


def test_unstructured():
    """A coarse grid that the fine mesh knows nothing of."""
    msh = l_shape(COMM, 16)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa, f = cell_field(msh, rough(100.0)), cell_field(msh, lambda p: 1 + p[0])
    bcs = [clamp(V, lambda p: np.isclose(p[0], 0), 0.0)]
    coarse = CoarseGrid(msh, (3, 2))
    u = solve(V, kappa, f, 0.0, bcs, coarse)
    found, sharper = (bound_error(u, kappa, f, c, bcs=bcs) for c in (coarse, None))
    assert found.correction < 1e-8 * found.upper
    assert sharper.upper <= found.upper * (1 + 1e-9) <= 1.5 * sharper.upper


def test_slit():
    """A neighbourhood in two parts: χ_i balances their sum only, so the flux is a global one."""
    n = 20
    lattice = np.stack(np.meshgrid(*[np.arange(n + 1) / n] * 2), -1).reshape(-1, 2)
    msh = from_points(COMM, lattice, lambda m: (np.abs(m[:, 0] - 0.5) > 0.05) | (m[:, 1] > 0.85))
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, lambda p: 1 + 0 * p[0])
    f = cell_field(msh, lambda p: 1.0 + p[0])
    bcs = [clamp(V, lambda p: np.isclose(p[1], 1), 0.0)]
    coarse = CoarseGrid(msh, (2, 2))
    u = solve(V, kappa, f, 0.0, bcs, coarse, modes=1)
    patches = Patches(u, kappa, f, 0.0, coarse, bcs)
    balance(patches)
    assert _flux(patches) is None
    found, sharper = (bound_error(u, kappa, f, c, bcs=bcs) for c in (coarse, None))
    assert found.upper == pytest.approx(sharper.upper, rel=1e-8)
    # With two modes both parts have their constant, and their equilibrium.
    u = solve(V, kappa, f, 0.0, bcs, coarse, modes=2)
    found, sharper = (bound_error(u, kappa, f, c, bcs=bcs) for c in (coarse, None))
    assert sharper.upper * (1 + 1e-6) < found.upper < 1.2 * sharper.upper


def test_refuses():
    msh = box(COMM, CellType.quadrilateral, 6)
    V = fem.functionspace(msh, ("Lagrange", 1))
    coarse, u = CoarseGrid(msh, (2, 2)), fem.Function(V)
    kappa = fem.Function(V)
    kappa.x.array[:] = 1.0
    with expect_error(ValueError, "expected a piecewise constant one"):
        bound_error(u, kappa, 1.0, coarse)
    with expect_error(ValueError, "it must be piecewise constant"):
        bound_error(u, 1 + ufl.SpatialCoordinate(msh)[0], 1.0, coarse)
    with expect_error(ValueError, "expected positive"):
        bound_error(u, -1.0, 1.0, coarse)
    with expect_error(ValueError, "scalar UFL expressions or numbers"):
        bound_error(u, 1.0, ufl.SpatialCoordinate(msh), coarse)
    x = ufl.SpatialCoordinate(msh)[0]
    hollow = fem.Function(fem.functionspace(msh, ("DG", 0)))
    hollow.x.array[:1] = np.nan
    for bad in (np.nan, hollow, 1 / (x - x)):
        with expect_error(ValueError, "f has NaN or infinite values"):
            bound_error(u, 1.0, bad, coarse)
    with expect_error(ValueError, "g has NaN or infinite values"):
        bound_error(u, 1.0, 1.0, coarse, g=np.nan)
    broken = u.copy()
    broken.x.array[:1] = np.nan
    with expect_error(ValueError, "u has NaN or infinite values"):
        bound_error(broken, 1.0, 1.0, coarse)
    with expect_error(ValueError, "Expected a CoarseGrid or None"):
        bound_error(u, 1.0, 1.0, "coarse")
    with expect_error(ValueError, "not scalar"):
        bound_error(fem.Function(fem.functionspace(msh, ("Lagrange", 1, (2,)))), 1.0, 1.0, coarse)
    bent = jiggle(box(COMM, CellType.quadrilateral, 6), 0.02)
    with expect_error(ValueError, "not affine"):
        bound_error(
            fem.Function(fem.functionspace(bent, ("Lagrange", 1))),
            1.0,
            1.0,
            CoarseGrid(bent, (2, 2)),
        )
