# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Error control: indicators and bounds against dense linear algebra and known solutions."""

from __future__ import annotations

from petsc4py import PETSc

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
from sample import COMM, expect_error
from scipy.stats import spearmanr
from utils import (
    box,
    cell_field,
    clamp,
    diffusion,
    elasticity,
    gather_function,
    gather_matrix,
    gather_vector,
    mass,
    rough,
)

import ufl
from dolfinx import fem
from dolfinx.mesh import CellType
from dolfinx_msnn import (
    CoarseGrid,
    FilteredBasis,
    HarmonicBasis,
    SpectralBasis,
    multiscale_functionspace,
)
from dolfinx_msnn.estimate import (
    SchwarzPreconditioner,
    SubdomainSolvers,
    bound_fine_error,
    local_energies,
    local_indicators,
    residual,
    schwarz_lambda_min,
    stability_constants,
)
from dolfinx_msnn.petsc import LinearProblem


class Case:
    """A rough diffusion (or elasticity) problem with its space, solution and dense oracle."""

    def __init__(
        self,
        comm=COMM,
        *,
        cell=CellType.quadrilateral,
        n=16,
        boxes=4,
        modes=4,
        basis=None,
        contrast=1e3,
        vector=False,
        conditions="mixed",
        seed=0,
        overlap=None,
    ):
        msh = box(comm, cell, n)
        d = msh.geometry.dim
        self.V = fem.functionspace(msh, ("Lagrange", 1, (d,) if vector else ()))
        self.kappa = cell_field(msh, rough(contrast))
        self.coarse = CoarseGrid(msh, [boxes] * d, overlap=overlap)
        self.f = cell_field(msh, lambda x: np.cos(3 * x[0] + seed) + 2 * x[1])
        v = ufl.TestFunction(self.V)
        self.a = elasticity(self.V, self.kappa) if vector else diffusion(self.V, self.kappa)
        load = ufl.as_vector([self.f] * d) if vector else self.f
        self.L = ufl.inner(load, v) * ufl.dx
        self.g = 0.0
        self.bcs = [clamp(self.V, lambda x: np.isclose(x[0], 0), 0.5)]
        if conditions == "dirichlet":
            self.bcs = [clamp(self.V, lambda x: np.isclose(x * (1 - x), 0)[:d].any(axis=0), 0.0)]
        elif conditions == "mixed" and not vector:
            self.g = 2.0
            self.L += self.g * v * ufl.ds
        basis = SpectralBasis(modes) if basis is None else basis
        s = mass(self.V, self.kappa)
        self.W = multiscale_functionspace(self.V, self.coarse, basis, self.a, s, self.bcs)
        self.problem = LinearProblem(
            self.a, self.L, self.W, bcs=self.bcs, petsc_options_prefix="estimate_"
        )
        self.u = self.problem.solve()

    def gathered(self):
        """A, b and the free part of u as SciPy and NumPy objects on every rank."""
        A, b = gather_matrix(self.problem.A), gather_vector(self.problem.b)
        u = gather_function(self.u)
        u[b.shape[0] :] = 0
        mask = np.concatenate(self.W.comm.allgather(self.W.dirichlet))
        return A, b, np.where(mask, 0.0, u)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.problem.destroy()
        self.W.destroy()


def test_residual():
    with Case() as case:
        A, b, u = case.gathered()
        r = residual(case.problem)
        np.testing.assert_allclose(gather_vector(r), b - A @ u, atol=1e-10 * abs(b).max())
        r.destroy()


@pytest.mark.parametrize("vector", [False, True])
def test_indicators_against_dense_dual_norms(vector):
    with Case(vector=vector, boxes=3, n=12) as case:
        found = local_indicators(case.problem)
        A, b, u = case.gathered()
        P = gather_matrix(case.W.P).tocsc()
        vertex = np.concatenate(COMM.allgather(case.W.vertex))
        r = b - A @ u
        expected = {}
        for i in np.unique(vertex):
            dofs = np.unique(P[:, np.flatnonzero(vertex == i)].indices)
            expected[i] = np.sqrt(r[dofs] @ np.linalg.solve(A[dofs][:, dofs].toarray(), r[dofs]))
        pairs = COMM.allgather(dict(zip(found.vertex.tolist(), found.values, strict=True)))
        values = {i: x for part in pairs for i, x in part.items()}
        assert sorted(values) == sorted(expected)
        for i, x in expected.items():
            assert values[i] == pytest.approx(x, rel=1e-8)
        assert found.total == pytest.approx(np.linalg.norm(list(expected.values())), rel=1e-8)
        doubled = local_indicators(case.problem, constants=dict.fromkeys(expected, 4.0))
        np.testing.assert_allclose(doubled.values, 2 * found.values, rtol=1e-12)


def local_errors(case):
    """Energy of u_h - u_H on each neighbourhood (cells where χ_i > 0), by coarse vertex."""
    from dolfinx.fem.petsc import LinearProblem as FineProblem

    options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    fine = FineProblem(
        case.a, case.L, bcs=case.bcs, petsc_options=options, petsc_options_prefix="fine_"
    )
    uh = fine.solve()
    e = fem.Function(case.V)
    e.x.array[:] = uh.x.array - case.u.x.array
    w = ufl.TestFunction(fem.functionspace(case.V.mesh, ("DG", 0)))
    energy = fem.assemble_vector(
        fem.form(case.kappa * ufl.inner(ufl.grad(e), ufl.grad(e)) * w * ufl.dx)
    ).array
    hats = case.coarse.hats(case.V.tabulate_dof_coordinates())
    num_cells = case.V.mesh.topology.index_map(case.V.mesh.topology.dim).size_local
    sums = np.zeros(case.coarse.num_vertices)
    for cell, dofs in enumerate(case.V.dofmap.list[:num_cells]):
        inside = np.unique(hats.vertices[dofs][hats.values[dofs] > 0])
        sums[inside] += energy[cell]
    return np.sqrt(COMM.allreduce(sums)), np.sqrt(COMM.allreduce(energy[:num_cells].sum()))


@pytest.mark.parametrize("basis", [SpectralBasis(4), FilteredBasis(num_modes=4)])
def test_indicators_rank_neighbourhoods(basis):
    """They order neighbourhoods as the true local errors do."""
    with Case(n=32, boxes=8, basis=basis) as case:
        errors, _ = local_errors(case)
        found = local_indicators(case.problem)
        vertex = np.concatenate(COMM.allgather(found.vertex))
        values = np.concatenate(COMM.allgather(found.values))
        assert spearmanr(values, errors[vertex]).statistic > 0.8


def test_solvers_can_be_kept_and_refuse():
    with Case() as case:
        with SubdomainSolvers(case.problem.A, case.W) as solvers:
            first = local_indicators(case.problem, solvers=solvers)
            case.u.x.array[:] = 0.0
            second = local_indicators(case.problem, solvers=solvers)
            assert second.total > first.total
            with expect_error(ValueError, "constants has no entry"):
                local_indicators(case.problem, solvers=solvers, constants={})
        with expect_error(RuntimeError, "destroyed"):
            local_indicators(case.problem, solvers=solvers)
        with expect_error(ValueError, "fine matrix is"):
            SubdomainSolvers(case.problem.A0, case.W)


# ---- bounds against the fine solution ----


def schwarz_matrix(case):
    """Dense M of SchwarzPreconditioner, inverted, on the free dofs, and A there."""
    A, _, _ = case.gathered()
    P = gather_matrix(case.W.P).tocsc()
    vertex = np.concatenate(COMM.allgather(case.W.vertex))
    free = np.flatnonzero(~np.concatenate(COMM.allgather(case.W.dirichlet)))
    A = A.toarray()
    Pd = P.toarray()
    Q = Pd @ np.linalg.pinv(Pd.T @ A @ Pd, rcond=1e-13, hermitian=True) @ Pd.T
    S = np.zeros_like(A)
    for i in np.unique(vertex):
        dofs = np.unique(P[:, np.flatnonzero(vertex == i)].indices)
        S[np.ix_(dofs, dofs)] += np.linalg.inv(A[np.ix_(dofs, dofs)])
    E = np.eye(len(A)) - Q @ A
    M = Q + E @ S @ E.T
    return M[np.ix_(free, free)], A[np.ix_(free, free)], free


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"basis": FilteredBasis(num_modes=3)},
        {"vector": True, "modes": 5, "n": 12, "boxes": 3},
        {"cell": CellType.triangle, "conditions": "dirichlet", "contrast": 1e6},
        {"cell": CellType.triangle, "overlap": 1},
    ],
)
def test_schwarz_bound(options):
    """λ_min of the computed constants is below the true one, the preconditioner is the formula."""
    with Case(**options) as case, SchwarzPreconditioner(case.problem) as pc:
        constants = stability_constants(case.W, case.coarse, case.a, case.bcs)
        bound = schwarz_lambda_min(case.W, case.coarse, constants)
        M, A, free = schwarz_matrix(case)
        L = np.linalg.cholesky(A)
        eigenvalues = np.linalg.eigvalsh(L.T @ M @ L)
        assert 0 < bound <= eigenvalues[0] * (1 + 1e-6)
        # ... and no idle bound.
        assert bound > eigenvalues[0] / 20
        r = residual(case.problem)
        z = r.duplicate()
        r.setRandom()
        with r as array:
            array[case.W.dirichlet] = 0.0
        pc.apply(None, r, z)
        np.testing.assert_allclose(
            gather_vector(z)[free],
            M @ gather_vector(r)[free],
            atol=1e-6 * abs(gather_vector(z)).max(),
        )
        r.destroy()
        z.destroy()


@pytest.mark.parametrize("n", [8, 24])
def test_stability_constant_is_the_largest_quotient(n):
    """Against dense algebra on a neighbourhood assembled by DOLFINx; n = 24 takes Lanczos."""
    with Case(n=n, boxes=2, modes=3) as case:
        found = stability_constants(case.W, case.coarse, case.a, case.bcs)
        values = {i: t for part in COMM.allgather(found) for i, t in part.items()}
        # The neighbourhood of the middle vertex is the whole square, without Dirichlet conditions.
        A = gather_matrix(case.problem.A).toarray()
        vertex = np.concatenate(COMM.allgather(case.W.vertex))
        P = gather_matrix(case.W.P)[:, np.flatnonzero(vertex == 4)].toarray()
        from dolfinx.fem.petsc import assemble_matrix

        full = assemble_matrix(fem.form(case.a))
        full.assemble()
        N = gather_matrix(full).toarray()
        full.destroy()
        free = ~np.concatenate(COMM.allgather(case.W.dirichlet))
        x = np.concatenate(
            COMM.allgather(
                case.V.tabulate_dof_coordinates()[: case.V.dofmap.index_map.size_local, :2]
            )
        )
        chi = np.prod(1 - np.abs(2 * x - 1), axis=1)[free]
        A, N, P = A[np.ix_(free, free)], N[np.ix_(free, free)], P[free]
        X = chi[:, None] * A * chi
        B = chi[:, None] * (A @ P)
        K = X - B @ np.linalg.solve(P.T @ A @ P, B.T)
        largest = scipy.linalg.eigvalsh(K, N)[-1]
        assert largest * (1 - 1e-8) <= values[4] <= 1.05 * largest


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"contrast": 1e6, "modes": 2},
        {"basis": FilteredBasis(num_modes=4), "conditions": "dirichlet"},
        {"vector": True, "modes": 6},
        {"cell": CellType.tetrahedron, "n": 6, "boxes": 2},
        {"basis": HarmonicBasis(5), "overlap": 1},
    ],
)
def test_fine_error_is_bounded(options):
    with Case(**options) as case, SchwarzPreconditioner(case.problem) as pc:
        A, b, u = case.gathered()
        e = scipy.sparse.linalg.spsolve(A.tocsc(), b) - u
        true = np.sqrt(e @ (A @ e))
        constants = stability_constants(case.W, case.coarse, case.a, case.bcs)
        bound = schwarz_lambda_min(case.W, case.coarse, constants)
        found = bound_fine_error(case.problem, pc, bound)
        assert found.lower <= true * (1 + 1e-8) and true <= found.upper * (1 + 1e-8)
        assert (found.history >= true * (1 - 1e-8)).all()
        assert found.upper < 2 * true
        # The bound by the indicators alone.
        energies = local_indicators(case.problem, constants=constants)
        shared = 2**case.V.mesh.geometry.dim
        assert np.sqrt(shared) * energies.total >= true
        none = bound_fine_error(case.problem, pc, bound, steps=0)
        assert none.upper == pytest.approx(
            local_indicators(case.problem).total / np.sqrt(bound), rel=1e-6
        )


@pytest.mark.slow
def test_error_function():
    """With many steps it is the error; with two, its local energies are nearly the true ones."""
    with (
        Case(n=32, boxes=8, modes=2, contrast=1e6) as case,
        SchwarzPreconditioner(case.problem) as pc,
    ):
        errors, total = local_errors(case)
        e = fem.Function(case.V)
        bound_fine_error(case.problem, pc, 1e-8, steps=60, ratio=1.0, error=e)
        found = local_energies(case.a, e, case.coarse)
        np.testing.assert_allclose(found, errors, rtol=1e-4, atol=1e-6 * total)
        bound_fine_error(case.problem, pc, 1e-8, steps=2, ratio=1.0, error=e)
        assert spearmanr(local_energies(case.a, e, case.coarse), errors).statistic > 0.9
        with expect_error(ValueError, "Expected a dolfinx.fem.Function in the fine space"):
            bound_fine_error(case.problem, pc, 1.0, error=case.kappa)


def test_user_preconditioner():
    """Jacobi by a PETSc PC, with the λ_min that dense algebra finds."""
    with Case(n=12, boxes=3, contrast=10.0) as case:
        A, b, u = case.gathered()
        e = scipy.sparse.linalg.spsolve(A.tocsc(), b) - u
        true = np.sqrt(e @ (A @ e))
        scale = np.sqrt(A.diagonal())
        least = np.linalg.eigvalsh(A.toarray() / np.outer(scale, scale))[0]
        pc = PETSc.PC().create(COMM)
        pc.setOperators(case.problem.A)
        pc.setType("jacobi")
        pc.setUp()
        found = bound_fine_error(case.problem, pc, 0.999 * least, steps=60, ratio=1.01)
        pc.destroy()
        assert found.lower <= true <= found.upper < 1.05 * true
        assert (found.history >= true * (1 - 1e-8)).all()


def test_pure_neumann_bound():
    msh = box(COMM, CellType.quadrilateral, 12)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, rough(100.0))
    a, coarse = diffusion(V, kappa), CoarseGrid(msh, (3, 3))
    L = ufl.inner(ufl.SpatialCoordinate(msh)[0] - 0.5, ufl.TestFunction(V)) * ufl.dx
    with (
        multiscale_functionspace(V, coarse, SpectralBasis(3), a, mass(V, kappa)) as W,
        LinearProblem(a, L, W, petsc_options_prefix="estimate_") as problem,
    ):
        problem.solve()
        constants = stability_constants(W, coarse, a)
        with SchwarzPreconditioner(problem) as pc:
            found = bound_fine_error(problem, pc, schwarz_lambda_min(W, coarse, constants))
        A, b = gather_matrix(problem.A).toarray(), gather_vector(problem.b)
        e = np.linalg.lstsq(A, b, rcond=1e-12)[0] - gather_function(problem.u)
        true = np.sqrt(e @ A @ e)
        assert found.lower <= true <= found.upper < 2 * true


class Shifted:
    """A basis without the constant."""

    def __init__(self):
        self.inner = SpectralBasis(3)

    def modes(self, problems):
        return [
            type(m)(values=m.values[1:], vectors=m.vectors[1:]) for m in self.inner.modes(problems)
        ]


def test_a_basis_without_the_constant_has_no_bound():
    with Case(basis=Shifted()) as case:
        constants = stability_constants(case.W, case.coarse, case.a, case.bcs)
        assert np.isinf(max([0.0, *(t for p in COMM.allgather(constants) for t in p.values())]))
        bound = schwarz_lambda_min(case.W, case.coarse, constants)
        assert bound == 0.0
        with SchwarzPreconditioner(case.problem) as pc, expect_error(ValueError, "got 0.0"):
            bound_fine_error(case.problem, pc, bound)


def test_constants_must_be_there():
    """Three of nine constants would give a larger bound than all of them; none would give one."""
    with Case(modes=1) as case:
        constants = stability_constants(case.W, case.coarse, case.a, case.bcs)
        whole = schwarz_lambda_min(case.W, case.coarse, constants)
        assert 0 < whole < 1
        for bad, said in (
            ({}, "constants has no entry for coarse vertex"),
            (dict(list(constants.items())[1:]), "constants has no entry for coarse vertex"),
            (dict.fromkeys(constants, np.nan), r"constants\[\d+\] must be a number not below zero"),
            (dict.fromkeys(constants, -1.0), r"constants\[\d+\] must be a number not below zero"),
            (
                constants | {10**6: 1.0},
                "constants has .*1000000, which is not on this rank",
            ),
            (list(constants), "Expected a Mapping, got list"),
        ):
            # On one rank alone.
            given = bad if COMM.rank == COMM.size - 1 else constants
            with expect_error(ValueError, said):
                schwarz_lambda_min(case.W, case.coarse, given)
            if "not on this rank" not in said:
                with expect_error(ValueError, said):
                    local_indicators(case.problem, constants=given)


def test_nothing_is_bounded_by_nan():
    with Case() as case:
        case.problem.u.x.array[:] = np.nan
        said = "The solution or the right-hand side has NaN or infinite entries"
        with SchwarzPreconditioner(case.problem) as pc:
            for call in (
                lambda: bound_fine_error(case.problem, pc, 0.5),
                lambda: local_indicators(case.problem),
            ):
                with expect_error(ValueError, said):
                    call()
        with expect_error(ValueError, "w has NaN or infinite entries"):
            local_energies(case.a, case.problem.u, case.coarse)


def test_bound_refuses_bad_input():
    with Case() as case, SchwarzPreconditioner(case.problem) as pc:
        for lambda_min in (-1.0, np.nan):
            with expect_error(ValueError, "lambda_min must be a positive number"):
                bound_fine_error(case.problem, pc, lambda_min)
        with expect_error(ValueError, "non-negative integer"):
            bound_fine_error(case.problem, pc, 0.5, steps=-1)
        with expect_error(ValueError, "Expected a CoarseGrid"):
            stability_constants(case.W, None, case.a, case.bcs)
        other = CoarseGrid(case.V.mesh, (3, 3))
        with expect_error(ValueError, "another support|no basis function"):
            stability_constants(case.W, other, case.a, case.bcs)
