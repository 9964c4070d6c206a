# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""TransientProblem, one field: dense oracles, rates, analytic solutions, changing data, errors."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np
import pytest
import scipy.linalg
from leaks import check_cycles, logging  # noqa: F401 (a fixture)
from sample import HERE, expect_error
from utils import (
    COMM,
    QUAD,
    TRI,
    box,
    cell_field,
    clamp,
    diffusion,
    dof_points,
    gather_function,
    gather_matrix,
    gather_rows,
    mass,
    match,
    rough,
)

import ufl
from dolfinx import fem, la
from dolfinx.fem.petsc import assemble_matrix
from dolfinx_msnn import CoarseGrid, FilteredBasis, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.algebra import fine
from dolfinx_msnn.petsc import LinearProblem, TransientProblem
from dolfinx_msnn.problems.bdf import bdf_coefficients


def left(x):
    return np.isclose(x[0], 0.0)


def right(x):
    return np.isclose(x[0], 1.0)


def matrix(form):
    """A fine matrix without conditions, on every rank."""
    A = assemble_matrix(fem.form(form))
    A.assemble()
    found = gather_matrix(A)
    A.destroy()
    return found


def vector(form):
    """A fine vector, on every rank."""
    b = fem.assemble_vector(fem.form(form))
    b.scatter_reverse(la.InsertMode.add)
    V = form.arguments()[0].ufl_function_space()
    return gather_rows(COMM, b.array[: V.dofmap.index_map.size_local * V.dofmap.index_map_bs])


def lift(V, bcs):
    g = fem.Function(V)
    for bc in bcs:
        bc.set(g.x.array)
    g.x.scatter_forward()
    return gather_function(g)


class Setting:
    """u' c - div(κ ∇u) = f with changing f and boundary values."""

    def __init__(self, comm=COMM, cell=QUAD, n=12, boxes=2, conditions=True):
        msh = box(comm, cell, n)
        self.V = V = fem.functionspace(msh, ("Lagrange", 1))
        self.kappa = cell_field(msh, rough(100.0))
        self.storage = cell_field(msh, lambda x: 1.0 + 2.0 * (x[0] > 0.4))
        self.a, self.m = diffusion(V, self.kappa), mass(V, self.storage)
        self.f, self.g = fem.Constant(msh, 1.0), fem.Constant(msh, 0.5)
        x = ufl.SpatialCoordinate(msh)
        self.L = self.f * (1 + x[1]) * ufl.TestFunction(V) * ufl.dx
        self.bcs = []
        if conditions:
            self.bcs = [
                fem.dirichletbc(self.g, fem.locate_dofs_geometrical(V, left), V),
                clamp(V, right, -1.0),
            ]
        self.u = fem.Function(V)
        self.coarse = CoarseGrid(msh, (boxes, boxes))

    def data(self, t):
        self.f.value, self.g.value = np.cos(5 * t), np.sin(9 * t)

    def space(self, basis=None, **options):
        basis = SpectralBasis(5) if basis is None else basis
        s = mass(self.V, self.kappa)
        return multiscale_functionspace(self.V, self.coarse, basis, self.a, s, self.bcs, **options)

    def problem(self, W, **changed):
        arguments = {
            "m": self.m,
            "a": self.a,
            "L": self.L,
            "u": self.u,
            "W": W,
            "dt": 0.02,
            "bcs": self.bcs,
            "petsc_options_prefix": "transient_",
        }
        return TransientProblem(**(arguments | changed))


class Dense:
    """BDF in span(P) by dense linear algebra; P vanishes at Dirichlet dofs."""

    def __init__(self, P, M, A, initial):
        self.P, self.M, self.A = P.toarray(), M, A
        self.past, self.sizes = [initial], []

    def step(self, dt, order, load, g):
        order = min(order, len(self.past))
        c = np.array(bdf_coefficients(order, dt / self.sizes[-1] if self.sizes else 1.0)) / dt
        K = self.P.T @ ((c[0] * self.M + self.A) @ self.P)
        r = load - self.A @ g - c[0] * (self.M @ g)
        for ck, u in zip(c[1:], self.past, strict=False):
            r -= ck * (self.M @ u)
        u = self.P @ np.linalg.solve(K, self.P.T @ r) + g
        self.past, self.sizes = [u, *self.past], [*self.sizes, dt]
        return u


@pytest.mark.parametrize("order", [1, 2])
def test_against_dense_galerkin(order):
    """Step by step, with changing data, step sizes, and an initial value not in the space."""
    p = Setting()
    p.u.interpolate(lambda x: np.cos(3 * x[0]) * (1 + x[1]))
    with p.space() as W, p.problem(W, order=order) as problem:
        dense = Dense(gather_matrix(W.P), matrix(p.m), matrix(p.a), gather_function(p.u))
        for dt in (0.02, 0.02, 0.01, 0.03, 0.03, 0.02):
            p.data(problem.time + dt)
            expected = dense.step(dt, order, vector(p.L), lift(p.V, p.bcs))
            u = problem.step(dt)
            assert u is p.u
            np.testing.assert_allclose(
                gather_function(u), expected, atol=1e-9 * np.abs(expected).max()
            )
        assert problem.time == pytest.approx(0.13) and problem.dt == 0.02


def test_same_on_any_number_of_ranks():
    """A serial run on every rank gives the same values at the same points."""
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        p = Setting(comm, TRI)
        with p.space(SpectralBasis(4)) as W, p.problem(W, order=2) as problem:
            for _ in range(4):
                p.data(problem.time + problem.dt)
                problem.step(prolong=False)
            problem.prolong()
        found.append((dof_points(p.V), gather_function(p.u)))
    index = match(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1][index], atol=1e-8)


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "changing"])
@pytest.mark.parametrize("order", [1, 2])
def test_rate_against_the_matrix_exponential(order, kind):
    """The coarse system of ordinary differential equations is solved with the order asked for."""
    p, end = Setting(n=8), 0.02
    p.f.value, p.g.value = 0.7, -0.3
    # A smooth start: the steady state of another load.
    with p.space() as W:
        with LinearProblem(p.a, 3 * p.L, W, bcs=p.bcs, petsc_options_prefix="start_") as start:
            first = start.solve().x.array.copy()
        P, M, A = gather_matrix(W.P).toarray(), matrix(p.m), matrix(p.a)
        p.u.x.array[:] = first
        g = lift(p.V, p.bcs)
        M0, A0 = P.T @ M @ P, P.T @ A @ P
        c = np.linalg.lstsq(P, gather_function(p.u) - g, rcond=None)[0]
        steady = np.linalg.solve(A0, P.T @ (vector(p.L) - A @ g))
        exact = P @ (steady + scipy.linalg.expm(-end * np.linalg.solve(M0, A0)) @ (c - steady)) + g
        errors, counts = [], [8, 16, 32, 64]
        for count in counts:
            sizes = np.ones(count) if kind == "equal" else 1.3 ** (np.arange(count) % 2)
            sizes *= end / sizes.sum()
            p.u.x.array[:] = first
            with p.problem(W, order=order, dt=sizes[0]) as problem:
                for dt in sizes:
                    problem.step(dt, prolong=False)
                problem.prolong()
            errors.append(np.linalg.norm(gather_function(p.u) - exact) / np.linalg.norm(exact))
    rate = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(rate - order) < 0.15, (rate, errors)
    assert errors[-1] < (0.01, 2e-4)[order - 1]


@pytest.mark.slow
def test_heat_equation():
    """exp(-2π²t) sin(πx) sin(πy), and the error falls with more modes."""
    end, errors = 0.02, []
    for num_modes in (4, 12, 20):
        msh = box(COMM, QUAD, 36)
        V = fem.functionspace(msh, ("Lagrange", 1))
        one = fem.Constant(msh, 1.0)
        a, m, u = diffusion(V, one), mass(V, one), fem.Function(V)
        u.interpolate(lambda x: np.sin(np.pi * x[0]) * np.sin(np.pi * x[1]))
        bcs = [clamp(V, lambda x: np.isclose(x[0] * (1 - x[0]) * x[1] * (1 - x[1]), 0))]
        exact = fem.Function(V)
        exact.x.array[:] = np.exp(-2 * np.pi**2 * end) * u.x.array
        W = multiscale_functionspace(
            V, CoarseGrid(msh, (3, 3)), SpectralBasis(num_modes), a, m, bcs
        )
        problem = TransientProblem(
            m, a, None, u, W, dt=end / 50, order=2, bcs=bcs, petsc_options_prefix="heat_"
        )
        with W, problem:
            for _ in range(50):
                problem.step(prolong=False)
            problem.prolong()
        difference = gather_function(u) - gather_function(exact)
        errors.append(np.abs(difference).max() / np.abs(gather_function(exact)).max())
    assert errors[2] < 3e-3 and errors[2] < 0.3 * errors[0], errors


def test_initial_value_in_the_space_and_none():
    """Without data, a member of the space decays from itself; zero stays zero."""
    p = Setting()
    p.f.value = p.g.value = 0.0
    p.bcs[1] = clamp(p.V, right, 0.0)
    with p.space() as W:
        with p.problem(W) as problem:
            assert not gather_function(problem.step()).any()
        p.u.interpolate(lambda x: np.sin(np.pi * x[0]))
        p.u.x.array[:] = W.interpolate(p.u).x.array
        before = gather_function(p.u)
        with p.problem(W, dt=1e-9) as problem:
            np.testing.assert_allclose(gather_function(problem.step()), before, atol=2e-5)
        # Not in the space: its projection in the inner product of m.
        p.u.interpolate(lambda x: np.sin(np.pi * x[0]) * np.cos(40 * x[1]))
        before, projected = gather_function(p.u), gather_function(W.project(p.u, p.m))
        with p.problem(W, dt=1e-9) as problem:
            after = gather_function(problem.step())
        np.testing.assert_allclose(after, projected, atol=1e-4)
        assert np.abs(projected - before).max() > 0.1


def test_only_what_has_changed_is_assembled():
    p = Setting()
    with p.space() as W, p.problem(W, order=2) as problem:
        problem.step()
        system = problem._system
        vectors = [system.load, system.stiff_lift, system.mass_lift]

        def states():
            return [v.stateGet() for v in vectors]

        def operators():
            return [problem.M0.stateGet(), problem.A0.stateGet(), id(problem.M0)]

        kept = operators()
        before = states()
        problem.step()
        problem.step()
        assert states() == before
        p.f.value = 3.0
        problem.step()
        after = states()
        assert after[0] > before[0] and after[1:] == before[1:]
        p.g.value = -2.0
        problem.step()
        assert states()[0] == after[0] and states()[1] > after[1] and states()[2] > after[2]
        np.testing.assert_array_equal(
            gather_function(p.u)[lift_mask(p)], lift(p.V, p.bcs)[lift_mask(p)]
        )
        assert operators() == kept
        # A coefficient of a: everything.
        first = gather_matrix(problem.A0)
        p.kappa.x.array[:] *= 2.0
        problem.step()
        assert abs(gather_matrix(problem.A0) - 2 * first).max() < 1e-10 * abs(first).max()


def test_no_fine_matrix(monkeypatch):
    """Of one field none is made: at first, for new data, on an updated space."""

    def refuse(*args, **kwargs):
        raise AssertionError("A fine matrix is made.")

    monkeypatch.setattr(fine, "create_matrix", refuse)
    p = Setting(n=24)
    with p.space(updatable=True) as W, p.problem(W, order=2) as problem:
        problem.step()
        p.kappa.x.array[:] **= 1.5
        problem.step()
        W.update()
        problem.step()
        problem.solve_steady()


def lift_mask(p):
    """Which dofs carry a condition, on every rank."""
    f = fem.Function(p.V)
    for bc in p.bcs:
        f.x.array[bc.dof_indices()[0]] = 1.0
    f.x.scatter_forward()
    return gather_function(f) > 0


def test_factors_are_kept_for_step_sizes():
    p = Setting(n=8)
    with p.space() as W, p.problem(W, order=1) as problem:
        for dt in (0.1, 0.2, 0.1, 0.2):
            problem.step(dt, prolong=False)
        factors = dict(problem._system._solvers)
        assert len(factors) == 2
        for dt in (0.1, 0.2):
            problem.step(dt, prolong=False)
        assert dict(problem._system._solvers) == factors
        for dt in (0.3, 0.4, 0.5):
            problem.step(dt, prolong=False)
        assert len(problem._system._solvers) == 3


def test_changed_coefficients():
    """κ and the storage change between the steps, as in the dense oracle."""
    p = Setting()
    with p.space() as W, p.problem(W, order=2) as problem:
        dense = Dense(gather_matrix(W.P), matrix(p.m), matrix(p.a), gather_function(p.u))
        for k in range(5):
            if k in (2, 3):
                p.kappa.x.array[:] *= 1.5
                p.storage.x.array[:] += k
                dense.M, dense.A = matrix(p.m), matrix(p.a)
            p.data(problem.time + 0.02)
            expected = dense.step(0.02, 2, vector(p.L), lift(p.V, p.bcs))
            np.testing.assert_allclose(gather_function(problem.step()), expected, atol=1e-8)


@pytest.mark.parametrize("prolong", [True, False])
def test_updated_space(prolong):
    """After W.update() the problem goes on from where it was, in the new space."""
    p = Setting()
    with p.space(updatable=True) as W, p.problem(W, order=2) as problem:
        dense = Dense(gather_matrix(W.P), matrix(p.m), matrix(p.a), gather_function(p.u))
        order = 2
        for k in range(6):
            if k == 3:
                if not prolong:
                    # Only the newest values are known: the next step is of order 1.
                    problem.prolong()
                    dense.past, dense.sizes = dense.past[:1], []
                p.kappa.x.array[:] *= 1 + 5 * (np.arange(len(p.kappa.x.array)) % 3)
                p.kappa.x.scatter_forward()
                W.update()
                dense.P, dense.A = gather_matrix(W.P).toarray(), matrix(p.a)
            p.data(problem.time + 0.02)
            expected = dense.step(0.02, order, vector(p.L), lift(p.V, p.bcs))
            u = problem.step(prolong=prolong)
            if prolong or k == 5:
                np.testing.assert_allclose(gather_function(problem.prolong()), expected, atol=1e-8)
        assert u is p.u
        if not prolong:
            problem.step(prolong=False)
            p.kappa.x.array[:] *= 1 + 5 * (np.arange(len(p.kappa.x.array)) % 2)
            p.kappa.x.scatter_forward()
            W.update()
            with expect_error(RuntimeError, "prolong"):
                problem.step()


def test_steady_state():
    """The steady state is that of LinearProblem, and steps from it stay there."""
    p = Setting()
    p.data(0.3)
    with p.space() as W:
        with LinearProblem(p.a, p.L, W, bcs=p.bcs, petsc_options_prefix="steady_") as linear:
            expected = gather_function(linear.solve())
        with p.problem(W, order=2, time=3.0) as problem:
            problem.step(prolong=False)
            np.testing.assert_allclose(gather_function(problem.solve_steady()), expected, atol=1e-9)
            for _ in range(3):
                u = problem.step(0.4)
            np.testing.assert_allclose(gather_function(u), expected, atol=1e-8)
            assert problem.time == pytest.approx(3.0 + 0.02 + 1.2)
    # Slow or fast, everything ends there.
    p.u.x.array[:] = 0.0
    with p.space() as W, p.problem(W, dt=100.0) as problem:
        problem.step(prolong=False)
        problem.step(prolong=False)
        np.testing.assert_allclose(gather_function(problem.step()), expected, atol=1e-6)


def test_without_conditions_mass_is_conserved():
    """Pure Neumann: the content grows by what is let in (the space holds the constants)."""
    p = Setting(conditions=False)
    p.u.interpolate(lambda x: x[0] * np.cos(3 * x[1]))
    content = fem.form(p.storage * p.u * ufl.dx)
    rate = fem.form(ufl.replace(p.L, {p.L.arguments()[0]: constant(p.V)}))

    def total(form):
        return COMM.allreduce(fem.assemble_scalar(form))

    with p.space() as W, p.problem(W) as problem:
        expected = total(content)
        for _ in range(5):
            p.data(problem.time + 0.02)
            problem.step()
            expected += 0.02 * total(rate)
            assert total(content) == pytest.approx(expected, rel=1e-8)


def constant(V):
    f = fem.Function(V)
    f.x.array[:] = 1.0
    return f


@pytest.mark.parametrize("facets", [False, True])
def test_advection_is_solved_by_lu(facets):
    """A non-symmetric form, over interior facets too, as the dense oracle has it."""
    p = Setting()
    u, v = ufl.TrialFunction(p.V), ufl.TestFunction(p.V)
    velocity = ufl.as_vector([30.0, -20.0])
    p_a = p.a + ufl.dot(velocity, ufl.grad(u)) * v * ufl.dx
    if facets:
        p_a += 0.1 * ufl.inner(ufl.jump(ufl.grad(u)), ufl.jump(ufl.grad(v))) * ufl.dS
    with p.space() as W, p.problem(W, a=p_a) as problem:
        dense = Dense(gather_matrix(W.P), matrix(p.m), matrix(p_a), gather_function(p.u))
        for _ in range(3):
            expected = dense.step(0.02, 1, vector(p.L), lift(p.V, p.bcs))
            np.testing.assert_allclose(gather_function(problem.step()), expected, atol=1e-8)
        assert next(iter(problem._system._solvers.values())).getPC().getType() == "lu"
    with p.space() as W, p.problem(W) as problem:
        problem.step()
        assert next(iter(problem._system._solvers.values())).getPC().getType() == "cholesky"


def test_options_and_matrix_types():
    p = Setting(n=8)
    with p.space() as W, p.problem(W) as problem:
        expected = gather_function(problem.step())
    options = {"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-12}
    p.u.x.array[:] = 0.0
    with p.space(mat_type="aijperm") as W, p.problem(W, petsc_options=options) as problem:
        np.testing.assert_allclose(gather_function(problem.step()), expected, atol=1e-8)
        assert problem.A0.getType() == W.P.getType()
        solver = next(iter(problem._system._solvers.values()))
        assert solver.getType() == "cg" and solver.getIterationNumber() > 1


def test_wrong_inputs_on_one_rank():
    p = Setting(n=8)
    other = Setting(n=8)
    with p.space() as W:

        def refused(match, **wrong):
            with expect_error(ValueError, match):
                p.problem(W, **(wrong if HERE else {}))

        refused("dt must be a positive", dt=-0.1)
        refused("order must be 1", order=3)
        refused("petsc_options_prefix", petsc_options_prefix="")
        refused("petsc_options must be a mapping", petsc_options=3)
        refused("m must be .* form", m=3)
        refused("a must be a bilinear form", a=p.L)
        refused("L must be a linear form", L=p.a)
        refused("arguments of a are on another", a=other.a)
        refused("Function", u=other.u)
        refused("bcs must be a sequence", bcs=3)
        refused(r"bcs\[0\] must be", bcs=[3])
        refused(r"bcs\[0\] is on the function space of 0 fields", bcs=other.bcs)
        # On every rank: one without dofs on the boundary has nothing to complain of.
        with expect_error(ValueError, "not the same ones"):
            p.problem(W, bcs=[])
        refused("m must be 1 lists of 1", m=[[p.m, None]])
        refused("L must have one form", L=[p.L, None])
        refused("mat_type", mat_type="dense")
        if COMM.size > 1:
            refused("dt differs between the ranks", dt=0.3)
            refused("m differs between the ranks", m=2 * p.m)
            refused("m differs between the ranks", m=None)
        with expect_error(ValueError, "MultiscaleFunctionSpace"):
            p.problem(p.V)
        with p.problem(W) as problem:
            problem.step()
            before = gather_function(p.u)
            with expect_error(ValueError, "dt must be a positive"):
                problem.step(np.nan if HERE else 0.1)
            if COMM.size > 1:
                with expect_error(ValueError, "dt differs"):
                    problem.step(0.2 if HERE else 0.1)
            p.f.value = np.nan if HERE else 1.0
            with expect_error(RuntimeError, "NaN or infinite"):
                problem.step(0.5)
            assert (problem.time, problem.dt) == (0.02, 0.02)
            np.testing.assert_array_equal(gather_function(p.u), before)
            p.f.value = 1.0
            problem.step()
            assert np.isfinite(gather_function(p.u)).all()
        with expect_error(RuntimeError, "destroyed"):
            problem.step()
        with expect_error(RuntimeError, "destroyed"):
            problem.assemble()
        # Without a time derivative and conditions the matrix is singular.
        free = Setting(n=8, conditions=False)
        with free.space() as W, free.problem(W, m=None) as problem:
            with expect_error(RuntimeError, "singular|did not converge"):
                problem.step()


def test_leaks(tmp_path):
    p = Setting(n=6)

    def cycle():
        with p.space(FilteredBasis(3)) as W, p.problem(W, order=2) as problem:
            for k in range(4):
                p.f.value = float(k)
                problem.step(0.1 + 0.1 * k)
            problem.assemble()
            problem.step()
            problem.solve_steady()

    check_cycles(cycle, tmp_path / "log", 20)
