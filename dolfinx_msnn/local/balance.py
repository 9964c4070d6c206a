# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Load balance: which rank computes which neighbourhood."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np

from dolfinx_msnn._utils.typing import IntArray, LongArray


def balance(comm: MPI.Comm, vertex: LongArray, cells: LongArray, dim: int) -> IntArray:
    """Choose an owner for each neighbourhood. Collective; the same answer on every rank.

    Args:
        comm: Communicator.
        vertex: Coarse vertex of each pair of a neighbourhood and one of this rank's groups in it.
        cells: Cells of that group.
        dim: Dimension of the mesh.

    Returns:
        The owner of each neighbourhood by coarse vertex, -1 where there is none.
    """
    ids, inverse = np.unique(vertex, return_inverse=True)
    counts = np.bincount(inverse, weights=cells, minlength=len(ids))
    sizes = np.array(comm.allgather(len(ids)))
    total = int(sizes.sum())
    all_ids = np.empty(total, np.int64)
    all_counts = np.empty(total, np.int64)
    comm.Allgatherv(ids, [all_ids, sizes])
    comm.Allgatherv(counts.astype(np.int64), [all_counts, sizes])
    ranks = np.repeat(np.arange(comm.size, dtype=np.int32), sizes)

    present, where = np.unique(all_ids, return_inverse=True)
    size = int(present[-1]) + 1 if len(present) else 0
    table = np.full(size, -1, np.int32)
    table[present] = assign(where, ranks, all_counts, comm.size, dim)
    return table


def assign(where: LongArray, ranks: IntArray, counts: LongArray, size: int, dim: int) -> IntArray:
    """Assign neighbourhoods to ranks.

    Each goes to the rank that owns most of its cells; then border ones move from the busiest rank
    to less busy ones that hold some of their cells, as long as that shortens the busiest rank's
    time. The cost of an eigenproblem on n cells is taken as n^1.2 in 2D and n^1.5 in 3D. A move
    looks at the border of the busiest rank only, so the time is nearly linear in ``len(where)``.

    Args:
        where: Neighbourhood of each pair of a neighbourhood and a rank, numbered from 0.
        ranks: Rank of each pair.
        counts: Cells of the neighbourhood on that rank.
        size: Number of ranks.
        dim: Dimension of the mesh.

    Returns:
        A rank for each neighbourhood.
    """
    cells = np.bincount(where, weights=counts)
    cost = cells ** (1.2 if dim == 2 else 1.5)
    # Candidates of each neighbourhood, the rank with most of its cells first (ties: lower rank).
    order = np.lexsort((ranks, -counts, where))
    where, candidates, share = where[order], ranks[order], counts[order] / cells[where[order]]
    start = np.searchsorted(where, np.arange(len(cells) + 1))
    owner = candidates[start[:-1]].copy()
    load = np.bincount(owner, weights=cost, minlength=size)
    # The pairs of each rank's own border neighbourhoods, ascending.
    border = np.flatnonzero(np.diff(start)[where] > 1)
    border = border[np.argsort(owner[where[border]], kind="stable")]
    pairs = np.split(border, np.searchsorted(owner[where[border]], np.arange(1, size)))
    for _ in range(4 * len(cells)):
        busiest = int(np.argmax(load))
        here = pairs[busiest]
        gain = np.minimum(
            load[busiest] - load[candidates[here]] - cost[where[here]], cost[where[here]]
        )
        gain[candidates[here] == busiest] = 0.0
        # Prefer moves that need few foreign cells.
        score = gain * (0.1 + share[here])
        if score.max(initial=0.0) <= 0:
            break
        best = here[np.argmax(score)]
        i, to = where[best], candidates[best]
        pairs[busiest] = here[where[here] != i]
        pairs[to] = np.sort(np.concatenate([pairs[to], np.arange(start[i], start[i + 1])]))
        owner[i] = to
        load[busiest] -= cost[i]
        load[to] += cost[i]
    return owner
