# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Adaptive enrichment: basis functions where the error is, until it is as small as asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import numpy as np

import ufl
from dolfinx import fem
from dolfinx_msnn._mpi import check_same, collective_errors
from dolfinx_msnn._typing import DirichletBC, FloatArray, Form, Function, LongArray
from dolfinx_msnn.cg_bound import FineErrorBound, SchwarzPreconditioner, bound_fine_error
from dolfinx_msnn.coarse import CoarseGrid
from dolfinx_msnn.enrichment import colour, enrich, mark, position_in_vertex
from dolfinx_msnn.functionspace import MultiscaleFunctionSpace
from dolfinx_msnn.indicators import SubdomainSolvers, residual
from dolfinx_msnn.linear import LinearProblem
from dolfinx_msnn.stability import schwarz_lambda_min, stability_constants

type Kind = Literal["online", "modes", "both"]

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


@dataclass
class AdaptiveSolution:
    """What :func:`adapt` gives. Owns ``W``: call :meth:`destroy` or use it as a context manager.

    Attributes:
        u: The multiscale solution, in the fine space.
        W: The space it is in; its functions of ``mode`` −1 are residual-driven.
        rounds: One entry a solution that was estimated, the last one that of ``u``.
        converged: Whether ``rounds[-1].relative`` is within the tolerance.
    """

    u: Function
    W: MultiscaleFunctionSpace
    rounds: list[Round] = field(default_factory=list)
    converged: bool = False

    def destroy(self) -> None:
        """Free the space. Collective."""
        self.W.destroy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()


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
    state = _State(a, L, W, coarse, petsc_options_prefix, bcs, petsc_options, initial_modes)
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


class _State:
    """The space, problem and local solvers of an adaptive solution."""

    def __init__(
        self,
        a: ufl.Form,
        L: ufl.Form,
        pool: MultiscaleFunctionSpace,
        coarse: CoarseGrid,
        prefix: str,
        bcs: Sequence[DirichletBC],
        options: Mapping[str, object] | None,
        initial_modes: int,
    ) -> None:
        self._a, self._L, self._pool, self._coarse = a, L, pool, coarse
        self._prefix, self._bcs, self._options = prefix, bcs, options
        self._keep = position_in_vertex(pool.vertex) < initial_modes
        self._online: list[_Online] = []
        self._energy: Form | None = None
        self._colours: dict[int, int] | None = None
        self._changed: set[int] = set()
        self._handed_over = False
        self.W, self.problem = self._solve()
        self._solvers: SubdomainSolvers | None = None
        try:
            self._solvers = SubdomainSolvers(self.problem.A, self.W)
            self._constants = stability_constants(self.W, coarse, a, bcs)
        except BaseException:
            self.destroy()
            raise

    def _solve(self) -> tuple[MultiscaleFunctionSpace, LinearProblem]:
        """Space and solved problem with the basis functions chosen by now."""
        W = enrich(self._pool, self._online, keep=self._keep)
        try:
            problem = LinearProblem(
                self._a,
                self._L,
                W,
                bcs=self._bcs,
                petsc_options_prefix=self._prefix,
                petsc_options=self._options,
            )
        except BaseException:
            W.destroy()
            raise
        try:
            problem.solve()
        except BaseException:
            problem.destroy()
            W.destroy()
            raise
        return W, problem

    def _rebuild(self) -> None:
        self.problem.destroy()
        self.W.destroy()
        self.W, self.problem = self._solve()

    def bound(self, steps: int) -> FineErrorBound:
        """Bound the error of the present solution."""
        lambda_min = schwarz_lambda_min(self.W, self._coarse, self._constants)
        with SchwarzPreconditioner(self.problem, solvers=self._solvers) as pc:
            # Old constants hold for a larger space, only less sharply.
            found = self._bound(pc, lambda_min, steps)
            loose = found.upper > LOOSE * found.lower
            if self.W.comm.allreduce(len(self._changed)) > 0 and loose:
                self._constants |= stability_constants(
                    self.W, self._coarse, self._a, self._bcs, vertices=self._changed
                )
                self._changed.clear()
                lambda_min = schwarz_lambda_min(self.W, self._coarse, self._constants)
                found = self._bound(pc, lambda_min, steps)
        return found

    def _bound(self, pc: SchwarzPreconditioner, lambda_min: float, steps: int) -> FineErrorBound:
        if lambda_min > 0:
            return bound_fine_error(self.problem, pc, lambda_min, steps=steps)
        found = bound_fine_error(self.problem, pc, 1.0, steps=steps)
        return FineErrorBound(
            float("inf"), found.lower, found.steps, np.full(found.steps + 1, np.inf)
        )

    def energy_norm(self) -> float:
        """‖u_H‖_A, boundary values included."""
        u = self.problem.u
        if self._energy is None:
            self._value = fem.Function(self.W.V)
            arguments = dict.fromkeys(self._a.arguments(), self._value)
            self._energy = fem.form(ufl.replace(self._a, arguments))
        self._value.x.array[:] = u.x.array
        return float(np.sqrt(self.W.comm.allreduce(fem.assemble_scalar(self._energy))))

    def enrich(self, kind: Kind, modes: int, marking: float, colours: bool) -> set[int]:
        """Add basis functions where the residual is; returns the marked neighbourhoods."""
        comm = self.W.comm
        vertex, functions, energy = self._corrections()
        if kind != "online":
            # Where modes are left.
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
            self._rebuild()
        return marked

    def _corrections(self) -> tuple[LongArray, dict[int, _Online], FloatArray]:
        """This rank's neighbourhoods, corrections of length one by vertex, and energies η_i²."""
        solvers = self._solvers
        assert solvers is not None
        r = residual(self.problem)
        try:
            z, energy = solvers.solve(r)
        finally:
            r.destroy()
        functions = {}
        for vertex, dofs, matrix, values, e in zip(
            solvers.vertex, solvers.dofs, solvers.matrices, z, energy, strict=True
        ):
            if e > 0:
                # The norm that the other basis functions have length one in. Orthogonal to them
                # in energy it is by itself: the residual vanishes on them.
                length = np.sqrt(np.einsum("n,n,n->", values, matrix.diagonal(), values))
                functions[int(vertex)] = (int(vertex), dofs, values / length)
        return solvers.vertex, functions, energy

    def release(self) -> MultiscaleFunctionSpace:
        """Hand the space over."""
        self._handed_over = True
        return self.W

    def destroy(self) -> None:
        """Free what was not handed over. Collective."""
        if self._solvers is not None:
            self._solvers.destroy()
        self.problem.destroy()
        if not self._handed_over:
            self.W.destroy()
