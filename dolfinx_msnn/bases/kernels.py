# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Products of sparse matrices with blocks of functions, and sums over a pencil.

By the compiled kernel where it is at hand, else by SciPy. The sums that Rayleigh-Ritz needs read A,
S and the functions once, store no product, and are in double precision also for functions in
single.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dolfinx_msnn._utils.compiled import Library
from dolfinx_msnn._utils.typing import FloatArray

_PATTERN = "int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices"
_PENCIL = f"{_PATTERN}, const double *A, const double *S"

#: Functions for each precision T, with the suffix X.
_EACH = f"""
void multiply_X({_PATTERN}, const T *data, const T *y, T *out);
int chebyshev_X({_PATTERN}, const T *data, const T *scale, int degree, double lower, double upper,
                const T *rhs, T *a, T *b);
void project_X({_PENCIL}, const T *y, double *a, double *s, double *work);
void combine_X(int64_t n, int64_t m, int64_t width, const T *y, const double *c, double *out);
"""
_DECLARATIONS = f"""
void measure(int64_t n, const int32_t *indptr, const int32_t *indices, const double *data,
             double *diagonal, double *row_sum, double *jump);
void residuals({_PENCIL}, const double *y, const double *values, const double *diagonal,
               double *errors);
void energies({_PENCIL}, const double *z, double *energy, double *size, double *mass);
""" + "".join(
    _EACH.replace("_X", f"_{suffix}").replace(" T ", f" {name} ")
    for suffix, name in (("f", "float"), ("d", "double"))
).replace("(T *", "(double *")

#: The kernels of ``sweeps.c``.
SWEEPS = Library(Path(__file__).with_name("sweeps.c"), _DECLARATIONS)

#: Columns that the kernel takes at a time; what is left over goes one by one.
COLUMNS = 8

#: Bytes of a line of the cache.
_LINE = 64

#: Rows of one of the kernel's tiles; see ``sweeps.c``.
_TILE = 16

#: Functions at the dofs, one a column, in either precision.
type Block = npt.NDArray[Any]


def _suffix(y: Block) -> str:
    """What the names of the kernel's functions end in for the precision of a block."""
    return "f" if y.dtype == np.float32 else "d"


def _usable(matrix: sp.csr_matrix | Matrix, data: Block, y: Block) -> bool:
    """Whether the kernel is there and can multiply a matrix with these entries by ``y``."""
    return (
        SWEEPS.module is not None
        and matrix.indices.dtype == matrix.indptr.dtype == np.int32
        and data.dtype == y.dtype
        and y.flags.c_contiguous
    )


def empty(n: int, m: int, dtype: npt.DTypeLike) -> Block:
    """An array of shape ``(n, m)`` that begins on a line of the cache: a fifth faster to read."""
    dtype = np.dtype(dtype)
    size = n * m * dtype.itemsize
    memory = np.empty(size + _LINE, dtype=np.uint8)
    begin = -memory.ctypes.data % _LINE
    return memory[begin : begin + size].view(dtype).reshape(n, m)


def padded(y: Block, dtype: npt.DTypeLike | None = None) -> Block:
    """A copy, on lines of the cache, with zeros up to a multiple of :data:`COLUMNS` columns."""
    n, m = y.shape
    out = empty(n, -(-m // COLUMNS) * COLUMNS, y.dtype if dtype is None else dtype)
    out[:, :m], out[:, m:] = y, 0
    return out


def _wide(y: Block) -> Block:
    """The functions themselves if the kernel can take them, else :func:`padded`."""
    return y if y.shape[1] % COLUMNS == 0 and y.flags.c_contiguous else padded(y)


class Matrix(NamedTuple):
    """The arrays of a CSR matrix: SciPy's own class takes longer to make than a product.

    Attributes:
        indptr: Row pointers, shape ``(n + 1,)``, int32.
        indices: Columns, shape ``(nnz,)``, int32.
        data: Entries, shape ``(nnz,)``.
    """

    indptr: npt.NDArray[np.int32]
    indices: npt.NDArray[np.int32]
    data: Block

    def __matmul__(self, y: Block) -> Block:
        shape = len(self.indptr) - 1, len(y)
        return np.asarray(sp.csr_matrix((self.data, self.indices, self.indptr), shape=shape) @ y)

    def diagonal(self) -> Block:
        """Entries on the diagonal, shape ``(n,)``."""
        n = len(self.indptr) - 1
        matrix = sp.csr_matrix((self.data, self.indices, self.indptr), shape=(n, n))
        return np.asarray(matrix.diagonal())


class Measures(NamedTuple):
    """What the filter wants to know of A.

    Attributes:
        diagonal: D, shape ``(n,)``.
        upper: Largest absolute row sum of D⁻¹A, a bound of its spectrum (Gershgorin).
        jump: Largest ratio of two diagonal entries that share an entry of A: how the coefficient
            jumps from cell to cell.
    """

    diagonal: npt.NDArray[np.float64]
    upper: float
    jump: float


def measure(matrix: sp.csr_matrix | Matrix) -> Measures:
    """Diagonal, bound of the spectrum and jumps of a matrix with positive diagonal."""
    indptr, indices, data = matrix.indptr, matrix.indices, matrix.data
    if SWEEPS.module is not None and indices.dtype == np.int32 and data.dtype == np.float64:
        diagonal, found = np.empty(len(indptr) - 1), np.empty(2)
        size = len(diagonal)
        SWEEPS.call("measure", size, indptr, indices, data, diagonal, found[:1], found[1:])
        return Measures(diagonal, float(found[0]), float(found[1]))
    diagonal = matrix.diagonal()
    rows = np.add.reduceat(np.abs(data), indptr[:-1]) / diagonal
    ratio = diagonal / np.minimum.reduceat(diagonal[indices], indptr[:-1])
    return Measures(diagonal, float(rows.max()), float(ratio.max()))


def multiply(matrix: sp.csr_matrix | Matrix, y: Block) -> Block:
    """``matrix @ y`` for a block of vectors, in C order and of the same dtype.

    Args:
        matrix: Shape ``(rows, n)``.
        y: Shape ``(n, m)``.
    """
    if not _usable(matrix, matrix.data, y):
        return np.ascontiguousarray(matrix @ y)
    n, m = len(matrix.indptr) - 1, y.shape[1]
    out = np.empty((n, m), dtype=y.dtype)
    SWEEPS.call(f"multiply_{_suffix(y)}", n, m, matrix.indptr, matrix.indices, matrix.data, y, out)
    return out


def chebyshev(
    matrix: sp.csr_matrix | Matrix,
    data: Block,
    scale: Block,
    y: Block,
    degree: int,
    lower: float,
    upper: float,
    rhs: Block | None = None,
) -> Block:
    """Apply the Chebyshev polynomial of diag(scale) A that damps [lower, upper] to a block.

    With a right-hand side it is applied to the errors y - A⁻¹ rhs instead, and these are taken off
    (Chebyshev semi-iteration; A need not be invertible for that).

    Args:
        matrix: Gives the sparsity pattern of A, shape ``(n, n)``.
        data: The entries of A, in the precision of the filter.
        scale: Shape ``(n,)``, same dtype as ``y``.
        y: Shape ``(n, m)``, C order. Overwritten.
        degree: At least one; so many products with A.
        lower: Lower end of the damped interval.
        upper: Upper end.
        rhs: As ``y``, not overwritten.

    Returns:
        Shape ``(n, m)``; the polynomial is one at zero.
    """
    if _usable(matrix, data, y):
        work = empty(len(y), y.shape[1], y.dtype)
        which = SWEEPS.call(
            f"chebyshev_{_suffix(y)}",
            *y.shape,
            matrix.indptr,
            matrix.indices,
            data,
            scale,
            degree,
            lower,
            upper,
            rhs,
            y,
            work,
        )
        return work if which else y
    centre, half = 0.5 * (upper + lower), 0.5 * (upper - lower)
    scaled = sp.csr_matrix(
        (data * np.repeat(scale, np.diff(matrix.indptr)), matrix.indices, matrix.indptr),
        shape=(len(scale), len(scale)),
    )
    shift = 0 if rhs is None else scale[:, None] * rhs
    first = sigma = -half / centre
    before, now = y, (scaled @ y - shift - y.dtype.type(centre) * y) * y.dtype.type(sigma / half)
    for _ in range(degree - 1):
        following = 1.0 / (2.0 / first - sigma)
        after = scaled @ now - shift
        after -= y.dtype.type(centre) * now
        after *= y.dtype.type(2.0 * following / half)
        after -= y.dtype.type(sigma * following) * before
        before, now, sigma = now, after, following
    return np.ascontiguousarray(now)


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
    if not _is_pencil(A, S):
        y = np.asarray(y, dtype=np.float64)
        a, s = y.T @ (A @ y), y.T @ (S @ y)
        return 0.5 * (a + a.T), 0.5 * (s + s.T)
    y = _wide(y)
    width = y.shape[1]
    a, s, work = np.empty((width, width)), np.empty((width, width)), np.empty((3, _TILE, width))
    SWEEPS.call(f"project_{_suffix(y)}", len(y), width, *_arrays(A, S), y, a, s, work)
    return a[:m, :m], s[:m, :m]


def combine(y: Block, c: FloatArray) -> FloatArray:
    """``y @ c`` in double precision.

    Args:
        y: Shape ``(n, m)``, either precision, C order.
        c: Shape ``(m, k)``.
    """
    if SWEEPS.module is None or c.shape[1] > 2 * COLUMNS:
        # Wide products are what BLAS is good at.
        return np.asarray(np.asarray(y, dtype=np.float64) @ c)
    factor = padded(c)
    out = empty(len(y), factor.shape[1], np.float64)
    SWEEPS.call(f"combine_{_suffix(y)}", *y.shape, factor.shape[1], y, factor, out)
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
    if not _is_pencil(A, S):
        rest = A @ functions - (S @ functions) * values
        return np.asarray((1.0 / diagonal) @ rest**2)
    functions, diagonal = _wide(functions), np.ascontiguousarray(diagonal)
    k, m = len(values), functions.shape[1]
    shifts, found = np.zeros(m), np.empty(m)
    shifts[:k] = values
    SWEEPS.call("residuals", len(functions), m, *_arrays(A, S), functions, shifts, diagonal, found)
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
    if not _is_pencil(A, S):
        square = z * z
        energy = np.einsum("ik,ik->k", z, A @ z)
        return energy, A.diagonal() @ square, S.diagonal() @ square
    found = np.empty((3, z.shape[1]))
    SWEEPS.call("energies", *z.shape, *_arrays(A, S), z, *found)
    return found[0], found[1], found[2]


def _is_pencil(A: sp.csr_matrix, S: sp.csr_matrix) -> bool:
    """Whether the kernel is there and the matrices are of one pattern and of its types."""
    return (
        SWEEPS.module is not None
        and A.indices.dtype == A.indptr.dtype == np.int32
        and A.data.dtype == S.data.dtype == np.float64
        and _same(A.indptr, S.indptr)
        and _same(A.indices, S.indices)
    )


def _same(a: Block, b: Block) -> bool:
    return a is b or a.ctypes.data == b.ctypes.data or np.array_equal(a, b)


def _arrays(A: sp.csr_matrix, S: sp.csr_matrix) -> tuple[Block, ...]:
    """The pattern and the entries of both matrices."""
    return A.indptr, A.indices, A.data, S.data
