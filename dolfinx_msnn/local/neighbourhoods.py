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
        offsets: Where each one's cells start, shape ``(num + 1,)``.
        cell_rank: Rank that owns each cell.
        cell: Local index of the cell on that rank.
    """

    vertices: LongArray
    offsets: LongArray
    cell_rank: IntArray
    cell: IntArray


def find_neighbourhoods(
    V: FunctionSpace, coarse: CoarseGrid, hats: Hats, layers: int = 0
) -> Neighbourhoods:
    """Distribute the neighbourhoods over the ranks and tell each owner its cells.

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
    for _ in range(layers):
        touches = _touches(V)
        member = touches @ _share_rows(V, (touches.T @ member).tocsr())
    member = member.tocoo()
    cell, vertex = member.row.astype(np.int32), member.col.astype(np.int64)

    owner = balance(comm, vertex, V.mesh.topology.dim)
    source, (vertex, cell) = route(comm, owner[vertex], vertex, cell)
    order = np.argsort(vertex, kind="stable")
    vertices, start = np.unique(vertex[order], return_index=True)
    return Neighbourhoods(vertices, np.append(start, len(order)), source[order], cell[order])


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
