# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""NonlinearProblem and PicardProblem: Newton's method in the coarse space."""

from __future__ import annotations

from petsc4py import PETSc

import numpy as np
import pytest
from leaks import check_cycles, live_objects
from sample import COMM, HERE, expect_error
from utils import (
    QUAD,
    TRI,
    box,
    cell_field,
    clamp,
    diffusion,
    dof_points,
    elasticity,
    gather_function,
    gather_matrix,
    mass,
    match,
    rough,
)

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import NonlinearProblem as FineProblem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx_msnn import CoarseGrid, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.petsc import LinearProblem, NonlinearProblem, PicardProblem
from dolfinx_msnn.problems import nonlinear

TIGHT = {"snes_rtol": 1e-12, "snes_stol": 0.0, "snes_atol": 1e-9}


def left(x):
    return np.isclose(x[0], 0.0)


def right(x):
    return np.isclose(x[0], 1.0)


class Setting:
    """-div(kappa k(u) grad u) = 1 with flux on the other sides, u = 1 and -4 on the ends."""

    def __init__(self, comm=COMM, cell=QUAD, n=12, boxes=(2, 2), num_modes=5, vector=False):
        msh = box(comm, cell, n)
        self.V = V = fem.functionspace(msh, ("Lagrange", 1, (2,)) if vector else ("Lagrange", 1))
        self.kappa = cell_field(msh, rough(100.0))
        self.values = [fem.Constant(msh, v) for v in ((0.1, -0.2) if vector else (1.0, -4.0))]
        self.bcs = [
            fem.dirichletbc(value, fem.locate_dofs_geometrical(V, where), V)
            if not vector
            else clamp(V, where, float(value.value))
            for value, where in zip(self.values, (left, right), strict=True)
        ]
        self.linear = elasticity(V, self.kappa) if vector else diffusion(V, self.kappa)
        self.s = mass(V, self.kappa)
        self.coarse, self.num_modes = CoarseGrid(msh, boxes), num_modes
        self.u, self.v = fem.Function(V), ufl.TestFunction(V)
        x = ufl.SpatialCoordinate(msh)
        if vector:
            stiffening = 1 + 20 * ufl.inner(self.u, self.u)
            load = ufl.as_vector([1 + x[1], x[0] - 0.5])
        else:
            stiffening, load = 1 / (1 + abs(self.u)), 1.0
        # One rule for F and J, lest J be the derivative of something else.
        scaled, rule = stiffening * self.kappa, {"quadrature_degree": 3}
        form = elasticity(V, scaled) if vector else diffusion(V, scaled)
        self.a = ufl.Form([integral.reconstruct(metadata=rule) for integral in form.integrals()])
        self.L = ufl.inner(ufl.as_ufl(load), self.v) * ufl.dx
        if not vector:
            self.L += (1 + x[0]) * self.v * ufl.ds
        self.F = ufl.action(self.a, self.u) - self.L

    def space(self, **changed):
        return multiscale_functionspace(
            self.V,
            self.coarse,
            SpectralBasis(self.num_modes),
            self.linear,
            self.s,
            self.bcs,
            **changed,
        )

    def newton(self, space, **changed):
        arguments = {"F": self.F, "u": self.u, "W": space, "bcs": self.bcs}
        return NonlinearProblem(**(arguments | {"petsc_options_prefix": "newton_"} | changed))

    def picard(self, space, **changed):
        arguments = {"a": self.a, "L": self.L, "u": self.u, "W": space, "bcs": self.bcs}
        return PicardProblem(**(arguments | {"petsc_options_prefix": "picard_"} | changed))


def lifted(p):
    g = fem.Function(p.V)
    for bc in p.bcs:
        bc.set(g.x.array)
    g.x.scatter_forward()
    return g


def set_global(u, values):
    """Set a function from values by global dof."""
    V = u.function_space
    bs = V.dofmap.index_map_bs
    first = bs * V.dofmap.index_map.local_range[0]
    size = bs * V.dofmap.index_map.size_local
    u.x.array[:size] = values[first : first + size]
    u.x.scatter_forward()


def dense_newton(p, W, J, num_steps):
    """Newton (or with another J, defect correction) in span(P), dense, on every rank."""
    P, g, u = gather_matrix(W.P), gather_function(lifted(p)), p.u
    forms = fem.form(p.F), fem.form(J)
    c = np.zeros(P.shape[1])
    for _ in range(num_steps):
        set_global(u, P @ c + g)
        load = fem.Function(p.V)
        load.x.array[:] = 0.0
        fem.assemble_vector(load.x.array, forms[0])
        load.x.petsc_vec.ghostUpdate(PETSc.InsertMode.ADD, PETSc.ScatterMode.REVERSE)
        r = gather_function(load)
        A = assemble_matrix(forms[1])
        A.assemble()
        K = (P.T @ gather_matrix(A) @ P).toarray()
        A.destroy()
        c = c - np.linalg.solve(K, P.T @ r)
    return P @ c + g


@pytest.mark.parametrize(
    ("cell", "vector"), [(QUAD, False), (TRI, False), (QUAD, True)], ids=["quad", "tri", "vector"]
)
def test_against_dense_newton(cell, vector):
    """The solution is that of a dense Newton method in span(P); boundary values are exact."""
    p = Setting(cell=cell, vector=vector)
    with p.space() as W:
        J = ufl.derivative(p.F, p.u)
        expected = dense_newton(p, W, J, 12)
        p.u.x.array[:] = 0.0
        with p.newton(W, petsc_options=TIGHT) as problem:
            u = problem.solve()
            assert u is p.u
            np.testing.assert_allclose(
                gather_function(u), expected, atol=1e-9 * np.abs(expected).max()
            )
    for bc in p.bcs:
        values = u.x.array.copy()
        bc.set(values)
        np.testing.assert_array_equal(values, u.x.array)
    # Not the solution of the problem with stiffening 1.
    with p.space() as W, LinearProblem(p.linear, p.L, W, bcs=p.bcs, petsc_options_prefix="l_") as q:
        assert np.abs(gather_function(q.solve()) - expected).max() > 0.01 * np.abs(expected).max()


def norms(problem):
    """Residual norms of a solve."""
    problem.solver.setConvergenceHistory()
    problem.solve()
    return np.array(problem.solver.getConvergenceHistory()[0])


@pytest.mark.slow
def test_newton_is_quadratic_and_picard_linear():
    p = Setting()
    with p.space() as W:
        with p.newton(W, petsc_options=TIGHT) as problem:
            newton = norms(problem)
        found = gather_function(p.u)
        p.u.x.array[:] = 0.0
        with p.picard(W, petsc_options=TIGHT) as problem:
            picard = norms(problem)
    # Until rounding errors are in sight.
    newton = newton[newton > 1e-9 * newton[0]]
    order = np.log(newton[2:] / newton[1:-1]) / np.log(newton[1:-1] / newton[:-2])
    assert order[-1] > 1.7, newton
    rates = picard[1:] / picard[:-1]
    assert len(picard) > 2 * len(newton)
    assert np.all(rates[3:-1] > 0.01) and np.all(rates[3:-1] < 0.7), rates
    np.testing.assert_allclose(gather_function(p.u), found, atol=1e-8)


def test_a_space_that_is_all_of_the_fine_one():
    """As many boxes as cells, one mode: hat functions. The fine solution, and in as many steps."""
    p = Setting(n=12, boxes=(12, 12), num_modes=1)
    fine = Setting(n=12)
    # Both start with the boundary values, zero inside.
    fine.u.x.array[:] = lifted(fine).x.array
    options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    reference = FineProblem(
        fine.F, fine.u, bcs=fine.bcs, petsc_options_prefix="fine_", petsc_options=TIGHT | options
    )
    reference.solve()
    assert reference.solver.getConvergedReason() > 0
    with p.space() as W:
        assert W.num_dofs == 13 * 11
        with p.newton(W, petsc_options=TIGHT) as problem:
            problem.solve()
            assert problem.solver.getIterationNumber() <= reference.solver.getIterationNumber() + 1
    np.testing.assert_allclose(gather_function(p.u), gather_function(fine.u), atol=1e-9)


@pytest.mark.slow
def test_manufactured_solution():
    """-div((1 + u²) grad u) = f for a smooth u: second order, in spaces of hat functions."""
    errors = []
    for n in (6, 12, 24):
        msh = box(COMM, QUAD, n)
        V = fem.functionspace(msh, ("Lagrange", 1))
        x, u, v = ufl.SpatialCoordinate(msh), fem.Function(V), ufl.TestFunction(V)
        exact = ufl.sin(np.pi * x[0]) * ufl.cos(np.pi * x[1]) + x[0]
        flux = (1 + exact**2) * ufl.grad(exact)
        F = (1 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        F -= ufl.inner(flux, ufl.FacetNormal(msh)) * v * ufl.ds - ufl.div(flux) * v * ufl.dx
        bcs = [clamp(V, left, 0.0), clamp(V, right, 1.0)]
        a = ufl.inner(ufl.grad(ufl.TrialFunction(V)), ufl.grad(v)) * ufl.dx
        grid = CoarseGrid(msh, (n, n))
        with (
            multiscale_functionspace(V, grid, SpectralBasis(1), a, bcs=bcs) as W,
            NonlinearProblem(F, u, W, bcs=bcs, petsc_options_prefix="m_") as problem,
        ):
            problem.solve()
        square = fem.assemble_scalar(fem.form((u - exact) ** 2 * ufl.dx))
        errors.append(np.sqrt(COMM.allreduce(square)))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, 2.0, atol=0.1)


def test_solution_inside_the_space():
    """Constants are in the space: u = 2 where k(u) grad u = 0 and u³ = 8."""
    p = Setting()
    u, v = p.u, p.v
    F = (1 + u**2) * p.kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    F += p.kappa * (u**3 - 8) * v * ufl.dx
    with multiscale_functionspace(p.V, p.coarse, SpectralBasis(3), p.linear, p.s) as W:
        u.x.array[:] = 1.0
        with NonlinearProblem(F, u, W, petsc_options_prefix="c_") as problem:
            problem.solve()
    np.testing.assert_allclose(u.x.array, 2.0, rtol=1e-7)


def test_same_on_any_number_of_ranks():
    p, alone = Setting(), Setting(comm=PETSc.COMM_SELF.tompi4py())
    for q in (p, alone):
        with q.space() as W, q.newton(W, petsc_options=TIGHT) as problem:
            problem.solve()
    order = match(dof_points(p.V), dof_points(alone.V))
    np.testing.assert_allclose(gather_function(p.u), gather_function(alone.u)[order], atol=1e-8)


@pytest.mark.parametrize("kind", ["newton", "picard"])
def test_no_convergence(kind):
    """An error with PETSc's reason, and the last iterate; from there it goes on."""
    p = Setting()
    with p.space() as W:
        J = ufl.derivative(p.F, p.u) if kind == "newton" else p.a
        expected = dense_newton(p, W, J, 2)
        p.u.x.array[:] = 0.0
        options = TIGHT | {"snes_max_it": 2, "snes_linesearch_type": "basic"}
        with getattr(p, kind)(W, petsc_options=options) as problem:
            with expect_error(RuntimeError, r"DIVERGED_MAX_IT after 2 iterations\.$"):
                problem.solve()
            found = gather_function(p.u)
            np.testing.assert_allclose(found, expected, atol=1e-10 * np.abs(expected).max())
            problem.solver.setTolerances(max_it=100)
            problem.solve()
            count = problem.solver.getIterationNumber()
        p.u.x.array[:] = 0.0
        with getattr(p, kind)(W, petsc_options=TIGHT) as problem:
            problem.solve()
            assert problem.solver.getIterationNumber() - 2 <= count
            assert count < problem.solver.getIterationNumber()


def test_picard_is_a_fixed_point_iteration():
    """Each step solves the linear problem with the coefficient of the step before."""
    p = Setting()
    with p.space() as W:
        linear = LinearProblem(p.a, p.L, W, bcs=p.bcs, petsc_options_prefix="frozen_")
        with linear:
            p.u.x.array[:] = lifted(p).x.array
            for _ in range(4):
                linear.assemble()
                p.u.x.array[:] = linear.solve().x.array
        expected = gather_function(p.u)
        p.u.x.array[:] = 0.0
        with p.picard(W, petsc_options={"snes_max_it": 4, "snes_rtol": 1e-14}) as problem:
            assert problem.solver.getTolerances()[-1] == 4
            with expect_error(RuntimeError, "DIVERGED_MAX_IT after 4 iterations"):
                problem.solve()
        np.testing.assert_allclose(gather_function(p.u), expected, atol=1e-9)


def test_boundary_values_that_change():
    """As a new problem gives; the coefficients of the last solve are the start."""
    p = Setting()
    with p.space() as W:
        with p.newton(W, petsc_options=TIGHT) as problem:
            for values in ((1.0, -4.0), (1.2, -3.8), (0.0, 0.0)):
                for constant, value in zip(p.values, values, strict=True):
                    constant.value = value
                problem.solve()
                found = gather_function(p.u)
                q = Setting()
                for constant, value in zip(q.values, values, strict=True):
                    constant.value = value
                with q.newton(W_of(q), petsc_options=TIGHT) as other:
                    np.testing.assert_allclose(found, gather_function(other.solve()), atol=1e-8)
                    other.W.destroy()


def W_of(p):
    return p.space()


def test_the_start_is_what_u_is():
    """A member of the space is its own start; unchanged, not even a projection is needed."""
    p = Setting()
    with p.space() as W:
        with p.newton(W) as problem:
            cold = norms(problem)
            assert W._projection_solver is None
            warm = norms(problem)
            assert W._projection_solver is None and warm[0] <= 1e-6 * cold[0]
            # Boundary values do not count: they are replaced.
            solution = p.u.x.array.copy()
            for bc in p.bcs:
                p.u.x.array[bc.dof_indices()[0]] = 7.0
            assert norms(problem)[0] <= 1e-6 * cold[0]
            assert W._projection_solver is None
        p.u.x.array[:] = solution
        with p.newton(W) as problem:
            assert norms(problem)[0] <= 1e-6 * cold[0]
        p.u.x.array[:] = np.nan if HERE else 0.0
        with p.newton(W) as problem, expect_error(RuntimeError, "u, has NaN"):
            problem.solve()


def test_new_coefficients_and_new_modes():
    """What follows a change of kappa: the same space, or one that is updated."""
    p = Setting()
    with p.space(updatable=True) as W, p.newton(W, petsc_options=TIGHT) as problem:
        problem.solve()
        for update in (False, True):
            p.kappa.x.array[:] *= 1 + 0.5 * np.sin(1.0 + np.arange(len(p.kappa.x.array)))
            p.kappa.x.scatter_forward()
            if update:
                assert COMM.allreduce(len(W.update())) > 0
            problem.solve()
            found = gather_function(p.u)
            expected = dense_newton(p, W, ufl.derivative(p.F, p.u), 12)
            np.testing.assert_allclose(found, expected, atol=1e-8)
            p.u.x.array[:] = 0.0


def test_nan_in_the_residual():
    p = Setting()
    F = p.F + ufl.ln(p.u - 1000.0) * p.v * ufl.dx
    with p.space() as W, p.newton(W, F=F) as problem:
        with expect_error(RuntimeError, "F has NaN or infinite entries, .*after 0 iterations"):
            problem.solve()


@pytest.mark.slow
def test_singular_jacobian():
    """A zero Jacobian: the linear solver has nothing to solve with."""
    p = Setting()
    J = fem.Constant(p.V.mesh, 0.0) * p.linear
    with p.space() as W, p.newton(W, J=J) as problem:
        with expect_error(RuntimeError, "did not converge: .*DIVERGED_"):
            problem.solve()


@pytest.mark.parametrize("name", ["assemble_vector", "pack_coefficients"])
@pytest.mark.parametrize("calls", [0, 2])
def test_errors_inside_callbacks(monkeypatch, name, calls):
    """Raised on one rank: the same on all of them, and what was is as good as new."""
    p = Setting()
    counter = {"calls": 0}
    true = getattr(nonlinear.fem, name)

    def broken(*args, **options):
        counter["calls"] += 1
        if HERE and counter["calls"] > calls:
            raise ValueError("Something is broken.")
        return true(*args, **options)

    with p.space() as W, p.newton(W, petsc_options=TIGHT) as problem:
        with monkeypatch.context() as patch:
            patch.setattr(nonlinear.fem, name, broken)
            with expect_error(ValueError, "Something is broken"):
                problem.solve()
        problem.solve()
        found = gather_function(p.u)
        p.u.x.array[:] = 0.0
        np.testing.assert_allclose(gather_function(problem.solve()), found, atol=1e-8)


def test_options():
    """Of the call, of the database (by prefix), and their order; the database stays as it was."""
    p = Setting(n=8)
    database = PETSc.Options()
    with p.space() as W:
        with p.newton(
            W, petsc_options={"snes_linesearch_type": "l2", "snes_max_it": 77}
        ) as problem:
            assert problem.solver.getLineSearch().getType() == "l2"
            assert problem.solver.getTolerances()[-1] == 77
            assert not database.hasName("newton_snes_linesearch_type")
            newton = gather_function(problem.solve())
        database["newton_snes_max_it"], database["newton_ksp_type"] = 33, "gmres"
        try:
            options = {"ksp_rtol": 1e-12, "pc_type": "jacobi", "snes_max_it": 44}
            p.u.x.array[:] = 0.0
            with p.newton(W, petsc_options=options) as problem:
                assert problem.solver.getTolerances()[-1] == 44
                assert database.getInt("newton_snes_max_it") == 33
                ksp = problem.solver.getKSP()
                assert (ksp.getType(), ksp.getPC().getType()) == ("gmres", "jacobi")
                found = gather_function(problem.solve())
                assert ksp.getIterationNumber() > 1
                np.testing.assert_allclose(found, newton, atol=1e-6)
            with p.newton(W) as problem:
                assert problem.solver.getTolerances()[-1] == 33
        finally:
            database.delValue("newton_snes_max_it")
            database.delValue("newton_ksp_type")
        # Quasi-Newton with a Jacobian that is kept for two steps.
        p.u.x.array[:] = 0.0
        with p.newton(W, petsc_options=TIGHT | {"snes_lag_jacobian": 2}) as problem:
            np.testing.assert_allclose(gather_function(problem.solve()), newton, atol=1e-6)


def mistakes(p, W):
    """Arguments that are wrong, and what is said."""
    other = fem.functionspace(p.V.mesh, ("Lagrange", 2))
    w = ufl.TestFunction(other)
    owned = np.arange(p.V.dofmap.index_map.size_local, dtype=np.int32)
    everywhere = fem.dirichletbc(fem.Function(p.V), owned)
    return {
        "W": ({"W": None}, "Expected a MultiscaleFunctionSpace"),
        "u": ({"u": fem.Function(other)}, "Function in the fine space"),
        "no u": ({"u": None}, "Expected a dolfinx.fem.Function, got NoneType for u"),
        "bilinear F": ({"F": p.a}, "F must be a linear form .* 2 arguments"),
        "no form": ({"F": 3}, "F must be a UFL linear form"),
        "F elsewhere": ({"F": p.u * w * ufl.dx}, "arguments of F are on another function space"),
        "F without u": ({"F": p.L}, "F does not depend on u"),
        "linear J": ({"J": p.L}, "J must be a bilinear form"),
        "bcs": ({"bcs": [everywhere]}, "bcs constrain"),
        "no bcs": ({"bcs": [3]}, r"bcs\[0\] must be a"),
        "prefix": ({"petsc_options_prefix": ""}, "petsc_options_prefix must be"),
        "options": ({"petsc_options": [1]}, "petsc_options must be a mapping"),
        "mat_type": ({"mat_type": "dense"}, "mat_type='dense' is not a sparse"),
        "snes_type": ({"petsc_options": {"snes_type": "no"}}, "could not be set up|differs"),
    }


@pytest.mark.parametrize("everywhere", [True, False], ids=["all ranks", "one rank"])
def test_mistakes(everywhere):
    p = Setting(n=6)
    with p.space() as W:
        for name, (changed, message) in mistakes(p, W).items():
            if name == "W" and not everywhere and COMM.size > 1:
                # Without a space there is no communicator.
                continue
            wrong = changed if everywhere or HERE else {}
            with expect_error(ValueError if name != "snes_type" else Exception, message):
                p.newton(W, **wrong)
        for changed, message in (
            ({"a": p.L}, "a must be a bilinear form"),
            ({"L": p.a}, "L must be a linear form"),
            ({"u": 1}, "Expected a dolfinx.fem.Function, got int for u"),
        ):
            with expect_error(ValueError, message):
                p.picard(W, **(changed if everywhere or HERE else {}))
        if COMM.size > 1 and not everywhere:
            with expect_error(ValueError, "petsc_options_prefix differs between the ranks"):
                p.newton(W, petsc_options_prefix="a_" if HERE else "b_")
        problem = p.newton(W)
        problem.destroy()
        problem.destroy()
        for use in (problem.solve, lambda: problem.A, lambda: problem.solver, problem.__enter__):
            with expect_error(RuntimeError, "nonlinear problem has been destroyed"):
                use()
    with expect_error(RuntimeError, "space has been destroyed"):
        p.newton(W)


@pytest.mark.parametrize(
    "destroy", [pytest.param(True, marks=pytest.mark.serial), False], ids=["destroyed", "dropped"]
)
def test_leaks(tmp_path, destroy):
    """Solved, solved again, failed, and forgotten: nothing is left."""
    PETSc.Log.begin()
    p = Setting(n=6)

    def cycle():
        W = p.space()
        problem = p.newton(W)
        p.u.x.array[:] = 0.5
        problem.solve()
        problem.solve()
        problem.solver.setTolerances(max_it=1)
        p.u.x.array[:] = 0.0
        with pytest.raises(RuntimeError):
            problem.solve()
        if destroy:
            problem.destroy()
            W.destroy()

    check_cycles(cycle, tmp_path / "log", 10)


@pytest.mark.serial
def test_destroy_frees_at_once(tmp_path):
    PETSc.Log.begin()
    p, path = Setting(n=6), tmp_path / "log"
    with p.space() as W:
        with p.newton(W) as problem:
            problem.solve()
        # What it takes to project is the space's.
        W.interpolate(p.u)
        before = live_objects(path)
        problem = p.newton(W)
        p.u.x.array[:] = 0.5
        problem.solve()
        held = problem.A, problem.A0, problem.solver
        assert live_objects(path) != before
        problem.destroy()
        assert live_objects(path) == before
        assert not any(held)
