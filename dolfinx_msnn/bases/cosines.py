# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Starting functions of the filter: products of cosines of least energy."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.linalg import rigid_motions
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.bases.pencil import Pencil
from dolfinx_msnn.local.geometry import Geometry

#: Jumps of κ above which the modes of least energy hide behind more cosines.
HIGH_JUMP = 1e4


def num_start(num_modes: int, jump: float = 1.0) -> int:
    """Functions to start from for so many wanted modes: some more, and a multiple of 8.

    Args:
        num_modes: Wanted modes.
        jump: Largest jump of the coefficient between neighbouring cells.
    """
    return 8 * -(-(2 * num_modes + (16 if jump > HIGH_JUMP else 8)) // 8)


def cosines(pencil: Pencil, num: int) -> tuple[FloatArray, float]:
    """Products of cosines on the bounding box of a neighbourhood, those of least energy.

    For vector problems each component, after the infinitesimal rotations.

    Args:
        pencil: The pencil.
        num: Number of functions.

    Returns:
        Functions, shape ``(n_i, num)``, and the filter's lower end α for them.
    """
    problem, geometry = pencil.problem, pencil.geometry
    bs, each = problem.block_size, _per_component(pencil, num)
    waves = _lowest_waves(pencil, each)
    scalar = geometry.once(("cosines", waves.tobytes()), lambda: _products(geometry, waves, bs))
    if bs == 1:
        return scalar, cosine_end(pencil, num)
    centred = geometry.offsets[::bs] - geometry.offsets[::bs].mean(axis=0)
    rotations = rigid_motions(centred, bs)[bs:]
    functions = np.einsum("nj,cd->ncjd", scalar, np.eye(bs)).reshape(problem.num_dofs, -1)
    return np.hstack([rotations.T, functions])[:, :num], cosine_end(pencil, num)


def _products(geometry: Geometry, waves: npt.NDArray[np.int64], block_size: int) -> FloatArray:
    """Products of cos(π w_k t_k), t in the unit box, at the dof blocks.

    Args:
        geometry: Where the dofs are.
        waves: Wave numbers w, shape ``(num, gdim)``.
        block_size: Components of a dof block.

    Returns:
        Shape ``(num_blocks, num)``.
    """
    t = (geometry.offsets[::block_size] - geometry.lower) / geometry.length
    table = np.cos(np.arange(int(waves.max()) + 1)[:, None, None] * (np.pi * t)[None])
    product = table[waves[:, 0], :, 0]
    for k in range(1, waves.shape[1]):
        product = product * table[waves[:, k], :, k]
    return np.ascontiguousarray(product.T)


def cosine_end(pencil: Pencil, num: int) -> float:
    """The (A, D) Rayleigh quotient of the first product of cosines that ``num`` leave out."""
    each = _per_component(pencil, num)
    waves = _lowest_waves(pencil, each + 1)
    if len(waves) <= each:
        return 0.5 * pencil.upper
    return float(pencil.symbol((np.pi * waves[each] / pencil.geometry.length) ** 2))


def _per_component(pencil: Pencil, num: int) -> int:
    """Products of cosines in each component, among ``num`` functions with the rotations."""
    bs, gdim = pencil.problem.block_size, pencil.problem.gdim
    rotations = gdim * (gdim - 1) // 2 if bs == gdim else 0
    return max(1, -(-(num - rotations) // bs))


def _lowest_waves(pencil: Pencil, num: int) -> npt.NDArray[np.int64]:
    """Wave numbers of least energy that the mesh resolves, shape ``(num, gdim)`` or fewer."""
    geometry = pencil.geometry

    def count_nodes() -> tuple[int, ...]:
        steps = np.rint(geometry.offsets / geometry.length * 1e6)
        return tuple(len(np.unique(column)) for column in steps.T)

    limits = geometry.once("nodes in each direction", count_nodes)
    longest, stiffest = pencil.geometry.length.max(), pencil.stiffness.max()
    length = tuple(round(k, 9) for k in (pencil.geometry.length / longest).tolist())
    # Powers of two, so that rounding errors do not decide between waves of equal energy.
    ratios = (pencil.stiffness / stiffest).tolist()
    return _waves(length, tuple(2.0 ** round(math.log2(k)) for k in ratios), limits, num)


@lru_cache(maxsize=64)
def _waves(
    length: tuple[float, ...], stiffness: tuple[float, ...], limits: tuple[int, ...], num: int
) -> npt.NDArray[np.int64]:
    """Wave numbers (half waves along the box, below ``limits``) of least energy."""
    gdim = len(length)
    count = 4
    while True:
        shape = tuple(min(count, limit) for limit in limits)
        grid = np.indices(shape).reshape(gdim, -1).T
        energy = np.round(((grid / length) ** 2) @ np.array(stiffness), 9)
        order = np.argsort(energy, kind="stable")[:num]
        # Nothing outside the table may have less energy than what is taken.
        outside = min(
            [(count / length[k]) ** 2 * stiffness[k] for k in range(gdim) if count < limits[k]],
            default=np.inf,
        )
        if np.isinf(outside) or (len(order) == num and energy[order[-1]] < outside):
            return np.asarray(grid[order])
        count *= 2
