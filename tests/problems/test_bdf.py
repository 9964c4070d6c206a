# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""BDF: coefficients, rates of convergence, nonlinear storage, history, wrong inputs."""

from __future__ import annotations

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import pytest
from sample import HERE, expect_error
from utils import COMM, QUAD, box, cell_field, diffusion, rough

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx.fem.petsc import NonlinearProblem as FineNonlinearProblem
from dolfinx_msnn import CoarseGrid, FilteredBasis, multiscale_functionspace
from dolfinx_msnn.petsc import BDF, NonlinearProblem
from dolfinx_msnn.problems.bdf import bdf_coefficients
from dolfinx_msnn.richards import VanGenuchtenMualem

LU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


def steps(kind, num, end=1.0):
    """Step sizes that add up to ``end``: equal ones, or ones whose ratios are 1.3 and 1 / 1.3."""
    sizes = np.ones(num) if kind == "equal" else 1.3 ** (np.arange(num) % 2)
    return end * sizes / sizes.sum()


@pytest.mark.parametrize("ratio", [0.3, 1.0, 1.7])
def test_formula_is_exact_for_parabolas(ratio):
    """Order 2 differentiates 1, t, t^2 exactly; order 1 the first two."""
    dt = 0.37
    times = np.array([0.0, -dt, -dt - dt / ratio])
    for order in (1, 2):
        for power in range(order + 1):
            found = np.dot(bdf_coefficients(order, ratio), times**power) / dt
            assert found == pytest.approx(float(power == 1), abs=1e-12)
    assert bdf_coefficients(2) == (1.5, -2.0, 0.5)


def decay(order, sizes):
    """Error at t = 1 for u' = -u + sin(3t) (a point by point equation) through UFL and DOLFINx."""
    msh = box(COMM, QUAD, 2)
    V = fem.functionspace(msh, ("Lagrange", 1))
    u, v, w = fem.Function(V), ufl.TestFunction(V), ufl.TrialFunction(V)
    u.x.array[:] = -1.0
    bdf = BDF(u, sizes[0], order)
    f = fem.Constant(msh, 0.0)
    F = ufl.replace((bdf.derivative() + u - f) * v * ufl.dx, {u: w})
    problem = FineProblem(
        ufl.lhs(F), ufl.rhs(F), u=u, petsc_options_prefix="decay_", petsc_options=LU
    )
    for dt, following in zip(sizes, [*sizes[1:], None], strict=True):
        assert bdf.dt == dt
        f.value = np.sin(3 * (bdf.time + dt))
        problem.solve()
        bdf.advance(following)
    assert bdf.time == pytest.approx(1.0)
    # u = C e^{-t} + (sin 3t - 3 cos 3t) / 10
    exact = (-1.0 + 0.3) * np.exp(-1.0) + (np.sin(3.0) - 3 * np.cos(3.0)) / 10
    np.testing.assert_allclose(bdf.history[0].x.array, u.x.array)
    return COMM.allreduce(np.abs(u.x.array - exact).max(initial=0.0), MPI.MAX)


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "changing"])
@pytest.mark.parametrize("order", [1, 2])
def test_rate(order, kind):
    counts = [10, 20, 40, 80]
    errors = [decay(order, steps(kind, n)) for n in counts]
    rate = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(rate - order) < 0.12, (rate, errors)


@pytest.mark.slow
def test_first_step_of_order_2_is_of_order_1():
    for dt in (0.25, 0.5):
        assert decay(2, [dt, 1 - dt]) != pytest.approx(decay(1, [dt, 1 - dt]))
    np.testing.assert_allclose(decay(2, [1.0]), decay(1, [1.0]), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_nonlinear_storage_conserves_mass(order):
    """With the derivative of q(u), content changes by what flows in, to Newton's tolerance."""
    msh = box(COMM, QUAD, 8)
    V = fem.functionspace(msh, ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)

    def content(p):
        return p / (1 + ufl.exp(-4 * p))

    u.interpolate(lambda x: np.cos(3 * x[0]) * x[1])
    sizes = np.array([0.1, 0.05, 0.08, 0.12])
    bdf = BDF(u, sizes[0], order)
    flux = 0.4 * v * ufl.ds
    F = bdf.derivative(content) * v * ufl.dx + ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx - flux
    options = LU | {"snes_rtol": 1e-13, "snes_atol": 1e-12}
    problem = FineNonlinearProblem(F, u, petsc_options_prefix="mass_", petsc_options=options)

    def total():
        return COMM.allreduce(fem.assemble_scalar(fem.form(content(u) * ufl.dx)))

    masses = [total()]
    for k, dt in enumerate(sizes):
        problem.solve()
        assert problem.solver.getConvergedReason() > 0
        masses.append(total())
        # The formula applied to the masses themselves gives what flows in.
        c = bdf_coefficients(min(order, k + 1), dt / sizes[k - 1] if k else 1.0)
        past = [masses[-1], masses[-2], masses[-3] if k else 0.0]
        assert np.dot(c, past) / dt == pytest.approx(1.6, rel=1e-9)
        bdf.advance(sizes[k + 1] if k + 1 < len(sizes) else None)
    assert abs(masses[-1] - masses[0]) > 0.1


@pytest.mark.slow
def test_richards_conserves_water_in_a_coarse_space():
    """Mixed form: what is stored is what came in, step by step, and near the fine solution."""
    msh = box(COMM, QUAD, 12)
    V = fem.functionspace(msh, ("Lagrange", 1))
    law = VanGenuchtenMualem(alpha=2.0, n=2.0, theta_r=0.1, theta_s=0.4, k_min=1e-3)
    dx = ufl.dx(metadata={"quadrature_degree": 3})
    kappa, u, v = cell_field(msh, rough(10.0)), fem.Function(V), ufl.TestFunction(V)
    darcy = diffusion(V, kappa)
    wet = fem.Constant(msh, -1.0)
    dofs = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[1], 1))
    bcs = [fem.dirichletbc(wet, dofs, V)]
    one = fem.Function(V)
    one.x.array[dofs] = 1.0
    water = fem.form(law.water_content(u) * dx)
    options = {"snes_rtol": 1e-11, "snes_atol": 1e-12}

    def total(form):
        return COMM.allreduce(fem.assemble_scalar(form))

    def run(W):
        u.x.array[:] = -1.0
        wet.value = -1.0
        bdf = BDF(u, 0.01)
        flux = kappa * law.relative_permeability(u) * (ufl.grad(u) + ufl.as_vector([0.0, 1.0]))
        F = bdf.derivative(law.water_content) * v * dx + ufl.inner(flux, ufl.grad(v)) * dx
        inflow = fem.form(ufl.replace(F, {v: one}))
        arguments = {"bcs": bcs, "petsc_options_prefix": "rain_"}
        if W is None:
            problem = FineNonlinearProblem(F, u, petsc_options=LU | options, **arguments)
        else:
            problem = NonlinearProblem(F, u, W, petsc_options=options, **arguments)
        masses = [total(water)]
        for dt, following in ((0.01, 0.02), (0.02, 0.03), (0.03, None)):
            wet.value += 0.25
            problem.solve()
            masses.append(total(water))
            assert masses[-1] - masses[-2] == pytest.approx(dt * total(inflow), rel=1e-7)
            bdf.advance(following)
        if W is not None:
            problem.destroy()
        return masses

    with multiscale_functionspace(
        V, CoarseGrid(msh, (2, 2)), FilteredBasis(8), darcy, bcs=bcs
    ) as W:
        coarse = run(W)
    fine = run(None)
    assert fine[-1] - fine[0] > 0.01
    np.testing.assert_allclose(np.diff(coarse), np.diff(fine), rtol=0.1)


def test_nothing_is_compiled_again():
    """The same form serves every step, whatever its order and size."""
    msh = box(COMM, QUAD, 2)
    V = fem.functionspace(msh, ("Lagrange", 1))
    u = fem.Function(V)
    bdf = BDF(u, 0.5, 2)
    form = fem.form(bdf.derivative() * ufl.dx(domain=msh))
    values = []
    for k, following in enumerate([1.0, 0.25, None]):
        u.x.array[:] = 1.0 + bdf.time + bdf.dt if k else 1.5
        values.append(COMM.allreduce(fem.assemble_scalar(form)))
        bdf.advance(following)
    # u(0) = 0 and u(t) = 1 + t after that: order 1, then twice order 2.
    step = bdf_coefficients(2, 2.0)
    assert values == pytest.approx([3.0, np.dot(step, [2.5, 1.5, 0.0]), 1.0])


def test_again_with_a_smaller_step():
    V = fem.functionspace(box(COMM, QUAD, 2), ("Lagrange", 1))
    u = fem.Function(V)
    u.x.array[:] = 3.0
    bdf = BDF(u, 0.5)
    u.x.array[:] = np.nan
    bdf.restore()
    bdf.dt = 0.25
    np.testing.assert_array_equal(u.x.array, 3.0)
    u.x.array[:] = 4.0
    form = fem.form(bdf.derivative() * ufl.dx)
    assert COMM.allreduce(fem.assemble_scalar(form)) == pytest.approx(4.0)
    bdf.advance()
    assert (bdf.time, bdf.dt) == (0.25, 0.25)


def test_wrong_inputs():
    V = fem.functionspace(box(COMM, QUAD, 2), ("Lagrange", 1))
    u = fem.Function(V)
    # Not collective: there is no communicator.
    with pytest.raises(ValueError, match="Function"):
        BDF(V, 0.1)
    for dt in (0.0, -1.0, np.nan, np.inf, "1", True, None):
        with expect_error(ValueError, "dt must be a positive finite number"):
            BDF(u, dt if HERE else 0.1)
    for order in (0, 3, 1.5, True):
        with expect_error(ValueError, r"order must be 1 .* or 2"):
            BDF(u, 0.1, order if HERE else 1)
    bdf = BDF(u, 0.1, 2)
    u.x.array[:] = 1.0
    with expect_error(ValueError, "positive"):
        bdf.advance(-1.0 if HERE else 0.1)
    with expect_error(ValueError, "positive"):
        bdf.dt = -1.0 if HERE else 0.1
    if COMM.size > 1:
        with expect_error(ValueError, "dt differs between the ranks"):
            bdf.advance(0.2 if HERE else 0.1)
        with expect_error(ValueError, "order differs between the ranks"):
            BDF(u, 0.1, 2 if HERE else 1)
    # A refused step changes nothing.
    assert (bdf.time, bdf.dt) == (0.0, 0.1)
    assert not bdf.history[0].x.array.any()


def test_petsc_is_not_needed_for_the_history():
    """What BDF holds are functions and constants: nothing to destroy."""
    V = fem.functionspace(box(COMM, QUAD, 2), ("Lagrange", 1))
    bdf = BDF(fem.Function(V), 0.1, 2)
    assert not any(isinstance(item, PETSc.Object) for item in vars(bdf).values())
