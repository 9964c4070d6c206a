# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Neighbourhoods: the cells on which hat functions are not zero, and who computes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from dolfinx_msnn._utils.mpi import route
from dolfinx_msnn._utils.typing import FunctionSpace, IntArray, LongArray
from dolfinx_msnn.local.balance import balance
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.hats import Hats


class Neighbourhoods(NamedTuple):
    """The neighbourhoods that this rank computes.

    Attributes:
        vertices: Their coarse vertices, ascending, shape ``(num,)``.
        offsets: Where each one's groups of cells start, shape ``(num + 1,)``.
        rank: Rank that owns each group.
        group: Number of the group on that rank.
        group_of: Group of each cell that this rank owns, -1 for cells in no neighbourhood, shape
            ``(num_cells,)``: cells that the same neighbourhoods hold.
    """

    vertices: LongArray
    offsets: LongArray
    rank: IntArray
    group: LongArray
    group_of: LongArray


def find_neighbourhoods(
    V: FunctionSpace, coarse: CoarseGrid, hats: Hats, layers: int = 0
) -> Neighbourhoods:
    """Distribute the neighbourhoods over the ranks and tell each owner its groups of cells.

    A cell belongs to ω_i if χ_i is positive at one of its degrees of freedom (plus
    ``layers`` layers of cells that share a degree of freedom). A rank needs O(1)
    numbers for each *coarse* vertex to balance the load, and nothing of the size of the mesh.

    Args:
        V: Fine space.
        coarse: Coarse grid.
        hats: χ at the (owned and ghost) dof blocks of ``V`` on this rank.
        layers: Layers of cells around each one that belong to it, too.

    Note:
        Collective.
    """
    comm = V.mesh.comm
    member = cell_membership(V, coarse, hats)
    # By the neighbourhoods without layers: the same ranks have them whatever the layers.
    group_of, first = same_rows(member)
    group, vertex = _pairs(member, first)
    sizes = np.bincount(group_of[group_of >= 0], minlength=len(first))
    owner = balance(comm, vertex, sizes[group], V.mesh.topology.dim)
    for _ in range(layers):
        touches = _touches(V)
        member = touches @ _share_rows(V, (touches.T @ member).tocsr())
    if layers:
        group_of, first = same_rows(member)
        group, vertex = _pairs(member, first)
    source, (vertex, group) = route(comm, owner[vertex], vertex, group)
    order = np.argsort(vertex, kind="stable")
    vertices, start = np.unique(vertex[order], return_index=True)
    offsets = np.append(start, len(order))
    return Neighbourhoods(vertices, offsets, source[order], group[order], group_of)


def _pairs(member: sp.csr_matrix, rows: LongArray) -> tuple[LongArray, LongArray]:
    """Places in ``rows`` and columns of the entries that a matrix has in these rows."""
    held = member[rows].tocoo()
    return held.row.astype(np.int64), held.col.astype(np.int64)


def as_ones(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Ones where a matrix has entries, int64."""
    ones = np.ones(len(matrix.indices), np.int64)
    return sp.csr_matrix((ones, matrix.indices, matrix.indptr), matrix.shape)


def same_rows(member: sp.csr_matrix) -> tuple[LongArray, LongArray]:
    """Number the distinct sets of columns that rows of a matrix have entries in.

    Args:
        member: Shape ``(num_rows, num_columns)``.

    Returns:
        The number of each row's set, -1 for an empty one, and a row with each set.
    """
    # Sets are told apart by the sum of random numbers of their members, modulo 2^64.
    numbers = np.random.default_rng(0).integers(1, 2**63, member.shape[1], dtype=np.int64)
    sums = as_ones(member) @ numbers
    _, first, number = np.unique(sums, return_index=True, return_inverse=True)
    # In the order of their first rows, the empty set left out.
    full = np.diff(member.indptr)[first] > 0
    order = np.argsort(np.where(full, first, member.shape[0]), kind="stable")
    place = np.empty(len(first), dtype=np.int64)
    place[order] = np.arange(len(first))
    place[~full] = -1
    return place[number.reshape(-1)], first[order[: np.count_nonzero(full)]]


def cell_membership(V: FunctionSpace, coarse: CoarseGrid, hats: Hats) -> sp.csr_matrix:
    """Which hat functions are positive at a degree of freedom of each owned cell.

    Args:
        V: Fine space.
        coarse: Coarse grid.
        hats: χ at the (owned and ghost) dof blocks of ``V`` on this rank.

    Returns:
        At how many dofs of the cell, int32, shape ``(num_owned_cells, coarse.num_vertices)``;
        entries are positive. Not collective.
    """
    positive = hats.values > 0
    rows = np.repeat(np.arange(len(positive)), positive.sum(axis=1))
    chi = sp.csr_matrix(
        (np.ones(len(rows), np.int32), (rows, hats.vertices[positive])),
        shape=(len(positive), coarse.num_vertices),
    )
    return _touches(V) @ chi


def _touches(V: FunctionSpace) -> sp.csr_matrix:
    """Incidence of owned cells and dof blocks, int32, shape ``(num_owned_cells, num_dofs)``."""
    index_map = V.dofmap.index_map
    num_cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_local
    dofs = V.dofmap.list[:num_cells]
    indptr = np.arange(num_cells + 1, dtype=np.int64) * dofs.shape[1]
    return sp.csr_matrix(
        (np.ones(dofs.size, np.int32), dofs.reshape(-1), indptr),
        shape=(num_cells, index_map.size_local + index_map.num_ghosts),
    )


def _share_rows(V: FunctionSpace, rows: sp.csr_matrix) -> sp.csr_matrix:
    """Unite (dof, neighbourhood) pairs over the ranks at the dofs they share. Collective.

    Args:
        V: Fine space.
        rows: Entries that are not zero are pairs; shape ``(num_dofs, num_vertices)``.

    Returns:
        The same with all ranks' pairs.
    """
    comm, index_map = V.mesh.comm, V.dofmap.index_map
    size, (first, _) = index_map.size_local, index_map.local_range
    owners, ghosts = index_map.owners, index_map.ghosts

    def unite(rows: sp.csr_matrix, row: LongArray, col: LongArray) -> sp.csr_matrix:
        new = sp.csr_matrix((np.ones(len(row), np.int32), (row, col)), shape=rows.shape)
        return rows + new

    # Numbers of dofs in common would grow from layer to layer.
    rows.data[:] = 1
    pairs = rows[size:].tocoo()
    _, (dof, vertex) = route(comm, owners[pairs.row], ghosts[pairs.row], pairs.col.astype(np.int64))
    rows = unite(rows, dof - first, vertex)
    # Every dof goes back to the ranks that have it as a ghost, with its whole row.
    asker, (dof,) = route(comm, owners, ghosts)
    answer = rows[dof - first]
    count = np.diff(answer.indptr)
    _, (dof, vertex) = route(
        comm, np.repeat(asker, count), np.repeat(dof, count), answer.indices.astype(np.int64)
    )
    order = np.argsort(ghosts)
    return unite(rows, size + order[np.searchsorted(ghosts, dof, sorter=order)], vertex)
