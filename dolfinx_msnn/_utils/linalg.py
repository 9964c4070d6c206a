# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Dense linear algebra: orthonormal bases, rigid motions, and null spaces among a few functions."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np
import scipy.linalg

from dolfinx_msnn._utils.typing import FloatArray, LongArray

#: A basis function is dropped if less than this fraction of it (in the norm of diag A_i) is
#: independent of the earlier ones of its neighbourhood.
DROP_TOLERANCE = 1e-10

#: Functions scaled to length one are dependent where their Gram matrix has eigenvalues below this
#: fraction of the largest.
RANK_TOLERANCE = 1e-12

#: A z counts as zero if ‖D⁻¹A z‖ is at most this fraction of ‖z‖, with D = diag(A), for constants:
#: rounding leaves up to 3e-15 (degree 3). For rotations see :func:`motion_tolerances`.
NULL_TOLERANCE = 1e-14


def orthonormalise(functions: FloatArray, weight: FloatArray) -> list[tuple[FloatArray, LongArray]]:
    """Orthonormalise rows in the inner product Σ w² f g, in order, dropping dependent ones.

    The first k kept rows span the same space as the input rows they come from and those before.

    Args:
        functions: Of each of some spaces, shape ``(num_spaces, num, n)``.
        weight: w > 0, shape ``(num_spaces, n)``.

    Returns:
        For each space orthonormal rows, shape ``(num_kept, n)``, and which input rows they come
        from.
    """
    rows = functions * weight[:, None]
    norms = np.sqrt(np.einsum("kin,kin->ki", rows, rows))
    rows /= np.where(norms > 0, norms, 1.0)[:, :, None]
    # Well-conditioned (nearly always): Cholesky of the Gram matrix, twice. einsum stays clear of
    # multithreaded BLAS, which is slow at this size on busy cores.
    gram, num = np.einsum("kin,kjn->kij", rows, rows), rows.shape[1]
    good = np.linalg.eigvalsh(gram).min(axis=1, initial=1.0) > 1e-8
    gram[~good] = np.eye(num)
    basis = rows
    for _ in range(2):
        basis = np.einsum("kij,kjn->kin", np.linalg.inv(np.linalg.cholesky(gram)), basis)
        gram = np.einsum("kin,kjn->kij", basis, basis)
        gram[~good] = np.eye(num)
    basis /= weight[:, None]
    found = [(part, np.arange(num)) for part in basis]
    for k in np.flatnonzero(~good).tolist():
        nonzero = np.flatnonzero(norms[k] > 0)
        kept, independent = _gram_schmidt(rows[k, nonzero])
        found[k] = independent / weight[k], nonzero[kept]
    return found


def fix_signs(vectors: FloatArray) -> FloatArray:
    """Vectors, shape ``(..., n)``, with their entry of largest magnitude positive."""
    largest = np.abs(vectors).argmax(axis=-1, keepdims=True)
    return np.asarray(vectors * np.sign(np.take_along_axis(vectors, largest, axis=-1)))


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


def whiten(gram: FloatArray) -> FloatArray:
    """W with Wᵀ G W = 1 for the Gram matrix G of functions, some of which may be dependent.

    Args:
        gram: Shape ``(num, num)``. Functions of zero length are left out.

    Returns:
        Shape ``(num, rank)``: coefficients of orthonormal functions, one a column.
    """
    size = gram.diagonal()
    scale = np.where(size > 0, 1.0 / np.sqrt(np.where(size > 0, size, 1.0)), 0.0)
    energy, directions = np.linalg.eigh(gram * scale[:, None] * scale)
    independent = energy > RANK_TOLERANCE * energy.max(initial=np.finfo(float).tiny)
    return np.asarray(directions[:, independent] / np.sqrt(energy[independent]) * scale[:, None])


def rigid_motions(x: FloatArray, block_size: int) -> FloatArray:
    """Constants of each component and, in elasticity, the infinitesimal rotations.

    Args:
        x: Positions of the dof blocks, shape ``(n, gdim)``.
        block_size: Components; if there are as many as dimensions, rotations are included.

    Returns:
        One motion a row, unrolled with the component fastest, shape ``(num, n * block_size)``.
    """
    n, gdim = x.shape
    motions = [np.tile(np.eye(block_size)[k], n) for k in range(block_size)]
    if block_size == gdim:
        for i in range(gdim):
            for j in range(i):
                rotation = np.zeros((n, gdim))
                rotation[:, i], rotation[:, j] = x[:, j], -x[:, i]
                motions.append(rotation.reshape(-1))
    return np.array(motions)


def motion_tolerances(box: FloatArray, block_size: int) -> FloatArray:
    """What rounding may leave of A z, as a fraction of z, for each of :func:`rigid_motions`.

    Rotations about the centre of a small body with large coordinates, as on maps, are exact only to
    the rounding errors of those.

    Args:
        box: Lower and upper corner of the body, shape ``(..., 2, gdim)``.
        block_size: Components.

    Returns:
        Shape ``(..., num_motions)``.
    """
    gdim = box.shape[-1]
    rotations = gdim * (gdim - 1) // 2 if block_size == gdim else 0
    extent = np.ptp(box, axis=-2).max(axis=-1)
    # On a single point a rotation is a translation.
    size = np.abs(box).max(axis=(-2, -1))
    reach = np.divide(size, extent, out=np.zeros_like(extent), where=extent > 0)
    tolerances = np.ones((*extent.shape, block_size + rotations))
    tolerances[..., block_size:] += reach[..., None]
    return NULL_TOLERANCE * tolerances


def null_combinations(
    functions: FloatArray,
    images: FloatArray,
    diagonal: FloatArray,
    tolerances: FloatArray,
    comm: MPI.Intracomm = MPI.COMM_SELF,
) -> FloatArray:
    """Combinations z of a few functions with A z = 0 to rounding.

    Each row of A is measured by its own diagonal entry: a condition that resists a motion is seen
    wherever it acts, at any contrast of the coefficients.

    Args:
        functions: One a row, this rank's entries, shape ``(num, n)``; may be dependent.
        images: A times each of them, shape ``(num, n)``.
        diagonal: diag(A), shape ``(n,)``.
        tolerances: Largest ‖D⁻¹A z‖/‖z‖ of each function that counts as zero, shape ``(num,)``.
        comm: Over whose ranks the entries are distributed.

    Returns:
        Coefficients, shape ``(num_null, num)``, the same on every rank. In echelon form: a function
        with A z = 0 comes by itself.

    Note:
        Collective on ``comm``.
    """
    num = len(functions)
    if num == 1:
        # Nearly always: the constant.
        parts = (functions[0], images[0] / np.maximum(np.abs(diagonal), np.finfo(float).tiny))
        squares = np.array([part @ part for part in parts])
        if comm.size > 1:
            comm.Allreduce(MPI.IN_PLACE, squares, op=MPI.SUM)
        return np.ones((int(squares[1] <= tolerances[0] ** 2 * squares[0]), 1))
    relative = images / np.maximum(np.abs(diagonal), np.finfo(float).tiny)
    sizes, defects = (_triangle(block.T, comm) for block in (functions, relative))
    if not np.isfinite(defects).all():
        return np.zeros((0, num))
    # Independent combinations first, of size one.
    scale = np.maximum(np.linalg.norm(sizes, axis=0), np.finfo(float).tiny)
    _, size, rows = np.linalg.svd(sizes / scale)
    kept = size > DROP_TOLERANCE * size[0]
    independent = rows[kept] / size[kept, None] / scale
    # Combinations of functions with different tolerances have one between.
    weight = np.linalg.qr((tolerances * scale)[:, None] * independent.T, mode="r")
    _, size, rows = np.linalg.svd(defects @ np.linalg.solve(weight.T, independent).T)
    null = np.asarray(rows[size <= 1.0] @ np.linalg.solve(weight.T, independent))
    if len(null) == 0:
        return null
    pivots = np.sort(scipy.linalg.qr(null * scale, mode="r", pivoting=True)[1][: len(null)])
    null = np.asarray(np.linalg.solve(null[:, pivots], null))
    null[:, pivots] = np.eye(len(null))
    null[np.abs(null) * scale <= DROP_TOLERANCE * scale[pivots, None]] = 0.0
    return null


def _triangle(columns: FloatArray, comm: MPI.Intracomm) -> FloatArray:
    """R of the QR factorisation of distributed columns, shape ``(num, num)``. Collective.

    Unlike those of a Gram matrix, its singular values are not squares.
    """
    parts = comm.allgather(np.linalg.qr(columns, mode="r"))
    square = np.zeros((columns.shape[1],) * 2)
    return np.asarray(np.linalg.qr(np.concatenate([square, *parts]), mode="r"))
