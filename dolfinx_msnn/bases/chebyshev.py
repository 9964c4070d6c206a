# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The filter: a Chebyshev polynomial of D⁻¹A, damped on [α, β] and growing below α.

With Rayleigh-Ritz after it, a round of Chebyshev-filtered subspace iteration (Zhou, Saad, Tiago,
Chelikowsky, J. Comput. Phys. 219, 2006), here for a generalised problem that is preconditioned by
D = diag(A): since D ~ κ/h² ~ S/h², convergence hardly depends on κ. Between the modes φ_i
(eigenvalues μ_i of D⁻¹A) and a space of m filtered functions the error falls by
|T_k((β + α - 2 μ_i) / (β - α))| when α is the m+1st eigenvalue (loc. cit., Sect. 2).
"""

from __future__ import annotations

import numpy as np

from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.bases import kernels
from dolfinx_msnn.bases.kernels import Block
from dolfinx_msnn.bases.pencil import Pencil


def chebyshev_filter(pencil: Pencil, functions: Block, degree: int, lower: float) -> Block:
    """Apply a Chebyshev polynomial of D⁻¹A that is one at zero and small on [lower, upper].

    Args:
        pencil: The pencil.
        functions: One a column, shape ``(n_i, m)``; the time is that of a multiple of 8 columns.
        degree: Degree of the polynomial, one product with A each; 0 does nothing.
        lower: α, with 0 < α < ``pencil.upper``.

    Returns:
        Filtered functions in the filter's precision, shape ``(n_i, m)``.

    Raises:
        ValueError: If ``lower`` or ``degree`` is out of range.
    """
    if not 0 < lower < pencil.upper:
        raise ValueError(
            f"lower must lie between 0 and {pencil.upper:.4g} on {pencil.problem.name}, got "
            f"{lower!r}."
        )
    if degree < 0:
        raise ValueError(f"degree must not be negative, got {degree!r}.")
    if degree == 0:
        return np.array(functions, dtype=pencil.dtype, order="C")
    data, scale = pencil._working
    y = kernels.padded(functions, pencil.dtype)
    y = kernels.chebyshev(pencil.problem.A, data, scale, y, degree, lower, pencil.upper)
    return np.ascontiguousarray(y[:, : functions.shape[1]])


def inverse_step(
    pencil: Pencil, functions: FloatArray, values: FloatArray, degree: int, lower: float
) -> Block:
    """A step of inexact inverse iteration: solve A z = λ S y from z = y, by a polynomial.

    The filter knows D only; this brings modes of (A, D) closer to those of (A, S).

    Args:
        pencil: The pencil.
        functions: Ritz vectors y, one a column, shape ``(n_i, m)``.
        values: Their λ, shape ``(m,)``.
        degree: As for :func:`chebyshev_filter`, at least 1.
        lower: As for :func:`chebyshev_filter`.

    Returns:
        z in the filter's precision, shape ``(n_i, m)``.
    """
    data, scale = pencil._working
    rhs = (pencil.problem.S @ functions) * (np.maximum(values, 0.0) / pencil.diagonal.max())
    y, b = (kernels.padded(block, pencil.dtype) for block in (functions, rhs))
    y = kernels.chebyshev(pencil.problem.A, data, scale, y, degree, lower, pencil.upper, b)
    return np.ascontiguousarray(y[:, : functions.shape[1]])
