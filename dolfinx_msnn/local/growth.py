# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""How far element matrices have changed: bounds of the growth of their energies."""

from __future__ import annotations

import numpy as np

from dolfinx_msnn._utils.typing import FloatArray

#: Relative difference up to which two element matrices are multiples of each other.
ROUNDING = 1e-13

#: Eigenvalues below this fraction of the largest are those of functions without energy.
RANK_TOLERANCE = 1e-11


def growth(new: FloatArray, old: FloatArray) -> FloatArray:
    """Smallest and largest growth vᵀ K v / vᵀ K' v of the energy on each cell.

    They are the extreme eigenvalues of the pencil (K, K') of new and old element matrix, on the
    functions with energy. Matrices that are multiples of each other, as with a scalar coefficient
    that is constant on each cell, are found without solving an eigenproblem.

    Args:
        new: Symmetric positive semi-definite element matrices, shape ``(num_cells, n_e, n_e)``.
        old: Those before.

    Returns:
        Shape ``(2, num_cells)``: zero and infinity where functions lost or gained energy; NaN where
        both matrices are zero.
    """
    bounds = np.empty((2, len(new)))
    # Pieces that stay in cache.
    step = max(1, 2**15 // new[0].size) if len(new) else 1
    for k in range(0, len(new), step):
        part = slice(k, k + step)
        bounds[:, part] = _growth(new[part], old[part])
    return bounds


def _growth(new: FloatArray, old: FloatArray) -> FloatArray:
    """As :func:`growth`, for few cells."""
    sizes = np.array([np.einsum("cii->c", blocks) for blocks in (new, old)])
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = sizes[0] / sizes[1]
        rest = new - factor[:, None, None] * old
    bounds = np.stack([factor, factor])
    bounds[0, np.isinf(factor)] = 0.0
    differ = np.abs(rest).max(axis=(1, 2)) > ROUNDING * sizes[0]
    cells = np.flatnonzero(differ & (sizes > 0).all(axis=0))
    bounds[1, differ & (sizes[1] == 0)] = np.inf
    bounds[0, (sizes[0] == 0) & (sizes[1] > 0)] = 0.0
    if len(cells) == 0:
        return bounds
    scale = sizes[:, cells, None, None]
    new, old = new[cells] / scale[0], old[cells] / scale[1]
    energy, vectors = np.linalg.eigh(old)
    held = energy > RANK_TOLERANCE * energy[:, -1:]
    # Functions with energy of size one; those without, of length one.
    vectors = vectors / np.sqrt(np.where(held, energy, 1.0))[:, None, :]
    reduced = vectors.transpose(0, 2, 1) @ new @ vectors
    diagonal = np.einsum("cii->ci", reduced)
    gained = (~held & (diagonal > RANK_TOLERANCE)).any(axis=1)
    both = held[:, :, None] & held[:, None, :]
    values = np.linalg.eigvalsh(np.where(both, reduced, 0.0))
    # Rows without energy leave zeros: the least of the others comes after them.
    largest = values[:, -1]
    least = np.where(
        held.all(axis=1), values[:, 0], values[np.arange(len(values)), (~held).sum(axis=1)]
    )
    ratio = factor[cells]
    bounds[0, cells] = ratio * np.where(least > RANK_TOLERANCE * largest, least, 0.0)
    bounds[1, cells] = np.where(gained, np.inf, ratio * largest)
    return bounds
