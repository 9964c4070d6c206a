# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A_0 = Σ_g P_gᵀ A_g P_g over groups of cells: no fine matrix is assembled.

Cells whose dofs see the same basis functions form a group. The rows of P on the group are a dense
matrix P_g, the element matrices are summed to A_g, and the group's share is one product of a sparse
matrix with contiguous rows, and one of BLAS.
"""

from __future__ import annotations

from typing import Self

from mpi4py import MPI

import numpy as np
import scipy.sparse as sp

from dolfinx_msnn._utils.mesh import dirichlet_mask, sum_over_ranks
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, LongArray
from dolfinx_msnn.algebra.dense_blocks import BlockSum, local_rows
from dolfinx_msnn.algebra.fine import FineOperator
from dolfinx_msnn.bases import kernels
from dolfinx_msnn.local.element_matrices import ElementMatrices, Values
from dolfinx_msnn.local.groups import CellGroups
from dolfinx_msnn.local.neighbourhoods import as_ones, same_rows
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Fewer cells than this in a group on average, and the product of matrices is faster.
LEAST_AVERAGE = 16

#: Rows of P that are copied at a time, by their entries in bytes.
PIECE = 2**26


class CellProducts:
    """A_0 = PᵀAP from element matrices, for a fixed pattern of P, of host types.

    Args:
        W: Multiscale space.
        groups: Groups of the cells of this rank.
        columns: Coarse dofs that each group sees.

    Attributes:
        A0: The product, of type ``aij``. The caller destroys it.

    Note:
        Creation is collective. Fill A_0 with :meth:`assemble`.
    """

    def __init__(
        self, W: MultiscaleFunctionSpace, groups: CellGroups, columns: list[LongArray]
    ) -> None:
        self._W, self._groups, self._columns = W, groups, columns
        self._sum = BlockSum(W, columns)
        self.A0 = self._sum.A0
        self.take_prolongation()

    @classmethod
    def create(cls, A: FineOperator) -> Self | None:
        """Group the cells; ``None`` where the product of matrices is the better one.

        That is so on devices, and if there are few cells in each group, as on coarse grids that are
        nearly as fine as the mesh. Collective.
        """
        W = A.W
        host = {"aij", "seqaij", "mpiaij"}
        if {A.mat_type, W.P.getType()} - host:
            return None
        V = W.V
        num_cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_local
        cell_dofs = V.dofmap.list[:num_cells]
        with collective_errors(W.comm):
            numbers = np.random.default_rng(0).integers(1, 2**63, W.num_dofs, dtype=np.int64)
        # What each dof sees, as a sum of random numbers; then cells whose dofs see the same.
        num_blocks = V.dofmap.index_map.size_local + V.dofmap.index_map.num_ghosts
        every = np.arange(num_blocks)
        seen = np.zeros(num_blocks, dtype=np.int64)
        for blocks in np.array_split(every, _num_batches(W, len(every))):
            sums = as_ones(local_rows(W, blocks)) @ numbers
            seen[blocks] = sums.reshape(-1, V.dofmap.index_map_bs).sum(axis=1)
        _, kind = np.unique(seen, return_inverse=True)
        marks = np.random.default_rng(1).integers(1, 2**63, len(kind) + 1, dtype=np.int64)
        _, first, kinds = np.unique(
            marks[kind][cell_dofs].sum(axis=1), return_index=True, return_inverse=True
        )
        # One cell of each kind tells what the kind sees.
        P = local_rows(W, cell_dofs[first].reshape(-1))
        with collective_errors(W.comm):
            rows = np.repeat(np.arange(len(first)), P.shape[0] // max(len(first), 1))
            touches = sp.csr_matrix(
                (np.ones(len(rows), np.int64), (rows, np.arange(len(rows)))),
                shape=(len(first), len(rows)),
            )
            member = touches @ as_ones(P)
            number, one = same_rows(member)
            # Cells that see nothing have a say in where motions are held.
            group = np.where(number < 0, len(one), number)[kinds]
        counts = np.array([num_cells, len(one) + int((number < 0).any())])
        W.comm.Allreduce(MPI.IN_PLACE, counts, op=MPI.SUM)
        if counts[0] < LEAST_AVERAGE * counts[1]:
            return None
        with collective_errors(W.comm):
            columns = [np.sort(member[k].indices).astype(np.int64) for k in one.tolist()]
            columns += [np.zeros(0, np.int64)] * bool((number < 0).any())
            groups = CellGroups.create(
                group,
                np.arange(num_cells, dtype=np.int32),
                cell_dofs,
                num_blocks,
                V.dofmap.index_map_bs,
            )
        return cls(W, groups, columns)

    def take_prolongation(self) -> None:
        """Take over new values of P, in the same pattern. Collective."""
        W, groups, bs = self._W, self._groups, self._groups.block_size
        place = np.empty(W.num_dofs, dtype=np.int64)
        self._blocks: list[FloatArray] = []
        num = _num_batches(W, len(groups.dofs))
        for batch in np.array_split(np.arange(len(groups)), num):
            ends = [batch[0], batch[-1] + 1] if len(batch) else [0, 0]
            begin, end = groups.dof_start[ends].tolist()
            P = local_rows(W, groups.dofs[begin:end])
            with collective_errors(W.comm):
                for g in batch.tolist():
                    first, last = (bs * (groups.dof_start[g : g + 2] - begin)).tolist()
                    columns = self._columns[g]
                    place[columns] = np.arange(len(columns))
                    entries = slice(*P.indptr[[first, last]].tolist())
                    row = np.repeat(np.arange(last - first), np.diff(P.indptr[first : last + 1]))
                    block = np.zeros((last - first, len(columns)))
                    block[row, place[P.indices[entries]]] = P.data[entries]
                    self._blocks.append(block)

    def assemble(
        self, A: FineOperator, functions: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Fill A_0 for the present coefficients.

        Args:
            A: The fine operator.
            functions: Also multiply A with these, see :meth:`FineOperator.act`.

        Returns:
            As :meth:`FineOperator.act`.

        Note:
            Collective.
        """
        W, groups, bs = self._W, self._groups, self._groups.block_size
        V = W.V
        size = V.dofmap.index_map.size_local
        num_blocks = size + V.dofmap.index_map.num_ghosts
        fixed = dirichlet_mask(V, A.bcs).reshape(-1)
        z = np.zeros((bs * num_blocks, 0 if functions is None else len(functions)))
        if functions is not None:
            z[:] = functions.T
            z[fixed] = 0.0
        action = np.zeros((bs * num_blocks, z.shape[1] + 1))
        with collective_errors(W.comm):
            elements = A.elements
            values = elements.values()
            for g, block in enumerate(self._blocks):
                K = self._matrix(g, elements, values)
                dofs = bs * groups.dofs_of(g)[:, None] + np.arange(bs)
                dofs = dofs.reshape(-1)
                image = kernels.multiply(K, np.hstack([block, z[dofs]]))
                width = block.shape[1]
                np.matmul(block.T, image[:, :width], out=self._sum.part(g))
                action[dofs, :-1] += image[:, width:]
                action[dofs, -1] += K.diagonal()
        self._sum.assemble()
        action = sum_over_ranks(V.dofmap.index_map, action.reshape(num_blocks, -1)).reshape(
            action.shape
        )
        action[fixed] = 1.0
        if functions is not None:
            action[fixed, :-1] = functions.T[fixed]
        return action[: bs * size, :-1].T, action[: bs * size, -1]

    def _matrix(self, g: int, elements: ElementMatrices, values: Values) -> sp.csr_matrix:
        """A_g of a group."""
        groups, bs = self._groups, self._groups.block_size
        begin, end = groups.block_range(g)
        data = np.zeros((end - begin) * bs * bs)
        first, last = groups.cell_start[g : g + 2].tolist()
        for start, stop in groups.pieces(elements.width**2, first, last):
            part = elements.tabulate(values, groups.cells[start:stop])
            groups.add(start, stop, part, data, begin)
        rows = groups.row_start[groups.dof_start[g] : groups.dof_start[g + 1] + 1] - begin
        n = bs * (len(rows) - 1)
        pattern = groups.cols[begin:end], rows.astype(np.int32)
        if bs == 1:
            return sp.csr_matrix((data, *pattern), shape=(n, n))
        return sp.bsr_matrix((data.reshape(-1, bs, bs), *pattern), shape=(n, n)).tocsr()


def _num_batches(W: MultiscaleFunctionSpace, num_blocks: int) -> int:
    """In how many pieces to copy rows of P, the same on every rank. Collective."""
    each = W.P.getInfo()["nz_used"] / max(1, W.P.getLocalSize()[0]) * W.V.dofmap.index_map_bs
    return int(W.comm.allreduce(int(12 * each * num_blocks / PIECE) + 1, op=MPI.MAX))
