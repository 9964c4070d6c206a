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
        num_total: Number of neighbourhoods that hold cells, on all ranks together.
    """

    vertices: LongArray
    offsets: LongArray
    cell_rank: IntArray
    cell: IntArray
    num_total: int


def find_neighbourhoods(V: FunctionSpace, coarse: CoarseGrid, hats: Hats) -> Neighbourhoods:
    """Distribute the neighbourhoods over the ranks and tell each owner its cells.

    A cell belongs to ω_i if χ_i is positive at one of its degrees of freedom (plus
    ``coarse.oversampling`` layers of cells that share a degree of freedom). A rank needs O(1)
    numbers for each *coarse* vertex to balance the load, and nothing of the size of the mesh.

    Args:
        V: Fine space.
        coarse: Coarse grid.
        hats: χ at the (owned and ghost) dof blocks of ``V`` on this rank.

    Note:
        Collective.
    """
    comm = V.mesh.comm
    member = cell_membership(V, coarse, hats)
    if coarse.oversampling:
        touches = _touches(V, hats)
    for _ in range(coarse.oversampling):
        member = touches @ _share_rows(V, (touches.T @ member).tocsr())
    member = member.tocoo()
    cell, vertex = member.row.astype(np.int32), member.col.astype(np.int64)

    owner, num_total = balance(comm, vertex, V.mesh.topology.dim)
    source, (vertex, cell) = route(comm, owner[vertex], vertex, cell)
    order = np.argsort(vertex, kind="stable")
    vertices, start = np.unique(vertex[order], return_index=True)
    return Neighbourhoods(
        vertices, np.append(start, len(order)), source[order], cell[order], num_total
    )


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
    return _touches(V, hats) @ chi


def _touches(V: FunctionSpace, hats: Hats) -> sp.csr_matrix:
    """Incidence of owned cells and dof blocks."""
    num_cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_local
    return _incidence(V.dofmap.list, num_cells, len(hats.values))


def _incidence(dofs: IntArray, num_cells: int, num_dofs: int) -> sp.csr_matrix:
    """Cell-dof incidence of the first ``num_cells`` cells, shape ``(num_cells, num_dofs)``."""
    width = dofs.shape[1]
    indices = dofs[:num_cells].reshape(-1)
    indptr = np.arange(num_cells + 1, dtype=np.int64) * width
    return sp.csr_matrix(
        (np.ones(len(indices), np.int32), indices, indptr), shape=(num_cells, num_dofs)
    )


def _share_rows(V: FunctionSpace, rows: sp.csr_matrix) -> sp.csr_matrix:
    """Union over ranks of (dof, neighbourhood) pairs at the dofs they share. Collective."""
    comm, index_map = V.mesh.comm, V.dofmap.index_map
    size, (first, _) = index_map.size_local, index_map.local_range
    pairs = rows.tocoo()
    ghost = pairs.row >= size
    _, (dof, vertex) = route(
        comm,
        index_map.owners[pairs.row[ghost] - size],
        index_map.ghosts[pairs.row[ghost] - size],
        pairs.col[ghost].astype(np.int64),
    )
    data = np.ones(len(pairs.row) + len(dof), np.int32)
    row = np.concatenate([pairs.row, (dof - first).astype(pairs.row.dtype)])
    col = np.concatenate([pairs.col, vertex.astype(pairs.col.dtype)])
    union = sp.csr_matrix((data, (row, col)), shape=rows.shape)
    sharer, (dof,) = route(comm, index_map.owners, index_map.ghosts)
    shared = sp.csr_matrix(
        (np.ones(len(dof), np.int32), (dof - first, sharer)), shape=(size, comm.size)
    )
    # Every owned shared dof goes to each rank that ghosts it, with its whole row.
    pairs = union[:size].tocoo()
    send = shared[pairs.row]
    repeat = np.repeat(np.arange(len(pairs.row)), np.diff(send.indptr))
    _, (dof, vertex) = route(
        comm,
        send.indices.astype(np.int32),
        pairs.row[repeat].astype(np.int64) + first,
        pairs.col[repeat].astype(np.int64),
    )
    order = np.argsort(index_map.ghosts)
    local = size + order[np.searchsorted(index_map.ghosts[order], dof)]
    row = np.concatenate([row, local.astype(row.dtype)])
    col = np.concatenate([col, vertex.astype(col.dtype)])
    return sp.csr_matrix((np.ones(len(row), np.int32), (row, col)), shape=rows.shape)
