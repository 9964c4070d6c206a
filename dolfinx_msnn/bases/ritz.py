# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Rayleigh-Ritz: the best pairs of a pencil (A, S) in the span of functions, whatever these are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from dolfinx_msnn._utils.linalg import whiten
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.bases import kernels
from dolfinx_msnn.bases.kernels import Block
from dolfinx_msnn.bases.pencil import Pencil


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs of a local pencil in a subspace.

    Attributes:
        values: Ritz values λ of (A, S), ascending, shape ``(num,)``.
        errors: Estimated squared energy error of the first vectors relative to their energy, shape
            ``(num_checked,)``; see :func:`rayleigh_ritz`.
        basis: Basis of the subspace, one function a column, shape ``(n_i, m)``, either precision.
        coefficients: Ritz vectors in that basis, shape ``(m, num)``.
        first: The first vectors, shape ``(n_i, num_checked)``.
    """

    values: FloatArray
    errors: FloatArray
    basis: Block
    coefficients: FloatArray
    first: FloatArray

    def functions(self, num: int | None = None) -> FloatArray:
        """The first Ritz vectors, one a column, S-orthonormal, shape ``(n_i, num)``."""
        if num is not None and num <= self.first.shape[1]:
            return self.first[:, :num]
        return kernels.combine(self.basis, self.coefficients[:, :num])


def rayleigh_ritz(
    pencil: Pencil,
    functions: Block,
    num_checked: int | None = None,
    *,
    lower: float | None = None,
) -> Ritz:
    """Ritz pairs of (A_i, S_i) in the span of functions, robust to dependent columns.

    Args:
        pencil: The pencil.
        functions: One a column, shape ``(n_i, m)``, of any scale.
        num_checked: Estimate errors of so many pairs; default all.
        lower: α: the error of a pair is what is left of eigenvalues of D⁻¹A above it, so its
            squared energy norm is at most ‖D^(-1/2)(A φ - λ S φ)‖² / α. Default: ``upper``.

    Returns:
        As many pairs as the span has independent functions with finite Ritz values.
    """
    shift, problem = pencil.shift, pencil.problem
    y = np.ascontiguousarray(functions)
    a, s, scale = _project(pencil, y)
    if not scale.any():
        none = np.zeros((y.shape[1], 0))
        return Ritz(np.zeros(0), np.zeros(0), y, none, np.zeros((len(y), 0)))
    white = _whiten(a + shift * s, scale)
    if white is None:
        # Rounding errors of the Gram matrix are magnified: orthonormalise first, then again.
        y = kernels.combine(y, whiten(a + shift * s))
        y = np.ascontiguousarray(y)
        a, s, scale = _project(pencil, y)
        white = whiten(a + shift * s)
    values, c = _pairs(s, white, shift)
    first = kernels.combine(y, c[:, :num_checked])
    checked = values[:num_checked]
    squared = kernels.residuals(problem.A, problem.S, first, checked, pencil.diagonal)
    alpha = pencil.upper if lower is None else lower
    errors = squared / (alpha * np.maximum(checked + shift, np.finfo(float).tiny))
    return Ritz(values, errors, y, c, first)


def replace_first(pencil: Pencil, ritz: Ritz, functions: Block) -> tuple[FloatArray, FloatArray]:
    """Ritz pairs in the span of new functions and of all but the first Ritz vectors.

    The products of the latter are known: that saves most of :func:`rayleigh_ritz`.

    Args:
        pencil: The pencil.
        ritz: Ritz pairs in a subspace.
        functions: In place of the first ones, shape ``(n_i, num)``, either precision.

    Returns:
        As many values, ascending, and vectors, shape ``(n_i, num)``; the old ones where the new
        functions depend on the others.
    """
    num, shift, problem = functions.shape[1], pencil.shift, pencil.problem
    new = np.asarray(functions, dtype=np.float64)
    rest = ritz.functions()[:, num:]
    both = np.hstack([new, rest])
    a, s = np.diag(np.append(np.zeros(num), ritz.values[num:])), np.eye(both.shape[1])
    for matrix, gram in ((problem.A, a), (problem.S, s)):
        gram[:, :num] = both.T @ kernels.multiply(matrix, new)
        gram[:num, num:] = gram[num:, :num].T
    whole = a + shift * s
    size = whole.diagonal()
    white = None
    if np.isfinite(whole).all() and (size > 0).all():
        white = _whiten(whole, 1.0 / np.sqrt(size))
    if white is None:
        return ritz.values[:num], ritz.functions(num)
    values, c = _pairs(s, white, shift)
    return values[:num], kernels.combine(both, c[:, :num])


def _pairs(s: FloatArray, white: FloatArray, shift: float) -> tuple[FloatArray, FloatArray]:
    """Ritz values and S-orthonormal vectors of projected matrices, with W that whitens a+shift s.

    The pencil (s, a + shift s) is definite even where s is singular, and has θ = 1/(λ+shift).
    """
    theta, c = _eigh(white.T @ s @ white)
    num = int(np.count_nonzero(theta > 1e-14 * theta[0]))
    return 1.0 / theta[:num] - shift, (white @ c[:, :num]) / np.sqrt(theta[:num])


def _project(pencil: Pencil, y: Block) -> tuple[FloatArray, FloatArray, FloatArray]:
    """yᵀA y, yᵀS y, and factors that give each column of y the norm one."""
    a, s = kernels.project(pencil.problem.A, pencil.problem.S, y)
    size = a.diagonal() + pencil.shift * s.diagonal()
    good = np.isfinite(size) & (size > 0)
    return a, s, np.where(good, 1.0 / np.sqrt(np.where(good, size, 1.0)), 0.0)


def _eigh(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues, descending, and eigenvectors; LAPACK without NumPy's checks around it."""
    values, vectors, info = scipy.linalg.lapack.dsyevd(matrix)
    if info != 0:
        raise np.linalg.LinAlgError("Eigenvalues of a projected matrix did not converge.")
    return values[::-1], vectors[:, ::-1]


def _whiten(g: FloatArray, scale: FloatArray) -> FloatArray | None:
    """W with WᵀgW = 1, or ``None`` if a column depends on the others up to 1e-4."""
    factor, info = scipy.linalg.lapack.dpotrf(g * scale[:, None] * scale, lower=0, clean=1)
    if info != 0 or factor.diagonal().min() <= 1e-4:
        return None
    inverse, _ = scipy.linalg.lapack.dtrtri(factor, lower=0)
    return np.asarray(inverse * scale[:, None])
