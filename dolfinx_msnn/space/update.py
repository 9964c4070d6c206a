# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""New coefficients on an old space: which neighbourhoods have changed, and their modes anew."""

from __future__ import annotations

import numbers

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.timings import Timings
from dolfinx_msnn._utils.typing import FloatArray, FunctionSpace, LongArray
from dolfinx_msnn.bases.protocol import BasisNeeds, LocalBasis
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.space.prolongation import (
    CoarseDofs,
    Columns,
    compute_columns,
    create_prolongation,
    number_dofs,
    refill_prolongation,
)


class Source:
    """What an updatable space was made from, and its basis functions.

    Args:
        V: Fine space.
        problems: Local problems of this rank, kept.
        basis: Where the modes come from.
        columns: The basis functions of this rank, by coarse vertex.
        mat_type: PETSc type of the P that was assembled from them.
    """

    def __init__(
        self,
        V: FunctionSpace,
        problems: LocalProblems,
        basis: LocalBasis,
        columns: dict[int, Columns],
        mat_type: str,
    ) -> None:
        self._V, self._problems, self._basis = V, problems, basis
        self._columns, self._mat_type = columns, mat_type
        # By coarse vertex: growth of energies on the cells since its modes were computed.
        self._growth: dict[int, FloatArray] = {}

    @property
    def timings(self) -> Timings:
        """Seconds of the stages of the last update."""
        return self._problems.timings

    def changes(self) -> dict[int, float]:
        """See :meth:`MultiscaleFunctionSpace.changes`. Collective."""
        self._problems.timings = Timings("Changes of a multiscale space")
        return self._changes()

    def _changes(self) -> dict[int, float]:
        # What does not ask for loads does not look at Dirichlet values, either.
        looks = BasisNeeds.of(self._basis).sources is not None
        before = self._problems.loads if looks else None
        grown = self._problems.reassemble()
        others = before is not None and _differ(before, self._problems.loads)
        others = self._V.mesh.comm.allreduce(others, op=MPI.LOR)
        for vertex, bounds in grown.items():
            self._growth[vertex] = bounds * self._growth.get(vertex, 1.0)
            if others:
                # Responses to other loads are no multiples of what they were.
                self._growth[vertex][:, 1] = np.inf
        return {vertex: change(bounds) for vertex, bounds in self._growth.items()}

    def update(
        self, P: PETSc.Mat, tolerance: float
    ) -> tuple[LongArray, PETSc.Mat | None, CoarseDofs | None]:
        """Compute what has changed anew, and refill P if it keeps its pattern.

        Args:
            P: Prolongation.
            tolerance: Change that is let pass.

        Returns:
            Coarse vertices of this rank with new modes; a new P, or ``None`` if it was refilled;
            the coarse dofs, or ``None`` if nothing changed on any rank.

        Note:
            Collective. If the basis fails, all is left as it was.
        """
        comm: MPI.Intracomm = self._V.mesh.comm
        with collective_errors(comm):
            number = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
            if not number or not tolerance >= 0:
                raise ValueError(f"tolerance must be a number not below zero, got {tolerance!r}.")
        self._problems.timings = timings = Timings("Multiscale space")
        with timings.stage("total"):
            return self._update(P, tolerance)

    def _update(
        self, P: PETSc.Mat, tolerance: float
    ) -> tuple[LongArray, PETSc.Mat | None, CoarseDofs | None]:
        comm: MPI.Intracomm = self._V.mesh.comm
        chosen = {vertex for vertex, size in self._changes().items() if size > tolerance}
        rebuilt = np.array(sorted(chosen), dtype=np.int64)
        if not comm.allreduce(len(chosen)):
            return rebuilt, None, None
        with collective_errors(comm):
            new = compute_columns(self._problems, self._basis, chosen)
        columns = self._columns | new
        dofs = number_dofs(comm, columns)
        fits = P.getType() == self._mat_type and all(
            len(part.mode) == len(self._columns[vertex].mode) for vertex, part in new.items()
        )
        result = None
        with self.timings.stage("prolongation"):
            if comm.allreduce(fits, op=MPI.LAND):
                refill_prolongation(self._V, P, columns)
            else:
                result = create_prolongation(self._V, columns, mat_type=P.getType(), keep=True)
                self._mat_type = result.getType()
        self._columns = columns
        for vertex in chosen:
            del self._growth[vertex]
        return rebuilt, result, dofs


def _differ(before: FloatArray, now: FloatArray) -> bool:
    """Whether a load is no multiple of what it was; shapes ``(num_dofs, block_size, num)``."""
    if before.size == 0:
        return False
    old, new = (part.reshape(-1, part.shape[2]) for part in (before, now))
    largest = np.abs(old).argmax(axis=0), np.arange(old.shape[1])
    scale, size = old[largest], np.abs(new).max(axis=0)
    gap = np.abs(new * scale - old * new[largest]).max(axis=0)
    return bool(((gap > 1e-12 * np.abs(scale) * size) | ((scale == 0) & (size > 0))).any())


def change(bounds: FloatArray) -> float:
    """How much a local pencil has changed, up to factors common to all of A_i or of S_i.

    If energies on the cells have grown by factors between r and R, √(R_A R_S / (r_A r_S)) − 1:
    every Rayleigh quotient φᵀA_iφ / φᵀS_iφ has changed by a factor between 1/(1 + change) and
    1 + change, but for one that is common to all φ, and so has every eigenvalue (Courant-Fischer).

    Args:
        bounds: From :func:`~dolfinx_msnn.local.growth.growth`, shape ``(num_forms, 2, num_cells)``;
            with one form S_i = D_i A_i D_i.
    """
    least, largest = np.nanmin(bounds[:, 0], axis=1), np.nanmax(bounds[:, 1], axis=1)
    if not (least > 0).all() or not np.isfinite(largest).all():
        return float("inf")
    spread = float((largest / least)[[0, -1]].prod())
    # What rounding makes of a factor common to all cells is no change.
    return float(np.sqrt(spread)) - 1.0 if spread > 1.0 + 1e-12 else 0.0
