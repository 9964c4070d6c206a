# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Functions without energy are in every basis, exactly; pieces, slivers and flat cells."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np
import pytest
import scipy.linalg
import utils
from pencils import mesh_of, neighbourhood, problem
from utils import HEX, QUAD, TRI, box, cell_field, clamp, diffusion, elasticity, mass, rough

import ufl
from dolfinx import fem, mesh
from dolfinx_msnn import (
    CoarseGrid,
    FilteredBasis,
    GuardedBasis,
    SpectralBasis,
    multiscale_functionspace,
)
from dolfinx_msnn.bases.nullspace import null_space, piece_motions
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.petsc import LinearProblem

serial = pytest.mark.serial

BASES = {
    "spectral": SpectralBasis,
    "filtered": FilteredBasis,
    "double": lambda n: FilteredBasis(n, precision="double"),
    "guarded": lambda n: GuardedBasis(FilteredBasis(n)),
}


def gap(comm, cell=QUAD, n=24, width=2):
    """A unit box without ``width`` layers of cells across the middle of a coarse box."""
    msh = box(comm, cell, n)
    tdim = msh.topology.dim
    cells = np.arange(msh.topology.index_map(tdim).size_local, dtype=np.int32)
    x = mesh.compute_midpoints(msh, tdim, cells)[:, 0] * n
    first = 3 * n // 8
    return mesh.create_submesh(msh, tdim, cells[(x < first) | (x > first + width)])[0]


def in_pieces(shape=None, robin=None, cell=QUAD, n=16):
    """The neighbourhood of (1/2, 1/2, ...) of a mesh with a gap; a condition at x = 1 or not."""
    msh = gap(MPI.COMM_SELF, cell, n)
    d = msh.geometry.dim
    V = fem.functionspace(msh, ("Lagrange", 1) if shape is None else ("Lagrange", 1, shape))
    kappa = cell_field(msh, rough(1e3))
    a = (diffusion if shape is None else elasticity)(V, kappa)
    if robin:
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        a += robin * ufl.inner(u, v) * ufl.ds
    found = LocalProblems(V, CoarseGrid(msh, (4,) * d), a, mass(V, kappa), [])
    return next(p for p in found if p.vertex == sum(2 * 5**k for k in range(d)))


@serial
@pytest.mark.parametrize("cell", [QUAD, TRI, HEX])
@pytest.mark.parametrize("vector", [False, True])
def test_null_space_of_pieces(cell, vector):
    d = utils.gdim(cell)
    p = in_pieces((d,) if vector else None, cell=cell, n=8 if d == 3 else 16)
    exact = scipy.linalg.null_space(p.A.toarray(), rcond=1e-10)
    found = null_space(p)
    assert len(found) == exact.shape[1] == 2 * (1 if not vector else d * (d + 1) // 2)
    assert np.abs(found.T - exact @ (exact.T @ found.T)).max() <= 1e-9 * np.abs(found).max()
    np.testing.assert_allclose(found @ (p.S @ found.T), np.eye(len(found)), atol=1e-12)


@serial
def test_null_space_knows_a_robin_condition():
    """Weak as it may be: only motions without any energy are taken."""
    for robin, count in ((0.0, 2), (1e-6, 0), (1.0, 0)):
        # On both sides of the gap.
        p = in_pieces(robin=robin)
        assert len(piece_motions(p)) == 2
        assert len(null_space(p)) == count


def motions_by_hand(p, name):
    """One a column."""
    x, one = p.x[:: p.block_size], np.ones(p.num_dofs // p.block_size)
    if name == "pieces":
        left = p.x[:, 0] < 0.44
        return np.column_stack([left, ~left]).astype(float)
    if p.block_size == 1:
        return one[:, None]
    d, zero = p.block_size, 0 * one
    found = [np.column_stack([one if i == k else zero for i in range(d)]) for k in range(d)]
    for i in range(d):
        for j in range(i):
            columns = [zero] * d
            columns[i], columns[j] = x[:, j], -x[:, i]
            found.append(np.column_stack(columns))
    return np.column_stack([motion.reshape(-1) for motion in found])


@serial
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", ["two phases, 1e6", "elasticity", "elasticity, 3D", "pieces"])
def test_every_basis_holds_the_null_space_exactly(basis, name):
    p = in_pieces() if name == "pieces" else problem(name)
    exact = motions_by_hand(p, name)
    modes = BASES[basis](8).modes([p])[0]
    assert modes.vectors.shape == (8, p.num_dofs)
    left = exact - modes.vectors.T @ np.linalg.lstsq(modes.vectors.T, exact, rcond=None)[0]
    assert np.abs(left).max() <= 1e-12 * np.abs(exact).max()
    np.testing.assert_allclose(modes.vectors @ (p.S @ modes.vectors.T), np.eye(8), atol=1e-6)
    assert (np.diff(modes.values) >= -1e-9 * modes.values[-1]).all()


@serial
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("basis", ["filtered", "guarded"])
def test_solution_beside_a_sealed_fault(basis, width):
    """Both sides at values of their own: no function on both at once will do."""
    msh = gap(MPI.COMM_SELF, QUAD, 32, width)
    V = fem.functionspace(msh, ("Lagrange", 1))
    one = fem.Constant(msh, 1.0)
    a, s, load = diffusion(V, one), mass(V, one), one * ufl.TestFunction(V) * ufl.dx
    bcs = [clamp(V, lambda x, t=t: np.isclose(x[0], t), 100.0 * t) for t in (0.0, 1.0)]
    errors = []
    for make in (BASES["spectral"], BASES[basis]):
        with (
            multiscale_functionspace(V, CoarseGrid(msh, (4, 4)), make(8), a, s, bcs) as W,
            LinearProblem(a, load, W, bcs=bcs, petsc_options_prefix="fault_") as p,
        ):
            errors.append(utils.energy_error(utils.gather_function(p.solve()), a, load, bcs))
    assert errors[0] < 0.1 and errors[1] <= 1.02 * errors[0]


@serial
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("with_s", [True, False])
def test_more_modes_than_dofs(basis, with_s):
    """Neighbourhoods of few dofs give all they have: then the space is the fine one."""
    msh = box(MPI.COMM_SELF, TRI, 5)
    V = fem.functionspace(msh, ("Lagrange", 1))
    one = fem.Constant(msh, 1.0)
    a, s, load = diffusion(V, one), mass(V, one), one * ufl.TestFunction(V) * ufl.dx
    bcs = [clamp(V, lambda x: np.isclose(x[0], 0.0))]
    grid = CoarseGrid(msh, (2, 2))
    with (
        multiscale_functionspace(V, grid, BASES[basis](50), a, s if with_s else None, bcs) as W,
        LinearProblem(a, load, W, bcs=bcs, petsc_options_prefix="slivers_") as p,
    ):
        assert all(len(values) <= 36 for values in W.eigenvalues.values())
        assert utils.energy_error(utils.gather_function(p.solve()), a, load, bcs) <= 1e-7


@serial
@pytest.mark.parametrize("boxes", [5, 9])
def test_slivers(boxes):
    """Boxes that cut off corners of a turned square; some neighbourhoods have a few dofs."""
    msh = box(MPI.COMM_SELF, TRI, 30)
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    msh.geometry.x[:, :2] = msh.geometry.x[:, :2] @ np.array([[c, d] for c, d in ((c, s), (-s, c))])
    V = fem.functionspace(msh, ("Lagrange", 1))
    one = fem.Constant(msh, 1.0)
    a, mass_, load = diffusion(V, one), mass(V, one), one * ufl.TestFunction(V) * ufl.dx
    x = fem.functionspace(msh, ("Lagrange", 1)).tabulate_dof_coordinates()
    low = x[:, 0].min()
    bcs = [clamp(V, lambda x: x[0] < low + 0.2)]
    found = {}
    for name in ("spectral", "filtered"):
        with (
            multiscale_functionspace(
                V, CoarseGrid(msh, (boxes, boxes)), BASES[name](16), a, mass_, bcs
            ) as W,
            LinearProblem(a, load, W, bcs=bcs, petsc_options_prefix="slivers_") as p,
        ):
            found[name] = utils.energy_error(utils.gather_function(p.solve()), a, load, bcs)
    # So small an error shows the tolerance of the filter.
    assert found["spectral"] < 0.01 and found["filtered"] <= 1.1 * found["spectral"] + 1e-8


@serial
@pytest.mark.parametrize(("ratio", "computed"), [(100.0, False), (1e6, True)])
def test_flat_cells(ratio, computed):
    """No waves that are finer than the mesh; where the filter is slow, SLEPc computes the modes."""
    p = neighbourhood(mesh_of(QUAD, 20, (ratio, 1.0)), (2, 2), 4)
    # Two rounds of that degree are more than SLEPc takes.
    basis = FilteredBasis(12, tol=1e-6, degree=500) if computed else FilteredBasis(12)
    modes = basis.modes([p])[0]
    exact = utils.pencil_eigh(p.A.toarray(), p.S.toarray(), 12)[0]
    np.testing.assert_allclose(modes.values[1:], exact[1:], rtol=0.02)
    assert basis.reports[0].computed == computed
