# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Sizes of meshes, and which dofs carry a condition."""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

import numpy as np

from dolfinx import la
from dolfinx_msnn._utils.typing import BoolArray, DirichletBC, FloatArray, FunctionSpace, Mesh


def bounding_box(msh: Mesh) -> FloatArray:
    """Lower and upper corner of a mesh, shape ``(2, gdim)``. Collective."""
    x = msh.geometry.x[:, : msh.geometry.dim]
    low = x.min(axis=0) if len(x) else np.full(msh.geometry.dim, np.inf)
    high = x.max(axis=0) if len(x) else np.full(msh.geometry.dim, -np.inf)
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


def dirichlet_mask(V: FunctionSpace, bcs: Sequence[DirichletBC]) -> BoolArray:
    """Which dofs of ``V`` carry a Dirichlet condition, shape ``(num_local_dofs, bs)``."""
    bs = V.dofmap.index_map_bs
    mark = la.vector(V.dofmap.index_map, bs=bs)
    for bc in bcs:
        mark.array[bc.dof_indices()[0]] = 1.0
    # A dof may be listed on a rank that only ghosts it.
    mark.scatter_reverse(la.InsertMode.add)
    mark.scatter_forward()
    return np.asarray(mark.array > 0).reshape(-1, bs)
