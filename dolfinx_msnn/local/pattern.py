# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Patterns of the matrices of neighbourhoods, shared by those of one shape."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from dolfinx_msnn._utils.typing import FloatArray, IntArray, LongArray
from dolfinx_msnn.local.element_matrices import GROUPS
from dolfinx_msnn.local.ghosts import GhostGroups


@dataclass(frozen=True)
class Pattern:
    """Where the entries of the matrices of groups go in that of a neighbourhood.

    Attributes:
        key: Equal for neighbourhoods with equal patterns.
        blocks: Row pointers by dof block, shape ``(num_dofs + 1,)``.
        cols: Columns of the blocks.
        indptr: Of the CSR matrix, shape ``(n_i + 1,)``.
        indices: Of the CSR matrix, shape ``(num_entries,)``.
        table: Block of the neighbourhood's matrix that each block of the groups is added to.
        block_size: Of the blocks.
    """

    key: bytes
    blocks: IntArray
    cols: IntArray
    indptr: IntArray
    indices: IntArray
    table: IntArray
    block_size: int

    @classmethod
    def create(
        cls, ghosts: GhostGroups, groups: LongArray, local: IntArray, n: int, bs: int
    ) -> Pattern:
        """The pattern of the sum of some groups.

        Args:
            ghosts: All groups.
            groups: Those of the neighbourhood.
            local: Number in the neighbourhood of each dof of each group, one group after the other.
            n: Dof blocks of the neighbourhood.
            bs: Block size.
        """
        dof_at = ghosts.dof_start[groups]
        rows = np.append(0, np.cumsum(ghosts.dof_start[groups + 1] - dof_at))
        starts, counts = ghosts.block_ranges(groups)
        entries = np.append(0, np.cumsum(counts))
        total = int(entries[-1])
        blocks = np.empty(n + 1, dtype=np.int32)
        if GROUPS.module is None:
            row, col = np.empty((2, total), dtype=np.int64)
            for k, (start, count) in enumerate(zip(starts, counts, strict=True)):
                here = slice(entries[k], entries[k + 1])
                mine = local[rows[k] : rows[k + 1]]
                col[here] = mine[ghosts.cols[start : start + count]]
                lengths = np.diff(ghosts.row_start[dof_at[k] : dof_at[k] + len(mine) + 1])
                row[here] = np.repeat(mine, lengths)
            found, place = np.unique(n * row + col, return_inverse=True)
            blocks[:] = np.searchsorted(found, n * np.arange(n + 1))
            cols, table = (found % n).astype(np.int32), place.astype(np.int32)
        else:
            cols, table = np.empty((2, total), dtype=np.int32)
            num = GROUPS.call(
                "join",
                len(groups),
                n,
                rows,
                dof_at,
                entries,
                local,
                ghosts.row_start,
                ghosts.cols,
                np.empty(2 * n + len(local), dtype=np.int64),
                blocks,
                cols,
                table,
            )
            cols = cols[:num].copy()
        indptr, indices = blocks, cols
        if bs > 1:
            ones = sp.bsr_matrix((np.ones((len(cols), bs, bs)), cols, blocks)).tocsr()
            indptr, indices = ones.indptr.astype(np.int32), ones.indices.astype(np.int32)
        key = hashlib.blake2b(indptr, digest_size=16)
        key.update(indices)
        key.update(bytes([bs]))
        return cls(key.digest(), blocks, cols, indptr, indices, table, bs)

    def sum(self, starts: LongArray, counts: LongArray, values: FloatArray) -> list[sp.csr_matrix]:
        """Sum up the matrices of groups, for some neighbourhoods of this shape.

        Args:
            starts: First block of each group, shape ``(num_neighbourhoods, num_groups)``.
            counts: Blocks of each group, shape ``(num_groups,)``.
            values: Entries of all groups.
        """
        bs, n, stack = self.block_size, len(self.blocks) - 1, len(starts)
        data = np.zeros((stack, len(self.indices)))
        if GROUPS.module is None:
            given = values.reshape(-1, bs, bs)
            for row, begin in zip(data, starts.tolist(), strict=True):
                parts = [given[a : a + b] for a, b in zip(begin, counts.tolist(), strict=True)]
                blocks = np.zeros((len(self.cols), bs, bs))
                np.add.at(blocks, self.table, np.concatenate(parts))
                row[:] = sp.bsr_matrix((blocks, self.cols, self.blocks)).tocsr().data
        else:
            size = (bs * bs, values, data.shape[1], data)
            GROUPS.call("gather", *starts.shape, starts, counts, self.table, *size)
            if bs > 1:
                unordered, data = data, np.empty_like(data)
                GROUPS.call("unblock", stack, n, bs, self.blocks, unordered, data)
        one = sp.csr_matrix((data[0], self.indices, self.indptr), shape=(bs * n,) * 2)
        matrices = [one, *(copy.copy(one) for _ in range(stack - 1))]
        for matrix, row in zip(matrices, data, strict=True):
            matrix.data = row
        return matrices
