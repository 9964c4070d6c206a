# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Local solutions for each right-hand side: against dense solves on boxes, and errors of sums."""

from __future__ import annotations

from petsc4py import PETSc

import numpy as np
import pytest
from sample import expect_error
from utils import (
    COMM,
    HEX,
    QUAD,
    TRI,
    box,
    box_vertices,
    cell_field,
    clamp,
    diffusion,
    dof_points,
    elasticity,
    gather_function,
    gather_matrix,
    gather_rows,
    gather_vector,
    hat_values,
    mass,
    norm_in,
    rough,
    two_phase,
)

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx.fem.petsc import assemble_matrix, assemble_vector
from dolfinx_msnn import (
    CoarseGrid,
    FilteredBasis,
    HarmonicBasis,
    MultiscaleFunctionSpace,
    SpectralBasis,
    multiscale_functionspace,
)
from dolfinx_msnn.petsc import LinearProblem

LU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


def left(x):
    return np.isclose(x[0], 0.0)


def right(x):
    return np.isclose(x[0], 1.0)


def uneven(V, scale=1.0):
    """A load with another number at each point."""
    v, x = ufl.TestFunction(V), ufl.SpatialCoordinate(V.mesh)
    f = scale * ufl.sin(40 * x[0] + 7 * x[1]) * ufl.cos(31 * x[1] - 9 * x[0])
    return (f * (v[0] - v[1]) if v.ufl_shape else f * v) * ufl.dx


def setting(name="plain", n=12):
    """Space, form, load, conditions and coefficient of a problem on so many cells across."""
    cell = {"3D": HEX, "triangles": TRI}.get(name, QUAD)
    msh = box(COMM, cell, 6 if name == "3D" else n)
    vector = name in ("elasticity", "component", "free body")
    V = fem.functionspace(msh, ("Lagrange", 2 if name == "P2" else 1, *([(2,)] if vector else [])))
    kappa = cell_field(msh, two_phase(1e4))
    a = elasticity(V, kappa) if vector else diffusion(V, kappa)
    bcs = [clamp(V, left, 1.0), clamp(V, right, -3.0)]
    if name == "robin":
        a, bcs = a + 5.0 * ufl.TrialFunction(V) * ufl.TestFunction(V) * ufl.ds, []
    elif name == "component":
        bcs = [clamp(V, left, 1.0), clamp(V, right, 2.0, component=1)]
    elif name.startswith("free"):
        bcs = []
    return V, a, uneven(V, 1e3), bcs, kappa


def solve(W, a, L, bcs, **options):
    with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="local_", **options) as problem:
        return problem.solve().copy()


def fine(a, L, bcs):
    return FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=LU).solve()


def energy(a, u, w=None):
    """Energy norm of u - w."""
    e = fem.Function(u.function_space)
    e.x.array[:] = u.x.array - (0 if w is None else w.x.array)
    v, t = a.arguments()
    square = fem.assemble_scalar(fem.form(ufl.replace(a, {t: e, v: e})))
    return np.sqrt(max(COMM.allreduce(square), 0.0))


@pytest.mark.parametrize("name", ["plain", "P2", "elasticity", "component", "robin", "3D"])
def test_against_dense_solves(name):
    """Boxes of cells, hats from their formula, A and b from DOLFINx's assembly."""
    V, a, L, bcs, _ = setting(name)
    d, bs, num = V.mesh.geometry.dim, V.dofmap.index_map_bs, 2 if name == "3D" else 3
    coarse = CoarseGrid(V.mesh, (num,) * d, oversampling=1)
    with multiscale_functionspace(V, coarse, FilteredBasis(4), a, bcs=bcs) as W:
        u = gather_function(solve(W, a, L, bcs, local_solutions=True))
        P, fixed = gather_matrix(W.P), gather_rows(COMM, W.dirichlet)
    matrix, vector = assemble_matrix(fem.form(a)), assemble_vector(fem.form(L))
    matrix.assemble()
    vector.ghostUpdate(PETSc.InsertMode.ADD, PETSc.ScatterMode.REVERSE)
    A, b = gather_matrix(matrix).toarray(), gather_vector(vector)
    matrix.destroy()
    vector.destroy()
    given = fem.Function(V)
    for bc in bcs:
        bc.set(given.x.array)
    given.x.scatter_forward()
    g, points = gather_function(given), dof_points(V)
    vertices, h = box_vertices((num,) * d)
    total = np.zeros(len(b))
    for vertex, chi in zip(vertices, hat_values(points[:, :d], vertices, h).T, strict=True):
        # One layer of cells around the neighbourhood; the boundary of the domain is none of it.
        beyond = np.abs(points[:, :d] - vertex) - h - 1 / (6 if name == "3D" else 12)
        inside, edge = np.all(beyond < -1e-9, axis=1), np.all(beyond < 1e-9, axis=1)
        z = np.where(fixed, g, 0.0)
        for c in range(bs):
            mine = points[:, d] == c
            if (mine & inside & fixed).any():
                z[mine & edge & ~inside & ~fixed] = g[mine & inside & fixed].mean()
        free = inside & ~fixed
        z[free] = np.linalg.solve(A[np.ix_(free, free)], (b - A @ z)[free])
        total += chi * z
    np.testing.assert_allclose(total[fixed], g[fixed])
    x0 = np.linalg.lstsq(P.T @ A @ P, P.T @ (b - A @ total), rcond=1e-13)[0]
    exact = P @ x0 + total
    np.testing.assert_allclose(u, exact, atol=1e-7 * np.abs(exact).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["plain", "overlap", "elasticity", "P2", "triangles", "free", "free body"]
)
def test_errors_of_an_uneven_load(name):
    """Far below those of the same space without, and a twentieth of those of eigenmodes."""
    V, a, L, bcs, kappa = setting(name, {"P2": 12, "free body": 16}.get(name, 24))
    coarse = CoarseGrid(V.mesh, (3, 3), overlap=2 if name == "overlap" else None)
    options = {"bcs": bcs, "petsc_options_prefix": "local_"}
    with (
        multiscale_functionspace(V, coarse, HarmonicBasis(12), a, bcs=bcs) as W,
        multiscale_functionspace(V, coarse, SpectralBasis(12), a, mass(V, kappa), bcs) as modes,
        LinearProblem(a, L, W, **options) as problem,
    ):
        without = problem.solve().copy()
        if bcs:
            exact = fine(a, L, bcs)
        else:
            # Up to a rigid motion, which has no energy; the load is made compatible.
            exact = fem.Function(V)
            A, b = gather_matrix(problem.A).toarray(), gather_vector(problem.b)
            first, last = problem.b.getOwnershipRange()
            exact.x.array[: last - first] = np.linalg.lstsq(A, b, rcond=1e-13)[0][first:last]
            exact.x.scatter_forward()
        sums, few = solve(W, a, L, bcs, local_solutions=True), solve(modes, a, L, bcs)
    without, sums, few = (energy(a, u, exact) / energy(a, exact) for u in (without, sums, few))
    assert sums < few / 20 and sums < without / 5 and sums < 0.02, (without, sums, few)


@pytest.mark.slow
def test_pressure_drop_of_a_space_of_eigenmodes():
    """Constant boundary values: local solutions are constants near them, whatever the contrast."""
    V, a, _, bcs, kappa = setting(n=24)
    L = fem.Constant(V.mesh, 0.0) * ufl.TestFunction(V) * ufl.dx
    exact, coarse = fine(a, L, bcs), CoarseGrid(V.mesh, (4, 4))
    with multiscale_functionspace(V, coarse, SpectralBasis(4), a, mass(V, kappa), bcs) as W:
        without, sums = (
            energy(a, solve(W, a, L, bcs, local_solutions=local), exact) for local in (False, True)
        )
    assert sums < 1.001 * without


@pytest.mark.parametrize("name", ["plain", "free", "free body"])
def test_whole_domain_in_each_neighbourhood(name):
    """The only local solution is the solution, also where nothing holds the body."""
    V, a, L, bcs, _ = setting(name)
    with (
        multiscale_functionspace(V, CoarseGrid(V.mesh, (1, 1)), FilteredBasis(4), a, bcs=bcs) as W,
        LinearProblem(
            a, L, W, bcs=bcs, petsc_options_prefix="local_", local_solutions=True
        ) as problem,
    ):
        u = gather_function(problem.solve())
        A, b = gather_matrix(problem.A).toarray(), gather_vector(problem.b)
        free = ~gather_rows(COMM, W.dirichlet)
    exact = np.linalg.lstsq(A[np.ix_(free, free)], b[free], rcond=1e-13)[0]
    e = u[free] - exact
    assert norm_in(A[np.ix_(free, free)], e) < 1e-5 * norm_in(A[np.ix_(free, free)], exact)


def test_new_values():
    """New coefficients, boundary values and loads, on a space that stays as it was."""
    V, a, L, _, kappa = setting()
    g, coarse = fem.Function(V), CoarseGrid(V.mesh, (3, 3))
    bcs = [fem.dirichletbc(g, fem.locate_dofs_geometrical(V, left))]
    with (
        multiscale_functionspace(V, coarse, HarmonicBasis(4), a, bcs=bcs) as W,
        LinearProblem(
            a, L, W, bcs=bcs, petsc_options_prefix="local_", local_solutions=True
        ) as problem,
    ):
        first = problem.solve().x.array.copy()
        kappa.x.array[:] = cell_field(V.mesh, rough(1e2)).x.array
        g.interpolate(lambda x: 1 + x[1])
        L = ufl.TestFunction(V) * ufl.dx
        second, anew = problem.solve(L).copy(), solve(W, a, L, bcs, local_solutions=True)
        np.testing.assert_allclose(second.x.array, anew.x.array, rtol=1e-9)
        assert np.abs(second.x.array - first).max() > 0.1
        # Boundary values that no function of the space has.
        assert energy(a, second, fine(a, L, bcs)) < energy(a, solve(W, a, L, bcs)) / 5


def test_space_from_a_file(tmp_path):
    """It does not know its coarse grid."""
    V, a, L, bcs, _ = setting()
    path = COMM.bcast(tmp_path) / "space.h5"
    coarse = CoarseGrid(V.mesh, (3, 3))
    with multiscale_functionspace(V, coarse, HarmonicBasis(4), a, bcs=bcs) as W:
        u = solve(W, a, L, bcs, local_solutions=True)
        W.save(path, a)
    with MultiscaleFunctionSpace.load(path, V, a, bcs=bcs) as W:
        with expect_error(ValueError, "expected local_solutions=coarse"):
            solve(W, a, L, bcs, local_solutions=True)
        loaded = solve(W, a, L, bcs, local_solutions=coarse)
        np.testing.assert_allclose(loaded.x.array, u.x.array, atol=1e-9)
        other = CoarseGrid(box(COMM, QUAD, 4), (2, 2))
        for given in (other, "yes"):
            with expect_error(ValueError, "local_solutions must be True, False or a CoarseGrid"):
                solve(W, a, L, bcs, local_solutions=given)
