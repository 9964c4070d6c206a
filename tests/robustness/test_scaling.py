# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Nothing depends on the units: of the coefficient (1e-20 to 1e20) or of length (1e-9 to 1e9)."""

from __future__ import annotations

from petsc4py import PETSc

import numpy as np
import pytest
from utils import COMM, HEX, QUAD, box, cell_field, clamp, elasticity, gather_function, two_phase

import ufl
from dolfinx import fem
from dolfinx_msnn import (
    CoarseGrid,
    FilteredBasis,
    GuardedBasis,
    SpectralBasis,
    TwoLevelPreconditioner,
    multiscale_functionspace,
)
from dolfinx_msnn.petsc import LinearProblem

pytestmark = pytest.mark.serial

BASES = {
    "spectral": SpectralBasis,
    "filtered": FilteredBasis,
    "guarded": lambda n: GuardedBasis(FilteredBasis(n)),
}
UNITS = [(1e-20, 1.0), (1e-15, 1.0), (1e20, 1.0), (1.0, 1e-9), (1.0, 1e9), (1e-15, 1e-6)]


def solve(basis, cell=QUAD, vector=False, kappa=1.0, length=1.0, with_s=True, kinds=()):
    """Coarse dofs, the solution in any units, and iterations with preconditioners of some kinds."""
    msh = box(COMM, cell, 12 if cell == QUAD else 6)
    coefficient = cell_field(msh, two_phase(1e3))
    coefficient.x.array[:] *= kappa
    msh.geometry.x[:] *= length
    d = msh.geometry.dim
    V = fem.functionspace(msh, ("Lagrange", 1, (d,)) if vector else ("Lagrange", 1))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    if vector:
        a = elasticity(V, coefficient)
    else:
        a = coefficient * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    s = coefficient * ufl.inner(u, v) * ufl.dx if with_s else None
    f = fem.Constant(msh, kappa / length**2 * np.ones((d,) if vector else ()))
    bcs = [clamp(V, lambda x: np.isclose(x[0] / length, 0.0))]
    grid = CoarseGrid(msh, (2,) * d)
    with (
        multiscale_functionspace(V, grid, BASES[basis](6), a, s, bcs) as W,
        LinearProblem(a, ufl.inner(f, v) * ufl.dx, W, bcs=bcs, petsc_options_prefix="scale_") as p,
    ):
        u = gather_function(p.solve())
        return W.num_dofs, u, [iterations(W, p, kind) for kind in kinds]


def iterations(W, problem, kind):
    """Of CG for the fine problem."""
    ksp, x = PETSc.KSP().create(COMM), problem.b.duplicate()
    with TwoLevelPreconditioner(W, petsc_options_prefix="scale_pc_", kind=kind) as M:
        ksp.setType("cg")
        ksp.setTolerances(rtol=1e-6, atol=0.0)
        ksp.setOperators(problem.A)
        M.attach(ksp)
        ksp.solve(problem.b, x)
        assert ksp.getConvergedReason() > 0
        found = ksp.getIterationNumber()
        ksp.destroy()
        x.destroy()
    return found


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(
    "options", [{}, {"with_s": False}, {"vector": True}, {"cell": HEX}], ids=str
)
def test_solution_in_any_units(basis, options):
    num, exact, _ = solve(basis, **options)
    for kappa, length in UNITS:
        found, u, _ = solve(basis, **options, kappa=kappa, length=length)
        assert found == num, (kappa, length)
        # A filter in single precision ends on other rounded numbers.
        assert np.abs(u - exact).max() <= 1e-5 * np.abs(exact).max(), (kappa, length)


def test_iterations_in_any_units():
    kinds = ("additive", "hybrid", "multiplicative")
    *_, expected = solve("spectral", kinds=kinds)
    for kappa, length in UNITS:
        *_, found = solve("spectral", kappa=kappa, length=length, kinds=kinds)
        assert np.abs(np.subtract(found, expected)).max() <= 1, (kappa, length, found, expected)
