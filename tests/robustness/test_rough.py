# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Filtered modes beside computed ones: thin layers cut by the boxes, and contrasts up to 1e12."""

from __future__ import annotations

import numpy as np
import pytest
from utils import COMM, HEX, QUAD, box, clamp, diffusion, mass

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import (
    CoarseGrid,
    FilteredBasis,
    GuardedBasis,
    SpectralBasis,
    fields,
    multiscale_functionspace,
)
from dolfinx_msnn.petsc import LinearProblem

LU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


def reservoir(seed):
    """Ten layers of permeabilities between 1 and 4e5, log-normal noise, 920 m x 1120 m x 40 m."""
    rng = np.random.default_rng(seed)
    msh = box(COMM, HEX, (23, 56, 10), (920.0, 1120.0, 40.0))
    layers = np.exp(rng.uniform(0, np.log(4e5), 10))
    kappa = fem.Function(fem.functionspace(msh, ("DG", 0)))
    kappa.interpolate(lambda x: layers[np.minimum((x[2] / 4).astype(int), 9)])
    kappa.x.array[:] *= np.exp(rng.standard_normal(len(kappa.x.array)))
    return msh, kappa


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 5])
def test_filtered_modes_lose_nothing_to_computed_ones(seed):
    """Errors against the fine solution: at most 1.05 times in L2, 1.01 times in energy."""
    msh, kappa = reservoir(seed)
    V = fem.functionspace(msh, ("Lagrange", 1))
    a, L = diffusion(V, kappa), fem.Constant(msh, 0.0) * ufl.TestFunction(V) * ufl.dx
    bcs = [
        clamp(V, lambda x: np.isclose(x[1], 0.0)),
        clamp(V, lambda x: np.isclose(x[1], 1120.0), 1.0),
    ]
    for ratio in compare(a, L, kappa, bcs, (4, 9, 3), [FilteredBasis(8)]):
        assert ratio[0] <= 1.05 and ratio[1] <= 1.01


def compare(a, L, kappa, bcs, boxes, bases):
    """L2 and energy errors of the solutions with some bases, over those with computed modes."""
    V = a.arguments()[0].ufl_function_space()
    u = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=LU).solve()
    w = fem.Function(V)
    slope = ufl.grad(w)
    norms = [fem.form(w**2 * ufl.dx), fem.form(kappa * ufl.inner(slope, slope) * ufl.dx)]
    errors = []
    for basis in (SpectralBasis(8), *bases):
        coarse = CoarseGrid(V.mesh, boxes)
        with (
            multiscale_functionspace(V, coarse, basis, a, mass(V, kappa), bcs) as W,
            LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="rough_") as problem,
        ):
            w.x.array[:] = problem.solve().x.array - u.x.array
            errors.append([np.sqrt(fem.assemble_scalar(norm)) for norm in norms])
    return np.divide(errors[1:], errors[0])


@pytest.mark.serial
@pytest.mark.parametrize("contrast", [1e8, 1e10, 1e12])
@pytest.mark.parametrize("family", ["two_phase", "channels"])
def test_contrasts_beyond_a_filter(family, contrast):
    """Where double precision is too little for a filter, modes are computed."""
    msh = box(COMM, QUAD, 40)
    kappa = getattr(fields, family)(msh, contrast=contrast, seed=0)
    V = fem.functionspace(msh, ("Lagrange", 1))
    a, L = diffusion(V, kappa), ufl.TestFunction(V) * ufl.dx
    bcs = [clamp(V, lambda x: np.isclose(x[0] * (1 - x[0]), 0.0))]
    filtered = FilteredBasis(8)
    found = compare(a, L, kappa, bcs, (4, 4), [filtered, GuardedBasis(FilteredBasis(8))])
    assert found.max() <= 1.02
    assert all(r.computed for r in filtered.reports) or contrast < 1e12
