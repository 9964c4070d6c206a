# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""From modes to the prolongation matrix P: multiply by χ_i, orthonormalise locally, fill by COO."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.linalg import orthonormalise
from dolfinx_msnn._utils.mpi import collective_errors, route
from dolfinx_msnn._utils.typing import FloatArray, FunctionSpace, IntArray, LongArray
from dolfinx_msnn.bases.protocol import LocalBasis, LocalModes
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.problem import LocalProblem

#: Memory of local problems handed to a basis at once, in bytes.
BATCH_BYTES = 2**28

#: Neighbourhoods whose modes are multiplied and orthonormalised at once, by their entries.
STACK_ENTRIES = 2**17


@dataclass
class CoarseDofs:
    """The coarse dofs of one rank, in the order of their columns of P.

    Attributes:
        vertex: Coarse vertex of each dof, shape ``(num_local,)``, int64.
        mode: Which mode of its neighbourhood each dof came from, shape ``(num_local,)``, int32.
        eigenvalues: All eigenvalues (or Ritz values) of each neighbourhood of this rank.
        num_dropped: Dependent basis functions that were dropped on this rank.
    """

    vertex: LongArray
    mode: IntArray
    eigenvalues: dict[int, FloatArray]
    num_dropped: int


@dataclass
class Columns:
    """Basis functions of one neighbourhood.

    Attributes:
        rows: Global fine dofs on which they live, shape ``(n,)``.
        values: Their values there, shape ``(num, n)``.
        mode: Which modes they came from, shape ``(num,)``.
        eigenvalues: All eigenvalues (or Ritz values) of the neighbourhood.
    """

    rows: LongArray
    values: FloatArray
    mode: IntArray
    eigenvalues: FloatArray


def create_columns(
    problems: Sequence[LocalProblem], results: Sequence[LocalModes]
) -> Iterator[Columns]:
    """The basis functions χ_i φ_j of some neighbourhoods, orthonormalised.

    Neighbourhoods of one shape that follow each other are treated as one stack.
    """

    def key(item: tuple[int, tuple[LocalProblem, LocalModes]]) -> tuple[bytes, int, int]:
        k, (problem, modes) = item
        num = len(modes.values)
        return problem.pattern, num, k * max(1, num) * problem.num_dofs // STACK_ENTRIES

    for _, group in groupby(enumerate(zip(problems, results, strict=True)), key):
        stack = [pair for _, pair in group]
        chi = np.stack([problem.chi for problem, _ in stack])
        live = (chi > 0) & ~np.stack([problem.dirichlet for problem, _ in stack])
        support = np.flatnonzero(live.any(axis=0))
        functions = np.stack([modes.vectors[:, support] for _, modes in stack])
        functions *= np.where(live, chi, 0.0)[:, None, support]
        weight = np.ones((len(stack), len(support)))
        A = stack[0][0].A
        if A is not None:
            rows = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
            diagonal = np.flatnonzero(rows == A.indices)[support]
            weight = np.sqrt(np.stack([problem.A.data[diagonal] for problem, _ in stack]))
        for (problem, modes), (values, kept), mine in zip(
            stack, orthonormalise(functions, weight), live[:, support], strict=True
        ):
            yield Columns(
                problem.dofs[support[mine]],
                values[:, mine],
                kept.astype(np.int32),
                np.array(modes.values, dtype=np.float64),
            )


def check_modes(problem: LocalProblem, modes: LocalModes) -> None:
    """Refuse modes of the wrong shape or with non-finite entries.

    Raises:
        ValueError: Naming the neighbourhood.
    """
    if not isinstance(modes, LocalModes):
        raise ValueError(
            f"The basis gave {type(modes).__name__} for {problem.name}; expected LocalModes."
        )
    shapes = np.shape(modes.vectors), np.shape(modes.values)
    shape = shapes[0]
    if len(shape) != 2 or shape[1] != problem.num_dofs or shapes[1] != shape[:1]:
        raise ValueError(
            f"The basis gave modes of shape {shape} and {shapes[1]} values for "
            f"{problem.name}; expected (num_modes, {problem.num_dofs}) and (num_modes,)."
        )
    for part in modes:
        if not isinstance(part, np.ndarray) or part.dtype.kind not in "fiu":
            given = part.dtype if isinstance(part, np.ndarray) else type(part).__name__
            raise ValueError(
                f"The basis gave modes of type {given} for {problem.name}; expected arrays of real "
                "numbers."
            )
    if not np.isfinite(modes.vectors).all() or not np.isfinite(modes.values).all():
        raise ValueError(f"The basis gave NaN or infinite modes for {problem.name}.")


def compute_columns(
    problems: LocalProblems, basis: LocalBasis, only: Collection[int] | None = None
) -> dict[int, Columns]:
    """Run the basis on the local problems of this rank.

    Args:
        problems: Local problems of this rank.
        basis: Where the modes come from.
        only: Coarse vertices; default all.

    Returns:
        The basis functions of each neighbourhood, by coarse vertex. Not collective.
    """
    columns: dict[int, Columns] = {}
    # On every rank the same stages, also where there are no neighbourhoods.
    for stage in ("local matrices", "basis", "prolongation"):
        problems.timings.setdefault(stage, 0.0)
    for batch in problems.batches(BATCH_BYTES, only):
        with problems.timings.stage("basis"):
            # A copy: the basis may change its list.
            results = basis.modes(list(batch))
        if not isinstance(results, Sequence):
            raise ValueError(
                f"The basis gave {type(results).__name__}; expected a list of LocalModes."
            )
        if len(results) != len(batch):
            raise ValueError(
                f"The basis gave modes for {len(results)} neighbourhoods, expected {len(batch)}."
            )
        with problems.timings.stage("prolongation"):
            for problem, modes in zip(batch, results, strict=True):
                check_modes(problem, modes)
            parts = create_columns(batch, results)
            columns |= {p.vertex: part for p, part in zip(batch, parts, strict=True)}
    return columns


def number_dofs(comm: MPI.Intracomm, columns: dict[int, Columns]) -> CoarseDofs:
    """The coarse dofs of this rank: neighbourhood by neighbourhood, in the order given.

    Raises:
        ValueError: If there are none on all ranks; the same on every rank.

    Note:
        Collective.
    """
    num = [len(part.mode) for part in columns.values()]
    asked = sum(len(part.eigenvalues) for part in columns.values())
    total, given = comm.allreduce(np.array([sum(num), asked]))
    if total == 0:
        raise ValueError(
            f"The multiscale space is empty: of {given} modes none is left that is not zero on the "
            "free dofs; expected at least one free dof and one mode."
        )
    return CoarseDofs(
        np.repeat(np.array(list(columns), dtype=np.int64), num),
        np.concatenate([*(part.mode for part in columns.values()), np.zeros(0, np.int32)]),
        {vertex: part.eigenvalues for vertex, part in columns.items()},
        asked - sum(num),
    )


def create_prolongation(
    V: FunctionSpace,
    columns: dict[int, Columns],
    *,
    mat_type: str | None = None,
    keep: bool = False,
) -> PETSc.Mat:
    """Assemble P from the basis functions.

    Args:
        V: Fine space.
        columns: Basis functions of this rank, by coarse vertex.
        mat_type: PETSc type of P; default ``aij``.
        keep: Leave ``columns`` as it is. Otherwise it is emptied on the way, to save memory.

    Returns:
        P, N_f × N_c, rows laid out like ``V``, each column on the rank that computed it. The
        caller destroys it.

    Note:
        Collective.
    """
    index_map, bs = V.dofmap.index_map, V.dofmap.index_map_bs
    num_local = sum(len(part.mode) for part in columns.values())
    rows = Rows(V, columns, keep=keep)
    sizes = (bs * index_map.size_local, bs * index_map.size_global), (num_local, PETSc.DETERMINE)
    # On one rank P takes over the arrays, on several PETSc splits them.
    P = PETSc.Mat().createAIJWithArrays(sizes, rows.csr, comm=V.mesh.comm)
    P.assemble()
    if mat_type is not None and mat_type != P.getType():
        P.convert(mat_type)
    return P


def refill_prolongation(V: FunctionSpace, P: PETSc.Mat, columns: dict[int, Columns]) -> None:
    """Give P from :func:`create_prolongation` new values; rows and numbers are as they were.

    Note:
        Collective.
    """
    P.setValuesCSR(*Rows(V, columns, keep=True).csr)
    P.assemble()


class Rows:
    """This rank's rows of P, from the columns of all ranks.

    Args:
        V: Fine space.
        columns: Basis functions of this rank, by coarse vertex.
        keep: Leave ``columns`` as it is. Otherwise it is emptied on the way, to save memory.

    Attributes:
        csr: Row pointers, columns and values.

    Note:
        Creation is collective.
    """

    def __init__(self, V: FunctionSpace, columns: dict[int, Columns], *, keep: bool) -> None:
        comm, bs = V.mesh.comm, V.dofmap.index_map_bs
        self._first, self._last = (bs * k for k in V.dofmap.index_map.local_range)
        num = [len(part.mode) for part in columns.values()]
        first = (comm.exscan(sum(num)) or 0) + np.cumsum([0, *num])
        # The largest arrays of all: on some ranks there may be no memory for them.
        others = _from_others(comm, V, columns, first)
        with collective_errors(comm):
            count = np.zeros(self._last - self._first + 1, dtype=np.int64)
            for part in columns.values():
                mine = self._local(part.rows)
                count[mine[mine >= 0] + 1] += len(part.mode)
            for _, rows, values in others:
                count[rows + 1 - self._first] += len(values)
            self._fill = np.cumsum(count)
            total = int(self._fill[-1])
            if total > np.iinfo(PETSc.IntType).max:
                raise ValueError(
                    f"P has {total} entries on a rank; expected at most "
                    f"{np.iinfo(PETSc.IntType).max} with the integers of this PETSc."
                )
            indptr = self._fill.astype(PETSc.IntType)
            self._cols = np.empty(total, dtype=PETSc.IntType)
            self._data = np.empty(total, dtype=PETSc.ScalarType)
            # Columns ascend in each row: those of lower ranks come first.
            lower = [block for block in others if block[0] < first[0]]
            for column, rows, values in lower:
                self._put(column, rows - self._first, values)
            for column, vertex in zip(first.tolist(), list(columns), strict=False):
                part = columns[vertex] if keep else columns.pop(vertex)
                mine = self._local(part.rows)
                inside = mine >= 0
                if inside.all():
                    self._put(column, mine, part.values)
                else:
                    self._put(column, mine[inside], part.values[:, inside])
            for column, rows, values in others[len(lower) :]:
                self._put(column, rows - self._first, values)
            self.csr = indptr, self._cols, self._data

    def _local(self, rows: LongArray) -> LongArray:
        """Numbers among the rows of this rank, negative for those of others."""
        return np.where((rows >= self._first) & (rows < self._last), rows - self._first, -1)

    def _put(self, column: int, rows: LongArray, values: FloatArray) -> None:
        """Functions, shape ``(num, n)``, with numbers from ``column`` on, into ``n`` rows."""
        num = len(values)
        place = self._fill[rows][:, None] + np.arange(num)
        self._cols[place] = np.arange(column, column + num, dtype=PETSc.IntType)
        self._data[place] = values.T
        self._fill[rows] += num


def _from_others(
    comm: MPI.Intracomm, V: FunctionSpace, columns: dict[int, Columns], first: LongArray
) -> list[tuple[int, LongArray, FloatArray]]:
    """First number, rows and values of other ranks' functions on rows of this one, by number.

    Collective.
    """
    if comm.size == 1:
        return []
    bs = V.dofmap.index_map_bs
    ends = bs * np.array(comm.allgather(V.dofmap.index_map.local_range[1]))
    heads, rows, values = [], [np.zeros(0, np.int64)], [np.zeros(0)]
    with collective_errors(comm):
        for column, part in zip(first.tolist(), columns.values(), strict=False):
            owner = np.searchsorted(ends, part.rows, side="right")
            for rank in np.setdiff1d(owner, comm.rank).tolist():
                there = owner == rank
                heads.append((rank, column, len(part.mode), int(there.sum())))
                rows.append(part.rows[there])
                values.append(part.values[:, there].reshape(-1))
        head = np.array(heads, dtype=np.int64).reshape(-1, 4)
        dest = head[:, 0].astype(np.int32)
    _, (blocks,) = route(comm, dest, head[:, 1:])
    _, (theirs,) = route(comm, np.repeat(dest, head[:, 3]), np.concatenate(rows))
    _, (entries,) = route(comm, np.repeat(dest, head[:, 2] * head[:, 3]), np.concatenate(values))
    found, row, entry = [], 0, 0
    for column, num, n in blocks.tolist():
        block = entries[entry : entry + num * n].reshape(num, n)
        found.append((column, theirs[row : row + n], block))
        row, entry = row + n, entry + num * n
    return found


def create_coo_matrix(
    V: FunctionSpace,
    num_local: int,
    rows: npt.NDArray[np.integer],
    cols: npt.NDArray[np.integer],
    data: FloatArray,
    mat_type: str | None,
) -> PETSc.Mat:
    """A matrix with the row layout of ``V`` and ``num_local`` columns on this rank, from COO.

    Entries may belong to other ranks' rows; ``rows`` and ``cols`` may be overwritten. Collective.
    """
    index_map, bs = V.dofmap.index_map, V.dofmap.index_map_bs
    P = PETSc.Mat().create(V.mesh.comm)
    P.setSizes(
        ((bs * index_map.size_local, bs * index_map.size_global), (num_local, PETSc.DETERMINE))
    )
    P.setType(PETSc.Mat.Type.AIJ if mat_type is None else mat_type)
    P.setPreallocationCOO(rows, cols)
    P.setValuesCOO(data)
    return P
