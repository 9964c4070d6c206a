# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Ghost groups: what a rank's neighbourhoods need from other ranks, and the dofs on it.

A mesh has at most one layer of ghost cells, a neighbourhood reaches much further. Each rank extends
its own cell groups and dofs by the foreign ones that its neighbourhoods hold, each once.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.mesh import bounding_box
from dolfinx_msnn._utils.mpi import RemoteRows, collective_errors
from dolfinx_msnn._utils.typing import FloatArray, FunctionSpace, LongArray
from dolfinx_msnn.local.groups import CellGroups
from dolfinx_msnn.local.neighbourhoods import Neighbourhoods


class GhostGroups:
    """Own cell groups and dof blocks of a rank, followed by the foreign ones that it needs.

    Dof blocks are numbered by their position in space (x fastest), cells are ordered by their dofs,
    so that neighbourhoods of one shape are alike on any number of ranks.

    Args:
        V: Fine space.
        x: Coordinates of its dof blocks on this rank, shape ``(num_local_dofs, 3)``.
        neighbourhoods: Those of this rank.

    Attributes:
        own: Groups of the cells that this rank owns.
        groups: For each entry of ``neighbourhoods.group``, the number of that group here.
        num_blocks: Blocks of the matrices of all groups, own ones first.
        dofs: Global numbers of all dof blocks, by position, shape ``(num_dofs,)``, int64.
        dof_start: Where each group's dofs start, shape ``(num_groups + 1,)``.
        group_dofs: Dofs of all groups, as indices into ``dofs``, ascending in each own group.
        counts: Cells of the group that each belongs to.
        row_start: Where each row of a group's matrix starts.
        cols: Columns of the blocks: numbers of dofs in the group.
        cell_start: Where each group's cells start.
        shapes: Equal for groups of one shape, shape ``(num_groups,)``.

    Note:
        Creation is collective.
    """

    def __init__(self, V: FunctionSpace, x: FloatArray, neighbourhoods: Neighbourhoods) -> None:
        comm, index_map = V.mesh.comm, V.dofmap.index_map
        self._box = bounding_box(V.mesh)
        x = x[:, : V.mesh.geometry.dim]
        with collective_errors(comm):
            first, last = index_map.local_range
            local = np.concatenate([np.arange(first, last, dtype=np.int64), index_map.ghosts])
            self._num_local_dofs = len(local)
            by_position = self.by_position(x)
            number = np.empty(len(local), dtype=np.int32)
            number[by_position] = np.arange(len(local), dtype=np.int32)
            num_cells = len(neighbourhoods.group_of)
            cell_dofs = number[V.dofmap.list[:num_cells]]
            order = np.lexsort(cell_dofs[:, 2::-1].T).astype(np.int32)
            bs = V.dofmap.index_map_bs
            self.own = own = CellGroups.create(
                neighbourhoods.group_of, order, cell_dofs, len(local), bs
            )
            shapes = _shapes(own)
            foreign = neighbourhoods.rank != comm.rank
            remote = np.stack([neighbourhoods.rank[foreign], neighbourhoods.group[foreign]], axis=1)
            remote, where = np.unique(remote, axis=0, return_inverse=True)
            self.groups = neighbourhoods.group.copy()
            self.groups[foreign] = len(own) + where.reshape(-1)

        # Where each group begins on its rank: its cells, dofs and blocks, and how many they are.
        rows, owner = own.dof_start, remote[:, 0].astype(np.int32)
        starts = np.stack([own.cell_start, rows, own.row_start[rows]], axis=1)
        table = np.column_stack([starts[:-1], np.diff(starts, axis=0), shapes])
        theirs = np.empty((len(remote), table.shape[1]), dtype=np.int64)
        RemoteRows(comm, owner, remote[:, 1]).fetch(table, theirs)

        def parts(k: int) -> RemoteRows:
            counts = theirs[:, 3 + k]
            return RemoteRows(comm, np.repeat(owner, counts), ranges(theirs[:, k], counts))

        self._cells, dofs_of, self._blocks = parts(0), parts(1), parts(2)
        self._num_cells, num_rows, num_blocks = theirs[:, 3:6].sum(axis=0).tolist()
        self.num_blocks = len(own.cols) + num_blocks
        self.cell_start, self.dof_start = (
            np.concatenate([known, known[-1] + np.cumsum(theirs[:, k])])
            for known, k in ((own.cell_start, 3), (own.dof_start, 4))
        )
        self.shapes = np.concatenate([shapes, theirs[:, 6]])

        rows = np.column_stack([local[by_position][own.dofs], own.counts, np.diff(own.row_start)])
        new = np.empty((num_rows, 3), dtype=np.int64)
        dofs_of.fetch(rows, new)
        self.cols = np.empty(self.num_blocks, dtype=np.int32)
        self.cols[: len(own.cols)] = own.cols
        self._blocks.fetch(own.cols, self.cols[len(own.cols) :])
        self.counts = np.concatenate([own.counts, new[:, 1].astype(np.int32)])
        self.row_start = np.concatenate([own.row_start, own.row_start[-1] + np.cumsum(new[:, 2])])

        with collective_errors(comm):
            extra = np.setdiff1d(new[:, 0], local)
            self.dofs = np.concatenate([local, extra])
            ordered = np.argsort(self.dofs)
            place = ordered[np.searchsorted(self.dofs[ordered], new[:, 0])]
        starts = np.array(comm.allgather(first))
        owner = (np.searchsorted(starts, extra, side="right") - 1).astype(np.int32)
        self._remote_dofs = RemoteRows(comm, owner, extra - starts[owner])
        self._by_position = np.arange(len(self.dofs))
        self.x = self.extend_dofs(np.ascontiguousarray(x))
        with collective_errors(comm):
            self._by_position = self.by_position(self.x)
            self.x, self.dofs = self.x[self._by_position], self.dofs[self._by_position]
            number = np.empty(len(self.dofs), dtype=np.int32)
            number[self._by_position] = np.arange(len(self.dofs), dtype=np.int32)
            self.group_dofs = number[np.concatenate([by_position[own.dofs], place])]

    def by_position(self, x: FloatArray) -> LongArray:
        """The order of points by position, x fastest; shape ``(num,)``. Not collective."""
        low, high = self._box
        # Integer coordinates, blind to rounding errors: times a power of two, no fraction of
        # the box such as 1/2 or 1/3 lies halfway between two integers.
        bits = 63 // len(low)
        grid = np.rint((x - low) / (high - low) * 2 ** (bits - 1)).astype(np.int64)
        return np.argsort((grid << (bits * np.arange(len(low)))).sum(axis=1), kind="stable")

    @property
    def num_own_blocks(self) -> int:
        """Blocks of the matrices of own groups."""
        return len(self.own.cols)

    def block_ranges(self, groups: LongArray) -> tuple[LongArray, LongArray]:
        """First block of the matrix of each of some groups, and how many there are."""
        starts = self.row_start[self.dof_start[groups]]
        return starts, self.row_start[self.dof_start[groups + 1]] - starts

    def extend_blocks(self, data: npt.NDArray[np.generic]) -> None:
        """Fill the foreign entries of data by blocks, shape ``(num_blocks, ...)``. Collective."""
        self._blocks.fetch(data, data[self.num_own_blocks :])

    def extend_cells(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Append the foreign rows to data of own cells in the order of ``own.cells``.

        Collective. Returns shape ``(cell_start[-1], ...)``.
        """
        num = len(self.own.cells)
        out = np.empty((num + self._num_cells, *data.shape[1:]), dtype=data.dtype)
        out[:num] = data
        self._cells.fetch(data, out[num:])
        return out

    def extend_dofs(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Append the foreign rows to dof data of ``V``, shape ``(num_local_dofs, ...)``.

        Collective. Returns shape ``(num_dofs, ...)``, in the order of ``dofs``.
        """
        out = np.empty((len(self.dofs), *data.shape[1:]), dtype=data.dtype)
        out[: self._num_local_dofs] = data
        self._remote_dofs.fetch(data, out[self._num_local_dofs :])
        return out[self._by_position]


def _shapes(groups: CellGroups) -> LongArray:
    """A number for each group, equal for groups with equal cells up to the numbers of dofs."""
    lookup = np.empty(int(groups.dofs.max(initial=-1)) + 1, dtype=np.int32)
    found = np.empty(len(groups), dtype=np.int64)
    for g in range(len(groups)):
        dofs = groups.dofs_of(g)
        lookup[dofs] = np.arange(len(dofs), dtype=np.int32)
        cells = groups.cells[groups.cell_start[g] : groups.cell_start[g + 1]]
        digest = hashlib.blake2b(lookup[groups.cell_dofs[cells]].tobytes(), digest_size=8)
        found[g] = int.from_bytes(digest.digest(), "little", signed=True)
    return found


def ranges(starts: LongArray, counts: LongArray) -> LongArray:
    """The numbers from each start on, as many as its count, one range after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
