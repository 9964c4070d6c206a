# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Sums over a local pencil that Rayleigh-Ritz needs: by the C kernel, else by SciPy.

The kernel reads A, S and the functions once for both Gram matrices, and stores no product. All
sums are in double precision, also for functions in single.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.bases import kernels
from dolfinx_msnn.bases.kernels import Block

#: Rows of one of the kernel's tiles; see ``sweeps.c``.
_TILE = 16


def project(A: sp.csr_matrix, S: sp.csr_matrix, y: Block) -> tuple[FloatArray, FloatArray]:
    """Gram matrices yᵀA y and yᵀS y.

    Args:
        A: Symmetric, shape ``(n, n)``, float64.
        S: The same.
        y: Functions, one a column, shape ``(n, m)``, either precision, C order.

    Returns:
        Two symmetric arrays of shape ``(m, m)``.
    """
    m = y.shape[1]
    if not _usable(A, S):
        y = np.asarray(y, dtype=np.float64)
        a, s = y.T @ (A @ y), y.T @ (S @ y)
        return 0.5 * (a + a.T), 0.5 * (s + s.T)
    y = kernels.padded(y)
    width = y.shape[1]
    a, s, work = np.empty((width, width)), np.empty((width, width)), np.empty((3, _TILE, width))
    kernel = kernels.library()
    getattr(kernel, f"project_{kernels.suffix(y.dtype)}")(
        len(y),
        width,
        *_pencil(A, S),
        y.ctypes.data,
        a.ctypes.data,
        s.ctypes.data,
        work.ctypes.data,
    )
    return a[:m, :m], s[:m, :m]


def combine(y: Block, c: FloatArray) -> FloatArray:
    """``y @ c`` in double precision.

    Args:
        y: Shape ``(n, m)``, either precision, C order.
        c: Shape ``(m, k)``.
    """
    kernel = kernels.library()
    if kernel is None or c.shape[1] > 2 * kernels.COLUMNS:
        # Wide products are what BLAS is good at.
        return np.asarray(np.asarray(y, dtype=np.float64) @ c)
    padded = kernels.padded(np.ascontiguousarray(c))
    out = np.empty((len(y), padded.shape[1]))
    getattr(kernel, f"combine_{kernels.suffix(y.dtype)}")(
        *y.shape, padded.shape[1], y.ctypes.data, padded.ctypes.data, out.ctypes.data
    )
    return out[:, : c.shape[1]]


def residuals(
    A: sp.csr_matrix,
    S: sp.csr_matrix,
    functions: FloatArray,
    values: FloatArray,
    diagonal: FloatArray,
) -> FloatArray:
    """Squares ‖D^(-1/2) (A φ - λ S φ)‖² of the residuals of some pairs.

    Args:
        A: Shape ``(n, n)``.
        S: The same.
        functions: φ, one a column, shape ``(n, k)``.
        values: λ, shape ``(k,)``.
        diagonal: D, shape ``(n,)``.

    Returns:
        Shape ``(k,)``.
    """
    if not _usable(A, S):
        rest = A @ functions - (S @ functions) * values
        return np.asarray((1.0 / diagonal) @ rest**2)
    functions, diagonal = kernels.padded(functions), np.ascontiguousarray(diagonal)
    k, m = len(values), functions.shape[1]
    padded, found = np.zeros(m), np.empty(m)
    padded[:k] = values
    kernel = kernels.library()
    assert kernel is not None
    kernel.residuals(
        len(functions),
        m,
        *_pencil(A, S),
        functions.ctypes.data,
        padded.ctypes.data,
        diagonal.ctypes.data,
        found.ctypes.data,
    )
    return found[:k]


def energies(
    A: sp.csr_matrix, S: sp.csr_matrix, z: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """For each function: zᵀA z, zᵀdiag(A) z and zᵀdiag(S) z.

    Args:
        A: Shape ``(n, n)``.
        S: The same.
        z: One a column, shape ``(n, m)`` with m a multiple of 4, C order.

    Returns:
        Three arrays of shape ``(m,)``.
    """
    if not _usable(A, S):
        square = z * z
        energy = np.einsum("ik,ik->k", z, A @ z)
        return energy, A.diagonal() @ square, S.diagonal() @ square
    found = np.empty((3, z.shape[1]))
    kernel = kernels.library()
    assert kernel is not None
    kernel.energies(
        *z.shape,
        *_pencil(A, S),
        z.ctypes.data,
        *(row.ctypes.data for row in found),
    )
    return found[0], found[1], found[2]


def _usable(A: sp.csr_matrix, S: sp.csr_matrix) -> bool:
    """Whether the kernel is there and the matrices are of one pattern and of its types."""
    return (
        kernels.library() is not None
        and A.indices.dtype == A.indptr.dtype == np.int32
        and A.data.dtype == S.data.dtype == np.float64
        and _same(A.indptr, S.indptr)
        and _same(A.indices, S.indices)
    )


def _same(a: Block, b: Block) -> bool:
    return a is b or a.ctypes.data == b.ctypes.data or np.array_equal(a, b)


def _pencil(A: sp.csr_matrix, S: sp.csr_matrix) -> tuple[int, ...]:
    """Where the kernel finds the pattern and the entries of both matrices."""
    return tuple(part.ctypes.data for part in (A.indptr, A.indices, A.data, S.data))
