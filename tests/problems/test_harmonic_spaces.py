# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Harmonic spaces in all that is done with spaces: errors beside those of as many eigenmodes."""

from __future__ import annotations

import numpy as np
import pytest
from test_poroelasticity import Biot
from utils import COMM, QUAD, box, cell_field, clamp, diffusion, holed_square, mass, rough

import ufl
from dolfinx import fem
from dolfinx_msnn import CoarseGrid, HarmonicBasis, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.petsc import LinearProblem, NonlinearProblem, PicardProblem, TransientProblem
from dolfinx_msnn.richards import Haverkamp


def left(x):
    return np.isclose(x[0], 0.0)


def right(x):
    return np.isclose(x[0], 1.0)


BASES = {"modes": SpectralBasis, "harmonic": HarmonicBasis, "all": lambda _: SpectralBasis(10**4)}


def distance(u, w):
    """Relative distance of two functions, or tuples of them, in the H1 seminorm."""
    pairs = list(zip(u, w, strict=True)) if isinstance(u, tuple) else [(u, w)]

    def square(f):
        form = fem.form(ufl.inner(ufl.grad(f), ufl.grad(f)) * ufl.dx)
        return COMM.allreduce(fem.assemble_scalar(form))

    return max(np.sqrt(square(f - g) / square(g)) for f, g in pairs)


def errors(solve):
    """Errors of spaces of eigenmodes and harmonic functions against a space that is all of V."""
    found = {name: solve(make) for name, make in BASES.items()}
    return tuple(distance(found[name], found["all"]) for name in ("modes", "harmonic"))


@pytest.mark.slow
def test_transients_from_the_first_step_on():
    """A step that is shorter than what diffusion takes through a cell, and later ones."""
    msh = box(COMM, QUAD, 15)
    V, kappa = fem.functionspace(msh, ("Lagrange", 1)), cell_field(msh, rough(1e2))
    a, L = diffusion(V, kappa), ufl.TestFunction(V) * ufl.dx
    bcs, coarse = [clamp(V, left, 1.0), clamp(V, right, 0.0)], CoarseGrid(msh, (3, 3))
    for dt, count, gain in ((1e-5, 1, 1.0), (1e-2, 3, 2.0), (0.3, 3, 5.0)):

        def solve(make, dt=dt, count=count):
            u = fem.Function(V)
            with (
                multiscale_functionspace(V, coarse, make(8), a, mass(V, kappa), bcs) as W,
                TransientProblem(
                    mass(V, 1.0), a, L, u, W, dt=dt, bcs=bcs, petsc_options_prefix="t_"
                ) as problem,
            ):
                for _ in range(count):
                    problem.step()
            return u

        modes, harmonic = errors(solve)
        assert harmonic < modes / gain


@pytest.mark.slow
def test_poroelasticity():
    """A harmonic space for each field, that of displacements with responses to a body force."""
    biot = Biot(n=12)

    def solve(make):
        for f in biot.u:
            f.x.array[:] = 0.0
        W = biot.spaces((11, 8), make)
        with biot.problem(W, dt=0.2) as problem:
            for _ in range(3):
                biot.data(problem.time + 0.2)
                problem.step()
        for space in W:
            space.destroy()
        return tuple(f.copy() for f in biot.u)

    modes, harmonic = errors(solve)
    assert harmonic < modes / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [NonlinearProblem, PicardProblem])
def test_richards(kind):
    """Functions of the saturated soil, with the response to gravity there."""
    msh = box(COMM, QUAD, 15)
    V, kappa, law = (
        fem.functionspace(msh, ("Lagrange", 1)),
        cell_field(msh, rough(1e2)),
        Haverkamp(),
    )
    p, v, up = fem.Function(V), ufl.TestFunction(V), ufl.as_vector([0.0, 1.0])
    conductivity = kappa * law.relative_permeability(p)
    F = conductivity * ufl.inner(ufl.grad(p) + up, ufl.grad(v)) * ufl.dx - v * ufl.dx
    a, bcs = diffusion(V, kappa), [clamp(V, left), clamp(V, right, -2.0)]
    coarse, sources = CoarseGrid(msh, (3, 3)), [v * ufl.dx, -kappa * v.dx(1) * ufl.dx]

    def solve(make):
        basis = HarmonicBasis(8, sources=sources) if make is HarmonicBasis else make(8)
        p.x.array[:] = 0.0
        with multiscale_functionspace(V, coarse, basis, a, mass(V, kappa), bcs) as W:
            arguments = {"bcs": bcs, "petsc_options_prefix": "richards_"}
            if kind is NonlinearProblem:
                problem = NonlinearProblem(F, p, W, **arguments)
            else:
                u = ufl.TrialFunction(V)
                A = conductivity * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
                L = v * ufl.dx - conductivity * v.dx(1) * ufl.dx
                problem = PicardProblem(A, L, p, W, **arguments)
            with problem:
                problem.solve()
        return p.copy()

    modes, harmonic = errors(solve)
    assert harmonic < modes / 2


@pytest.mark.slow
def test_holes():
    msh = holed_square(COMM, 20)
    V, kappa = fem.functionspace(msh, ("Lagrange", 1)), cell_field(msh, rough(1e3))
    a, L, bcs = diffusion(V, kappa), ufl.TestFunction(V) * ufl.dx, [clamp(V, left)]

    def solve(make):
        coarse = CoarseGrid(msh, (3, 3))
        with (
            multiscale_functionspace(V, coarse, make(11), a, mass(V, kappa), bcs) as W,
            LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="holes_") as problem,
        ):
            return problem.solve().copy()

    modes, harmonic = errors(solve)
    assert harmonic < modes / 5
