# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What a rank's neighbourhoods need from other ranks: foreign cells, and the dofs on them.

A mesh has at most one layer of ghost cells, a neighbourhood reaches much further. Each rank
extends its own cells and dofs by the foreign ones that its neighbourhoods hold, each once; a star
forest (``PETSc.SF``) for cells and one for dofs then bring any cell or dof data.
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.mpi import mpi_type
from dolfinx_msnn._utils.typing import FunctionSpace, IntArray
from dolfinx_msnn.local.neighbourhoods import Neighbourhoods


class Halo:
    """Own cells and dof blocks of a rank, followed by the foreign ones that it needs.

    Attributes:
        num_own_cells: Cells that this rank owns; they come first.
        num_cells: Own and foreign cells.
        num_local_dofs: Dof blocks that ``V`` has on this rank (owned, then ghosts); they come
            first.
        dofs: Global numbers of all dof blocks, shape ``(num_dofs,)``, int64.
        cell_dofs: Dof blocks of each cell, as indices into ``dofs``, shape ``(num_cells, n_b)``.
        cells: For each entry of ``neighbourhoods.cell``, the index of that cell here.

    Note:
        Creation is collective. Call :meth:`destroy` when done.
    """

    def __init__(self, V: FunctionSpace, neighbourhoods: Neighbourhoods) -> None:
        msh, index_map = V.mesh, V.dofmap.index_map
        comm = msh.comm
        self.num_own_cells = msh.topology.index_map(msh.topology.dim).size_local
        own_dofs = V.dofmap.list[: self.num_own_cells]

        foreign = neighbourhoods.cell_rank != comm.rank
        remote = np.stack([neighbourhoods.cell_rank[foreign], neighbourhoods.cell[foreign]], axis=1)
        remote, where = np.unique(remote, axis=0, return_inverse=True)
        self.cells = neighbourhoods.cell.copy()
        self.cells[foreign] = self.num_own_cells + where.reshape(-1)
        self.num_cells = self.num_own_cells + len(remote)
        self._cell_sf = _star_forest(comm, self.num_own_cells, remote)

        size, (first, last) = index_map.size_local, index_map.local_range
        local = np.concatenate([np.arange(first, last, dtype=np.int64), index_map.ghosts])
        self.num_local_dofs = len(local)
        dofs = np.empty((self.num_cells, own_dofs.shape[1]), dtype=np.int64)
        dofs[: self.num_own_cells] = local[own_dofs]
        self.extend_cells(dofs)
        new = dofs[self.num_own_cells :]
        extra = np.setdiff1d(new, local)
        self.dofs = np.concatenate([local, extra])
        order = np.argsort(self.dofs)
        place = order[np.searchsorted(self.dofs[order], new)]
        self.cell_dofs = np.concatenate([own_dofs, place.astype(np.int32)])

        ranges = np.append(comm.allgather(first), index_map.size_global)
        owner = np.searchsorted(ranges, extra, side="right") - 1
        self._dof_sf = _star_forest(
            comm, size, np.stack([owner, extra - ranges[owner]], axis=1).astype(np.int32)
        )

    def extend_cells(self, data: npt.NDArray[np.generic]) -> None:
        """Fill the foreign rows of cell data, shape ``(num_cells, ...)``. Collective."""
        _broadcast(self._cell_sf, data, self.num_own_cells)

    def extend_dofs(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Append the foreign rows to dof data of ``V``, shape ``(num_local_dofs, ...)``.

        Collective. Returns shape ``(num_dofs, ...)``.
        """
        out = np.empty((len(self.dofs), *data.shape[1:]), dtype=data.dtype)
        out[: self.num_local_dofs] = data
        _broadcast(self._dof_sf, out, self.num_local_dofs)
        return out

    def destroy(self) -> None:
        """Free the star forests. Collective."""
        self._cell_sf.destroy()
        self._dof_sf.destroy()


def _star_forest(comm: MPI.Comm, num_roots: int, remote: IntArray) -> PETSc.SF:
    sf = PETSc.SF().create(comm)
    sf.setGraph(num_roots, None, np.ascontiguousarray(remote, dtype=PETSc.IntType).reshape(-1))
    return sf


def _broadcast(sf: PETSc.SF, data: npt.NDArray[np.generic], num_own: int) -> None:
    """Fill ``data[num_own:]`` from other ranks' own rows, a row as one contiguous MPI type."""
    if sf.comm.size == 1:
        return
    row = mpi_type(data)
    try:
        # The leaves lie behind the roots in the same array; PETSc sees two plain buffers.
        sf.bcastBegin(row, data.reshape(-1), data[num_own:].reshape(-1), MPI.REPLACE)
        sf.bcastEnd(row, data.reshape(-1), data[num_own:].reshape(-1), MPI.REPLACE)
    finally:
        row.Free()
