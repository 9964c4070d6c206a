# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""From modes to the prolongation matrix P: multiply by χ_i, orthonormalise locally, fill by COO."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.linalg import orthonormalise
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, FunctionSpace, IntArray, LongArray
from dolfinx_msnn.bases.protocol import LocalBasis, LocalModes
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.problem import LocalProblem

#: Memory of local problems handed to a basis at once, in bytes.
BATCH_BYTES = 2**28


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

    @classmethod
    def create(cls, problem: LocalProblem, modes: LocalModes) -> Columns:
        """The basis functions χ_i φ_j of one neighbourhood, orthonormalised."""
        support = np.flatnonzero((problem.chi > 0) & ~problem.dirichlet)
        functions = problem.chi[support] * modes.vectors[:, support]
        weight = np.sqrt(problem.A.diagonal()[support])
        functions, kept = orthonormalise(functions, weight)
        eigenvalues = np.array(modes.values, dtype=np.float64)
        return cls(problem.dofs[support], functions, kept.astype(np.int32), eigenvalues)


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
                columns[problem.vertex] = Columns.create(problem, modes)
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
    num_local = sum(len(part.mode) for part in columns.values())
    first = V.mesh.comm.exscan(num_local) or 0
    # The largest arrays of all: on some ranks there may be no memory for them.
    with collective_errors(V.mesh.comm):
        rows, cols, data = _entries(columns, first, keep)
    return create_coo_matrix(V, num_local, rows, cols, data, mat_type)


def refill_prolongation(comm: MPI.Intracomm, P: PETSc.Mat, columns: dict[int, Columns]) -> None:
    """Give P from :func:`create_prolongation` new values; rows and numbers are as they were.

    Note:
        Collective.
    """
    with collective_errors(comm):
        parts = [part.values.T.reshape(-1) for part in columns.values()]
        data = np.concatenate([*parts, np.zeros(0)]).astype(PETSc.ScalarType, copy=False)
    P.setValuesCOO(data)


def _entries(
    columns: dict[int, Columns], first: int, keep: bool
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], FloatArray]:
    """The basis functions by coordinates. Not collective."""
    size = sum(part.values.size for part in columns.values())
    rows = np.empty(size, dtype=PETSc.IntType)
    cols = np.empty(size, dtype=PETSc.IntType)
    data = np.empty(size, dtype=PETSc.ScalarType)
    at, column = 0, first
    for vertex in list(columns):
        # Row by row of P (dof-major), and freed as we go: P is the largest thing of all.
        part = columns[vertex] if keep else columns.pop(vertex)
        num, n = part.values.shape
        here = slice(at, at + num * n)
        rows[here] = np.repeat(part.rows, num)
        cols[here] = np.tile(np.arange(column, column + num), n)
        data[here] = part.values.T.reshape(-1)
        at, column = at + num * n, column + num
    return rows, cols, data


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
