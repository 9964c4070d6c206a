# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Sparse matrix times block of vectors: a C kernel where a compiler is at hand, else SciPy.

DOLFINx needs a C compiler anyway, for its forms. The kernel is compiled for the processor it runs
on, once, into DOLFINx's cache folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dolfinx.jit import get_options

_FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared"]

#: Columns that the kernel takes at a time; what is left over goes one by one.
COLUMNS = 8

#: Functions at the dofs, one a column, in either precision.
type Block = npt.NDArray[Any]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or ``None`` where it cannot be had. Not collective.

    Ranks that come here at once compile it each for itself; the last one to finish replaces the
    file of the others by an equal one.
    """
    source = Path(__file__).with_name("sweeps.c")
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None or os.environ.get("MSNN_NO_KERNEL"):
        return None
    try:
        key = hashlib.blake2b(digest_size=12)
        for part in (source.read_bytes(), " ".join([compiler, *_FLAGS]).encode(), _processor()):
            key.update(part)
        folder = Path(os.fspath(get_options()["cache_dir"])).expanduser()
        target = folder / f"msnn_sweeps_{key.hexdigest()}.so"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                made = Path(work) / target.name
                subprocess.run(
                    [compiler, *_FLAGS, "-o", str(made), str(source)],
                    check=True,
                    capture_output=True,
                    timeout=120,
                )
                made.replace(target)
        loaded = ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None
    integer, block, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
    for letter in "fd":
        multiply_ = getattr(loaded, f"multiply_{letter}")
        multiply_.argtypes, multiply_.restype = [integer, integer, *[block] * 5], None
        chebyshev_ = getattr(loaded, f"chebyshev_{letter}")
        chebyshev_.argtypes = [integer, integer, *[block] * 4, ctypes.c_int, number, number]
        chebyshev_.argtypes += [block, block]
        chebyshev_.restype = ctypes.c_int
        project = getattr(loaded, f"project_{letter}")
        project.argtypes, project.restype = [integer, integer, *[block] * 8], None
        combine = getattr(loaded, f"combine_{letter}")
        combine.argtypes, combine.restype = [integer, integer, integer, *[block] * 3], None
    loaded.measure.argtypes, loaded.measure.restype = [integer, *[block] * 6], None
    for whole in (loaded.residuals, loaded.energies):
        whole.argtypes, whole.restype = [integer, integer, *[block] * 8], None
    return loaded


def _processor() -> bytes:
    """What tells processors apart that need different code: homes are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
        return "\n".join(flags[:2]).encode()
    except OSError:
        return f"{platform.processor()} {sysconfig.get_platform()} {platform.node()}".encode()


def suffix(dtype: np.dtype[np.generic]) -> str:
    """What the names of the kernel's functions end in for this precision."""
    return "f" if dtype == np.float32 else "d"


def _usable(matrix: sp.csr_matrix | Matrix, data: Block, y: Block) -> bool:
    return (
        library() is not None
        and matrix.indices.dtype == np.int32
        and matrix.indptr.dtype == np.int32
        and data.dtype == y.dtype
        and y.flags.c_contiguous
    )


def padded(y: Block) -> Block:
    """The functions with zeros up to a multiple of :data:`COLUMNS`, in C order; no copy if so."""
    n, m = y.shape
    if m % COLUMNS == 0 and y.flags.c_contiguous:
        return y
    out = np.zeros((n, -(-m // COLUMNS) * COLUMNS), dtype=y.dtype)
    out[:, :m] = y
    return out


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
    kernel = library()
    if kernel is not None and indices.dtype == np.int32 and data.dtype == np.float64:
        diagonal, found = np.empty(len(indptr) - 1), np.empty(2)
        at = found.ctypes.data
        kernel.measure(
            len(diagonal),
            indptr.ctypes.data,
            indices.ctypes.data,
            data.ctypes.data,
            diagonal.ctypes.data,
            at,
            at + found.itemsize,
        )
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
    getattr(library(), f"multiply_{suffix(y.dtype)}")(
        n,
        m,
        matrix.indptr.ctypes.data,
        matrix.indices.ctypes.data,
        matrix.data.ctypes.data,
        y.ctypes.data,
        out.ctypes.data,
    )
    return out


def chebyshev(
    matrix: sp.csr_matrix | Matrix,
    data: Block,
    scale: Block,
    y: Block,
    degree: int,
    lower: float,
    upper: float,
) -> Block:
    """Apply the Chebyshev polynomial of diag(scale) A that damps [lower, upper] to a block.

    Args:
        matrix: Gives the sparsity pattern of A, shape ``(n, n)``.
        data: The entries of A, in the precision of the filter.
        scale: Shape ``(n,)``, same dtype as ``y``.
        y: Shape ``(n, m)``, C order. Overwritten.
        degree: At least one; so many products with A.
        lower: Lower end of the damped interval.
        upper: Upper end.

    Returns:
        Shape ``(n, m)``; the polynomial is one at zero.
    """
    if _usable(matrix, data, y):
        work = np.empty_like(y)
        n, m = y.shape
        which = getattr(library(), f"chebyshev_{suffix(y.dtype)}")(
            n,
            m,
            matrix.indptr.ctypes.data,
            matrix.indices.ctypes.data,
            data.ctypes.data,
            scale.ctypes.data,
            degree,
            lower,
            upper,
            y.ctypes.data,
            work.ctypes.data,
        )
        return work if which else y
    centre, half = 0.5 * (upper + lower), 0.5 * (upper - lower)
    scaled = sp.csr_matrix(
        (data * np.repeat(scale, np.diff(matrix.indptr)), matrix.indices, matrix.indptr),
        shape=(len(scale), len(scale)),
    )
    first = sigma = -half / centre
    before, now = y, (scaled @ y - y.dtype.type(centre) * y) * y.dtype.type(sigma / half)
    for _ in range(degree - 1):
        following = 1.0 / (2.0 / first - sigma)
        after = scaled @ now
        after -= y.dtype.type(centre) * now
        after *= y.dtype.type(2.0 * following / half)
        after -= y.dtype.type(sigma * following) * before
        before, now, sigma = now, after, following
    return np.ascontiguousarray(now)
