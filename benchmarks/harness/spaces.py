# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Kinds of spaces, loads, and the energy errors of one for the other against direct solutions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from harness.problems import MUMPS, Diffusion, relative_errors

import numpy as np

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx.fem.petsc import assemble_vector, set_bc
from dolfinx_msnn import fields
from dolfinx_msnn.petsc import LinearProblem

LOADS = ("f = 1", "smooth", "drop", "well", "rough")


class Space(NamedTuple):
    """A kind of space.

    Attributes:
        make: The basis, from the number of functions.
        overlap: Boxes that overlap, and not hat functions.
        numbers: For which numbers; default those of the case.
        options: Of the linear problem.
    """

    make: Callable[..., Any]
    overlap: bool = False
    numbers: tuple[int, ...] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012  # nobody writes to it


SPACES = {
    "SLEPc": Space(msnn.SpectralBasis),
    "filtered": Space(msnn.FilteredBasis, numbers=(8,)),
    "harmonic": Space(msnn.HarmonicBasis),
    "harmonic, overlap": Space(msnn.HarmonicBasis, overlap=True),
    # All functions are A-harmonic: loads are dealt with one by one.
    "harmonic, overlap, local solutions": Space(
        partial(msnn.HarmonicBasis, sources=()), overlap=True, options={"local_solutions": True}
    ),
}


def loads(V: Any, seed: int) -> dict[str, Any]:
    """Linear forms by name."""
    x, v, d = ufl.SpatialCoordinate(V.mesh), ufl.TestFunction(V), V.mesh.geometry.dim
    top = V.mesh.geometry.x.max(axis=0)
    x = [x[k] / float(top[k]) for k in range(d)]
    smooth = fields.log_normal(V.mesh, seed=seed + 1000, variance=1.0, correlation_length=0.2)
    smooth.x.array[:] = np.log(smooth.x.array)
    rough = fem.Function(fem.functionspace(V.mesh, ("DG", 0)))
    rough.x.array[:] = np.random.default_rng(seed).standard_normal(len(rough.x.array))

    def near(*point: float) -> Any:
        return ufl.exp(-sum(((x[k] - point[k]) / 0.02) ** 2 for k in range(d)))

    well = near(0.3, 0.4, 0.3) - near(0.7, 0.6, 0.7)
    densities = {"f = 1": 1.0, "smooth": smooth, "rough": rough, "well": well}
    return {name: f * v * ufl.dx for name, f in densities.items()}


def at_zero(drop: Diffusion) -> Diffusion:
    """The same problem with zeros for boundary values."""
    zero = copy.copy(drop)
    zero.bcs = [fem.dirichletbc(0.0, bc.dof_indices()[0], drop.V) for bc in drop.bcs]
    return zero


def solve_at_zero(fine: FineProblem, zero: Diffusion, L: Any) -> fem.Function:
    """The fine solution of another load and boundary values of zero, by the factor of ``fine``."""
    with fine.b.localForm() as local:
        local.set(0.0)
    assemble_vector(fine.b, fem.form(L))
    set_bc(fine.b, zero.bcs)
    found = fem.Function(zero.V)
    fine.solver.solve(fine.b, found.x.petsc_vec)
    return found


def fine_solutions(
    zero: Diffusion, drop: Diffusion, forms: dict[str, Any]
) -> dict[str, fem.Function]:
    """The fine solutions by load, with one factor."""
    fine = drop.fine_problem(MUMPS)
    exact = {"drop": fine.solve().copy()}
    return exact | {load: solve_at_zero(fine, zero, L) for load, L in forms.items()}


def measure(
    zero: Diffusion,
    drop: Diffusion,
    forms: dict[str, Any],
    exact: dict[str, Any],
    space: Space,
    basis: Any,
) -> dict[str, float]:
    """Energy errors by load, and coarse dofs."""
    errors: dict[str, float] = {}
    grid = zero.overlapping() if space.overlap else zero.grid

    def solve(W: Any, p: Diffusion, L: Any, load: str) -> None:
        with LinearProblem(
            p.a, L, W, bcs=p.bcs, petsc_options_prefix="bench_coarse_", **space.options
        ) as coarse:
            errors[load] = relative_errors(coarse.solve(), exact[load], zero.kappa)["energy"]

    # One space for all: with the response to the drop's values.
    with msnn.multiscale_functionspace(drop.V, grid, basis, drop.a, drop.s, drop.bcs) as W:
        dofs = W.num_dofs
        for load, L in forms.items():
            solve(W, zero, L, load)
        solve(W, drop, drop.L, "drop")
    return errors | {"dofs": float(dofs)}
