# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Cell groups: cells that the same neighbourhoods hold, and sums of element matrices over them.

The matrix of a neighbourhood is the sum of those of its groups. So element matrices are summed once
and need not be kept, and what moves between ranks are a few matrices of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.typing import FloatArray, IntArray, LongArray
from dolfinx_msnn.local.element_matrices import GROUPS, ElementMatrices, Values

#: Element matrices are computed in pieces of so many bytes, which stay in cache.
PIECE = 2**19


@dataclass(frozen=True)
class CellGroups:
    """Groups of the cells that this rank owns, and the patterns of their matrices.

    Matrices have blocks of the block size of ``V``, stored one after the other.

    Attributes:
        cell_start: Where each group's cells start, shape ``(num_groups + 1,)``.
        cells: Local numbers of the cells, ordered by group, shape ``(num_cells,)``.
        cell_dofs: Dofs of each cell, by local number, shape ``(num_cells, n_b)``.
        dof_start: Where each group's dofs start, shape ``(num_groups + 1,)``.
        dofs: Dofs of each group, ascending, shape ``(num_rows,)``.
        counts: Cells of the group that a dof belongs to, shape ``(num_rows,)``.
        row_start: Where each row of a group's matrix starts, shape ``(num_rows + 1,)``.
        cols: Columns of the blocks: numbers of dofs in the group, shape ``(num_blocks,)``.
        block_size: Of ``V``.
    """

    cell_start: LongArray
    cells: IntArray
    cell_dofs: IntArray
    dof_start: LongArray
    dofs: IntArray
    counts: IntArray
    row_start: LongArray
    cols: IntArray
    block_size: int

    @classmethod
    def create(
        cls, group: LongArray, order: IntArray, cell_dofs: IntArray, num_dofs: int, block_size: int
    ) -> CellGroups:
        """Group cells.

        Args:
            group: Group of each cell, numbered from 0, -1 for none; shape ``(num_cells,)``.
            order: The cells in the order that they shall have in a group.
            cell_dofs: Dofs of each cell, shape ``(num_cells, n_b)``.
            num_dofs: Dofs are below this.
            block_size: Of the space.
        """
        cells = order[np.argsort(group[order], kind="stable")]
        cells = cells[np.count_nonzero(group < 0) :].astype(np.int32)
        num = int(group.max(initial=-1)) + 1
        start = np.searchsorted(group[cells], np.arange(num + 1)).astype(np.int64)
        parts = (start, cells, np.ascontiguousarray(cell_dofs, dtype=np.int32))
        if GROUPS.module is None:
            slowly = _patterns(*parts)
            return cls(start, cells, parts[2], *slowly, block_size)
        lookup = np.full(num_dofs, -1, dtype=np.int32)
        dof_start = np.empty(num + 1, dtype=np.int64)
        dofs, counts = np.empty((2, len(cells) * cell_dofs.shape[1]), dtype=np.int32)
        given = (num, cell_dofs.shape[1], *parts)
        total = GROUPS.call("group_dofs", *given, lookup, dof_start, dofs, counts)
        dofs, counts = dofs[:total].copy(), counts[:total].copy()
        largest = cell_dofs.shape[1] * int(np.diff(start).max(initial=0))
        incident = np.empty(largest, dtype=np.int32)
        mark = np.empty(2 * int(np.diff(dof_start).max(initial=0)), dtype=np.int32)
        row_start = np.zeros(total + 1, dtype=np.int64)
        rows = (dof_start, dofs, counts, lookup, incident, mark, row_start)
        GROUPS.call("group_rows", *given, *rows, None)
        cols = np.empty(row_start[-1], dtype=np.int32)
        GROUPS.call("group_rows", *given, *rows, cols)
        return cls(start, cells, parts[2], dof_start, dofs, counts, row_start, cols, block_size)

    def __len__(self) -> int:
        return len(self.cell_start) - 1

    def dofs_of(self, group: int) -> IntArray:
        """Dofs of a group, ascending."""
        return self.dofs[self.dof_start[group] : self.dof_start[group + 1]]

    def block_range(self, group: int, past: int | None = None) -> tuple[int, int]:
        """Blocks of a group, or of several up to ``past``: first, and one past the last."""
        past = group + 1 if past is None else past
        first, last = self.row_start[self.dof_start[[group, past]]]
        return int(first), int(last)

    def pieces(
        self, size: int, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Ranges of the order of cells with element matrices of about :data:`PIECE` bytes.

        Args:
            size: Entries of an element matrix.
            first: Place of the first cell.
            last: One past the last one; default all.
        """
        step, last = max(1, PIECE // (8 * size)), len(self.cells) if last is None else last
        for start in range(first, last, step):
            yield start, min(start + step, last)

    def add(
        self, first: int, last: int, elements: FloatArray, values: FloatArray, base: int = 0
    ) -> None:
        """Add element matrices to those of the groups.

        Args:
            first: Place of the first cell in ``cells``.
            last: One past the last one.
            elements: Shape ``(last - first, n_e, n_e)``.
            values: Entries of the groups' matrices, shape ``(num_blocks * block_size**2,)``.
            base: Block that ``values`` begins with.
        """
        group = int(np.searchsorted(self.cell_start, first, side="right")) - 1
        if GROUPS.module is None:
            self._add_slowly(first, last, elements, values, base)
            return
        GROUPS.call(
            "add_elements",
            first,
            last,
            group,
            self.cell_dofs.shape[1],
            self.block_size,
            self.cell_start,
            self.cells,
            self.cell_dofs,
            self.dof_start,
            self.dofs,
            self._lookup,
            np.empty(2 * self.cell_dofs.shape[1], dtype=np.int32),
            self.row_start,
            self.cols,
            base,
            elements,
            values,
        )

    @cached_property
    def _lookup(self) -> IntArray:
        """Room for the kernel, -1 for each dof."""
        return np.full(int(self.dofs.max(initial=-1)) + 1, -1, dtype=np.int32)

    def _add_slowly(
        self, first: int, last: int, elements: FloatArray, values: FloatArray, base: int
    ) -> None:
        bs, width = self.block_size, self.cell_dofs.shape[1]
        blocks = elements.reshape(-1, width, bs, width, bs).transpose(0, 1, 3, 2, 4)
        group = np.searchsorted(self.cell_start, np.arange(first, last), side="right") - 1
        for g in np.unique(group).tolist():
            local = np.searchsorted(
                self.dofs_of(g), self.cell_dofs[self.cells[first:last]][group == g]
            )
            rows = self.dof_start[g] + np.repeat(local, width, axis=1).reshape(-1)
            cols = np.tile(local, (1, width)).reshape(-1)
            begin, end = self.block_range(g)
            rows_of = np.repeat(
                np.arange(self.dof_start[g], self.dof_start[g + 1]),
                np.diff(self.row_start[self.dof_start[g] : self.dof_start[g + 1] + 1]),
            )
            n = len(self.dofs_of(g))
            slot = np.searchsorted(rows_of * n + self.cols[begin:end], rows * n + cols)
            into = values.reshape(-1, bs, bs)[begin - base : end - base]
            np.add.at(into, slot, blocks[group == g].reshape(-1, bs, bs))


def _patterns(
    cell_start: LongArray, cells: IntArray, cell_dofs: IntArray
) -> tuple[LongArray, IntArray, IntArray, LongArray, IntArray]:
    """Dofs and rows of groups, as attributes of :class:`CellGroups`, without the compiled loops."""
    none: npt.NDArray[Any] = np.zeros(0, np.int64)
    dofs, counts, lengths, cols = [none], [none], [none], [none]
    for first, last in pairwise(cell_start.tolist()):
        mine, local, count = np.unique(
            cell_dofs[cells[first:last]], return_inverse=True, return_counts=True
        )
        local = local.reshape(last - first, -1).astype(np.int64)
        pairs = np.unique(len(mine) * local[:, :, None] + local[:, None, :])
        row, col = np.divmod(pairs, len(mine))
        dofs.append(mine)
        counts.append(count)
        lengths.append(np.bincount(row, minlength=len(mine)))
        cols.append(col)
    return (
        np.cumsum([len(part) for part in dofs]),
        np.concatenate(dofs).astype(np.int32),
        np.concatenate(counts).astype(np.int32),
        np.cumsum(np.concatenate([[0], *lengths])).astype(np.int64),
        np.concatenate(cols).astype(np.int32),
    )


def sum_over_groups(
    groups: CellGroups,
    matrices: Sequence[ElementMatrices],
    values: Sequence[Values],
    look: Callable[[int, int, Sequence[FloatArray]], None],
    out: FloatArray,
) -> None:
    """Sum up the matrices of the groups, for one or two forms.

    Args:
        groups: The groups.
        matrices: The forms.
        values: Of their coefficients.
        look: Called with a range of ``groups.cells`` and the element matrices of all forms there.
        out: Filled with the entries, shape ``(num_forms, num_blocks * block_size**2)`` or longer.

    Note:
        Not collective.
    """
    out[:] = 0.0
    for first, last in groups.pieces(matrices[0].width ** 2):
        cells = groups.cells[first:last]
        elements = [m.tabulate(v, cells) for m, v in zip(matrices, values, strict=True)]
        look(first, last, elements)
        for part, into in zip(elements, out, strict=True):
            groups.add(first, last, part, into)
