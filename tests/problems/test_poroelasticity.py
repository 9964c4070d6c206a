# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""TransientProblem with two fields: Biot's equations, dense oracle, Terzaghi's series, errors."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np
import pytest
from leaks import check_cycles, logging  # noqa: F401 (a fixture)
from sample import HERE, expect_error
from test_transient import lift, matrix, vector
from utils import (
    COMM,
    QUAD,
    TRI,
    box,
    cell_field,
    clamp,
    diffusion,
    dof_points,
    elasticity,
    gather_function,
    gather_rows,
    mass,
    match,
    rough,
)
from utils import gather_matrix as gather

import ufl
from dolfinx import fem
from dolfinx_msnn import CoarseGrid, FilteredBasis, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.petsc import TransientProblem
from dolfinx_msnn.problems.bdf import bdf_coefficients

ALPHA, STORAGE = 0.9, 0.05


def left(x):
    return np.isclose(x[0], 0.0)


def top(x):
    return np.isclose(x[1], 1.0)


class Biot:
    """Displacement and pressure, rough stiffness and permeability, load and boundary pressure."""

    def __init__(self, comm=COMM, cell=QUAD, n=8, degree=1):
        msh = box(comm, cell, n)
        V = fem.functionspace(msh, ("Lagrange", degree, (2,)))
        Q = fem.functionspace(msh, ("Lagrange", 1))
        self.V, self.mesh = (V, Q), msh
        self.E, self.kappa = cell_field(msh, rough(10.0)), cell_field(msh, rough(100.0))
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        p, q = ufl.TrialFunction(Q), ufl.TestFunction(Q)
        stiff, flow = elasticity(V, self.E), diffusion(Q, self.kappa)
        self.a = [[stiff, -ALPHA * p * ufl.div(v) * ufl.dx], [None, flow]]
        self.m = [[None, None], [ALPHA * ufl.div(u) * q * ufl.dx, STORAGE * p * q * ufl.dx]]
        self.push, self.pump = fem.Constant(msh, -1.0), fem.Constant(msh, 0.0)
        x = ufl.SpatialCoordinate(msh)
        self.L = [self.push * x[0] * v[1] * ufl.ds, self.pump * x[1] * q * ufl.dx]
        self.pressure = fem.Constant(msh, 0.3)
        dofs = fem.locate_dofs_geometrical(Q, top)
        self.bcs = [clamp(V, left), fem.dirichletbc(self.pressure, dofs, Q)]
        self.u = (fem.Function(V), fem.Function(Q))
        self.coarse = CoarseGrid(msh, (2, 2))

    def data(self, t):
        self.push.value, self.pump.value = -1 - np.sin(9 * t), np.cos(5 * t)
        self.pressure.value = 0.3 + t

    def spaces(self, num=(6, 4), make=SpectralBasis):
        by_field = [[bc for bc in self.bcs if bc.function_space == V._cpp_object] for V in self.V]
        return tuple(
            multiscale_functionspace(
                V, self.coarse, make(k), a, mass(V, weight) if make is SpectralBasis else None, bcs
            )
            for V, k, a, weight, bcs in zip(
                self.V,
                num,
                (self.a[0][0], self.a[1][1]),
                (self.E, self.kappa),
                by_field,
                strict=True,
            )
        )

    def problem(self, W, **changed):
        arguments = {
            "m": self.m,
            "a": self.a,
            "L": self.L,
            "u": self.u,
            "W": W,
            "dt": 0.05,
            "bcs": self.bcs,
            "petsc_options_prefix": "biot_",
        }
        return TransientProblem(**(arguments | changed))


def dense(blocks, sizes):
    return np.block(
        [
            [
                np.zeros((sizes[i], sizes[j])) if f is None else matrix(f).toarray()
                for j, f in enumerate(row)
            ]
            for i, row in enumerate(blocks)
        ]
    )


def block_diagonal(W):
    P = [gather(w.P).toarray() for w in W]
    zeros = [np.zeros((P[i].shape[0], P[1 - i].shape[1])) for i in range(2)]
    return np.block([[P[0], zeros[0]], [zeros[1], P[1]]])


@pytest.mark.parametrize("order", [1, 2])
def test_against_dense_blocks(order):
    """Step by step: the Galerkin system in the sum of both spaces, by LAPACK."""
    biot = Biot()
    biot.u[1].interpolate(lambda x: np.cos(3 * x[0]) * x[1])
    W = biot.spaces()
    sizes = [w.P.getSize()[0] for w in W]
    M, A = dense(biot.m, sizes), dense(biot.a, sizes)
    P = block_diagonal(W)
    past, before = [np.concatenate([gather_function(f) for f in biot.u])], np.nan
    with biot.problem(W, order=order) as problem:
        assert problem.num_dofs == P.shape[1]
        for k, dt in enumerate((0.05, 0.05, 0.02, 0.04)):
            biot.data(problem.time + dt)
            g = np.concatenate([lift(V, [biot.bcs[i]]) for i, V in enumerate(biot.V)])
            c = np.array(bdf_coefficients(min(order, k + 1), dt / before)) / dt
            load = np.concatenate([vector(f) for f in biot.L])
            r = load - A @ g - c[0] * (M @ g)
            for ck, old in zip(c[1:], past, strict=False):
                r -= ck * (M @ old)
            c0 = np.linalg.lstsq(P.T @ (c[0] * M + A) @ P, P.T @ r, rcond=1e-12)[0]
            past.insert(0, P @ c0 + g)
            before = dt
            found = problem.step(dt)
            assert found == biot.u
            values = np.concatenate([gather_function(f) for f in found])
            np.testing.assert_allclose(values, past[0], atol=1e-8 * np.abs(past[0]).max())
        # The whole matrix is a permutation of the blocks.
        whole = gather(problem.A0).toarray()
        expected = P.T @ A @ P
        np.testing.assert_allclose(np.linalg.norm(whole), np.linalg.norm(expected), rtol=1e-12)
        assert next(iter(problem._system._solvers.values())).getPC().getType() == "lu"
    for w in W:
        w.destroy()


def test_same_on_any_number_of_ranks():
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        biot = Biot(comm, TRI)
        W = biot.spaces()
        with biot.problem(W, order=2) as problem:
            for _ in range(3):
                biot.data(problem.time + problem.dt)
                problem.step(prolong=False)
            problem.prolong()
        found.append(
            [(dof_points(V), gather_function(f)) for V, f in zip(biot.V, biot.u, strict=True)]
        )
        for w in W:
            w.destroy()
    for (points, values), (others, expected) in zip(*found, strict=True):
        np.testing.assert_allclose(values, expected[match(points, others)], atol=1e-8)


def test_steady_coupled_problem():
    """Without time: pressure by itself, then displacement under its gradient, as by hand."""
    biot = Biot()
    biot.data(0.2)
    W = biot.spaces()
    with biot.problem(W, m=None) as problem:
        u, p = (gather_function(f) for f in problem.solve_steady())
    P = [gather(w.P).toarray() for w in W]
    (A, B), (_, C) = [[None if f is None else matrix(f) for f in row] for row in biot.a]
    g = lift(biot.V[1], [biot.bcs[1]])
    expected = P[1] @ np.linalg.solve(P[1].T @ (C @ P[1]), P[1].T @ (vector(biot.L[1]) - C @ g)) + g
    np.testing.assert_allclose(p, expected, atol=1e-9)
    load = vector(biot.L[0]) - B @ expected
    # A motion of all neighbourhoods together is in the space twice.
    expected = P[0] @ np.linalg.lstsq(P[0].T @ (A @ P[0]), P[0].T @ load, rcond=1e-12)[0]
    np.testing.assert_allclose(u, expected, atol=1e-8 * np.abs(expected).max())
    for w in W:
        w.destroy()


def terzaghi(depth, t):
    """Pressure at a depth (over the height) at time t (over H²/c_v), relative to the undrained."""
    n = 2 * np.arange(200) + 1
    terms = 4 / (n * np.pi) * np.sin(n * np.pi * depth[:, None] / 2)
    return terms @ np.exp(-(n**2) * np.pi**2 * t / 4)


@pytest.mark.slow
def test_terzaghi_consolidation():
    """A column that drains at the top, loaded at once: pressure and settlement by the series."""
    msh = box(COMM, QUAD, (2, 32), upper=(0.125, 1.0))
    V, Q = fem.functionspace(msh, ("Lagrange", 2, (2,))), fem.functionspace(msh, ("Lagrange", 1))
    E, nu, kappa, load = 3.0, 0.25, 0.7, 2.0
    modulus = E * (1 - nu) / ((1 + nu) * (1 - 2 * nu))
    consolidation = kappa * modulus / (ALPHA**2 + STORAGE * modulus)
    undrained = ALPHA * load / (ALPHA**2 + STORAGE * modulus)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    p, q = ufl.TrialFunction(Q), ufl.TestFunction(Q)
    stiff = elasticity(V, fem.Constant(msh, E), nu)
    flow = diffusion(Q, fem.Constant(msh, kappa))
    x = ufl.SpatialCoordinate(msh)
    a = [[stiff, -ALPHA * p * ufl.div(v) * ufl.dx], [None, flow]]
    m = [[None, None], [ALPHA * ufl.div(u) * q * ufl.dx, STORAGE * p * q * ufl.dx]]
    push = ufl.conditional(ufl.gt(x[1], 1 - 1e-6), -load, 0.0)
    L = [push * v[1] * ufl.ds, None]
    sides = clamp(V, lambda y: np.isclose(y[0] * (0.125 - y[0]), 0), component=0)
    bcs = [sides, clamp(V, lambda y: np.isclose(y[1], 0), component=1)], [clamp(Q, top)]
    coarse = CoarseGrid(msh, (1, 4))
    W = (
        multiscale_functionspace(V, coarse, SpectralBasis(16), stiff, mass(V, 1.0), bcs[0]),
        multiscale_functionspace(Q, coarse, SpectralBasis(8), flow, mass(Q, 1.0), bcs[1]),
    )
    fields = fem.Function(V), fem.Function(Q)
    dt = 0.002 / consolidation
    problem = TransientProblem(
        m, a, L, fields, W, dt=dt, order=2, bcs=[*bcs[0], *bcs[1]], petsc_options_prefix="column_"
    )
    points = gather_rows(COMM, Q.tabulate_dof_coordinates()[: Q.dofmap.index_map.size_local])
    with problem:
        for k in range(1, 151):
            problem.step(prolong=k in (50, 150))
            if k in (50, 150):
                expected = undrained * terzaghi(1 - points[:, 1], 0.002 * k)
                error = np.abs(gather_function(fields[1]) - expected).max() / undrained
                assert error < 0.01, (k, error)
                # Strain (αp - load) / modulus, added up over the height.
                depth = (np.arange(400) + 0.5) / 400
                strain = ALPHA * undrained * terzaghi(depth, 0.002 * k) - load
                settled = COMM.allreduce(
                    fem.assemble_scalar(fem.form(push * fields[0][1] * ufl.ds))
                )
                settled /= -load * 0.125
                assert settled == pytest.approx(strain.mean() / modulus, rel=0.01)
    for w in W:
        w.destroy()


def test_wrong_inputs_on_one_rank():
    biot, other = Biot(), Biot()
    W = biot.spaces(make=FilteredBasis)

    def refused(match, **wrong):
        with expect_error(ValueError, match):
            biot.problem(W, **(wrong if HERE else {}))

    (stiff, coupling), (_, flow) = biot.a
    refused("a must be 2 lists of 2", a=[[stiff, coupling]])
    refused("a must be 2 lists of 2", a=[stiff, coupling])
    refused("a must be 2 lists of 2", a=stiff)
    refused(r"arguments of a\[0\]\[1\] are on another", a=[[stiff, flow], [None, flow]])
    refused(r"a\[1\]\[0\] must be a UFL bilinear form, got int", a=[[stiff, None], [0, flow]])
    refused("L must have one form", L=biot.L[0])
    refused(r"arguments of L\[1\]", L=[biot.L[0], biot.L[0]])
    refused("1 functions u for 2 spaces", u=biot.u[:1])
    refused("Function", u=biot.u[::-1])
    # On every rank: one without dofs on that side has nothing to complain of.
    with expect_error(ValueError, "not the same ones"):
        biot.problem(W, bcs=biot.bcs[:1])
    if COMM.size > 1:
        refused("a differs between the ranks", a=[[stiff, None], [None, flow]])
    with expect_error(ValueError, "sequence of them"):
        biot.problem([W[0], 3])
    X = other.spaces(make=FilteredBasis)
    with expect_error(ValueError, "different meshes"):
        biot.problem([W[0], X[1]])
    # One space for two fields is ambiguous for conditions only.
    Q = W[1].V
    load = ufl.TestFunction(Q) * ufl.dx
    two = [[flow, None], [None, flow]]
    with expect_error(ValueError, "of 2 fields"):
        biot.problem(
            [W[1], W[1]],
            m=None,
            a=two,
            L=[None, load],
            u=[biot.u[1], fem.Function(Q)],
            bcs=[biot.bcs[1]],
        )
    for w in (*W, *X):
        w.destroy()


def test_leaks(tmp_path):
    biot = Biot(n=4)

    def cycle():
        W = biot.spaces((3, 2), FilteredBasis)
        with biot.problem(W, order=2) as problem:
            for k in range(3):
                biot.data(float(k))
                problem.step()
            problem.assemble()
            problem.step()
        for w in W:
            w.destroy()

    check_cycles(cycle, tmp_path / "log", 10)
