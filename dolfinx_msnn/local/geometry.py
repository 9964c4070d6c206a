# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Where the dofs of a neighbourhood are; neighbourhoods of one shape share it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.typing import FloatArray


@dataclass(frozen=True)
class Geometry:
    """Dof positions of a neighbourhood, up to translation.

    Attributes:
        offsets: Positions relative to the first dof, shape ``(n_i, gdim)``.
        lower: Lower corner of the bounding box, relative to the first dof.
        length: Sides of the bounding box.
        linear: Coordinates from the box's centre, then the constant; for vectors each in each
            component. Shape ``(n_i, m)`` with ``m >= (gdim + 1) * block_size`` a multiple of 4, the
            last columns zero.
        made: What has been computed from the geometry, see :meth:`once`.
    """

    offsets: FloatArray
    lower: FloatArray
    length: FloatArray
    linear: FloatArray
    made: dict[object, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, x: FloatArray, pattern: bytes, block_size: int) -> Geometry:
        """The geometry of dofs at some positions, from those seen last if it is there.

        Args:
            x: Positions, shape ``(n_i, gdim)``.
            pattern: Key of the sparsity pattern: equal geometries have equal patterns.
            block_size: Components of a dof block.
        """
        offsets = x - x[0]
        key = (pattern, block_size)
        known = _geometries.get(key)
        if known is not None and known.offsets.shape == offsets.shape:
            difference = float(np.abs(known.offsets - offsets).max())
            if difference <= 1e-9 * float(known.length.max()):
                return known
        bs, gdim = block_size, x.shape[1]
        lower, upper = offsets.min(axis=0), offsets.max(axis=0)
        centred = offsets - 0.5 * (lower + upper)
        # Four columns are as fast as one.
        linear = np.zeros((len(offsets), 4 * -(-(gdim + 1) * bs // 4)))
        for c in range(bs):
            linear[c::bs, c : gdim * bs : bs] = centred[c::bs]
            linear[c::bs, gdim * bs + c] = 1.0
        made = cls(offsets, lower, upper - lower, linear)
        with _lock:
            while len(_geometries) >= 16:
                _geometries.pop(next(iter(_geometries)))
            _geometries[key] = made
        return made

    def once[T](self, key: object, make: Callable[[], T]) -> T:
        """What ``make`` gives, computed on the first call with this key."""
        found: T | None = self.made.get(key)
        if found is None:
            self.made[key] = found = make()
        return found

    def cosines(self, waves: npt.NDArray[np.int64], block_size: int) -> FloatArray:
        """Products of cosines cos(π w_k t_k), t in the unit box, shape ``(num_blocks, num)``."""

        def make() -> FloatArray:
            t = (self.offsets[::block_size] - self.lower) / self.length
            table = np.cos(np.arange(int(waves.max()) + 1)[:, None, None] * (np.pi * t)[None])
            product = table[waves[:, 0], :, 0]
            for k in range(1, waves.shape[1]):
                product = product * table[waves[:, k], :, k]
            return np.ascontiguousarray(product.T)

        return self.once(("cosines", waves.tobytes()), make)


_geometries: dict[tuple[bytes, int], Geometry] = {}
_lock = threading.Lock()
