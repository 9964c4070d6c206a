# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Adaptive enrichment: basis functions where the error is, until it is as small as asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np

import ufl
from dolfinx import fem
from dolfinx_msnn._utils.checks import (
    is_integer,
    number_between,
    positive_integer,
    require,
)
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import Owner
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, Form, Function, LongArray
from dolfinx_msnn.algebra.local_solvers import SubdomainSolvers
from dolfinx_msnn.estimate.fine_bound import FineErrorBound, SchwarzPreconditioner, bound_fine_error
from dolfinx_msnn.estimate.indicators import residual
from dolfinx_msnn.estimate.marking import colour, mark, position_in_vertex
from dolfinx_msnn.estimate.stability import schwarz_lambda_min, stability_constants
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.problems.linear import LinearProblem
from dolfinx_msnn.space.enrichment import enrich
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

type Kind = Literal["online", "modes", "both"]

#: Coarse vertex, global fine dofs and values of a new basis function.
type _Online = tuple[int, LongArray, FloatArray]

#: If upper and lower bound are further apart than this, the constants are computed again.
LOOSE = 1.3


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
    """The result of :func:`adapt`. Owns ``W``: destroy it or use it as a context manager.

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


@checked
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
    with collective_errors(W.comm) as checks:
        number_between("tol", tol)
        kinds = ("online", "modes", "both")
        require(kind in kinds, "kind", kind, "'online', 'modes' or 'both'")
        positive_integer("initial_modes", initial_modes)
        positive_integer("modes_per_round", modes_per_round)
        number_between("marking", marking, 0, 1, closed=True)
        require(is_integer(max_rounds), "max_rounds", max_rounds, "a non-negative integer")
        checks.agree(
            tol=tol,
            kind=kind,
            initial_modes=initial_modes,
            modes_per_round=modes_per_round,
            marking=marking,
            colours=colours,
            max_rounds=max_rounds,
        )
    create = partial(
        LinearProblem,
        a,
        L,
        u=fem.Function(W.V),
        bcs=bcs,
        petsc_options_prefix=petsc_options_prefix,
        petsc_options=petsc_options,
    )
    rounds: list[Round] = []
    with _Growing(create, a, bcs, W, coarse, initial_modes) as state:
        while True:
            bound, size = state.bound(steps), state.energy_norm()
            relative = bound.upper / (size - bound.upper) if bound.upper < size else float("inf")
            if bound.upper == 0.0:
                relative = 0.0
            done = relative <= tol or len(rounds) >= max_rounds
            num_dofs = state.W.num_dofs
            marked = set() if done else state.enrich(kind, modes_per_round, marking, colours)
            rounds.append(Round(num_dofs, bound.upper, bound.lower, relative, len(marked)))
            # No mode is left to be added.
            if done or not marked:
                return AdaptiveSolution(state.problem.u, state.release(), rounds, relative <= tol)


class _Growing(Owner):
    """A space that grows, the problem solved in it, and the local solvers.

    Args:
        create: Creates the problem in a space; all problems put their solution in one function.
        a: Its bilinear form.
        bcs: Its Dirichlet conditions.
        pool: Space with all modes that may be used.
        coarse: Coarse grid of the space.
        initial_modes: Modes of each neighbourhood to begin with.

    Attributes:
        W: The space with the basis functions chosen by now.
        problem: The solved problem.
    """

    _title: ClassVar[str] = "adaptive solution"

    def __init__(
        self,
        create: Callable[[MultiscaleFunctionSpace], LinearProblem],
        a: ufl.Form,
        bcs: Sequence[DirichletBC],
        pool: MultiscaleFunctionSpace,
        coarse: CoarseGrid,
        initial_modes: int,
    ) -> None:
        super().__init__(pool.comm)
        self._create, self._a, self._bcs = create, a, bcs
        self._pool, self._coarse = pool, coarse
        self._keep = position_in_vertex(pool.vertex) < initial_modes
        self._online: list[_Online] = []
        self._colours: dict[int, int] | None = None
        self._changed: set[int] = set()
        try:
            self.W, self.problem = self._solve()
            # Used for all later spaces: the fine matrix and the neighbourhoods do not change.
            self._solvers: SubdomainSolvers = self._own(SubdomainSolvers(self.problem.A, self.W))
            self._constants = stability_constants(self.W, coarse, a, bcs)
            arguments = dict.fromkeys(a.arguments(), self.problem.u)
            self._energy: Form = fem.form(ufl.replace(a, arguments))
        except BaseException:
            self.destroy()
            raise

    def _solve(self) -> tuple[MultiscaleFunctionSpace, LinearProblem]:
        W: MultiscaleFunctionSpace = self._own(enrich(self._pool, self._online, keep=self._keep))
        problem: LinearProblem = self._own(self._create(W))
        problem.solve()
        return W, problem

    def release(self) -> MultiscaleFunctionSpace:
        """Hand the space over to the caller, who destroys it."""
        W: MultiscaleFunctionSpace = self._disown(self.W)
        return W

    def energy_norm(self) -> float:
        """‖u_H‖_A, boundary values included. Collective."""
        return float(np.sqrt(self.W.comm.allreduce(fem.assemble_scalar(self._energy))))

    def bound(self, steps: int) -> FineErrorBound:
        """Bound the error of the present solution. Collective."""
        with SchwarzPreconditioner(self.problem, solvers=self._solvers) as pc:
            # The constants of a smaller space remain valid, but are less sharp.
            found = self._bound(pc, steps)
            loose = found.upper > LOOSE * found.lower
            if self.W.comm.allreduce(len(self._changed)) > 0 and loose:
                self._constants |= stability_constants(
                    self.W, self._coarse, self._a, self._bcs, vertices=self._changed
                )
                self._changed.clear()
                found = self._bound(pc, steps)
        return found

    def _bound(self, pc: SchwarzPreconditioner, steps: int) -> FineErrorBound:
        lambda_min = schwarz_lambda_min(self.W, self._coarse, self._constants)
        if lambda_min > 0:
            return bound_fine_error(self.problem, pc, lambda_min, steps=steps)
        found = bound_fine_error(self.problem, pc, 1.0, steps=steps)
        infinite = np.full(found.steps + 1, np.inf)
        return FineErrorBound(float("inf"), found.lower, found.steps, infinite)

    def enrich(self, kind: Kind, modes: int, marking: float, colours: bool) -> set[int]:
        """Add basis functions where the residual is; returns the marked neighbourhoods.

        The arguments are those of :func:`adapt`. Collective.
        """
        comm = self.W.comm
        vertex, functions, energy = self._corrections()
        if kind != "online":
            # Neighbourhoods of this rank and of all ranks with modes that were not used yet.
            left = {int(v) for v in self._pool.vertex[~self._keep]}
            everywhere = set().union(*comm.allgather(left))
            if kind == "modes":
                energy = energy * [int(v) in left for v in vertex]
        marked = mark(comm, vertex, energy, marking)
        # Modes come first, online functions where none are left.
        online = set(marked)
        if kind != "online":
            place = position_in_vertex(self._pool.vertex)
            for v in marked & left:
                mine = (self._pool.vertex == v) & ~self._keep
                self._keep |= mine & (place < place[mine].min() + modes)
            online -= everywhere
        self._changed |= marked & {int(v) for v in vertex}
        groups = [online]
        if colours and online:
            if self._colours is None:
                self._colours = colour(self.W, self.problem.A0)
            number = max(self._colours[v] for v in online) + 1
            groups = [{v for v in online if self._colours[v] == c} for c in range(number)]
        for k, group in enumerate(g for g in groups if g or not online):
            if k > 0:
                _, functions, _ = self._corrections()
            self._online += [functions[v] for v in sorted(group) if v in functions]
            self._free(self.problem, self.W)
            self.W, self.problem = self._solve()
        return marked

    def _corrections(self) -> tuple[LongArray, dict[int, _Online], FloatArray]:
        """Local corrections of the residual, for this rank's neighbourhoods. Collective.

        Returns:
            Coarse vertices, shape ``(num,)``; corrections of length one by vertex, where there is
            a residual; energies η_i², shape ``(num,)``.
        """
        solvers, r = self._solvers, residual(self.problem)
        try:
            z, energy = solvers.solve(r)
        finally:
            r.destroy()
        functions = {}
        for vertex, dofs, matrix, values, e in zip(
            solvers.vertex, solvers.dofs, solvers.matrices, z, energy, strict=True
        ):
            if e > 0:
                # Basis functions have length one in this norm. z_i is already orthogonal to them
                # in energy, as the residual vanishes on them.
                length = np.sqrt(np.einsum("n,n,n->", values, matrix.diagonal(), values))
                functions[int(vertex)] = (int(vertex), dofs, values / length)
        return solvers.vertex, functions, energy
