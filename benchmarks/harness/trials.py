# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""One basis on one field: errors, what filter and guard did, iterations, bounds, time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

from harness.bases import reports
from harness.fine_solvers import PetscSolver
from harness.problems import Diffusion, norms, relative_errors
from harness.results import Record, Results
from harness.timing import Clock, Stopwatch

import dolfinx_msnn as msnn
from dolfinx import fem
from dolfinx_msnn import estimate
from dolfinx_msnn.petsc import LinearProblem

MAX_ITERATIONS = 400


def compare(
    results: Results,
    key: Record,
    bases: Mapping[str, Callable[[Any], Any]],
    pose: Callable[[], tuple[Diffusion, Record]],
    **options: bool,
) -> None:
    """Try the bases that are missing on one field, one after the other, on the same core.

    Args:
        results: To which a record of each is added.
        key: Of the field.
        bases: Gives a new basis for a coefficient, by name.
        pose: Gives the problem, and more entries of the records; called if any basis is missing.
        options: Of :func:`trial`.
    """
    left = [name for name in bases if results.missing(**key, basis=name)]
    if not left:
        return
    problem, more = pose()
    for name in left:
        found = trial(problem, bases[name](problem.kappa), **options)
        results.add(key | more | {"basis": name} | found)
    del problem
    gc.collect()


def trial(
    problem: Diffusion, basis: Any, *, iterations: bool = False, bounds: bool = False
) -> Record:
    """Build the space of a basis, solve, and tell what happened.

    Args:
        problem: With its fine solution.
        basis: A new basis: its reports are read.
        iterations: Solve the fine problem with the space as coarse level, too.
        bounds: Compute the guaranteed bounds of the energy error, too.

    Returns:
        Relative errors; ``basis_ms`` a neighbourhood and ``space_s`` in all, processor time of this
        one thread; ``neighbourhoods``, ``num_dofs``; what the basis reports; and, if asked for,
        ``iterations``, ``solved``, and the bounds. Only ``failed``, the reason, if there is no
        space.
    """
    clock, watch, fine = Clock(basis), Stopwatch(), problem.fine
    try:
        watch.start()
        with problem.space(clock) as W:
            watch.book("space_s")
            found: Record = watch.medians() | {
                "basis_ms": 1e3 * clock.seconds / clock.count,
                "neighbourhoods": clock.count,
                "num_dofs": W.num_dofs,
            }
            with problem.coarse_problem(W) as coarse:
                found |= relative_errors(coarse.solve(), fine, problem.kappa)
                found |= reports(basis, clock.count)
                if iterations:
                    found |= two_level(W, coarse)
                if bounds:
                    found |= error_bounds(problem, W, coarse)
    except (ValueError, RuntimeError) as error:
        return {"failed": str(error)}
    return found


def error_bounds(problem: Diffusion, W: Any, coarse: LinearProblem) -> Record:
    """Guaranteed bounds over the errors that they bound: fine by CG, exact by fluxes if known."""
    difference = fem.Function(W.V)
    difference.x.array[:] = coarse.u.x.array - problem.fine.x.array
    error, watch = float(norms(difference, problem.kappa)[1]), Stopwatch()
    constants = estimate.stability_constants(W, problem.grid, problem.a, problem.bcs)
    least = estimate.schwarz_lambda_min(W, problem.grid, constants)
    found: Record = {"lambda_min": least}
    if least > 0:
        with estimate.SchwarzPreconditioner(coarse) as pc:
            bound = estimate.bound_fine_error(coarse, pc, least, steps=10)
        found |= {"fine_bound": bound.upper / error, "fine_steps": bound.steps}
    watch.book("fine_bound_s")
    if problem.exact is not None:
        upper = estimate.bound_error(
            coarse.u, problem.kappa, float(problem.f.value), problem.grid, bcs=problem.bcs
        ).upper
        watch.book("exact_bound_s")
        found["exact_bound"] = upper / problem.exact(coarse.u)
    return found | watch.medians()


def two_level(W: Any, coarse: LinearProblem) -> Record:
    """CG for the fine problem from zero, with the space as coarse level of a V-cycle."""
    with msnn.TwoLevelPreconditioner(W, petsc_options_prefix="trial_two_level_") as M:
        solver = PetscSolver(coarse.A, {}, M, strict=False, max_it=MAX_ITERATIONS)
        seconds, iterations = solver.solve(coarse.b)
        found = {"iterations": iterations, "solved": solver.solved}
        solver.destroy()
    return found | {"setup_s": solver.setup, "solve_s": seconds}
