# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Dofs found by their position, since their numbers depend on how the mesh was distributed."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np

from dolfinx_msnn._utils.mesh import bounding_box
from dolfinx_msnn._utils.mpi import collective_errors, route
from dolfinx_msnn._utils.typing import FloatArray, FunctionSpace, IntArray, LongArray


def match_points(V: FunctionSpace, points: FloatArray) -> tuple[LongArray, int]:
    """Find the dof blocks of ``V`` at given positions.

    Rounded positions are sent to a rank that their hash names, where given and present ones meet.
    Rounding errors can push a position over the edge of its bin; the few that stay unmatched meet
    again on a grid moved by half a bin.

    Args:
        V: Fine space.
        points: This rank's share of the positions, shape ``(num, 3)``; as many as there are dof
            blocks, on all ranks together.

    Returns:
        Global number of the block at each position (-1 where there is none), shape ``(num,)``; and
        how many blocks are at none of the positions, on all ranks together.

    Note:
        Collective.
    """
    comm, index_map = V.mesh.comm, V.dofmap.index_map
    low, high = bounding_box(V.mesh)
    with collective_errors(comm):
        own = V.tabulate_dof_coordinates()[: index_map.size_local]
        numbers = index_map.local_range[0] + np.arange(len(own), dtype=np.int64)
        found = np.full(len(points), -1, dtype=np.int64)
        taken = np.zeros(len(own), dtype=bool)
    for shift in (0.0, 0.5):
        with collective_errors(comm):
            open_points, open_own = np.flatnonzero(found < 0), np.flatnonzero(~taken)
            keys = [_bins(x, low, high, shift) for x in (points[open_points], own[open_own])]
            dest = [_hash(k, comm.size) for k in keys]
        asker, (wanted, asked) = route(comm, dest[0], keys[0], open_points)
        holder, (held, number, place) = route(comm, dest[1], keys[1], numbers[open_own], open_own)
        with collective_errors(comm):
            both, inverse = np.unique(np.concatenate([wanted, held]), axis=0, return_inverse=True)
            inverse = inverse.reshape(-1)
            partner = np.full(len(both), -1, dtype=np.int64)
            partner[inverse[len(wanted) :]] = np.arange(len(held))
            hit = partner[inverse[: len(wanted)]]
            ok = hit >= 0
        _, (back, answer) = route(comm, asker[ok], asked[ok], number[hit[ok]])
        found[back] = answer
        _, (used,) = route(comm, holder[hit[ok]], place[hit[ok]])
        taken[used] = True
    return found, comm.allreduce(np.count_nonzero(~taken))


def has_twins(V: FunctionSpace) -> bool:
    """Whether two dof blocks are so close that :func:`match_points` may mix them up. Collective."""
    comm, (low, high) = V.mesh.comm, bounding_box(V.mesh)
    own = V.tabulate_dof_coordinates()[: V.dofmap.index_map.size_local]
    twins = False
    for shift in (0.0, 0.5):
        keys = _bins(own, low, high, shift)
        _, (held,) = route(comm, _hash(keys, comm.size), keys)
        twins |= len(np.unique(held, axis=0)) < len(held)
    return bool(comm.allreduce(twins, op=MPI.LOR))


def _bins(x: FloatArray, low: FloatArray, high: FloatArray, shift: float) -> LongArray:
    """Numbers of the bins that positions lie in, shape ``(num, gdim)``."""
    # An odd scale, so that positions on regular grids stay away from the edges of bins.
    scale = 0.7391e8 / (high - low).max()
    return np.floor((x[:, : len(low)] - low) * scale + shift).astype(np.int64)


def _hash(keys: LongArray, num: int) -> IntArray:
    """A rank for each bin, shape ``(num_keys,)``."""
    primes = np.array([73856093, 19349663, 83492791])[: keys.shape[1]]
    return np.asarray((keys @ primes) % num, dtype=np.int32)
