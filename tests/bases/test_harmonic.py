# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A-harmonic functions against dense solves, optimal spaces against LAPACK, errors of solutions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
from sample import Sample, expect_error
from utils import (
    COMM,
    HEX,
    QUAD,
    TRI,
    box,
    cell_field,
    clamp,
    diffusion,
    elasticity,
    gather_function,
    l_shape,
    mass,
    rough,
    two_phase,
)

import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import (
    CoarseGrid,
    GuardedBasis,
    HarmonicBasis,
    LocalModes,
    SpectralBasis,
    fields,
    multiscale_functionspace,
)
from dolfinx_msnn.bases import BasisNeeds
from dolfinx_msnn.bases.direct import DirectSolvers
from dolfinx_msnn.local.assembly import LocalProblems, _polynomials
from dolfinx_msnn.petsc import LinearProblem

LU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


def left(x):
    return np.isclose(x[0], 0.0)


def local_problems(cell=QUAD, n=12, vector=False, sources=99, robin=0.0):
    """Oversampled neighbourhoods of a clamped body."""
    msh = box(COMM, cell, n)
    d = msh.geometry.dim
    V = fem.functionspace(msh, ("Lagrange", 1, (d,)) if vector else ("Lagrange", 1))
    kappa = cell_field(msh, two_phase(1e3))
    a = elasticity(V, kappa) if vector else diffusion(V, kappa)
    if robin:
        a += robin * ufl.inner(ufl.TrialFunction(V), ufl.TestFunction(V)) * ufl.ds
    coarse = CoarseGrid(msh, (3,) * d)
    return LocalProblems(V, coarse, a, None, [clamp(V, left)], sources=sources, oversampling=0.5)


PROBLEMS = {
    "squares": {},
    "triangles": {"cell": TRI, "n": 9},
    "elasticity": {"vector": True, "n": 9},
    "robin": {"robin": 10.0},
    "cubes": {"cell": HEX, "n": 6},
}


@pytest.mark.serial
@pytest.mark.parametrize("name", PROBLEMS)
def test_functions_are_harmonic_or_responses(name):
    """By dense solves; zero where conditions are, and free on the boundary inside the domain."""
    for p in local_problems(**PROBLEMS[name]):
        A = p.A.toarray()
        inside = ~p.interface & ~p.dirichlet
        rigid = 1 if p.block_size == 1 else 3
        basis = HarmonicBasis(rigid + len(p.loads) + 4)
        functions = basis.modes([p])[0].vectors
        assert len(functions) == rigid + len(p.loads) + 4 == basis.reports[0].num_modes
        responses, harmonic = np.split(functions[rigid:], [len(p.loads)])
        exact = np.zeros_like(responses)
        exact[:, inside] = np.linalg.solve(A[np.ix_(inside, inside)], p.loads[:, inside].T).T
        np.testing.assert_allclose(responses, exact, atol=1e-10 * np.abs(exact).max())
        assert not harmonic[:, p.dirichlet].any()
        size = np.abs(A) @ np.abs(harmonic).T
        assert np.all(np.abs(A @ harmonic.T)[inside] <= 1e-9 * size[inside].max())


class Every:
    """One at each dof; no look at matrices, but at the coefficient."""

    matrices, coefficient = False, 2.0

    def modes(self, problems):
        return [LocalModes(np.zeros(p.num_dofs), np.eye(p.num_dofs)) for p in problems]


@pytest.mark.serial
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", ["squares", "triangles", "elasticity", "robin"])
def test_chosen_functions_are_the_best(name, given):
    """Of all boundary values, by LAPACK: what the left-out ones are worth is the local n-width.

    They are those of all modes, or those that another basis gives.
    """
    # Linear loads.
    for p in local_problems(**PROBLEMS[name], sources=20 if name == "elasticity" else 10):
        assert len(p.loads) == 3 * p.block_size
        boundary, inside = p.interface & ~p.dirichlet, ~p.interface & ~p.dirichlet
        basis = HarmonicBasis(12, traces=Every() if given else p.num_dofs)
        functions = basis.modes([p])[0].vectors
        kept = functions[: len(functions) - 4] if p.block_size == 1 else functions[:9]
        A = p.A.toarray()
        every = np.zeros((boundary.sum(), p.num_dofs))
        every[:, boundary] = np.eye(boundary.sum())
        coupling = A[np.ix_(inside, boundary)]
        every[:, inside] = -np.linalg.solve(A[np.ix_(inside, inside)], coupling).T
        weight = p.chi * ~p.dirichlet
        local = (every * weight) @ A @ (every * weight).T
        held = scipy.linalg.orth((kept * weight).T / np.abs(kept).max(axis=1)).T
        cross = (every * weight) @ A @ held.T
        local -= cross @ np.linalg.pinv(held @ A @ held.T, rcond=1e-13, hermitian=True) @ cross.T
        whole = every @ A @ every.T
        # Motions without energy, if there are some, are among those that are held.
        size, turn = np.linalg.eigh(whole)
        turn = turn[:, size > 1e-11 * size[-1]] / np.sqrt(size[size > 1e-11 * size[-1]])
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(turn.T @ local @ turn)[::-1], 0.0))
        num = len(functions) - len(kept)
        assert basis.reports[0].width == pytest.approx(values[num], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("vector", "d", "counts"),
    [
        (False, 2, {1: 1, 7: 1, 8: 3, 14: 3, 15: 6, 40: 6}),
        (False, 3, {12: 1, 13: 4, 26: 4, 27: 10}),
        (True, 2, {16: 2, 17: 6, 30: 6, 31: 12}),
    ],
)
def test_loads_by_the_number_of_functions(vector, d, counts):
    """Polynomials with as high a degree as leaves 2^d places a component, or twice as many.

    Their vectors are those of the interpolated polynomials.
    """
    low, high = np.array([1.0, -2.0, 0.0])[:d], np.array([3.0, -1.5, 0.5])[:d]
    create = mesh.create_rectangle if d == 2 else mesh.create_box
    msh = create(COMM, [low, high], [2] * d)
    V = fem.functionspace(msh, ("Lagrange", 1, (d,)) if vector else ("Lagrange", 1))
    v, Q = ufl.TestFunction(V), fem.functionspace(msh, ("Lagrange", 2))
    for num, count in counts.items():
        loads = _polynomials(V, num)
        assert len(loads) == count
        vectors = np.array([fem.assemble_vector(fem.form(load)).array for load in loads])
        exponents = [e for e in itertools.product(range(3), repeat=d) if sum(e) <= 2]
        exact = []
        for e in sorted(exponents, key=sum)[: count // (d if vector else 1)]:
            f = fem.Function(Q)
            f.interpolate(lambda x, e=e: np.prod([x[k] ** e[k] for k in range(d)], axis=0))
            for unit in np.eye(d) if vector else [1.0]:
                w = ufl.inner(ufl.as_vector(unit), v) if vector else v
                exact.append(fem.assemble_vector(fem.form(f * w * ufl.dx)).array)
        # The same span: each is a combination of the others.
        left, right = (np.concatenate(COMM.allgather(np.array(m).T)) for m in (vectors, exact))
        rest = left - right @ np.linalg.lstsq(right, left, rcond=None)[0]
        assert np.abs(rest).max() <= 1e-10 * np.abs(left).max()
        assert np.linalg.matrix_rank(left, tol=1e-8 * np.abs(left).max()) == count


CASES = {
    "two-phase": lambda msh: fields.two_phase(msh, contrast=1e3, seed=1),
    "1e6": lambda msh: fields.two_phase(msh, contrast=1e6, seed=1),
    "channels": lambda msh: fields.channels(msh, contrast=1e4, seed=1),
}


def energy_errors(V, a, L, bcs, s, coarse, bases):
    """Relative energy errors against the fine solution."""
    fine = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=LU).solve()
    w, (v, u) = fem.Function(V), a.arguments()
    energy = fem.form(ufl.replace(a, {u: w, v: w}))

    def norm(values):
        w.x.array[:] = values
        return np.sqrt(COMM.allreduce(fem.assemble_scalar(energy)))

    errors = []
    for basis in bases:
        with (
            multiscale_functionspace(V, coarse, basis, a, s, bcs) as W,
            LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="harmonic_") as problem,
        ):
            errors.append(norm(problem.solve().x.array - fine.x.array) / norm(fine.x.array))
    return errors


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_errors_are_far_below_those_of_eigenmodes(name, drop):
    """A load of one, or none and a pressure drop: at equal numbers at most an eighth."""
    msh = box(COMM, QUAD, 48)
    V, kappa = fem.functionspace(msh, ("Lagrange", 1)), CASES[name](msh)
    a, s, v = diffusion(V, kappa), mass(V, kappa), ufl.TestFunction(V)
    L = fem.Constant(msh, 0.0 if drop else 1.0) * v * ufl.dx
    bcs = [clamp(V, left, 1.0 if drop else 0.0), clamp(V, lambda x: np.isclose(x[0], 1.0))]
    bases = SpectralBasis(10), HarmonicBasis(10), HarmonicBasis(tolerance=0.05)
    coarse = CoarseGrid(msh, (4, 4))
    modes, harmonic, chosen = energy_errors(V, a, L, bcs, s, coarse, bases)
    assert harmonic < modes / 8 and harmonic < 0.03
    assert 0.05 / 50 < chosen < 0.05


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_overlapping_boxes_need_fewer_functions(name, drop):
    """Against hats with eigenmodes: a third of the functions for the same error, or far less."""
    msh = box(COMM, QUAD, 48)
    V, kappa = fem.functionspace(msh, ("Lagrange", 1)), CASES[name](msh)
    a, s, v = diffusion(V, kappa), mass(V, kappa), ufl.TestFunction(V)
    L = fem.Constant(msh, 0.0 if drop else 1.0) * v * ufl.dx
    bcs = [clamp(V, left, 1.0 if drop else 0.0), clamp(V, lambda x: np.isclose(x[0], 1.0))]
    hats, boxes = CoarseGrid(msh, (4, 4)), CoarseGrid(msh, (4, 4), overlap=2)
    (modes,) = energy_errors(V, a, L, bcs, s, hats, [SpectralBasis(8)])
    few, many = energy_errors(V, a, L, bcs, s, boxes, [HarmonicBasis(k) for k in (5, 12)])
    # 80 and 192 functions, and 200 modes.
    assert few < modes and many < modes / 10


@pytest.mark.parametrize("name", ["gravity", "corner", "robin", "P2", "3D", "own load"])
def test_other_problems(name):
    """Elasticity under its weight, an L-shaped domain, conditions of Robin, P2, in 3D."""
    if name == "corner":
        msh = l_shape(COMM, 16)
    else:
        msh = box(
            COMM, HEX if name == "3D" else TRI if name == "P2" else QUAD, 8 if name == "3D" else 20
        )
    vector = name == "gravity"
    V = fem.functionspace(msh, ("Lagrange", 2 if name == "P2" else 1, *([(2,)] if vector else [])))
    kappa, v, x = cell_field(msh, rough(1e3)), ufl.TestFunction(V), ufl.SpatialCoordinate(msh)
    a = elasticity(V, kappa) if vector else diffusion(V, kappa)
    load = ufl.sin(20 * x[0] * x[1]) if name == "own load" else 1.0
    L = (-v[1] if vector else load * v) * ufl.dx
    bcs = [] if name == "robin" else [clamp(V, left)]
    if name == "robin":
        a += 5.0 * ufl.TrialFunction(V) * v * ufl.ds
    harmonic = HarmonicBasis(12, sources=[L] if name == "own load" else None)
    coarse = CoarseGrid(msh, (2,) * msh.geometry.dim if name == "3D" else (3, 3))
    modes, error = energy_errors(
        V, a, L, bcs, mass(V, kappa), coarse, [SpectralBasis(12), harmonic]
    )
    assert error < modes / 4 and error < 0.05


def test_whole_domain_in_each_neighbourhood():
    """No boundary inside the domain: the response to the load is the solution."""
    msh = box(COMM, QUAD, 8)
    V, kappa = fem.functionspace(msh, ("Lagrange", 1)), cell_field(msh, rough(1e3))
    a, L, bcs = diffusion(V, kappa), ufl.TestFunction(V) * ufl.dx, [clamp(V, left)]
    (error,) = energy_errors(V, a, L, bcs, None, CoarseGrid(msh, (1, 1)), [HarmonicBasis(8)])
    assert error < 1e-9


@pytest.mark.parametrize("vector", [False, True])
def test_ring_around_neighbourhoods(vector):
    """Its width is the basis's, in coarse cells, unless the grid tells the layers."""
    msh = box(COMM, QUAD, 20)
    V = fem.functionspace(msh, ("Lagrange", 1, (2,)) if vector else ("Lagrange", 1))
    kappa = cell_field(msh, rough(1e2))
    a = elasticity(V, kappa) if vector else diffusion(V, kappa)
    v = ufl.TestFunction(V)
    L, bcs = (v[0] if vector else v) * ufl.dx, [clamp(V, left)]

    def solve(oversampling, update=False):
        coarse = CoarseGrid(msh, (4, 4), oversampling=oversampling)
        with (
            multiscale_functionspace(
                V, coarse, HarmonicBasis(8), a, bcs=bcs, updatable=update
            ) as W,
            LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="harmonic_") as problem,
        ):
            if update:
                kappa.x.array[:] = cell_field(msh, two_phase(1e2)).x.array
                W.update()
            return gather_function(problem.solve())

    # 0.4 coarse cells of 5 fine ones are two layers, 0.6 are three.
    assert CoarseGrid(msh, (4, 4), overlap=1).layers(HarmonicBasis.oversampling) == 3
    first, two, none = (solve(layers) for layers in (None, 2, 0))
    size = np.abs(first).max()
    assert np.abs(first - two).max() <= 1e-9 * size
    assert np.abs(first - none).max() > 1e-5 * size
    updated, new = solve(None, update=True), solve(None)
    assert np.abs(updated - new).max() <= 1e-7 * size


def test_default_basis_of_a_space():
    p = Sample(n=12)
    with p.space(basis=None) as W, p.space(basis=HarmonicBasis()) as other:
        assert W.num_dofs == other.num_dofs > 9 * 8
        for vertex, values in W.eigenvalues.items():
            np.testing.assert_allclose(values, other.eigenvalues[vertex], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_modes": 0}, "num_modes must be a positive integer"),
        ({"num_modes": 4, "tolerance": 0.1}, "Give num_modes or tolerance"),
        ({"tolerance": 2.0}, "tolerance must be a number between 0 and 1"),
        ({"max_modes": 8}, "needs a tolerance"),
        ({"traces": 0}, "traces must be a positive integer or a local basis, got 0"),
        ({"traces": SpectralBasis}, "traces must be a positive integer or a local basis"),
    ],
)
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        HarmonicBasis(**options)


def test_what_it_needs_is_its_own_but_for_the_coefficient():
    """Whatever the basis that boundary values come from does without."""
    basis = HarmonicBasis(9, traces=Every())
    assert BasisNeeds.of(basis) == BasisNeeds(
        coefficient=2.0, sources=9, oversampling=0.4, num_modes=9, matrices=True
    )


def test_guard_is_for_modes():
    with pytest.raises(ValueError, match="primary basis is a HarmonicBasis"):
        GuardedBasis(HarmonicBasis(8))


def test_sources_on_another_space():
    msh = box(COMM, QUAD, 6)
    V, Q = (fem.functionspace(msh, ("Lagrange", k)) for k in (1, 2))
    basis = HarmonicBasis(8, sources=[ufl.TestFunction(Q) * ufl.dx])
    with expect_error(ValueError, r"sources\[0\]"):
        multiscale_functionspace(V, CoarseGrid(msh, (2, 2)), basis, diffusion(V, 1.0))


@pytest.mark.serial
@pytest.mark.parametrize("vector", [False, True])
def test_solvers_of_shapes_that_come_back(vector):
    """More shapes than factors are kept, other dofs inside, other values: against dense solves."""
    rng = np.random.default_rng(0)
    problems = [*local_problems(vector=vector, n=9), *local_problems(n=6, vector=vector)]
    with DirectSolvers() as solvers:
        for p in [*problems, *problems[::-1]]:
            inside = ~p.interface & ~p.dirichlet & (rng.random(p.num_dofs) < 0.9)
            rhs, A = rng.standard_normal((3, p.num_dofs)), p.A.toarray()
            exact = np.linalg.solve(A[np.ix_(inside, inside)], rhs[:, inside].T).T
            found = solvers.solve(p, inside, rhs)
            np.testing.assert_allclose(
                found[:, inside], exact, rtol=1e-8, atol=1e-9 * np.abs(exact).max()
            )
            assert not found[:, ~inside].any()
