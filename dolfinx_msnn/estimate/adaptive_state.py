# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What :func:`adapt` works on: a space that grows, its solution, and the local solvers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

import ufl
from dolfinx import fem
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, Form, LongArray
from dolfinx_msnn.algebra.local_solvers import SubdomainSolvers
from dolfinx_msnn.estimate.fine_bound import FineErrorBound, SchwarzPreconditioner, bound_fine_error
from dolfinx_msnn.estimate.indicators import residual
from dolfinx_msnn.estimate.stability import schwarz_lambda_min, stability_constants
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.problems.linear import LinearProblem
from dolfinx_msnn.space.enrichment import colour, enrich, mark, position_in_vertex
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

type Kind = Literal["online", "modes", "both"]

type _Online = tuple[int, LongArray, FloatArray]

#: If upper and lower bound are further apart than this, the constants are computed again.
LOOSE = 1.3


class AdaptiveState:
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
