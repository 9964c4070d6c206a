# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""PᵀAP by dense blocks.

A row of P has entries for all functions of a few coarse vertices, the same ones for all fine dofs
in one place. So the entries of A fall into groups whose rows and columns see the same vertices. In
a group the rows of P are a dense matrix D, and the group's share of the product is Dᵀ (A D): one
product with contiguous rows, one of BLAS. PETSc's general product searches for each entry where it
belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import scipy.sparse as sp

from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, IntArray, LongArray
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Groups with fewer entries of A join another one with more vertices, if there is one.
SMALL_GROUP = 4096

#: Fewer entries of A than this in a group on average, and the general product is faster.
LEAST_AVERAGE = 1024


@dataclass
class _Group:
    """Entries of A whose rows and columns are rows of one dense block of P.

    Attributes:
        entries: Which entries of the local A, in the order of ``pattern``.
        pattern: Those entries as a matrix on the dofs of the group; its data are overwritten.
        rows: The dofs of the group, of those that this rank's rows of A see.
        columns: Global coarse dofs of the columns of D.
        block: D, the rows of P at these dofs, shape ``(num_dofs, num_columns)``.
    """

    entries: LongArray
    pattern: sp.csr_matrix
    rows: LongArray
    columns: LongArray
    block: FloatArray

    def fill(self, P: sp.csr_matrix) -> None:
        """Take the values of P anew."""
        self.block = P[self.rows][:, self.columns].toarray()


class DenseBlocks:
    """A_0 = PᵀAP by dense blocks, for fixed patterns of P and A, of host types.

    Args:
        groups: The groups of entries of this rank's rows of A.
        dofs: The fine dofs, global, that this rank's rows of A see, shape ``(n,)``.
        W: Multiscale space.

    Attributes:
        A0: The product, of type ``aij``. The caller destroys it.

    Note:
        Creation is collective.
    """

    def __init__(self, groups: list[_Group], dofs: IntArray, W: MultiscaleFunctionSpace) -> None:
        self._groups, self._dofs, self._W = groups, dofs, W
        self._sum = BlockSum(W, [group.columns for group in groups])
        self.A0 = self._sum.A0

    @classmethod
    def create(cls, A: PETSc.Mat, W: MultiscaleFunctionSpace) -> Self | None:
        """Group the entries of A; ``None`` where PETSc's general product is the better one.

        That is so on devices, and if there are few entries of A for each set of coarse vertices, as
        on coarse grids that are nearly as fine as the mesh.

        Note:
            Collective. Fill A_0 with :meth:`assemble`.
        """
        if {A.getType(), W.P.getType()} - {"seqaij", "mpiaij"}:
            return None
        vertex = np.concatenate(W.comm.allgather(W.vertex))
        indptr, indices, _ = A.getValuesCSR()
        columns, inverse = np.unique(indices, return_inverse=True)
        columns = columns.astype(PETSc.IntType)
        P = _rows(W, columns)
        rows = np.searchsorted(columns, np.arange(*A.getOwnershipRange()))
        with collective_errors(W.comm):
            pattern, sets = _patterns(P, vertex)
            # Groups hold all vertices that are seen, and each those of two sets at most.
            most = 2 * max(map(len, sets), default=0)
            least = len(np.unique(vertex[P.indices])) / max(most, 1)
        counts = np.array([len(indices), least])
        W.comm.Allreduce(MPI.IN_PLACE, counts, op=MPI.SUM)
        if counts[0] < LEAST_AVERAGE * counts[1]:
            return None
        with collective_errors(W.comm):
            row = np.repeat(rows, np.diff(indptr))
            group, unions = _groups(pattern[row], pattern[inverse], sets)
        counts = np.array([np.count_nonzero(group >= 0), len(unions)])
        W.comm.Allreduce(MPI.IN_PLACE, counts, op=MPI.SUM)
        if counts[0] < LEAST_AVERAGE * counts[1]:
            return None
        with collective_errors(W.comm):
            order = np.argsort(group, kind="stable")
            first = np.searchsorted(group[order], np.arange(len(unions) + 1))
            groups = [
                _make(order[first[k] : first[k + 1]], row, inverse, P, vertex, union)
                for k, union in enumerate(unions)
            ]
        return cls(groups, columns, W)

    def take_prolongation(self) -> None:
        """Take over new values of P, in the same pattern. Collective."""
        P = _rows(self._W, self._dofs)
        with collective_errors(self._W.comm):
            for group in self._groups:
                group.fill(P)

    def assemble(self, A: PETSc.Mat) -> None:
        """Fill A_0 for the values of ``A``, in the same pattern. Collective."""
        data = A.getValuesCSR()[2]
        for k, group in enumerate(self._groups):
            np.take(data, group.entries, out=group.pattern.data)
            np.matmul(group.block.T, group.pattern @ group.block, out=self._sum.part(k))
        self._sum.assemble()


class BlockSum:
    """A coarse matrix that is a sum of dense blocks.

    Args:
        W: Multiscale space.
        columns: Coarse dofs, global, of the rows and columns of each block of this rank.

    Attributes:
        A0: The matrix, of type ``aij``. The caller destroys it.

    Note:
        Creation is collective.
    """

    def __init__(self, W: MultiscaleFunctionSpace, columns: Sequence[LongArray]) -> None:
        self._columns = columns
        self._ends = np.cumsum([0, *(len(part) ** 2 for part in columns)])
        self._values = np.zeros(self._ends[-1], dtype=PETSc.ScalarType)
        none = [np.zeros(0, dtype=PETSc.IntType)]
        rows, cols = (
            np.concatenate(none + [spread(c, len(c)).astype(PETSc.IntType) for c in columns])
            for spread in (np.repeat, np.tile)
        )
        self.A0 = PETSc.Mat().create(W.comm)
        self.A0.setSizes((W.P.getSizes()[1],) * 2)
        self.A0.setType(PETSc.Mat.Type.AIJ)
        self.A0.setPreallocationCOO(rows, cols)

    def part(self, k: int) -> FloatArray:
        """Room for a block."""
        width = len(self._columns[k])
        return self._values[self._ends[k] : self._ends[k + 1]].reshape(width, width)

    def assemble(self) -> None:
        """Fill the matrix. Collective."""
        self.A0.setValuesCOO(self._values)


def local_rows(W: MultiscaleFunctionSpace, blocks: IntArray) -> sp.csr_matrix:
    """Rows of P at dof blocks, by their local numbers, which may repeat. Collective."""
    index_map, bs = W.V.dofmap.index_map, W.V.dofmap.index_map_bs
    wanted = index_map.local_to_global(blocks.astype(np.int32))
    rows = (bs * wanted[:, None] + np.arange(bs)).reshape(-1)
    rows, inverse = np.unique(rows, return_inverse=True)
    return _rows(W, rows.astype(PETSc.IntType))[inverse]


def _rows(W: MultiscaleFunctionSpace, rows: IntArray) -> sp.csr_matrix:
    """Rows of P by global number, from whatever rank. Collective."""
    comm = PETSc.COMM_SELF
    mine = PETSc.IS().createGeneral(rows, comm=comm)
    every = PETSc.IS().createStride(W.num_dofs, comm=comm)
    try:
        (part,) = W.P.createSubMatrices(mine, every)
    finally:
        mine.destroy()
        every.destroy()
    indptr, indices, data = part.getValuesCSR()
    part.destroy()
    return sp.csr_matrix((data, indices, indptr), shape=(len(rows), W.num_dofs))


def _patterns(P: sp.csr_matrix, vertex: LongArray) -> tuple[LongArray, list[frozenset[int]]]:
    """Which coarse vertices each row of P sees: the number of a set, and the sets."""
    shape = (P.shape[0], vertex.max(initial=0) + 1)
    seen = sp.csr_matrix((np.ones(P.nnz), vertex[P.indices], P.indptr.copy()), shape)
    seen.sum_duplicates()
    seen.data[:] = 1.0
    # Sets are told apart by the sums of two random numbers of their members.
    sums = seen @ np.random.default_rng(0).random((shape[1], 2))
    _, first, number = np.unique(
        sums.view("c16").reshape(-1), return_index=True, return_inverse=True
    )
    bounds = zip(seen.indptr[first], seen.indptr[first + 1], strict=True)
    return number, [frozenset(seen.indices[a:b].tolist()) for a, b in bounds]


def _groups(
    left: LongArray, right: LongArray, sets: list[frozenset[int]]
) -> tuple[LongArray, list[frozenset[int]]]:
    """For each entry of A the number of a group (-1: without effect), and the groups' vertices."""
    key = left * len(sets) + right
    if len(sets) ** 2 <= 2 * len(key):
        # Counting is faster than sorting.
        table = np.bincount(key, minlength=len(sets) ** 2)
        pairs = np.flatnonzero(table)
        counts, inverse = table[pairs], (np.cumsum(table > 0) - 1)[key]
    else:
        pairs, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    members: dict[frozenset[int], int] = {}
    unions = []
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        i, j = divmod(pair, len(sets))
        union = sets[i] | sets[j] if sets[i] and sets[j] else frozenset()
        unions.append(union)
        members[union] = members.get(union, 0) + count
    kept: list[frozenset[int]] = []
    number: dict[frozenset[int], int] = {frozenset(): -1}
    near: dict[int, list[frozenset[int]]] = {}
    # Largest sets first; ties in an order that does not depend on how sets are hashed.
    for union in sorted(members, key=lambda s: (-len(s), sorted(s))):
        if not union:
            continue
        larger = (s for s in near.get(min(union), ()) if union < s)
        home = next(larger, None) if members[union] < SMALL_GROUP else None
        if home is not None:
            number[union] = number[home]
            continue
        number[union] = len(kept)
        kept.append(union)
        for member in union:
            near.setdefault(member, []).append(union)
    return np.array([number[union] for union in unions], dtype=np.int64)[inverse], kept


def _make(
    entries: LongArray,
    row: LongArray,
    column: LongArray,
    P: sp.csr_matrix,
    vertex: LongArray,
    union: frozenset[int],
) -> _Group:
    left, right = row[entries], column[entries]
    dofs = np.unique(np.concatenate([left, right]))
    left, right = np.searchsorted(dofs, left), np.searchsorted(dofs, right)
    indptr = np.searchsorted(left, np.arange(len(dofs) + 1))
    pattern = sp.csr_matrix((np.zeros(len(entries)), right, indptr), shape=(len(dofs), len(dofs)))
    columns = np.flatnonzero(np.isin(vertex, list(union)))
    group = _Group(entries, pattern, dofs, columns, np.zeros(0))
    group.fill(P)
    return group
