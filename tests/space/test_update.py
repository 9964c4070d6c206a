# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Updated spaces against new ones, and the measure of change against SciPy's eigenvalues."""

from __future__ import annotations

from petsc4py import PETSc

import numpy as np
import pytest
import scipy.linalg
from sample import COMM, HERE, Sample, expect_error
from utils import (
    QUAD,
    TRI,
    box,
    cell_field,
    clamp,
    diffusion,
    elasticity,
    gather_function,
    gather_matrix,
    jiggle,
    mass,
    rough,
    two_phase,
)

import ufl
from dolfinx import fem
from dolfinx_msnn import (
    CoarseGrid,
    FilteredBasis,
    GuardedBasis,
    HarmonicBasis,
    LocalModes,
    SpectralBasis,
    TwoLevelPreconditioner,
    multiscale_functionspace,
)
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.growth import growth
from dolfinx_msnn.petsc import LinearProblem
from dolfinx_msnn.space.update import change


class Case:
    """A problem whose coefficient can be changed."""

    def __init__(self, basis, cell=QUAD, n=18, shape=None, with_s=True, overlap=None):
        msh = box(COMM, cell, n)
        self.mesh = jiggle(msh, 0.2 / n) if cell == TRI else msh
        self.V = fem.functionspace(self.mesh, ("Lagrange", 1, *([] if shape is None else [shape])))
        self.kappa = cell_field(self.mesh, two_phase(1e2))
        form = diffusion if shape is None else elasticity
        self.a = form(self.V, self.kappa)
        self.s = mass(self.V, self.kappa) if with_s else None
        v = ufl.TestFunction(self.V)
        self.L = (v if shape is None else v[0] + 2 * v[1]) * ufl.dx
        self.bcs = [clamp(self.V, lambda x: np.isclose(x[0], 0.0))]
        self.grid = CoarseGrid(self.mesh, (3, 3), overlap=overlap)
        self.basis = basis

    def space(self, **options):
        options = {"updatable": True} | options
        return multiscale_functionspace(
            self.V, self.grid, self.basis, self.a, self.s, self.bcs, **options
        )

    def problem(self, W):
        return LinearProblem(self.a, self.L, W, bcs=self.bcs, petsc_options_prefix="update_")

    def set(self, value):
        self.kappa.x.array[:] = cell_field(self.mesh, value).x.array

    def fresh(self):
        """The solution in a space of its own."""
        with self.space(updatable=False) as W, self.problem(W) as problem:
            return gather_function(problem.solve())


class Count:
    """A basis that remembers what it was asked for, and may fail."""

    def __init__(self, basis, fail=False):
        self.basis, self.asked, self.fail = basis, [], fail

    def modes(self, problems):
        if self.fail:
            raise RuntimeError("This basis has had enough.")
        self.asked += [p.vertex for p in problems]
        return self.basis.modes(problems)


def everywhere(vertices):
    """Coarse vertices of all ranks, sorted."""
    return sorted(v for part in COMM.allgather(list(vertices)) for v in part)


def left_half(x):
    """Rough on the left side, as it was on the right."""
    return np.where(x[0] < 0.3, rough(1e3)(x), two_phase(1e2)(x))


CASES = {
    "computed": lambda: Case(SpectralBasis(4)),
    "filtered": lambda: Case(FilteredBasis(4)),
    "guarded": lambda: Case(GuardedBasis(FilteredBasis(4))),
    "no s": lambda: Case(SpectralBasis(4), with_s=False),
    "triangles": lambda: Case(SpectralBasis(4), cell=TRI),
    "overlap": lambda: Case(HarmonicBasis(6), cell=TRI, overlap=2),
    "elasticity": lambda: Case(SpectralBasis(5), shape=(2,), n=12),
}


@pytest.mark.parametrize("name", CASES)
def test_updated_space_is_a_new_one(name):
    case = CASES[name]()
    with case.space() as W, case.problem(W) as problem:
        before = gather_function(problem.solve())
        for value in (rough(1e3), left_half):
            case.set(value)
            rebuilt = W.update()
            assert everywhere(rebuilt)
            # It sees by itself that it has to assemble.
            after = gather_function(problem.solve())
            expected = case.fresh()
            assert np.linalg.norm(after - expected) <= 1e-8 * np.linalg.norm(expected)
            assert np.linalg.norm(after - before) > 1e-3 * np.linalg.norm(before)
            before = after


def test_only_what_changed_is_computed():
    basis = Count(SpectralBasis(4))
    case = Case(basis)
    with case.space() as W:
        assert everywhere(basis.asked) == list(range(16))
        basis.asked.clear()
        case.set(left_half)
        changed = {v: c for part in COMM.allgather(W.changes()) for v, c in part.items()}
        assert basis.asked == []
        # Cells with x < 0.3 are in the neighbourhoods of the vertices at x = 0 and 1/3 alone.
        left = [v for v in range(16) if v % 4 < 2]
        assert sorted(changed) == list(range(16))
        assert [v for v in sorted(changed) if changed[v] > 0] == left
        P = W.P
        assert everywhere(W.update()) == left == everywhere(basis.asked)
        assert W.P is P and W.revision == 1 and W.layout == 0
        assert W.timings["total"] > 0
        basis.asked.clear()
        assert len(W.update()) == 0 == len(basis.asked)
        assert W.revision == 1


def test_sources_follow_their_coefficients():
    """New loads are new everywhere; multiples of the old ones are none."""
    case = Case(None)
    f, size = cell_field(case.mesh, rough(10.0)), fem.Constant(case.mesh, 1.0)
    case.L = size * f * ufl.TestFunction(case.V) * ufl.dx
    case.basis = HarmonicBasis(6, sources=[case.L])
    with case.space() as W, case.problem(W) as problem:
        before = gather_function(problem.solve())
        size.value = -3.0
        assert everywhere(W.update()) == []
        size.value, f.x.array[:] = 1.0, cell_field(case.mesh, two_phase(-5.0)).x.array
        assert np.isinf(list(W.changes().values())).all()
        assert everywhere(W.update(0.5)) == list(range(16)) and everywhere(W.update()) == []
        after, expected = gather_function(problem.solve()), case.fresh()
        assert np.linalg.norm(after - expected) <= 1e-8 * np.linalg.norm(expected)
        assert np.linalg.norm(after - before) > 1e-2 * np.linalg.norm(before)


@pytest.mark.parametrize("first", [1.0, 0.0])
def test_dirichlet_values_are_followed(first):
    """Harmonic bases hold what solutions do at them: in other proportions, or where none were."""
    case = Case(HarmonicBasis(6))
    g = fem.Function(case.V)
    g.interpolate(lambda x: first * (1.0 + x[1]))
    case.bcs = [fem.dirichletbc(g, case.bcs[0].dof_indices()[0])]
    with case.space() as W, case.problem(W) as problem:
        problem.solve()
        g.x.array[:] *= -2.0
        assert everywhere(W.update()) == []
        g.interpolate(lambda x: np.cos(6.0 * x[1]))
        assert everywhere(W.update()) == list(range(16)) and everywhere(W.update()) == []
        found, expected = gather_function(problem.solve()), case.fresh()
        assert np.linalg.norm(found - expected) <= 1e-8 * np.linalg.norm(expected)
    # Eigenfunctions do not look at them.
    case.basis = SpectralBasis(4)
    with case.space() as W:
        g.x.array[:] += 1.0
        assert everywhere(W.update()) == []


def test_changes_below_the_tolerance_add_up():
    case = Case(SpectralBasis(4))
    with case.space() as W, case.problem(W) as problem:
        problem.solve()
        whole = case.kappa.x.array.copy()
        grow = cell_field(case.mesh, lambda x: np.where(x[1] < 0.25, 1.06, 1.0)).x.array
        case.kappa.x.array[:] = whole * grow
        # Up to a common factor: what is scaled as a whole has not changed.
        sizes = {v: c for part in COMM.allgather(W.changes()) for v, c in part.items()}
        assert max(sizes.values()) == pytest.approx(0.06)
        assert [v for v in sorted(sizes) if sizes[v] > 0] == list(range(8))
        assert everywhere(W.update(0.1)) == [] and W.revision == 0
        case.kappa.x.array[:] *= grow
        assert everywhere(W.update(0.1)) == list(range(8))
        case.kappa.x.array[:] *= 1e3
        assert everywhere(W.update(0.0)) == []
        expected = case.fresh()
        found = gather_function(problem.solve())
        assert np.linalg.norm(found - expected) <= 1e-8 * np.linalg.norm(expected)


@pytest.mark.serial
@pytest.mark.parametrize("with_s", [True, False])
def test_change_bounds_all_eigenvalues(with_s):
    rng = np.random.default_rng(0)
    case = Case(SpectralBasis(4), n=8, with_s=with_s)
    problems = LocalProblems(case.V, CoarseGrid(case.mesh, (2, 2)), case.a, case.s, [], keep=True)
    before = {p.vertex: p for p in problems}
    case.kappa.x.array[:] *= 40.0 * np.exp(rng.uniform(-0.4, 0.4, len(case.kappa.x.array)))
    bounds = problems.reassemble()
    sharp = 0.0
    for p in problems:
        c = change(bounds[p.vertex])
        assert 0.5 < c < np.exp(0.8) - 1
        q = before[p.vertex]
        # All Rayleigh quotients at once: the pencil of both pencils' energies.
        free = np.diag(p.S.toarray()) > 0
        A, B, S, T = (
            m.toarray()[free][:, free] + 1e-9 * np.eye(free.sum()) for m in (p.A, q.A, p.S, q.S)
        )
        for _ in range(50):
            f = rng.standard_normal(len(A))
            f -= f.mean()
            growth = (f @ A @ f) / (f @ B @ f) * (f @ T @ f) / (f @ S @ f)
            # The common factor cancels as A and S grow by the same one.
            assert 1 / (1 + c) * (1 - 1e-6) <= growth <= (1 + c) * (1 + 1e-6)
        if with_s:
            mine, theirs = (
                scipy.linalg.eigh(m.A.toarray(), m.S.toarray(), eigvals_only=True)[1:]
                for m in (p, q)
            )
            assert np.all(mine <= (1 + c) * theirs) and np.all(theirs <= (1 + c) * mine)
            sharp = max(sharp, (mine / theirs).max() - 1, (theirs / mine).max() - 1)
    # The bound says something: eigenvalues do change.
    assert not with_s or sharp > 0.02


@pytest.mark.serial
def test_growth_against_scipy():
    """Extreme eigenvalues of pencils with a common null space; what is gained, lost, or nothing."""
    rng = np.random.default_rng(1)
    free = np.linalg.qr(np.ones((6, 1)), mode="complete")[0][:, 1:]
    blocks = []
    for spread in (1.0, 1e3):
        root = free @ (spread ** rng.uniform(0, 1, (5, 1)) * rng.standard_normal((5, 8)))
        blocks.append(root @ root.T)
    first, second = blocks
    found = growth(np.array([second, 3.0 * first]), np.array([first, first]))
    values = scipy.linalg.eigh(free.T @ second @ free, free.T @ first @ free, eigvals_only=True)
    np.testing.assert_allclose(found[:, 0], values[[0, -1]], rtol=1e-9)
    np.testing.assert_allclose(found[:, 1], 3.0, rtol=1e-14)
    # A condition on the boundary gives the constant an energy, or takes it.
    whole, nothing = first + np.ones((6, 6)), np.zeros((6, 6))
    found = growth(
        np.array([whole, first, first, nothing, nothing]),
        np.array([first, whole, nothing, first, nothing]),
    )
    assert np.array_equal(np.isposinf(found[1]), [True, False, True, False, False])
    assert np.array_equal(found[0, 1:4], [0.0, 0.0, 0.0]) and np.isnan(found[:, 4]).all()
    assert change(found[None, :, :1]) == change(found[None, :, 1:2]) == np.inf
    assert change(np.array([[[2.0, 2.0], [2.0, 8.0]]])) == pytest.approx(3.0)


class Material(Case):
    """Fibres whose direction can be turned, or Lamé parameters that can be exchanged."""

    def __init__(self, name):
        super().__init__(SpectralBasis(8), n=12, shape=(2,) if name == "lame" else None)
        u, v = ufl.TrialFunction(self.V), ufl.TestFunction(self.V)
        if name == "lame":
            self.data = fem.Constant(self.mesh, 1.0), fem.Constant(self.mesh, 1.0)
            e = ufl.sym(ufl.grad(u)), ufl.sym(ufl.grad(v))
            mu, lam = self.data
            self.a = (2 * mu * ufl.inner(*e) + lam * ufl.tr(e[0]) * ufl.tr(e[1])) * ufl.dx
        else:
            self.data = (fem.Constant(self.mesh, 0.0),)
            t = ufl.as_vector([ufl.cos(self.data[0]), ufl.sin(self.data[0])])
            tensor = ufl.Identity(2) + 99 * ufl.outer(t, t)
            self.a = ufl.inner(tensor * ufl.grad(u), ufl.grad(v)) * ufl.dx
        self.s = ufl.inner(u, v) * ufl.dx


@pytest.mark.parametrize("name, values", [("fibres", (np.pi / 2,)), ("lame", (1e-3, 3.997))])
def test_changes_that_keep_the_trace(name, values):
    """Nothing but the direction of fibres, or the ratio of the Lamé parameters, changes."""
    case = Material(name)
    with case.space() as W, case.problem(W) as problem:
        problem.solve()
        for constant, value in zip(case.data, values, strict=True):
            constant.value = value
        assert everywhere(W.update()) == list(range(16))
        found, expected = gather_function(problem.solve()), case.fresh()
        assert np.linalg.norm(found - expected) <= 1e-8 * np.linalg.norm(expected)


def test_operators_follow_what_is_not_rebuilt():
    """A common factor, or less than the tolerance, leaves the modes; not the operators."""
    case = Case(SpectralBasis(4))
    with case.space() as W, case.problem(W) as problem:
        first = gather_function(problem.solve())
        case.kappa.x.array[:] *= 10
        assert everywhere(W.update()) == []
        np.testing.assert_allclose(gather_function(problem.solve()), first / 10, atol=1e-12)
        for _ in range(3):
            case.kappa.x.array[:] *= cell_field(
                case.mesh, lambda x: 1 + 0.01 * (x[1] < 0.5)
            ).x.array
            assert everywhere(W.update(0.1)) == []
            found = gather_function(problem.solve())
            with case.problem(W) as new:
                expected = gather_function(new.solve())
            assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()


class Growing:
    """A basis with one mode more at each call."""

    def __init__(self):
        self.num = 3

    def modes(self, problems):
        return [
            LocalModes(r.values[: self.num], r.vectors[: self.num])
            for r in SpectralBasis(6).modes(problems)
        ]


def test_other_number_of_functions():
    basis = Growing()
    case = Case(basis)
    with case.space() as W, case.problem(W) as problem:
        problem.solve()
        first, R = W.num_dofs, gather_matrix(W.R)
        basis.num = 5
        case.set(left_half)
        left = [v for v in range(16) if v % 4 < 2]
        assert everywhere(W.update()) == left
        assert W.layout == 1 and W.num_dofs == first + 2 * len(left)
        assert W.num_local_dofs == len(W.vertex) == len(W.mode) == W.P.getLocalSize()[1]
        found = gather_function(problem.solve())
        # Galerkin in the new span, by SciPy.
        Rn = gather_matrix(W.R)
        assert Rn.shape[0] == W.num_dofs != R.shape[0]
        A, b = gather_matrix(problem.A), np.concatenate(COMM.allgather(problem.b.array_r))
        expected = Rn.T @ scipy.linalg.solve((Rn @ A @ Rn.T).toarray(), Rn @ b)
        assert np.linalg.norm(found - expected) <= 1e-8 * np.linalg.norm(expected)
        # Again in place.
        case.set(rough(1e3))
        everywhere(W.update())
        assert problem.solve() is problem.u and W.layout == 2
        case.set(left_half)
        everywhere(W.update())
        assert problem.solve() is problem.u and W.layout == 2 and W.revision == 3


def test_preconditioner_follows():
    case = Case(SpectralBasis(6))
    ksp = PETSc.KSP().create(COMM)
    with (
        case.space() as W,
        case.problem(W) as problem,
        TwoLevelPreconditioner(W, petsc_options_prefix="update_pc_") as M,
    ):
        problem.solve()
        ksp.setType("cg")
        ksp.setTolerances(rtol=1e-10)
        ksp.setOperators(problem.A)
        M.attach(ksp)
        x = problem.b.duplicate()
        ksp.solve(problem.b, x)
        before = ksp.getIterationNumber()
        case.set(lambda x: rough(1e4)(x))
        W.update()
        problem.solve()
        ksp.solve(problem.b, x)
        assert ksp.getConvergedReason() > 0
        updated = ksp.getIterationNumber()
        r = problem.b.duplicate()
        problem.A.mult(x, r)
        r.axpy(-1.0, problem.b)
        assert r.norm() <= 1e-7 * problem.b.norm()
        assert updated <= before + 5
        for item in (r, x, ksp):
            item.destroy()


def test_saved_as_it_is(tmp_path_factory):
    from dolfinx_msnn import MultiscaleFunctionSpace

    path = COMM.bcast(str(tmp_path_factory.mktemp("update")) if COMM.rank == 0 else None)
    case = Case(SpectralBasis(4))
    with case.space() as W:
        case.set(left_half)
        W.update()
        W.save(f"{path}/space.h5", case.a, s=case.s)
        R = gather_matrix(W.R)
    with MultiscaleFunctionSpace.load(
        f"{path}/space.h5", case.V, case.a, s=case.s, bcs=case.bcs
    ) as W:
        assert abs(gather_matrix(W.R) - R).max() == 0
        with expect_error(ValueError, "not made to be updated"):
            W.update()


# ---- mistakes ----


def test_not_updatable():
    sample = Sample()
    with sample.space() as W:
        for ask in (W.update, W.changes):
            with expect_error(ValueError, "not made to be updated.*updatable=True"):
                ask()


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), "0.1", True, None])
def test_tolerance(wrong):
    sample = Sample()
    with sample.space(updatable=True) as W, expect_error(ValueError, "tolerance must be a number"):
        W.update(wrong if HERE else 0.1)


def test_updatable_differs():
    sample = Sample()
    if COMM.size > 1:
        with expect_error(ValueError, "updatable differs between the ranks"):
            sample.space(updatable=HERE)


@pytest.mark.parametrize("what", ["coefficient", "basis"])
def test_what_fails_leaves_the_space_as_it_was(what):
    basis = Count(SpectralBasis(4))
    case = Case(basis)
    with case.space() as W, case.problem(W) as problem:
        expected = gather_function(problem.solve())
        R = gather_matrix(W.R)
        good = case.kappa.x.array.copy()
        if what == "coefficient":
            if HERE:
                case.kappa.x.array[:3] = -1.0
            with expect_error(ValueError, "not coercive"):
                W.update()
        else:
            case.set(left_half)
            # Only the ranks that have something to compute fail.
            basis.fail = True
            with expect_error(RuntimeError, "had enough"):
                W.update()
            basis.fail = False
        assert W.revision == 0 and abs(gather_matrix(W.R) - R).max() == 0
        case.kappa.x.array[:] = good
        assert everywhere(W.update()) == []
        problem.assemble()
        found = gather_function(problem.solve())
        assert np.linalg.norm(found - expected) <= 1e-10 * np.linalg.norm(expected)
        case.set(left_half)
        assert everywhere(W.update())


def test_destroyed():
    sample = Sample()
    W = sample.space(updatable=True)
    W.destroy()
    W.destroy()
    with expect_error(RuntimeError, "has been destroyed"):
        W.update()
