# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""From modes to the prolongation matrix P: multiply by χ_i, orthonormalise locally, fill by COO."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from petsc4py import PETSc

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._mpi import collective_errors
from dolfinx_msnn._typing import FloatArray, FunctionSpace, IntArray, LongArray
from dolfinx_msnn.bases.protocol import LocalBasis, LocalModes
from dolfinx_msnn.local import LocalProblem, LocalProblems, Timings

#: A basis function is dropped if less than this fraction of it (in the norm of diag A_i) is
#: independent of the earlier ones of its neighbourhood.
DROP_TOLERANCE = 1e-10

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
class _Columns:
    """Basis functions of this rank, gathered neighbourhood by neighbourhood."""

    rows: list[LongArray] = field(default_factory=list)
    values: list[FloatArray] = field(default_factory=list)
    vertex: list[int] = field(default_factory=list)
    mode: list[IntArray] = field(default_factory=list)
    eigenvalues: dict[int, FloatArray] = field(default_factory=dict)
    num_dropped: int = 0

    def add(self, problem: LocalProblem, modes: LocalModes) -> None:
        """Append the basis functions χ_i φ_j of one neighbourhood."""
        support = np.flatnonzero((problem.chi > 0) & ~problem.dirichlet)
        functions = problem.chi[support] * modes.vectors[:, support]
        weight = np.sqrt(problem.A.diagonal()[support])
        functions, kept = orthonormalise(functions, weight)
        self.rows.append(problem.dofs[support])
        self.values.append(functions)
        self.vertex.append(problem.vertex)
        self.mode.append(kept.astype(np.int32))
        self.eigenvalues[problem.vertex] = np.array(modes.values, dtype=np.float64)
        self.num_dropped += len(modes.vectors) - len(kept)


def orthonormalise(functions: FloatArray, weight: FloatArray) -> tuple[FloatArray, LongArray]:
    """Orthonormalise rows in the inner product Σ w² f g, in order, dropping dependent ones.

    The first k kept rows span the same space as the input rows they come from and those before.

    Args:
        functions: Shape ``(num, n)``.
        weight: w > 0, shape ``(n,)``.

    Returns:
        Orthonormal rows, shape ``(num_kept, n)``, and which input rows they come from.
    """
    rows = functions * weight
    norms = np.sqrt(np.einsum("in,in->i", rows, rows))
    nonzero = np.flatnonzero(norms > 0)
    rows = rows[nonzero] / norms[nonzero, None]
    # Well-conditioned (nearly always): Cholesky of the Gram matrix, twice. einsum stays clear of
    # multithreaded BLAS, which is slow at this size on busy cores.
    try:
        basis = rows
        for _ in range(2):
            factor = np.linalg.cholesky(np.einsum("in,jn->ij", basis, basis))
            if factor.diagonal().min(initial=1.0) < 1e-4:
                raise np.linalg.LinAlgError
            basis = np.einsum("ij,jn->in", np.linalg.inv(factor), basis)
        return basis / weight, nonzero
    except np.linalg.LinAlgError:
        kept, basis = _gram_schmidt(rows)
        return basis / weight, nonzero[kept]


def _gram_schmidt(
    rows: FloatArray,
) -> tuple[LongArray, FloatArray]:
    """Classical Gram-Schmidt, twice; rows of norm one that depend on earlier ones are dropped."""
    kept: list[int] = []
    basis = np.empty_like(rows)
    for k, row in enumerate(rows):
        q = basis[: len(kept)]
        rest = row - (q @ row) @ q
        size = np.linalg.norm(rest)
        if size <= DROP_TOLERANCE:
            continue
        rest /= size
        rest -= (q @ rest) @ q
        basis[len(kept)] = rest / np.linalg.norm(rest)
        kept.append(k)
    return np.array(kept, dtype=np.int64), basis[: len(kept)]


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


def create_prolongation(
    V: FunctionSpace,
    problems: LocalProblems,
    basis: LocalBasis,
    timings: Timings,
    *,
    mat_type: str | None = None,
) -> tuple[PETSc.Mat, CoarseDofs]:
    """Run the basis on all local problems and assemble P.

    Args:
        V: Fine space.
        problems: Local problems of this rank.
        basis: Where the modes come from.
        timings: Stage times are booked here.
        mat_type: PETSc type of P; default ``aij``.

    Returns:
        P, N_f × N_c, rows laid out like ``V``, each column on the rank that computed it; and the
        coarse dofs of this rank. The caller destroys P.

    Note:
        Collective.
    """
    columns = _Columns()
    with collective_errors(V.mesh.comm):
        for batch in problems.batches(BATCH_BYTES):
            start = time.perf_counter()
            # A copy: what the basis does to its list is no business of ours.
            results = basis.modes(list(batch))
            start = timings.add("basis", start)
            if not isinstance(results, Sequence):
                raise ValueError(
                    f"The basis gave {type(results).__name__}; expected a list of LocalModes."
                )
            if len(results) != len(batch):
                raise ValueError(
                    f"The basis gave modes for {len(results)} neighbourhoods, expected "
                    f"{len(batch)}."
                )
            for problem, modes in zip(batch, results, strict=True):
                check_modes(problem, modes)
                columns.add(problem, modes)
            timings.add("prolongation", start)
    start = time.perf_counter()
    asked = sum(len(values) for values in columns.eigenvalues.values())
    total, given = V.mesh.comm.allreduce(np.array([asked - columns.num_dropped, asked]))
    if total == 0:
        raise ValueError(
            f"The multiscale space is empty: of {given} modes none is left that is not zero on the "
            "free dofs; expected at least one free dof and one mode."
        )
    num = [len(mode) for mode in columns.mode]
    dofs = CoarseDofs(
        np.repeat(np.array(columns.vertex, dtype=np.int64), num),
        np.concatenate([*columns.mode, np.zeros(0, np.int32)]),
        columns.eigenvalues,
        columns.num_dropped,
    )
    P = _assemble(V, columns, sum(num), mat_type)
    timings.add("prolongation", start)
    return P, dofs


def _assemble(
    V: FunctionSpace, columns: _Columns, num_local: int, mat_type: str | None
) -> PETSc.Mat:
    first = V.mesh.comm.exscan(num_local) or 0
    # The largest arrays of all: on some ranks there may be no memory for them.
    with collective_errors(V.mesh.comm):
        rows, cols, data = _entries(columns, first)
    return create_coo_matrix(V, num_local, rows, cols, data, mat_type)


def _entries(
    columns: _Columns, first: int
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], FloatArray]:
    """The basis functions by coordinates; they are freed on the way. Not collective."""
    sizes = [values.size for values in columns.values]
    rows = np.empty(sum(sizes), dtype=PETSc.IntType)
    cols = np.empty(sum(sizes), dtype=PETSc.IntType)
    data = np.empty(sum(sizes), dtype=PETSc.ScalarType)
    at, column = 0, first
    columns.rows.reverse()
    columns.values.reverse()
    while columns.values:
        # Row by row of P (dof-major), and freed as we go: P is the largest thing of all.
        values, dofs = columns.values.pop(), columns.rows.pop()
        num, n = values.shape
        part = slice(at, at + values.size)
        rows[part] = np.repeat(dofs, num)
        cols[part] = np.tile(np.arange(column, column + num), n)
        data[part] = values.T.reshape(-1)
        at, column = at + values.size, column + num
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
