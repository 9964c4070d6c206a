# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A reservoir of thin layers on flat cells, cut by the boxes: what the filter's tolerance means."""

from __future__ import annotations

import numpy as np
import pytest
from utils import COMM, HEX, box, clamp, diffusion, mass

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import CoarseGrid, FilteredBasis, SpectralBasis, multiscale_functionspace
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
@pytest.mark.parametrize("seed", [0, 3, 5])
def test_filtered_modes_lose_nothing_to_computed_ones(seed):
    """Errors against the fine solution: at most 1.05 times in L2, 1.01 times in energy."""
    msh, kappa = reservoir(seed)
    V = fem.functionspace(msh, ("Lagrange", 1))
    a, L = diffusion(V, kappa), fem.Constant(msh, 0.0) * ufl.TestFunction(V) * ufl.dx
    bcs = [
        clamp(V, lambda x: np.isclose(x[1], 0.0)),
        clamp(V, lambda x: np.isclose(x[1], 1120.0), 1.0),
    ]
    u = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=LU).solve()
    w = fem.Function(V)
    norms = [
        fem.form(w**2 * ufl.dx),
        fem.form(kappa * ufl.inner(ufl.grad(w), ufl.grad(w)) * ufl.dx),
    ]
    errors = []
    for basis in (SpectralBasis(8), FilteredBasis(8)):
        with (
            multiscale_functionspace(
                V, CoarseGrid(msh, (4, 9, 3)), basis, a, mass(V, kappa), bcs
            ) as W,
            LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="layers_") as problem,
        ):
            w.x.array[:] = problem.solve().x.array - u.x.array
            errors.append([np.sqrt(fem.assemble_scalar(norm)) for norm in norms])
    ratio = np.divide(*errors[::-1])
    assert ratio[0] <= 1.05 and ratio[1] <= 1.01
