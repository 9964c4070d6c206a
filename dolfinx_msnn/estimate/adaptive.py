# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Adaptive enrichment: basis functions where the error is, until it is as small as asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ufl
from dolfinx_msnn._utils.mpi import check_same, collective_errors
from dolfinx_msnn._utils.petsc import Owner
from dolfinx_msnn._utils.typing import DirichletBC, Function
from dolfinx_msnn.estimate.adaptive_state import AdaptiveState, Kind
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


@dataclass(frozen=True)
class Round:
    """One round of :func:`adapt`.

    Attributes:
        num_dofs: Coarse dofs.
        upper: Guaranteed bound of ‖u_h − u_H‖_A.
        lower: Lower bound.
        relative: Guaranteed bound of ‖u_h − u_H‖_A / ‖u_h‖_A; infinite if ``upper`` is no less
            than the energy norm of u_H.
        num_marked: Neighbourhoods enriched after this round.
    """

    num_dofs: int
    upper: float
    lower: float
    relative: float
    num_marked: int


class AdaptiveSolution(Owner):
    """What :func:`adapt` gives. Owns ``W``: call :meth:`destroy` or use it as a context manager.

    Attributes:
        u: The multiscale solution, in the fine space.
        W: The space it is in; its functions of ``mode`` −1 are residual-driven.
        rounds: One entry a solution that was estimated, the last one that of ``u``.
        converged: Whether ``rounds[-1].relative`` is within the tolerance.
    """

    def __init__(
        self, u: Function, W: MultiscaleFunctionSpace, rounds: list[Round], converged: bool
    ) -> None:
        super().__init__(W.comm)
        self.u, self.rounds, self.converged = u, rounds, converged
        self.W: MultiscaleFunctionSpace = self._own(W)


def adapt(
    a: ufl.Form,
    L: ufl.Form,
    W: MultiscaleFunctionSpace,
    coarse: CoarseGrid,
    *,
    petsc_options_prefix: str,
    bcs: Sequence[DirichletBC] = (),
    tol: float = 1e-2,
    kind: Kind = "online",
    initial_modes: int = 3,
    modes_per_round: int = 1,
    marking: float = 0.95,
    colours: bool = True,
    max_rounds: int = 20,
    steps: int = 10,
    petsc_options: Mapping[str, object] | None = None,
) -> AdaptiveSolution:
    """Solve a − L on a multiscale space that grows where the error is, until it is small enough.

    Each round solves, bounds the error against the fine solution (:func:`bound_fine_error` with
    :class:`SchwarzPreconditioner`), and, if it is too large, enriches the neighbourhoods that hold
    most of the residual (:func:`local_indicators`, Dörfler marking): with further modes of ``W``
    (Chung, Efendiev, Li, J. Comput. Phys. 273, 2014), or with the local correction z_i of the
    residual (Chung, Efendiev, Leung, J. Comput. Phys. 302, 2015, "online" functions). The latter
    serve this right-hand side, the former any.

    Args:
        a: Bilinear form that ``W`` was made with.
        L: Linear form.
        W: Multiscale space with all the modes that may be used; left as it is.
        coarse: Coarse grid that it was made with.
        petsc_options_prefix: Prefix of the coarse solver's options.
        bcs: Dirichlet conditions.
        tol: Relative energy error asked for.
        kind: What is added: ``online`` functions, ``modes`` of W, or ``both``: modes as long as
            there are any, then online functions.
        initial_modes: Modes of W in each neighbourhood to begin with, at least one.
        modes_per_round: Modes added at a time.
        marking: Share of Σ η_i² that the enriched neighbourhoods hold, in (0, 1].
        colours: Add online functions to one set of uncoupled neighbourhoods after the other, and
            solve in between: fewer functions for the same error, some four (2D) or eight (3D)
            times the coarse solves.
        max_rounds: Largest number of rounds of enrichment.
        steps: Conjugate gradient steps of the bound.
        petsc_options: Options of the coarse solver.

    Returns:
        The solution, converged or not. The caller destroys it.

    Raises:
        ValueError: If an argument is out of range or does not fit ``W``.

    Note:
        Collective. The bound is guaranteed in the sense of :func:`bound_fine_error`; where a
        neighbourhood lacks its constant it is infinite, and enrichment goes on to ``max_rounds``.
    """
    if not isinstance(W, MultiscaleFunctionSpace):
        raise ValueError(f"Expected a MultiscaleFunctionSpace, got {type(W).__name__}.")
    check_same(
        W.comm,
        tol=tol,
        kind=kind,
        initial_modes=initial_modes,
        modes_per_round=modes_per_round,
        marking=marking,
        colours=colours,
        max_rounds=max_rounds,
        steps=steps,
    )
    with collective_errors(W.comm):
        _check(tol, kind, initial_modes, modes_per_round, marking, max_rounds)
    state = AdaptiveState(a, L, W, coarse, petsc_options_prefix, bcs, petsc_options, initial_modes)
    try:
        rounds: list[Round] = []
        while True:
            bound = state.bound(steps)
            size = state.energy_norm()
            relative = bound.upper / (size - bound.upper) if bound.upper < size else float("inf")
            if bound.upper == 0.0:
                relative = 0.0
            done = relative <= tol or len(rounds) >= max_rounds
            num_dofs = state.W.num_dofs
            marked = set() if done else state.enrich(kind, modes_per_round, marking, colours)
            rounds.append(Round(num_dofs, bound.upper, bound.lower, relative, len(marked)))
            # Nothing left to add: all modes are in.
            if done or not marked:
                return AdaptiveSolution(state.problem.u, state.release(), rounds, relative <= tol)
    finally:
        state.destroy()


def _check(
    tol: float, kind: str, initial_modes: int, modes_per_round: int, marking: float, rounds: int
) -> None:
    if not tol > 0:
        raise ValueError(f"tol={tol}; expected a positive number.")
    if kind not in ("online", "modes", "both"):
        raise ValueError(f"kind={kind!r}; expected 'online', 'modes' or 'both'.")
    for name, value in (("initial_modes", initial_modes), ("modes_per_round", modes_per_round)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r}; expected a positive integer.")
    if not 0 < marking <= 1:
        raise ValueError(f"marking={marking}; expected a number in (0, 1].")
    if not isinstance(rounds, int) or rounds < 0:
        raise ValueError(f"max_rounds={rounds!r}; expected a non-negative integer.")
