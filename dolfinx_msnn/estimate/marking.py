# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Which neighbourhoods get new basis functions, and which of them at the same time."""

from __future__ import annotations

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._utils.typing import FloatArray, IntArray, LongArray
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


def colour(W: MultiscaleFunctionSpace, A0: PETSc.Mat) -> dict[int, int]:
    """Colour neighbourhoods so that no two of a colour are coupled.

    Args:
        W: Multiscale space.
        A0: Its coarse matrix: its pattern tells which neighbourhoods overlap or touch.

    Returns:
        A colour 0, 1, ... for each coarse vertex of all ranks; the same on every rank, and for any
        number of ranks.

    Note:
        Collective. Every rank holds the graph of the coarse vertices.
    """
    comm = W.comm
    vertices = np.concatenate(comm.allgather(W.vertex))
    indptr, indices, _ = A0.getValuesCSR()
    rows = np.repeat(W.vertex, np.diff(indptr))
    pairs = np.unique(np.column_stack([rows, vertices[indices]]), axis=0).reshape(-1, 2)
    neighbours: dict[int, set[int]] = {int(v): set() for v in vertices}
    for part in comm.allgather(pairs):
        for i, j in part.tolist():
            neighbours[i].add(j)
            neighbours[j].add(i)
    colours: dict[int, int] = {}
    for i in sorted(neighbours):
        taken = {colours[j] for j in neighbours[i] if j in colours}
        colours[i] = next(c for c in range(len(taken) + 1) if c not in taken)
    return colours


def mark(comm: MPI.Intracomm, vertex: LongArray, energy: FloatArray, fraction: float) -> set[int]:
    """The fewest neighbourhoods that hold a fraction of Σ η_i² (Dörfler, 1996).

    Args:
        comm: Communicator. Collective.
        vertex: Coarse vertices of this rank, shape ``(num,)``.
        energy: Their η_i², shape ``(num,)``.
        fraction: Between 0 and 1.

    Returns:
        Their coarse vertices, of all ranks; the same on every rank.
    """
    vertices = np.concatenate(comm.allgather(vertex))
    energies = np.concatenate(comm.allgather(energy))
    # Ties, such as symmetric problems have, are decided by number and not by rounding errors.
    order = np.lexsort((vertices, -np.round(energies / max(energies.max(initial=0.0), 1e-300), 9)))
    running = np.cumsum(energies[order])
    if len(running) == 0 or running[-1] == 0.0:
        return set()
    count = int(np.searchsorted(running, fraction * running[-1] * (1 - 1e-12))) + 1
    return {int(v) for v in vertices[order[:count]]}


def position_in_vertex(vertex: LongArray) -> IntArray:
    """Each dof's number among those of its neighbourhood, in order; shape ``(num,)``."""
    order = np.argsort(vertex, kind="stable")
    _, start, count = np.unique(vertex[order], return_index=True, return_counts=True)
    place = np.empty(len(vertex), dtype=np.int32)
    place[order] = np.arange(len(vertex)) - np.repeat(start, count)
    return place
