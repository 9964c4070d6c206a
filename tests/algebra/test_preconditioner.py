# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Two-level preconditioners: symmetry, iteration counts, same solution as a direct solve."""

import gc
from contextlib import contextmanager

from petsc4py import PETSc

import numpy as np
import pytest
import scipy.sparse.linalg as spla
from leaks import grown, live_objects
from sample import COMM, HERE, Sample, expect_error
from utils import cell_field, elasticity, gather_matrix, gather_vector, hang_spring, mass, rough

from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx_msnn import CoarseGrid, FilteredBasis, LocalModes, SpectralBasis
from dolfinx_msnn._utils import petsc
from dolfinx_msnn.algebra.preconditioner import TwoLevelPreconditioner
from dolfinx_msnn.algebra.subdomains import bisect, multiplicity, parts, subdomains, uncovered_dofs

KINDS = ("additive", "hybrid", "multiplicative")
PREFIX = "two_level_"


def rough_sample(contrast=1e4, n=24, boxes=4, dim=2):
    p = Sample(n=n, dim=dim)
    values = cell_field(p.mesh, rough(contrast))
    p.kappa.x.array[:] = values.x.array
    p.coarse = CoarseGrid(p.mesh, [boxes] * dim)
    p.basis = SpectralBasis(6)
    return p


class System:
    """A u = b of a sample, and CG on it."""

    def __init__(self, p, a=None):
        self.A = assemble_matrix(fem.form(p.a if a is None else a), bcs=p.bcs)
        self.A.assemble()
        self.b = self.A.createVecLeft()
        first, last = self.A.getOwnershipRange()
        self.b.array_w[:] = np.sin(
            0.37 * p.V.tabulate_dof_coordinates()[: last - first].sum(axis=1)
        )
        self.x = self.A.createVecRight()

    @contextmanager
    def ksp(self, kind="cg"):
        ksp = PETSc.KSP().create(COMM)
        ksp.setOperators(self.A)
        ksp.setType(kind)
        ksp.setTolerances(rtol=1e-8, max_it=300)
        if kind == "cg":
            ksp.setNormType(PETSc.KSP.NormType.NATURAL)
        try:
            yield ksp
        finally:
            ksp.destroy()

    def iterations(self, W, **options):
        """Solve from zero; the solution must be that of a direct solve."""
        with (
            self.ksp() as ksp,
            TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX, **options) as M,
        ):
            M.attach(ksp)
            self.x.set(0.0)
            ksp.solve(self.b, self.x)
            assert ksp.getConvergedReason() > 0
            self.check_solution()
            return ksp.getIterationNumber()

    def check_solution(self, tol=1e-6):
        A, b, x = gather_matrix(self.A), gather_vector(self.b), gather_vector(self.x)
        error = x - spla.spsolve(A.tocsc(), b)
        assert error @ (A @ error) < tol**2 * (x @ (A @ x))

    def destroy(self):
        for item in (self.A, self.b, self.x):
            item.destroy()


@pytest.fixture(scope="module")
def setting():
    p = rough_sample()
    W = p.space(s=p.s)
    system = System(p)
    yield p, W, system
    system.destroy()
    W.destroy()


# ---- subdomains ----


def test_subdomains_are_the_supports(setting):
    _, W, _ = setting
    R = gather_matrix(W.R)
    found = subdomains(W)
    assert [v for v, _ in found] == list(dict.fromkeys(W.vertex))
    for vertex, dofs in found:
        assert dofs.dtype == np.int64
        for row in W.neighbourhood_dofs(vertex):
            np.testing.assert_array_equal(np.flatnonzero(R[row].toarray()), dofs)
    first, _ = W.P.getOwnershipRange()
    np.testing.assert_array_equal(uncovered_dofs(W), first + np.flatnonzero(W.dirichlet))


@pytest.mark.parametrize("max_dofs", [1, 20, 10**9])
def test_parts_are_a_partition(setting, max_dofs):
    _, W, _ = setting
    found = parts(W, max_dofs)
    mine = np.concatenate([np.zeros(0, np.int64), *found])
    everything = np.concatenate(COMM.allgather(mine))
    rest = np.concatenate(COMM.allgather(uncovered_dofs(W)))
    np.testing.assert_array_equal(
        np.sort(np.concatenate([everything, rest])), np.arange(W.P.getSize()[0])
    )
    assert all(0 < len(part) <= max_dofs for part in found)
    total = COMM.allreduce(len(found))
    if max_dofs == 10**9:
        assert total == W.num_neighbourhoods
    if max_dofs == 1:
        assert total == len(everything)


def test_bisect_cuts_between_positions():
    x = np.array([[k // 2, 0.0] for k in range(12)])
    found = bisect(np.arange(12), x, 4)
    assert sorted(map(len, found)) == [2, 2, 4, 4] or all(len(f) <= 4 for f in found)
    for part in found:
        assert np.ptp(part) == len(part) - 1
        assert len(part) % 2 == 0
    assert [len(f) for f in bisect(np.arange(3), np.zeros((3, 2)), 1)] == [3]
    assert bisect(np.zeros(0, np.int64), np.zeros((0, 2)), 5) == []


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_multiplicity_bounds_the_spectrum(setting, layers):
    """Against dense linear algebra: the largest eigenvalue of additive Schwarz."""
    _, W, system = setting
    sets = [*parts(W, 30), uncovered_dofs(W)]
    bound = multiplicity(W, system.A, sets, layers + 1)
    A = gather_matrix(system.A).toarray()
    graph = gather_matrix(system.A)
    graph.data[:] = 1.0
    M = np.zeros_like(A)
    for own in COMM.allgather(sets):
        for dofs in own:
            member = np.zeros(len(A))
            member[dofs] = 1.0
            for _ in range(layers):
                member = graph @ member
            inside = np.flatnonzero(member)
            if len(inside):
                M[np.ix_(inside, inside)] += np.linalg.inv(A[np.ix_(inside, inside)])
    largest = np.abs(np.linalg.eigvals(M @ A)).max()
    assert 1.0 <= largest <= bound + 1e-9
    assert bound <= 16


# ---- iterations ----


@pytest.mark.slow
@pytest.mark.parametrize("subdomains", ["parts", "neighbourhoods"])
@pytest.mark.parametrize("kind", KINDS)
def test_iterations_do_not_depend_on_the_contrast(kind, subdomains):
    options = {"kind": kind, "subdomains": subdomains}
    if kind == "multiplicative" and subdomains == "neighbourhoods":
        options["petsc_options"] = {"fine_pc_type": "asm"}
    counts = []
    for contrast in (1.0, 1e4, 1e8):
        p = rough_sample(contrast)
        with p.space(s=p.s) as W:
            system = System(p)
            counts.append(system.iterations(W, **options))
            system.destroy()
    assert max(counts) <= 30, counts
    middle = (max(counts) + min(counts)) / 2
    assert max(counts) - middle <= max(0.3 * middle, 2), counts


#: Iterations on one rank: multiplicative, hybrid, additive, V-cycle with ASM.
SERIAL = (5, 16, 19, 6)


def test_iterations_do_not_depend_on_the_ranks(setting):
    _, W, system = setting
    counts = [
        system.iterations(W, kind="multiplicative"),
        system.iterations(W, kind="hybrid"),
        system.iterations(W, kind="additive"),
        system.iterations(W, petsc_options={"fine_pc_type": "asm"}),
    ]
    np.testing.assert_allclose(counts, SERIAL, atol=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_three_dimensions_and_filtered_basis(kind):
    p = rough_sample(1e6, n=8, boxes=2, dim=3)
    p.basis = FilteredBasis(8)
    with p.space(s=p.s) as W:
        system = System(p)
        assert system.iterations(W, kind=kind) <= 30
        system.destroy()


class Bad:
    """One constant, or random functions: not the modes."""

    def __init__(self, num_random):
        self.num = num_random

    def modes(self, problems):
        found = []
        for q in problems:
            # Functions of position: the same on any number of ranks.
            waves = np.sin(np.outer(np.arange(self.num) + 1.0, q.x @ [931.0, 577.0]) ** 2)
            vectors = np.ones((1, q.num_dofs)) if self.num == 0 else waves
            found.append(LocalModes(np.zeros(len(vectors)), vectors))
        return found


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_random", [0, 6])
def test_bad_basis_takes_more_iterations(setting, kind, num_random):
    p, W, system = setting
    p.basis, good = Bad(num_random), p.basis
    try:
        with p.space(s=p.s) as bad:
            # Checks the solution.
            count = system.iterations(bad, kind=kind)
    finally:
        p.basis = good
    assert count > 1.3 * system.iterations(W, kind=kind)


@pytest.mark.slow
def test_elasticity_at_high_contrast():
    """Vectors, 12 modes."""
    p = Sample(element=("Lagrange", 1, (2,)), n=24)
    E = cell_field(p.mesh, rough(1e6))
    a = elasticity(p.V, E)
    p.coarse, p.basis = CoarseGrid(p.mesh, [4, 4]), SpectralBasis(12)
    p.bcs = [p.bc(0.0)]
    with p.space(a=a, s=mass(p.V, E)) as W:
        problem = FineProblem(
            a,
            p.L,
            bcs=p.bcs,
            petsc_options_prefix="fine_",
            petsc_options={"ksp_type": "cg", "ksp_rtol": 1e-8, "ksp_norm_type": "natural"},
        )
        with TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX) as M:
            M.attach(problem.solver)
            problem.solve()
            assert problem.solver.getConvergedReason() > 0
            assert problem.solver.getIterationNumber() <= 30


# ---- the operator ----


@pytest.mark.parametrize("kind", KINDS)
def test_symmetric_and_positive(setting, kind):
    """And what it is: against dense linear algebra where the fine level is a diagonal."""
    _, W, system = setting
    options = {"fine_pc_type": "jacobi", "fine_pc_jacobi_type": "diagonal"}
    if kind == "multiplicative":
        options |= {"fine_ksp_type": "richardson", "fine_ksp_max_it": 1}
    with system.ksp() as ksp:
        with TwoLevelPreconditioner(
            W, petsc_options_prefix=PREFIX, kind=kind, petsc_options=options
        ) as M:
            M.attach(ksp)
            y = system.b.duplicate()
            ksp.getPC().apply(system.b, y)
            found, b = gather_vector(y), gather_vector(system.b)
            y.destroy()
    A, P = gather_matrix(system.A).toarray(), gather_matrix(W.P).toarray()
    Q = P @ np.linalg.solve(P.T @ A @ P, P.T)
    D = np.diag(1 / A.diagonal())
    one = np.eye(len(A))
    expected = {
        "additive": D + Q,
        "hybrid": Q + (one - Q @ A) @ D @ (one - A @ Q),
        "multiplicative": D + (one - D @ A) @ (Q + (one - Q @ A) @ D),
    }[kind]
    np.testing.assert_allclose(found, expected @ b, atol=1e-9 * np.abs(found).max())
    np.testing.assert_allclose(expected, expected.T, atol=1e-10 * np.abs(expected).max())


def test_attach_to_a_dolfinx_problem(setting):
    """Before its matrix is assembled, with options for what is inside."""
    p, W, _ = setting
    problem = FineProblem(
        p.a,
        p.L,
        bcs=p.bcs,
        petsc_options_prefix="fine_",
        petsc_options={"ksp_type": "cg", "ksp_rtol": 1e-10},
    )
    with TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX) as M:
        M.attach(problem.solver)
        found = problem.solve().x.array.copy()
        assert 0 < problem.solver.getIterationNumber() < 15
    direct = FineProblem(
        p.a,
        p.L,
        bcs=p.bcs,
        petsc_options_prefix="direct_",
        petsc_options={"pc_type": "lu", "pc_factor_mat_solver_type": "mumps"},
    )
    expected = direct.solve().x.array
    np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max())


def test_the_matrix_may_change():
    p = rough_sample(1e2)
    form = fem.form(p.a)
    with p.space(s=p.s) as W:
        system = System(p)
        with system.ksp() as ksp, TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX) as M:
            M.attach(ksp)
            ksp.solve(system.b, system.x)
            first, inner = ksp.getIterationNumber(), M.pcs[0]
            before = gather_vector(system.x)
            p.kappa.x.array[:] *= 7.0
            system.A.zeroEntries()
            assemble_matrix(system.A, form, bcs=p.bcs)
            system.A.assemble()
            ksp.solve(system.b, system.x)
            # All parts have been refilled, none made anew.
            assert M.pcs[0] == inner
            assert abs(ksp.getIterationNumber() - first) <= 1
            system.check_solution()
            assert np.abs(gather_vector(system.x) - before).max() > 0.1 * np.abs(before).max()
            other = system.A.copy()
            other.scale(2.0)
            ksp.setOperators(other)
            ksp.solve(system.b, system.x)
            system.x.scale(2.0)
            system.check_solution()
            other.destroy()
        system.destroy()


def test_the_pattern_may_change():
    """As many entries as before, in the same matrix: a spring between two nodes hung elsewhere."""
    p = rough_sample(1e2, n=12, boxes=3)
    with p.space(s=p.s) as W:
        system = System(p)
        plain = gather_matrix(system.A)
        inside = COMM.bcast(np.flatnonzero(~W.dirichlet))
        with system.ksp() as ksp, TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX) as M:
            pcs = []
            for end in (inside[len(inside) // 2], inside[-1]):
                hang_spring(system.A, plain, inside[0], end)
                if not pcs:
                    M.attach(ksp)
                system.x.set(0.0)
                ksp.solve(system.b, system.x)
                pcs += M.pcs
                found = gather_matrix(pcs[-1].getMGCoarseSolve().getOperators()[0])
                P = gather_matrix(W.P)
                expected = (P.T @ gather_matrix(system.A) @ P).toarray()
                np.testing.assert_allclose(
                    found.toarray(), expected, atol=1e-12 * np.abs(expected).max()
                )
                assert ksp.getIterationNumber() < 15
                system.check_solution()
            assert pcs[0] != pcs[1]
        system.destroy()


@pytest.mark.parametrize("kind", KINDS)
def test_pure_neumann(kind):
    """A singular matrix, its null space attached."""
    p = rough_sample()
    p.bcs = []
    with p.space(s=p.s) as W:
        system = System(p)
        nullspace = PETSc.NullSpace().create(constant=True, comm=COMM)
        system.A.setNullSpace(nullspace)
        nullspace.remove(system.b)
        with (
            system.ksp() as ksp,
            TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX, kind=kind) as M,
        ):
            M.attach(ksp)
            ksp.solve(system.b, system.x)
            assert ksp.getConvergedReason() > 0
            assert ksp.getIterationNumber() <= 30
        residual = system.b.duplicate()
        system.A.mult(system.x, residual)
        residual.axpy(-1.0, system.b)
        assert residual.norm() < 1e-4 * system.b.norm()
        for item in (residual, nullspace):
            item.destroy()
        system.destroy()


# ---- options ----


@pytest.mark.parametrize("kind", KINDS)
def test_options_reach_inner_objects(setting, kind):
    _, W, system = setting
    before = PETSc.Options().getAll()
    options = {
        "coarse_ksp_type": "cg",
        "coarse_pc_type": "jacobi",
        "coarse_ksp_rtol": 1e-12,
        "coarse_ksp_max_it": 2000,
        "fine_pc_type": "asm",
        "fine_sub_pc_type": "icc",
    }
    if kind != "hybrid":
        options["fine_ksp_type"] = "richardson"
    # From the database, as the command line would; the mapping wins.
    database = PETSc.Options(PREFIX)
    database["fine_sub_pc_type"] = "ilu"
    database["coarse_ksp_type"] = "minres"
    del options["fine_sub_pc_type"]
    with system.ksp("fgmres") as ksp:
        with TwoLevelPreconditioner(
            W, petsc_options_prefix=PREFIX, kind=kind, petsc_options=options
        ) as M:
            M.attach(ksp)
            (pc,) = M.pcs
            if kind == "hybrid":
                assert pc.getType() == "composite"
                cycle, fine = pc.getCompositePC(0), pc.getCompositePC(1)
            else:
                assert pc.getType() == "mg"
                smoother = pc.getMGSmoother(1)
                assert smoother.getType() == "richardson"
                cycle, fine = pc, smoother.getPC()
            coarse = cycle.getMGCoarseSolve()
            assert (coarse.getType(), coarse.getPC().getType()) == ("cg", "jacobi")
            assert fine.getType() == "asm"
            assert {sub.getPC().getType() for sub in fine.getASMSubKSP()} == {"ilu"}
    database.delValue("fine_sub_pc_type")
    assert database.getString("coarse_ksp_type") == "minres"
    database.delValue("coarse_ksp_type")
    assert PETSc.Options().getAll() == before


def test_cg_needs_symmetry(setting):
    _, W, system = setting
    cases = {
        "not symmetric": {
            "fine_pc_type": "sor",
            "fine_pc_sor_local_forward": True,
            "fine_ksp_type": "richardson",
        },
        "not linear": {"fine_pc_type": "jacobi", "fine_ksp_type": "gmres"},
    }
    for match, options in cases.items():
        with TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX, petsc_options=options) as M:
            with system.ksp() as ksp, expect_error(RuntimeError, match):
                M.attach(ksp)
            with system.ksp("fgmres") as ksp:
                M.attach(ksp)
                # That it is accepted and does something; how well is another matter.
                ksp.setTolerances(rtol=1e-2)
                ksp.solve(system.b, system.x)
                assert ksp.getConvergedReason() > 0
    assert not [name for name in PETSc.Options().getAll() if name.startswith(PREFIX)]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "v"}, "kind must be one of additive, hybrid, multiplicative, got 'v'"),
        ({"subdomains": 3}, "subdomains must be one of"),
        ({"overlap": -1}, "overlap must be an integer not below 0, got -1"),
        ({"overlap": True}, "overlap must be an integer"),
        ({"max_dofs": 0}, "max_dofs must be a positive integer, got 0"),
        ({"petsc_options_prefix": ""}, "petsc_options_prefix"),
        ({"petsc_options": 1}, "petsc_options"),
    ],
)
def test_bad_arguments(setting, change, match):
    _, W, _ = setting
    good = {"petsc_options_prefix": PREFIX}
    with expect_error(ValueError, match):
        TwoLevelPreconditioner(W, **good | change)
    if COMM.size > 1:
        # On one rank only: nobody hangs.
        with expect_error(ValueError, ""):
            TwoLevelPreconditioner(W, **good | (change if HERE else {}))


def test_bad_objects(setting):
    p, W, system = setting
    with expect_error(ValueError, "Expected a MultiscaleFunctionSpace, got Mesh"):
        TwoLevelPreconditioner(p.mesh, petsc_options_prefix=PREFIX)
    with TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX) as M:
        with expect_error(ValueError, "Expected a PETSc KSP, got Mat"):
            M.attach(system.A)
        small = Sample(n=4)
        other = System(small)
        with other.ksp() as ksp, expect_error(ValueError, "matrix is 25 x 25, P has 625 rows"):
            M.attach(ksp)
        other.destroy()
    refused = {
        (RuntimeError, "could not be set up"): {"fine_pc_type": "nonsense"},
        (ValueError, "expected basic"): {"fine_pc_type": "asm", "fine_pc_asm_type": "restrict"},
    }
    for error, options in refused.items():
        with TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX, petsc_options=options) as M:
            with system.ksp() as ksp, expect_error(*error):
                M.attach(ksp)


def test_destroyed_objects(setting):
    p, W, system = setting
    with system.ksp() as ksp:
        with TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX) as M:
            M.attach(ksp)
            ksp.solve(system.b, system.x)
        with pytest.raises(PETSc.Error) as caught:
            ksp.solve(system.b, system.x)
        assert "has been destroyed, but a KSP still uses it" in str(caught.value.__cause__)
        # The exception's frames refer to PETSc objects.
        del caught
        with expect_error(RuntimeError, "has been destroyed"):
            M.attach(ksp)
        with expect_error(RuntimeError, "has been destroyed"):
            M.__enter__()
        M.destroy()
    gone = p.space()
    gone.destroy()
    with expect_error(RuntimeError, "space has been destroyed"):
        TwoLevelPreconditioner(gone, petsc_options_prefix=PREFIX)
    # The KSP first; the preconditioner not at all.
    M = TwoLevelPreconditioner(W, petsc_options_prefix=PREFIX)
    with system.ksp() as ksp:
        M.attach(ksp)
    assert M.pcs == []
    del M
    gc.collect()
    petsc.sweep(COMM)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left(setting, tmp_path, kind):
    """Of PETSc's objects, while Python still refers to the inner ones."""
    _, W, system = setting
    PETSc.Log.begin()

    def cycle():
        options = {"fine_pc_type": "asm"}
        with (
            system.ksp() as ksp,
            TwoLevelPreconditioner(
                W, petsc_options_prefix=PREFIX, kind=kind, petsc_options=options
            ) as M,
        ):
            M.attach(ksp)
            ksp.solve(system.b, system.x)
            return M.pcs

    cycle()
    gc.collect()
    petsc.sweep(COMM)
    before = live_objects(tmp_path / "log")
    held = cycle()
    assert not grown(before, live_objects(tmp_path / "log"))
    assert not any(held)
