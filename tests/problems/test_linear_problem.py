# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""LinearProblem: boundary conditions, null spaces, many right-hand sides, new coefficients."""

from __future__ import annotations

import numpy as np
import pytest
from utils import (
    COMM,
    QUAD,
    box,
    cell_field,
    clamp,
    diffusion,
    elasticity,
    from_points,
    gather_function,
    gather_matrix,
    gather_rows,
    gather_vector,
    mass,
    rough,
)

import ufl
from dolfinx import fem, la, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid, FilteredBasis, SpectralBasis, multiscale_functionspace
from dolfinx_msnn._utils import solvers
from dolfinx_msnn.petsc import LinearProblem

LU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


def left(x):
    return np.isclose(x[0], 0.0)


def right(x):
    return np.isclose(x[0], 1.0)


def setting(cell=CellType.quadrilateral, n=16, boxes=(2, 2), element=("Lagrange", 1)):
    msh = box(COMM, cell, n)
    V = fem.functionspace(msh, element)
    kappa = cell_field(msh, rough(100.0))
    return V, kappa, CoarseGrid(msh, boxes), ufl.TestFunction(V), ufl.SpatialCoordinate(msh)


def fine_solution(a, L, bcs):
    problem = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=LU)
    return problem.solve().copy()


def relative(u, w):
    """Relative L2 distance of two functions."""

    def norm(f):
        return np.sqrt(COMM.allreduce(fem.assemble_scalar(fem.form(ufl.inner(f, f) * ufl.dx))))

    return norm(u - w) / norm(w)


def galerkin_residual(problem):
    """|R (b - A (u - g))| / |R b| with SciPy and gathered matrices."""
    P, A = gather_matrix(problem.W.P), gather_matrix(problem.A)
    b = gather_vector(problem.b)
    lift = fem.Function(problem.W.V)
    for bc in problem.bcs:
        bc.set(lift.x.array)
    lift.x.scatter_forward()
    inside = gather_function(problem.u) - gather_function(lift)
    r = P.T @ (b - A @ inside)
    return np.linalg.norm(r) / max(np.linalg.norm(P.T @ b), np.finfo(float).tiny)


CONDITIONS = ["dirichlet", "neumann", "robin", "vector", "vector component"]


@pytest.mark.parametrize("kind", CONDITIONS)
def test_boundary_conditions(kind):
    """The Galerkin equations hold, boundary values are exact, and the error is a small one."""
    vector = kind.startswith("vector")
    V, kappa, coarse, v, x = setting(element=("Lagrange", 1, (2,)) if vector else ("Lagrange", 1))
    a = elasticity(V, kappa) if vector else diffusion(V, kappa)
    f = ufl.as_vector([1 + x[1], x[0] - 0.5]) if vector else 1 + ufl.sin(5 * x[0])
    L = ufl.inner(f, v) * ufl.dx
    if kind == "dirichlet":
        g = fem.Function(V)
        g.interpolate(lambda p: 1 + p[1] ** 2)
        dofs = fem.locate_dofs_geometrical(V, left)
        bcs = [fem.dirichletbc(g, dofs), clamp(V, right, -2.0)]
    elif kind == "neumann":
        bcs = [clamp(V, left, 3.0)]
        L += (2 + x[0]) * v * ufl.ds
    elif kind == "robin":
        bcs = []
        a += 10 * ufl.TrialFunction(V) * v * ufl.ds
        L += 10 * x[1] * v * ufl.ds
    elif kind == "vector":
        bcs = [clamp(V, left, 0.25)]
    else:
        bcs = [clamp(V, left, 0.25, component=0), clamp(V, right, 0.0, component=1)]
    u = fine_solution(a, L, bcs)
    errors = []
    for num_modes in (4, 16):
        with (
            multiscale_functionspace(
                V, coarse, SpectralBasis(num_modes), a, mass(V, kappa), bcs
            ) as W,
            LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="ms_") as problem,
        ):
            uh = problem.solve()
            assert galerkin_residual(problem) < 1e-9
            for bc in bcs:
                expected = uh.x.array.copy()
                bc.set(expected)
                np.testing.assert_array_equal(uh.x.array, expected)
            errors.append(relative(uh, u))
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.05, errors


@pytest.mark.parametrize("vector", [False, True])
def test_pure_neumann(vector):
    """An incompatible load is made compatible; the solution is orthogonal to the null space."""
    V, kappa, coarse, v, x = setting(element=("Lagrange", 1, (2,)) if vector else ("Lagrange", 1))
    a = elasticity(V, kappa) if vector else diffusion(V, kappa)
    if vector:
        motions = [
            lambda p: np.array([1 + 0 * p[0], 0 * p[0]]),
            lambda p: np.array([0 * p[0], 1 + 0 * p[0]]),
            lambda p: np.array([p[1] - 0.5, 0.5 - p[0]]),
        ]
        load = ufl.as_vector([0.5 + ufl.cos(np.pi * x[0]), ufl.cos(np.pi * x[1]) * x[0]])
    else:
        motions, load = [lambda p: 1 + 0 * p[0]], 0.5 + ufl.cos(np.pi * x[0]) * (1 + x[1])
    with multiscale_functionspace(V, coarse, SpectralBasis(6), a, mass(V, kappa)) as W:
        with LinearProblem(a, ufl.inner(load, v) * ufl.dx, W, petsc_options_prefix="n_") as problem:
            u = problem.solve().copy()
            size = COMM.allreduce(fem.assemble_scalar(fem.form(ufl.inner(u, u) * ufl.dx)))
            # The Galerkin equations hold for the compatible part of the load.
            P, A = gather_matrix(W.P), gather_matrix(problem.A)
            b = gather_vector(problem.b)
            r = P.T @ (b - A @ gather_function(u))
            rows = []
            for z in motions:
                f = fem.Function(V)
                f.interpolate(z)
                moment = fem.assemble_scalar(fem.form(ufl.inner(u, f) * ufl.dx))
                assert abs(COMM.allreduce(moment)) < 1e-10 * np.sqrt(size)
                c = W.coefficients(f)
                rows.append(gather_vector(c))
                c.destroy()
            q = np.linalg.qr(np.array(rows).T)[0]
            np.testing.assert_allclose(A @ (P @ q), 0.0, atol=1e-9 * abs(A).max())
            assert np.linalg.norm(r - q @ (q.T @ r)) < 1e-9 * np.linalg.norm(P.T @ b)
            # A rigid motion more in the load changes nothing.
            again = problem.solve(ufl.inner(load + f, v) * ufl.dx)
            np.testing.assert_allclose(
                gather_function(again), gather_function(u), atol=1e-9 * np.sqrt(size)
            )


def test_pure_neumann_against_the_fine_solution():
    V, kappa, coarse, v, x = setting()
    a, L = diffusion(V, kappa), ufl.cos(np.pi * x[0]) * v * ufl.dx
    # The fine solution by a point condition and a shift: the load integrates to zero.
    corner = clamp(V, lambda p: np.isclose(p[0], 0.0) & np.isclose(p[1], 0.0))
    u = fine_solution(a, L, [corner])
    mean = COMM.allreduce(fem.assemble_scalar(fem.form(u * ufl.dx)))
    u.x.array[:] -= mean
    errors = []
    for num_modes in (4, 16):
        with (
            multiscale_functionspace(V, coarse, SpectralBasis(num_modes), a, mass(V, kappa)) as W,
            LinearProblem(a, L, W, petsc_options_prefix="n_") as problem,
        ):
            errors.append(relative(problem.solve(), u))
    assert errors[1] < 0.3 * errors[0] and errors[1] < 0.02, errors


def test_roller():
    """With conditions on one component the body is free to slide along the other one."""
    V, kappa, coarse, v, x = setting(element=("Lagrange", 1, (2,)))
    a, bcs = elasticity(V, kappa), [clamp(V, left, 0.1, component=0)]
    f = [1 + x[0], ufl.cos(np.pi * x[1])]
    corner = clamp(V, lambda p: left(p) & np.isclose(p[1], 0.0), component=1)
    u = fine_solution(a, ufl.inner(ufl.as_vector(f), v) * ufl.dx, [*bcs, corner])
    mean = COMM.allreduce(fem.assemble_scalar(fem.form(u[1] * ufl.dx)))
    u.x.array[1::2] -= mean
    # The part of the load that pushes along the roller is taken out.
    for push in (0.0, 3.0):
        L = ufl.inner(ufl.as_vector([f[0], f[1] + push]), v) * ufl.dx
        with (
            multiscale_functionspace(V, coarse, SpectralBasis(20), a, mass(V, kappa), bcs) as W,
            LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="roller_") as problem,
        ):
            uh = problem.solve()
            assert relative(uh, u) < 0.05
            mean = COMM.allreduce(fem.assemble_scalar(fem.form(uh[1] * ufl.dx)))
            assert abs(mean) < 1e-12
            for bc in bcs:
                expected = uh.x.array.copy()
                bc.set(expected)
                np.testing.assert_array_equal(uh.x.array, expected)


def test_pin():
    """Held in one node a body may still turn about it, which is none of the motions by itself."""
    V, kappa, coarse, v, x = setting(element=("Lagrange", 1, (2,)))
    a = elasticity(V, kappa)
    bcs = [clamp(V, lambda p: left(p) & np.isclose(p[1], 0.0), 0.1)]
    roller = clamp(V, lambda p: left(p) & np.isclose(p[1], 1.0), component=0)
    turn = [lambda p: np.array([p[1], -p[0]]), ufl.as_vector([x[1], -x[0]])]
    f = ufl.as_vector([1 + x[0], ufl.cos(np.pi * x[1])])

    def moment(u):
        return COMM.allreduce(fem.assemble_scalar(fem.form(ufl.inner(u, turn[1]) * ufl.dx)))

    # The moment about the pin, for which nothing makes up, is taken out of the load.
    compatible = f - moment(f) / moment(turn[1]) * turn[1]
    u = fine_solution(a, ufl.inner(compatible, v) * ufl.dx, [*bcs, roller])
    z = fem.Function(V)
    z.interpolate(turn[0])
    u.x.array[:] -= 0.1
    u.x.array[:] -= moment(u) / moment(z) * z.x.array
    u.x.array[:] += 0.1
    with (
        multiscale_functionspace(V, coarse, SpectralBasis(20), a, mass(V, kappa), bcs) as W,
        LinearProblem(a, ufl.inner(f, v) * ufl.dx, W, bcs=bcs, petsc_options_prefix="pin_") as p,
    ):
        uh = p.solve()
        # The lift, here the values in one node, is not among what is made orthogonal.
        lift = fem.Function(V)
        bcs[0].set(lift.x.array)
        lift.x.scatter_forward()
        assert abs(moment(uh - lift)) < 1e-12
        expected = uh.x.array.copy()
        bcs[0].set(expected)
        np.testing.assert_array_equal(uh.x.array, expected)
        uh.x.array[:] -= moment(uh - 0.1 * ufl.as_vector([1, 1])) / moment(z) * z.x.array
        assert relative(uh, u) < 0.05


@pytest.mark.parametrize("vector", [False, True])
def test_null_space_follows_the_space_and_the_form(vector):
    """P refilled in place, and a Robin condition that comes and goes."""
    V, kappa, coarse, v, x = setting(
        n=12, element=("Lagrange", 1, (2,)) if vector else ("Lagrange", 1)
    )
    a = elasticity(V, kappa) if vector else diffusion(V, kappa)
    spring = fem.Constant(V.mesh, 0.0)
    a += spring * ufl.inner(ufl.TrialFunction(V), v) * ufl.ds
    f = 1 + ufl.cos(np.pi * x[0]) + x[1]
    L = ufl.inner(ufl.as_vector([f, 2 * f]) if vector else f, v) * ufl.dx
    with (
        multiscale_functionspace(
            V, coarse, SpectralBasis(5), a, mass(V, kappa), updatable=True
        ) as W,
        LinearProblem(a, L, W, petsc_options_prefix="follow_") as problem,
    ):

        def check():
            u = gather_function(problem.solve())
            P, A, b = gather_matrix(W.P), gather_matrix(problem.A), gather_vector(problem.b)
            expected = P @ np.linalg.lstsq((P.T @ A @ P).toarray(), P.T @ b, rcond=1e-12)[0]
            difference = u - expected
            assert difference @ (A @ difference) < 1e-14 * (expected @ (A @ expected))
            return b, gather_rows(COMM, load.array[: problem.b.getLocalSize()])

        load = fem.assemble_vector(fem.form(L))
        load.scatter_reverse(la.InsertMode.add)
        check()
        kappa.x.array[:] = cell_field(V.mesh, rough(1e3)).x.array
        W.update()
        assert (W.revision, W.layout) == (1, 0)
        check()
        spring.value = 2.0
        problem.assemble()
        taken, given = check()
        # Nothing of the load is taken out any more.
        np.testing.assert_allclose(taken, given, atol=1e-12 * np.abs(given).max())
        spring.value = 0.0
        problem.assemble()
        taken, given = check()
        assert np.abs(taken - given).max() > 0.1 * np.abs(given).max()


@pytest.mark.parametrize("num_modes", [1, 2, 3, 80])
def test_pure_traction_with_few_modes_and_with_dependent_ones(num_modes):
    """Fewer modes than rigid motions, so that not all are in the space; or more than dofs."""
    V, kappa, coarse, v, x = setting(n=12, element=("Lagrange", 1, (2,)))
    a = elasticity(V, kappa)
    f = ufl.as_vector([1 + ufl.cos(np.pi * x[0]), ufl.cos(np.pi * x[1]) * x[0]])
    L = ufl.inner(f, v) * ufl.dx
    with multiscale_functionspace(V, coarse, SpectralBasis(num_modes), a, mass(V, kappa)) as W:
        with LinearProblem(a, L, W, petsc_options_prefix="few_") as problem:
            u = gather_function(problem.solve())
            P, A, b = gather_matrix(W.P), gather_matrix(problem.A), gather_vector(problem.b)
    A0 = (P.T @ A @ P).toarray()
    expected = P @ np.linalg.lstsq(A0, P.T @ b, rcond=1e-12)[0]
    difference = u - expected
    assert difference @ (A @ difference) < 1e-14 * (expected @ (A @ expected))


def test_manufactured_solution():
    """For sin(πx) cos(πy) and a smooth coefficient, nearly as good as the fine solution."""
    V, _, coarse, v, x = setting(n=24, boxes=(3, 3))
    kappa = 1 + 0.5 * ufl.sin(np.pi * x[0]) * x[1]
    exact = ufl.sin(np.pi * x[0]) * ufl.cos(np.pi * x[1])
    a = kappa * ufl.inner(ufl.grad(ufl.TrialFunction(V)), ufl.grad(v)) * ufl.dx
    normal = ufl.FacetNormal(V.mesh)
    L = -ufl.div(kappa * ufl.grad(exact)) * v * ufl.dx
    L += kappa * ufl.inner(ufl.grad(exact), normal) * v * ufl.ds
    bcs = [clamp(V, lambda p: left(p) | right(p))]
    s = kappa * ufl.TrialFunction(V) * v * ufl.dx
    with (
        multiscale_functionspace(V, coarse, SpectralBasis(24), a, s, bcs) as W,
        LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="m_") as problem,
    ):
        error = relative(problem.solve(), exact)
    fine = relative(fine_solution(a, L, bcs), exact)
    assert fine < 2e-3
    assert error < 5e-3


def test_many_right_hand_sides_on_one_factorisation():
    V, kappa, coarse, v, x = setting()
    a, bcs = diffusion(V, kappa), [clamp(V, left, 1.0)]
    loads = [(1 + x[0]) * v * ufl.dx, ufl.sin(9 * x[1]) * v * ufl.dx + v * ufl.ds]
    with multiscale_functionspace(V, coarse, SpectralBasis(4), a, mass(V, kappa), bcs) as W:
        expected = []
        for L in loads:
            with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="r_") as problem:
                expected.append(problem.solve().x.array.copy())
        with LinearProblem(a, loads[0], W, bcs=bcs, petsc_options_prefix="r_") as problem:
            first = problem.solve().x.array.copy()
            factor = problem.solver.getPC().getFactorMatrix()
            states = [item.stateGet() for item in (problem.A, problem.A0, factor)]
            second = problem.solve(loads[1]).x.array.copy()
            third = problem.solve(fem.form(loads[0])).x.array.copy()
            assert problem.solver.getPC().getFactorMatrix() == factor
            assert [item.stateGet() for item in (problem.A, problem.A0, factor)] == states
    # In parallel MUMPS adds up in another order each time.
    for found, wanted in ((first, expected[0]), (second, expected[1]), (third, first)):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert np.abs(first - second).max() > 1e-3


def test_new_coefficient_on_the_same_basis():
    V, kappa, coarse, v, _ = setting()
    a, L, bcs = diffusion(V, kappa), v * ufl.dx, [clamp(V, left, 1.0)]
    with multiscale_functionspace(V, coarse, SpectralBasis(6), a, mass(V, kappa), bcs) as W:
        with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="k_") as problem:
            before = problem.solve().copy()
            kappa.x.array[:] *= 4.0
            problem.assemble()
            after = problem.solve()
            assert galerkin_residual(problem) < 1e-9
            # u = 1 + w with w proportional to 1/κ.
            np.testing.assert_allclose(
                after.x.array - 1.0, 0.25 * (before.x.array - 1.0), atol=1e-10
            )
            kappa.x.array[:] *= 1 + 0.3 * np.sin(np.arange(len(kappa.x.array)))
            kappa.x.scatter_forward()
            problem.assemble()
            problem.solve()
            assert galerkin_residual(problem) < 1e-9


def test_coarse_solve_against_scipy():
    """The solution is P (PᵀAP)⁻¹ Pᵀ b by dense linear algebra."""
    V, kappa, coarse, v, _ = setting(CellType.triangle, 12)
    a, L, bcs = diffusion(V, kappa), v * ufl.dx, [clamp(V, left, 0.0)]
    with multiscale_functionspace(V, coarse, SpectralBasis(5), a, mass(V, kappa), bcs) as W:
        with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="d_") as problem:
            u = gather_function(problem.solve())
            P, A, b = gather_matrix(W.P), gather_matrix(problem.A), gather_vector(problem.b)
            A0 = (P.T @ A @ P).toarray()
            np.testing.assert_allclose(
                gather_matrix(problem.A0).toarray(), A0, atol=1e-12 * np.abs(A0).max()
            )
            expected = P @ np.linalg.solve(A0, P.T @ b)
    np.testing.assert_allclose(u, expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("vector", [False, True])
def test_many_unknowns_are_solved_by_multigrid(vector, monkeypatch):
    """Beyond a number of unknowns CG with GAMG is the default, with the same solution."""
    V, kappa, coarse, v, _ = setting(element=("Lagrange", 1, (2,)) if vector else ("Lagrange", 1))
    a = elasticity(V, kappa) if vector else diffusion(V, kappa)
    L = ufl.inner(fem.Constant(V.mesh, (0.3, -1.0) if vector else 1.0), v) * ufl.dx
    bcs = [clamp(V, left)]
    with multiscale_functionspace(V, coarse, SpectralBasis(6), a, mass(V, kappa), bcs) as W:
        with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="direct_") as problem:
            expected = problem.solve().copy()
        monkeypatch.setattr(solvers, "DIRECT_UP_TO", W.num_dofs - 1)
        with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="many_") as problem:
            assert relative(problem.solve(), expected) <= 1e-6
            pc = problem.solver.getPC()
            assert (problem.solver.getType(), pc.getType()) == ("cg", "gamg")
            vectors = problem.A0.getNearNullSpace().getVecs()
            assert len(vectors) == (3 if vector else 1)


def test_options_reach_the_coarse_solver():
    V, kappa, coarse, v, _ = setting(n=8)
    a, bcs = diffusion(V, kappa), [clamp(V, left)]
    options = {"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-12, "ksp_max_it": 500}
    with multiscale_functionspace(V, coarse, SpectralBasis(3), a, mass(V, kappa), bcs) as W:
        with LinearProblem(
            a, v * ufl.dx, W, bcs=bcs, petsc_options_prefix="o_", petsc_options=options
        ) as problem:
            problem.solve()
            assert problem.solver.getType() == "cg"
            assert problem.solver.getIterationNumber() > 1
            assert galerkin_residual(problem) < 1e-9


# ---- what the operator depends on changes ----


def test_changed_constant_in_the_form():
    """The matrix and the lift of the boundary values follow; without watching, on demand."""
    V, kappa, coarse, v, _ = setting()
    factor = fem.Constant(V.mesh, 1.0)
    a, L = factor * diffusion(V, kappa) + mass(V, kappa), v * ufl.dx
    bcs = [clamp(V, left, 2.0)]
    with (
        multiscale_functionspace(V, coarse, SpectralBasis(8), a, mass(V, kappa), bcs) as W,
        LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="ms_") as problem,
        LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="ms_", watch=False) as still,
    ):
        problem.solve()
        before = gather_function(still.solve())
        # On one rank alone: the others follow.
        if V.mesh.comm.rank == 0:
            kappa.x.array[: len(kappa.x.array) // 2] *= 3
        kappa.x.scatter_forward()
        factor.value = 40.0
        u = fine_solution(a, L, bcs)
        assert relative(problem.solve(), u) < 0.05
        assert galerkin_residual(problem) < 1e-9
        expected = gather_function(problem.u)
        assert np.linalg.norm(expected - before) > 0.1 * np.linalg.norm(before)
        still.assemble()
        np.testing.assert_allclose(gather_function(still.solve()), expected, rtol=1e-12)


@pytest.mark.parametrize("alpha", [1e-2, 1e-6, 1e-9, 1e-10])
def test_weak_cooling(alpha):
    """Insulated but for weak cooling: the mean is the source over alpha times the boundary."""
    V, _, coarse, v, _ = setting()
    u = ufl.TrialFunction(V)
    a, L = diffusion(V, 1.0) + alpha * u * v * ufl.ds, v * ufl.dx
    with (
        multiscale_functionspace(V, coarse, SpectralBasis(6), a, mass(V, 1.0)) as W,
        LinearProblem(a, L, W, petsc_options_prefix="ms_") as problem,
    ):
        uh = problem.solve()
        mean = V.mesh.comm.allreduce(fem.assemble_scalar(fem.form(uh * ufl.ds))) / 4
        # Rounding errors of the constant's energy beside that of the others.
        assert mean == pytest.approx(1 / (4 * alpha), rel=max(1e-8, 1e-13 / alpha))


@pytest.mark.parametrize("stiffness", [1e6, 1e4, 1e3])
def test_soft_mounts(stiffness):
    """Steel on springs of N/m³ along its lower side sinks by weight over stiffness."""
    msh = box(COMM, QUAD, 16, (0.1, 0.1, 0.1))
    V = fem.functionspace(msh, ("Lagrange", 1, (2,)))
    E = cell_field(msh, lambda x: np.where(np.floor(x[0] / 0.02) % 2 == 0, 2.1e11, 7e10))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    low = mesh.locate_entities_boundary(msh, 1, lambda x: np.isclose(x[1], 0))
    tags = mesh.meshtags(msh, 1, np.sort(low), np.full(len(low), 3, np.int32))
    ds = ufl.Measure("ds", domain=msh, subdomain_data=tags)
    a = elasticity(V, E) + stiffness * ufl.inner(u, v) * ds(3)
    weight = 7850 * 9.81
    with (
        multiscale_functionspace(V, CoarseGrid(msh, (4, 4)), SpectralBasis(8), a, mass(V, E)) as W,
        LinearProblem(a, -weight * v[1] * ufl.dx, W, petsc_options_prefix="ms_") as problem,
    ):
        uh = problem.solve()
        reaction = msh.comm.allreduce(fem.assemble_scalar(fem.form(stiffness * uh[1] * ds(3))))
        assert reaction == pytest.approx(-weight * 0.1 * 0.1, rel=1e-7 if stiffness > 1e5 else 2e-3)


@pytest.mark.parametrize("first, last", [(0.0, 1.0), (1.0, 0.0)])
def test_cooling_switched_on_and_off(first, last):
    """The null space comes and goes with a condition."""
    V, kappa, coarse, v, x = setting()
    h = fem.Constant(V.mesh, first)
    a = diffusion(V, kappa) + h * ufl.TrialFunction(V) * v * ufl.ds
    L = (1 + ufl.cos(ufl.pi * x[0])) * v * ufl.dx
    with (
        multiscale_functionspace(V, coarse, SpectralBasis(12), a, mass(V, kappa)) as W,
        LinearProblem(a, L, W, petsc_options_prefix="ms_") as problem,
    ):
        problem.solve()
        h.value = last
        uh = problem.solve()
        if last:
            assert relative(uh, fine_solution(a, L, [])) < 0.05
        else:
            mean = V.mesh.comm.allreduce(fem.assemble_scalar(fem.form(uh * ufl.dx)))
            assert abs(mean) < 1e-10


@pytest.mark.parametrize("basis", [SpectralBasis, FilteredBasis])
def test_a_part_that_nothing_holds(basis):
    """A gap cuts the square in two. The right part carries no load, a balanced one, or any."""
    n = 12
    points = np.stack(np.meshgrid(*[np.arange(n + 1) / n] * 2, indexing="ij"), -1).reshape(-1, 2)
    msh = from_points(COMM, points, lambda m: (m[:, 0] < 0.5) | (m[:, 0] > 0.5 + 1 / n))
    V = fem.functionspace(msh, ("Lagrange", 1))
    v, x = ufl.TestFunction(V), ufl.SpatialCoordinate(msh)
    kappa = cell_field(msh, rough(100.0))
    a, bcs = diffusion(V, kappa), [clamp(V, left)]
    is_left = ufl.conditional(ufl.lt(x[0], 0.51), 1.0, 0.0)
    with (
        multiscale_functionspace(V, CoarseGrid(msh, (3, 3)), basis(8), a, mass(V, kappa), bcs) as W,
        LinearProblem(a, is_left * v * ufl.dx, W, bcs=bcs, petsc_options_prefix="ms_") as problem,
    ):
        x_of = gather_rows(COMM, V.tabulate_dof_coordinates()[: W.P.getLocalSize()[0]])
        right = x_of[:, 0] > 0.51
        alone = gather_function(problem.solve())
        size = np.abs(alone).max()
        assert size > 1e-3 and np.abs(alone[right]).max() < 1e-3 * size
        both = is_left + (1 - is_left) * ufl.cos(2 * ufl.pi * x[1])
        u = gather_function(problem.solve(both * v * ufl.dx))
        np.testing.assert_allclose(u[~right], alone[~right], atol=1e-3 * size)
        assert np.abs(u[right]).max() > 1e-3
        with pytest.raises(RuntimeError, match=r"singular or nearly so.*a condition on each part"):
            problem.solve(v * ufl.dx)
