# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Ghost cells: what a rank's neighbourhoods need from other ranks, and the dofs on it.

A mesh has at most one layer of ghost cells, a neighbourhood reaches much further. Each rank extends
its own cells and dofs by the foreign ones that its neighbourhoods hold, each once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.mpi import RemoteRows, collective_errors
from dolfinx_msnn._utils.typing import FunctionSpace
from dolfinx_msnn.local.neighbourhoods import Neighbourhoods


class GhostCells:
    """Own cells and dof blocks of a rank, followed by the foreign ones that it needs.

    Attributes:
        num_own_cells: Cells that this rank owns; they come first.
        num_cells: Own and foreign cells.
        dofs: Global numbers of all dof blocks, shape ``(num_dofs,)``, int64; first those that ``V``
            has on this rank (owned, then ghosts).
        cell_dofs: Dof blocks of each cell, as indices into ``dofs``, shape ``(num_cells, n_b)``.
        cells: For each entry of ``neighbourhoods.cell``, the index of that cell here.

    Note:
        Creation is collective.
    """

    def __init__(self, V: FunctionSpace, neighbourhoods: Neighbourhoods) -> None:
        msh, index_map = V.mesh, V.dofmap.index_map
        comm = msh.comm
        self.num_own_cells = msh.topology.index_map(msh.topology.dim).size_local
        own_dofs = V.dofmap.list[: self.num_own_cells]

        with collective_errors(comm):
            foreign = neighbourhoods.cell_rank != comm.rank
            remote = np.stack(
                [neighbourhoods.cell_rank[foreign], neighbourhoods.cell[foreign]], axis=1
            )
            remote, where = np.unique(remote, axis=0, return_inverse=True)
            self.cells = neighbourhoods.cell.copy()
            self.cells[foreign] = self.num_own_cells + where.reshape(-1)
            self.num_cells = self.num_own_cells + len(remote)
        self._remote_cells = RemoteRows(comm, *remote.T)

        with collective_errors(comm):
            first, last = index_map.local_range
            local = np.concatenate([np.arange(first, last, dtype=np.int64), index_map.ghosts])
            self._num_local_dofs = len(local)
            dofs = np.empty((self.num_cells, own_dofs.shape[1]), dtype=np.int64)
            dofs[: self.num_own_cells] = local[own_dofs]
        self.extend_cells(dofs)
        with collective_errors(comm):
            new = dofs[self.num_own_cells :]
            extra = np.setdiff1d(new, local)
            self.dofs = np.concatenate([local, extra])
            order = np.argsort(self.dofs)
            place = order[np.searchsorted(self.dofs[order], new)]
            self.cell_dofs = np.concatenate([own_dofs, place.astype(np.int32)])

        ranges = np.array(comm.allgather(first))
        owner = (np.searchsorted(ranges, extra, side="right") - 1).astype(np.int32)
        self._remote_dofs = RemoteRows(comm, owner, extra - ranges[owner])

    def extend_cells(self, data: npt.NDArray[np.generic]) -> None:
        """Fill the foreign rows of cell data, shape ``(num_cells, ...)``. Collective."""
        self._remote_cells.fetch(data, data[self.num_own_cells :])

    def extend_dofs(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Append the foreign rows to dof data of ``V``, shape ``(num_local_dofs, ...)``.

        Collective. Returns shape ``(num_dofs, ...)``.
        """
        out = np.empty((len(self.dofs), *data.shape[1:]), dtype=data.dtype)
        out[: self._num_local_dofs] = data
        self._remote_dofs.fetch(data, out[self._num_local_dofs :])
        return out
