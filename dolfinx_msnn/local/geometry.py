# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Where the dofs of a neighbourhood are; neighbourhoods of one shape share it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dolfinx_msnn._utils.typing import FloatArray


@dataclass(frozen=True)
class Geometry:
    """Dof positions of a neighbourhood, up to translation.

    Attributes:
        offsets: Positions relative to the first dof, shape ``(n_i, gdim)``.
        lower: Lower corner of the bounding box, relative to the first dof.
        length: Sides of the bounding box.
        made: What has been computed from the geometry, see :meth:`once`.
    """

    offsets: FloatArray
    lower: FloatArray
    length: FloatArray
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
        lower = offsets.min(axis=0)
        made = cls(offsets, lower, offsets.max(axis=0) - lower)
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


_geometries: dict[tuple[bytes, int], Geometry] = {}
_lock = threading.Lock()
