# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""SpectralBasis against LAPACK: every eigenvalue, every copy, any contrast.

The modes of a neighbourhood are computed without communication, so one process shows it all; what
many ranks make of them is in test_space.py and test_invariance.py.
"""

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import pytest
from utils import (
    box,
    cell_field,
    clamp,
    diffusion,
    elasticity,
    jiggle,
    mass,
    pencil_eigh,
    rough,
    sine,
)

from dolfinx import fem
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid, LocalBasis, SpectralBasis
from dolfinx_msnn.local.assembly import LocalProblems

pytestmark = pytest.mark.serial


def one(x):
    return np.ones(x.shape[1])


def problems(msh, n, value, a=diffusion, s=mass, degree=1, shape=None, bcs=None):
    """All local problems of a serial mesh, by coarse vertex."""
    element = ("Lagrange", degree) if shape is None else ("Lagrange", degree, shape)
    V = fem.functionspace(msh, element)
    kappa = cell_field(msh, value)
    conditions = [] if bcs is None else bcs(V)
    found = LocalProblems(
        V,
        CoarseGrid(msh, n),
        a(V, kappa),
        None if s is None else s(V, kappa),
        conditions,
    )
    return {p.vertex: p for p in found}


def square(cells=16, n=2, value=one, cell=CellType.quadrilateral, **kwargs):
    return problems(box(MPI.COMM_SELF, cell, cells), (n, n), value, **kwargs)


def cube(cells=8, n=2, value=one, cell=CellType.hexahedron, **kwargs):
    return problems(box(MPI.COMM_SELF, cell, cells), (n, n, n), value, **kwargs)


def check(problem, modes, num, *, rtol=1e-8, zeros=1):
    """Eigenvalues equal LAPACK's; vectors are S-orthonormal and have small residuals."""
    A, S = problem.A.toarray(), problem.S.toarray()
    exact, phi = pencil_eigh(A, S, max(num, zeros) + 1)
    values, vectors = modes.values, modes.vectors
    assert values.shape == (num,) and vectors.shape == (num, problem.num_dofs)
    # The first eigenvalue that is not zero.
    scale = exact[min(zeros, len(exact) - 1)]
    assert np.abs(exact[:zeros]).max(initial=0.0) < 1e-5 * scale
    assert np.all(np.diff(values) >= -1e-8 * scale)
    np.testing.assert_allclose(values[zeros:], exact[zeros:num], rtol=rtol)
    assert np.abs(values[:zeros]).max(initial=0.0) < rtol * scale
    np.testing.assert_allclose(vectors @ S @ vectors.T, np.eye(num), atol=1e-6)
    # Residual in the norm of diag(A)^-1, relative to that of λ S φ at the scale of the pencil.
    weight = 1 / np.sqrt(A.diagonal())
    for value, vector in zip(values, vectors, strict=True):
        residual = weight * (A @ vector - value * (S @ vector))
        size = weight * (np.abs(A) @ np.abs(vector))
        assert np.linalg.norm(residual) < 1e-6 * np.linalg.norm(size)
    # The whole subspace, where a gap follows it.
    if num < problem.num_dofs and exact[num] - exact[num - 1] > 1e-3 * max(exact[num], scale):
        root = np.linalg.cholesky(A + exact[num] * S)
        assert sine(vectors @ root, phi[:num] @ root) < 1e-5


def krylov(problem, num):
    """Whether this is no small problem, which LAPACK would solve for both."""
    return 2 * num + 15 < problem.num_dofs


# ---- multiple eigenvalues ----


@pytest.mark.parametrize("num", [3, 4, 5, 8, 11, 16])
def test_no_copy_is_missed_on_a_square(num):
    """Neumann modes of a square come in pairs; cutting a pair in two is allowed, skipping isn't."""
    problem = square()[4]
    assert problem.num_dofs == 17**2 and krylov(problem, num)
    check(problem, SpectralBasis(num).modes([problem])[0], num)


@pytest.mark.parametrize("num", [2, 4, 7, 8, 9, 12, 17, 20])
def test_no_copy_is_missed_on_a_cube(num):
    """Neumann modes of a cube come three- and sixfold."""
    problem = cube()[13]
    assert problem.num_dofs == 9**3 and krylov(problem, num)
    check(problem, SpectralBasis(num).modes([problem])[0], num)


def test_all_neighbourhoods_of_a_cube():
    """Corners, edges, faces and the middle, in one call (shared factorisations)."""
    found = cube(cells=12, n=3)
    chosen = [found[v] for v in (0, 1, 5, 21, 42, 63)]
    assert all(krylov(p, 9) for p in chosen)
    for problem, modes in zip(chosen, SpectralBasis(9).modes(chosen), strict=True):
        check(problem, modes, 9)


def test_tetrahedra():
    """Symmetric, but no product: modes on Kuhn's tetrahedra come twofold."""
    problem = cube(cell=CellType.tetrahedron)[13]
    for num in (8, 10):
        check(problem, SpectralBasis(num).modes([problem])[0], num)


@pytest.mark.parametrize("s", [mass, None], ids=["mass", "DAD"])
def test_symmetric_inclusions(s):
    """Equal stiff inclusions: multiple and nearly multiple eigenvalues, at contrast 1e6.

    Needs several rounds of the search for missed copies; in SLEPc 3.25 a second run with eight
    more columns than the first writes beyond its arrays if nothing is done about it.
    """

    def value(x):
        return np.where(np.abs(np.abs(x - 0.5) - 0.25).max(axis=0) < 0.12, 1e6, 1.0)

    found = cube(value=value, s=s)
    for vertex, num in ((1, 8), (1, 14), (1, 20), (2, 8), (13, 9)):
        problem = found[vertex]
        assert krylov(problem, num)
        check(problem, SpectralBasis(num).modes([problem])[0], num, rtol=1e-6)


def test_small_problems_by_lapack():
    """A few dofs more than modes: the dense way, up to all of them."""
    problem = square(cells=6)[4]
    for num in (1, 5, 17, problem.num_dofs):
        assert not krylov(problem, max(num, 17)) or num < 17
        check(problem, SpectralBasis(num).modes([problem])[0], num)


# ---- coefficients ----


@pytest.mark.parametrize("contrast", [1e3, 1e6, 1e8])
@pytest.mark.parametrize("cell", [CellType.triangle, CellType.hexahedron])
@pytest.mark.parametrize("s", [mass, None], ids=["mass", "DAD"])
def test_high_contrast(cell, contrast, s):
    n = 24 if cell == CellType.triangle else 8
    msh = jiggle(box(MPI.COMM_SELF, cell, n), 0.1 / n)
    found = problems(msh, (3, 3) if n == 24 else (2, 2, 2), rough(contrast), s=s)
    vertices = (0, 1, 5, 10) if n == 24 else (0, 1, 13)
    chosen = [found[v] for v in vertices]
    num = 8
    assert all(krylov(p, num) for p in chosen)
    for problem, modes in zip(chosen, SpectralBasis(num).modes(chosen), strict=True):
        check(problem, modes, num, rtol=1e-8 * max(1.0, contrast / 1e5))


def test_without_s_the_right_hand_matrix_is_singular():
    """GenEO: χ vanishes on the rim, so the pencil has infinite eigenvalues; they are not modes."""
    problem = square(cells=24, s=None)[4]
    assert np.linalg.matrix_rank(problem.S.toarray()) < problem.num_dofs
    for num in (4, 12):
        check(problem, SpectralBasis(num).modes([problem])[0], num)


def test_a_singular_pencil_has_as_many_modes_as_finite_eigenvalues():
    problem = square(cells=6, s=None)[4]
    rank = np.linalg.matrix_rank(problem.S.toarray())
    for asked in (rank - 1, rank, problem.num_dofs):
        num = min(asked, rank)
        check(problem, SpectralBasis(asked).modes([problem])[0], num, rtol=1e-6)


@pytest.mark.parametrize("s", [mass, None], ids=["mass", "DAD"])
@pytest.mark.parametrize("d", [2, 3])
def test_elasticity_has_all_rigid_motions(d, s):
    """Three or six zeros, then the true spectrum, for homogeneous and for layered bodies."""
    rigid = 3 if d == 2 else 6
    for value in (one, rough(1e4)):
        if d == 2:
            found = square(cells=16, value=value, a=elasticity, s=s, shape=(2,))
            problem = found[4]
        else:
            found = cube(cells=4, value=value, a=elasticity, s=s, shape=(3,))
            problem = found[13]
        for num in (rigid - 1, rigid, rigid + 5):
            assert krylov(problem, num)
            modes = SpectralBasis(num).modes([problem])[0]
            check(problem, modes, num, zeros=rigid, rtol=1e-7)


@pytest.mark.parametrize("degree,cell", [(3, CellType.triangle), (2, CellType.quadrilateral)])
def test_higher_degree(degree, cell):
    problem = square(cells=8, degree=degree, cell=cell, value=rough(1e3))[4]
    check(problem, SpectralBasis(8).modes([problem])[0], 8)


def test_positive_definite_pencil():
    """With a zero-order term nothing is in the kernel."""

    def a(V, kappa):
        return diffusion(V, kappa) + mass(V, kappa)

    problem = square(value=rough(1e3), a=a)[4]
    modes = SpectralBasis(8).modes([problem])[0]
    assert modes.values[0] == pytest.approx(1.0, rel=1e-8)
    check(problem, modes, 8, zeros=0)


def test_dirichlet_conditions_do_not_enter_the_pencil():
    """Natural boundary all around: the mask comes later."""
    free = square()[0]
    held = square(bcs=lambda V: [clamp(V, lambda x: x[0] < 1e-9)])[0]
    assert held.dirichlet.any() and not free.dirichlet.any()
    a, b = (SpectralBasis(5).modes([p])[0] for p in (free, held))
    np.testing.assert_array_equal(a.values, b.values)


# ---- options ----


def test_threshold():
    problem = square(value=rough(1e3))[4]
    exact, _ = pencil_eigh(problem.A.toarray(), problem.S.toarray(), 40)
    for count in (1, 7, 8, 9, 20):
        threshold = 0.5 * (exact[count - 1] + exact[count])
        modes = SpectralBasis(threshold=threshold).modes([problem])[0]
        check(problem, modes, count)
    # At least one, at most max_modes (default 32).
    assert len(SpectralBasis(threshold=1e-12 * exact[1]).modes([problem])[0].values) == 1
    assert len(SpectralBasis(threshold=2 * exact[39]).modes([problem])[0].values) == 32
    capped = SpectralBasis(threshold=2 * exact[39], max_modes=11).modes([problem])[0]
    check(problem, capped, 11)


@pytest.mark.parametrize("s", [mass, None], ids=["mass", "DAD"])
def test_threshold_beyond_a_small_neighbourhood(s):
    """All there are, and no infinite ones."""
    problem = square(cells=4, s=s)[0]
    modes = SpectralBasis(threshold=1e9).modes([problem])[0]
    check(problem, modes, np.linalg.matrix_rank(problem.S.toarray()), rtol=1e-6)


def test_order_and_company_do_not_matter():
    """Each problem has the same modes alone as with others, in the order they were given."""
    found = list(square(cells=24, n=3, value=rough(1e3)).values())
    basis = SpectralBasis(6)
    together = basis.modes(found)
    for problem, modes in zip(found[::-1], basis.modes(found[::-1]), strict=True):
        k = next(i for i, p in enumerate(found) if p is problem)
        np.testing.assert_allclose(modes.values[1:], together[k].values[1:], rtol=1e-9)
    alone = basis.modes([found[5]])[0]
    np.testing.assert_allclose(alone.values[1:], together[5].values[1:], rtol=1e-9)
    np.testing.assert_allclose(
        np.abs(alone.vectors @ found[5].S @ together[5].vectors.T), np.eye(6), atol=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [
        {"eps_ncv": 60},
        {"eps_tol": 1e-12},
        {"st_pc_factor_mat_solver_type": "mumps"},
        {"st_pc_type": "lu"},
        {"eps_type": "arnoldi", "eps_ncv": 50},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_reach_slepc_and_leave_no_trace(options):
    if "mumps" in options.values() and not PETSc.Sys.hasExternalPackage("mumps"):
        pytest.skip("PETSc without MUMPS")
    before = PETSc.Options().getAll()
    problem = square(value=rough(1e3))[4]
    basis = SpectralBasis(8, petsc_options_prefix="mine_", petsc_options=options)
    check(problem, basis.modes([problem])[0], 8)
    assert PETSc.Options().getAll() == before


def test_options_from_the_database_win():
    """An impossible limit under the prefix makes the solve fail by name."""
    problem = square(cells=32, value=rough(1e6))[4]
    database = PETSc.Options()
    database["theirs_eps_max_it"] = 1
    database["theirs_eps_ncv"] = 9
    try:
        with pytest.raises(RuntimeError, match=r"converged \d+ of \d+ .* neighbourhood 4 at"):
            SpectralBasis(8, petsc_options_prefix="theirs_").modes([problem])
        SpectralBasis(8, petsc_options_prefix="others_").modes([problem])
    finally:
        del database["theirs_eps_max_it"]
        del database["theirs_eps_ncv"]


def test_is_a_local_basis():
    assert isinstance(SpectralBasis(), LocalBasis)
    assert SpectralBasis().num_modes == 8
    assert SpectralBasis().modes([]) == []
