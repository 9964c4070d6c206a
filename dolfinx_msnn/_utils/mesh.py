# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Sizes of meshes, and dofs or facets that are marked on some rank."""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

import numpy as np

from dolfinx import la
from dolfinx.common import IndexMap
from dolfinx_msnn._utils.typing import (
    BoolArray,
    DirichletBC,
    FloatArray,
    FunctionSpace,
    IntArray,
    LongArray,
    Mesh,
)


def bounding_box(msh: Mesh) -> FloatArray:
    """Lower and upper corner of a mesh, shape ``(2, gdim)``. Collective."""
    x = msh.geometry.x[:, : msh.geometry.dim]
    # In double precision also for a mesh in single.
    low = x.min(axis=0, initial=np.inf).astype(np.float64)
    high = x.max(axis=0, initial=-np.inf).astype(np.float64)
    msh.comm.Allreduce(MPI.IN_PLACE, low, op=MPI.MIN)
    msh.comm.Allreduce(MPI.IN_PLACE, high, op=MPI.MAX)
    return np.stack([low, high])


def mean_cell_extent(msh: Mesh) -> FloatArray:
    """Mean extent of the cells in each direction, shape ``(gdim,)``. Collective."""
    num = msh.topology.index_map(msh.topology.dim).size_local
    x = msh.geometry.x[msh.geometry.dofmaps[0][:num]][:, :, : msh.geometry.dim]
    extent = np.ptp(x, axis=1).sum(axis=0) if num else np.zeros(msh.geometry.dim)
    total = msh.comm.allreduce(extent, op=MPI.SUM)
    return np.asarray(total / msh.comm.allreduce(num, op=MPI.SUM))


def sum_over_ranks(index_map: IndexMap, values: FloatArray | LongArray) -> FloatArray:
    """Add what ranks have at the entities (dofs, facets) that they share.

    Args:
        index_map: Numbers the entities.
        values: Of owned ones and ghosts, shape ``(size_local + num_ghosts, width)``.

    Returns:
        The sums, in the same shape; ghosts are as on their owner.

    Note:
        Collective.
    """
    total = la.vector(index_map, values.shape[1])
    total.array[:] = values.reshape(-1)
    total.scatter_reverse(la.InsertMode.add)
    total.scatter_forward()
    return np.asarray(total.array.reshape(values.shape))


def marked_anywhere(index_map: IndexMap, listed: IntArray, block_size: int = 1) -> BoolArray:
    """Which entities (dofs, facets) at least one rank lists.

    Args:
        index_map: Numbers the entities.
        listed: Local numbers, unrolled if the block size is not one, of owned ones and ghosts.
        block_size: Entries of each.

    Returns:
        Shape ``((size_local + num_ghosts) * block_size,)``; ghosts are as on their owner.

    Note:
        Collective.
    """
    mark = np.zeros((index_map.size_local + index_map.num_ghosts) * block_size)
    mark[listed] = 1.0
    return sum_over_ranks(index_map, mark.reshape(-1, block_size)).reshape(-1) > 0


def dirichlet_mask(V: FunctionSpace, bcs: Sequence[DirichletBC]) -> BoolArray:
    """Dofs of ``V`` with a Dirichlet condition, shape ``(num_dof_blocks, bs)``. Collective."""
    bs = V.dofmap.index_map_bs
    dofs = [bc.dof_indices()[0] for bc in bcs]
    listed = np.concatenate([np.zeros(0, np.int32), *dofs])
    return marked_anywhere(V.dofmap.index_map, listed, bs).reshape(-1, bs)
