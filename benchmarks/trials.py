# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""One basis on one field: errors, what filter and guard did, iterations, bounds, time.

Shared by the programs on contrast, resolution and rock. Their records have the entries that
:meth:`Trial.run` describes; errors are relative, times processor time of this one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from petsc4py import PETSc

import numpy as np
from common import NUM_MODES, Clock, Problem, pose
from tables import Record

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx_msnn import estimate
from dolfinx_msnn.algebra.preconditioner import TwoLevelPreconditioner
from dolfinx_msnn.petsc import LinearProblem

RTOL = 1e-8
MAX_ITERATIONS = 400
#: Largest number of fine dofs in 3D whose fine solution is computed by a direct solver.
DIRECT_3D = 150_000

SLEPC, FILTERED = "SLEPc", "filtered"
LEARNED, RAW, GUARDED = "learned + filter", "learned, no filter", "guarded learned"
BASES = (SLEPC, FILTERED, LEARNED, RAW, GUARDED)


def make(name: str, kappa: Any, model: Any, num_modes: int = NUM_MODES) -> Any:
    """One of :data:`BASES` for a coefficient."""
    if name == SLEPC:
        return msnn.SpectralBasis(num_modes)
    if name == FILTERED:
        return msnn.FilteredBasis(num_modes)
    if name == RAW:
        # Compressed from all outputs to the modes, as the others are.
        return msnn.LearnedBasis(model, kappa, num_modes, sweeps=0, max_rounds=1)
    learned = msnn.LearnedBasis(model, kappa, num_modes)
    return msnn.GuardedBasis(learned) if name == GUARDED else learned


@cache
def pretrained(dim: int) -> Any:
    """The model that comes with the package; ``None`` where torch is missing."""
    try:
        from dolfinx_msnn.nn.lattice import num_channels
        from dolfinx_msnn.nn.model import load_model
        from dolfinx_msnn.pretrained import pretrained_models

        model = load_model(pretrained_models()[f"diffusion-{dim}d"])
    except ImportError:
        return None
    # The first passes of a scripted model compile it.
    card = model.card
    shape = (1, num_channels(dim, card.samples), *[card.lattice] * dim)
    for _ in range(3):
        model(np.zeros(shape, dtype=np.float32))
    return model


def usable(bases: Sequence[str], model: Any) -> list[str]:
    """The bases that can be made; those of a network need torch."""
    if model is None:
        print("torch is missing: no rows of learned bases")
    return [name for name in bases if model is not None or name in (SLEPC, FILTERED)]


class Trial:
    """A coefficient with its fine solution, on which bases are tried.

    Args:
        kappa: Coefficient, DG0.
        boxes: Of the coarse grid.
        axis: u = 1 and 0 on the ends of this axis; f = 1, or 0 if the axis is not the first.
    """

    def __init__(self, kappa: Any, boxes: Sequence[int], axis: int = 0) -> None:
        msh = kappa.function_space.mesh
        self.problem: Problem = pose(msh, kappa, axis, direct_up_to=DIRECT_3D)
        self.coarse = msnn.CoarseGrid(msh, boxes)
        self.axis = axis
        V = self.problem.fine.function_space
        self.V = V
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        # Without conditions: the boundary values belong to the norms.
        self.stiffness = fem.assemble_matrix(fem.form(self.problem.a)).to_scipy()
        self.mass = fem.assemble_matrix(fem.form(u * v * ufl.dx)).to_scipy()
        self.sizes = self.norms(self.problem.fine.x.array)

    def norms(self, values: np.ndarray) -> tuple[float, float]:
        """L2 and energy norm of a function given by its dofs."""
        return (
            float(np.sqrt(values @ (self.mass @ values))),
            float(np.sqrt(values @ (self.stiffness @ values))),
        )

    def run(
        self,
        basis: Any,
        *,
        iterations: bool = True,
        bounds: bool = False,
        exact: Callable[[Any], float] | None = None,
    ) -> Record:
        """Build the space, solve, and tell what happened.

        Args:
            basis: A new basis: its reports are read.
            iterations: Solve the fine problem with the space as coarse level, too.
            bounds: Compute the guaranteed bounds of the energy error, too.
            exact: Energy error of a function against the exact solution, for the second bound.

        Returns:
            ``L2``, ``energy``; ``basis_ms`` a neighbourhood; ``space_s`` in all;
            ``neighbourhoods``, ``num_dofs``; what :func:`reports` finds; and, if asked for,
            ``iterations``, ``solved``, and the bounds. Only ``failed``, the reason, if there is
            no space.
        """
        try:
            return self._run(basis, iterations, bounds, exact)
        except (ValueError, RuntimeError) as error:
            return {"failed": str(error)}

    def _run(
        self,
        basis: Any,
        iterations: bool,
        bounds: bool,
        exact: Callable[[Any], float] | None,
    ) -> Record:
        clock, p = Clock(basis), self.problem
        start = time.process_time()
        with msnn.multiscale_functionspace(self.V, self.coarse, clock, p.a, p.s, p.bcs) as W:
            found: Record = {
                "space_s": time.process_time() - start,
                "basis_ms": 1e3 * clock.seconds / clock.count,
                "neighbourhoods": clock.count,
                "num_dofs": W.num_dofs,
            }
            with LinearProblem(p.a, p.L, W, bcs=p.bcs, petsc_options_prefix="trial_") as coarse:
                u = coarse.solve()
                errors = self.norms(u.x.array - p.fine.x.array)
                found |= {"L2": errors[0] / self.sizes[0], "energy": errors[1] / self.sizes[1]}
                found |= reports(basis, clock.count)
                if iterations:
                    found |= two_level(W, coarse)
                if bounds:
                    found |= self.bounds(W, coarse, errors[1], exact)
        return found

    def bounds(
        self, W: Any, coarse: LinearProblem, error: float, exact: Callable[[Any], float] | None
    ) -> Record:
        """Guaranteed bounds over the errors that they bound: fine by CG, exact by fluxes."""
        p = self.problem
        start = time.process_time()
        constants = estimate.stability_constants(W, self.coarse, p.a, p.bcs)
        least = estimate.schwarz_lambda_min(W, self.coarse, constants)
        found: Record = {"lambda_min": least}
        if least > 0:
            with estimate.SchwarzPreconditioner(coarse) as pc:
                bound = estimate.bound_fine_error(coarse, pc, least, steps=10)
            found |= {"fine_bound": bound.upper / error, "fine_steps": bound.steps}
        found["fine_bound_s"] = time.process_time() - start
        if exact is not None:
            start = time.process_time()
            f = 1.0 if self.axis == 0 else 0.0
            upper = estimate.bound_error(coarse.u, p.kappa, f, self.coarse, bcs=p.bcs).upper
            found["exact_bound_s"] = time.process_time() - start
            found["exact_bound"] = upper / exact(coarse.u)
        return found


def reports(basis: Any, count: int) -> Record:
    """What filter, network and guard report: means and shares of the neighbourhoods."""
    found: Record = {}
    if isinstance(basis, msnn.GuardedBasis):
        for outcome in ("repaired", "recomputed"):
            found[outcome] = sum(r.outcome == outcome for r in basis.reports) / count
        found["guard_sweeps"] = float(np.mean([r.sweeps for r in basis.reports]))
        basis = basis.primary
    mine = getattr(basis, "reports", [])
    if mine and hasattr(mine[0], "filtered"):
        found["fallbacks"] = sum(r.source == "fallback" for r in mine) / count
        found["in_range"] = sum(r.in_range for r in mine) / count
        mine = [r.filtered for r in mine if r.filtered is not None]
    if mine:
        found["sweeps"] = float(np.mean([r.sweeps for r in mine]))
        found["rounds"] = float(np.mean([r.rounds for r in mine]))
        found["converged"] = sum(r.converged for r in mine) / count
    return found


def two_level(W: Any, coarse: LinearProblem) -> Record:
    """CG for the fine problem from zero, with the space as coarse level of a V-cycle."""
    ksp = PETSc.KSP().create(coarse.A.comm)
    ksp.setOperators(coarse.A)
    ksp.setType("cg")
    ksp.setNormType(PETSc.KSP.NormType.NATURAL)
    ksp.setTolerances(rtol=RTOL, max_it=MAX_ITERATIONS)
    x = coarse.b.duplicate()
    start = time.process_time()
    try:
        with TwoLevelPreconditioner(W, petsc_options_prefix="trial_two_level_") as M:
            M.attach(ksp)
            setup = time.process_time()
            ksp.solve(coarse.b, x)
            return {
                "iterations": ksp.getIterationNumber(),
                "solved": ksp.getConvergedReason() > 0,
                "setup_s": setup - start,
                "solve_s": time.process_time() - setup,
            }
    finally:
        ksp.destroy()
        x.destroy()
