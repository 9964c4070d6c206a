# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficient fields: seeded generators and readers of lattice data, in 2D and 3D.

A generator draws its geometry in the unit box from ``numpy``'s ``PCG64(seed)`` alone and is
evaluated at cell midpoints, so one seed gives one field on any mesh, cell type and number of
ranks. ``channels``, ``inclusions``, ``two_phase`` and ``log_normal`` return DG0 functions on a
mesh; ``Channels``, ``Inclusions``, ``TwoPhase`` and ``LogNormal`` are the same fields without a
mesh. Lengths are fractions of the sides of the mesh's bounding box, onto which the unit box is
mapped. :class:`LatticeField` holds data on a lattice of boxes, in physical units.
"""

import math
import numbers
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from statistics import NormalDist
from typing import Any, TypeVar

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx import fem, mesh

Array = npt.NDArray[np.float64]
Box = Sequence[Sequence[float]]
F = TypeVar("F", bound="Field | LatticeField")

SPE10_SHAPE = (60, 220, 85)
SPE10_CELL_SIZE = (6.096, 3.048, 0.6096)  # metres: 20 ft x 10 ft x 2 ft
_NUM_FEATURES = 512
_CHUNK = 4096  # points at a time: bounds the memory of the Gaussian fields to 16 MB


def _require(ok: object, what: str, given: object, expected: str) -> None:
    """Raise a one-sentence ValueError unless ``ok``."""
    if not ok:
        raise ValueError(f"{what} must be {expected}, but {given!r} was given.")


def _is_finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral)


def _in_unit(value: Any) -> bool:
    return _is_finite(value) and 0 < value < 1


# --- From fields to functions on a mesh --------------------------------------------------------


def _agree(msh: mesh.Mesh, make: Callable[[int], F], box: Box | None) -> tuple[F, Array, Array]:
    """Make a field on every rank and find the box it is mapped to; fail on all ranks or on none.

    Collective on ``msh.comm``: one reduction, which carries the bounding box of the mesh, whether
    any rank failed, and a checksum, since ranks with unlike arguments would build unlike fields.
    """
    gdim = msh.geometry.dim
    x = msh.geometry.x[:, :gdim].astype(np.float64)
    lower = x.min(axis=0, initial=np.inf)
    upper = x.max(axis=0, initial=-np.inf)
    error, checksum, field = "", 0, None
    try:
        field = make(gdim)
        _require(field.dim == gdim, "The mesh", f"{gdim}D mesh", f"of dimension {field.dim}")
        if box is not None:
            given = np.asarray(box, dtype=np.float64)
            ok = given.shape == (2, gdim) and np.isfinite(given).all() and (given[0] < given[1]).all()
            _require(ok, "box", box, f"(lower corner, upper corner), {gdim} coordinates each")
            lower, upper = given
        checksum = field._checksum()
    except (ValueError, TypeError) as exc:
        error = str(exc)
    sent = np.concatenate([lower, -upper, [-float(bool(error)), checksum, -checksum]])
    least = np.empty_like(sent)
    msh.comm.Allreduce(sent, least, MPI.MIN)
    if least[-3] < 0:
        raise ValueError(next(filter(None, msh.comm.allgather(error))))
    lower, upper = least[:gdim], -least[gdim : 2 * gdim]
    _require(least[-2] == -least[-1], "The arguments", "unlike ones", "the same on all ranks")
    _require((lower < upper).all(), "The box", [lower, upper], "of positive extent in each axis")
    assert field is not None  # no rank failed
    return field, lower, upper


def _dg0(msh: mesh.Mesh, evaluate: Callable[[Array], Array]) -> fem.Function:
    """Return the DG0 function of the values at the midpoints of owned and ghost cells."""
    cell_map = msh.topology.index_map(msh.topology.dim)
    cells = np.arange(cell_map.size_local + cell_map.num_ghosts, dtype=np.int32)
    midpoints = mesh.compute_midpoints(msh, msh.topology.dim, cells).astype(np.float64)
    V = fem.functionspace(msh, ("DG", 0))
    kappa = fem.Function(V, name="kappa", dtype=msh.geometry.x.dtype)
    kappa.x.array[V.dofmap.list[:, 0]] = evaluate(midpoints[:, : msh.geometry.dim])
    return kappa


def _generate(msh: mesh.Mesh, make: Callable[[int], "Field"], box: Box | None) -> fem.Function:
    """Make a generated field for the dimension of a mesh and interpolate it there."""
    field, lower, upper = _agree(msh, make, box)
    return _dg0(msh, lambda x: field((x - lower) / (upper - lower)))


# --- Generators --------------------------------------------------------------------------------


class Field(ABC):
    """A random coefficient on the unit box of dimension ``dim``; callable, picklable, immutable."""

    def __init__(self, dim: int, contrast: float | None, seed: int) -> None:
        """Check what all families share.

        Args:
            dim: Dimension of the space, 2 or 3.
            contrast: Largest over smallest value, finite and at least 1.
            seed: Non-negative seed of the random numbers.

        Raises:
            ValueError: An argument is not as described.
        """
        _require(dim in (2, 3), "The dimension of the mesh or field", dim, "2 or 3")
        ok = contrast is None or (_is_finite(contrast) and contrast >= 1)
        _require(ok, "contrast", contrast, "a finite number of at least 1")
        _require(_is_integer(seed) and seed >= 0, "seed", seed, "a non-negative integer")
        self.dim, self.contrast, self.seed = dim, contrast, seed

    def __repr__(self) -> str:
        """Return the name and the public parameters."""
        public = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({public})"

    def _checksum(self) -> int:
        return zlib.crc32(repr(self).encode())

    @abstractmethod
    def _evaluate(self, x: Array) -> Array:
        """Evaluate at points of shape ``(n, dim)``."""

    def __call__(self, x: npt.ArrayLike) -> Array:
        """Evaluate the field. Not collective.

        Args:
            x: Points in unit-box coordinates, shape ``(n, 3)`` or ``(n, dim)``.

        Returns:
            Values, shape ``(n,)``, float64.
        """
        return self._evaluate(_points(x, self.dim))

    def interpolate(self, msh: mesh.Mesh, *, box: Box | None = None) -> fem.Function:
        """Evaluate the field at the cell midpoints of a mesh. Collective on ``msh.comm``.

        Args:
            msh: Mesh of geometric dimension ``dim``.
            box: Lower and upper corner the unit box is mapped to; the mesh's bounding box if None.

        Returns:
            DG0 function ``kappa``, ghost cells included.

        Raises:
            ValueError: On all ranks, if the mesh or box is unsuitable or ranks disagree.
        """
        return _generate(msh, lambda dim: self, box)


def _points(x: npt.ArrayLike, dim: int) -> Array:
    points = np.asarray(x, dtype=np.float64)
    ok = points.ndim == 2 and points.shape[1] in (dim, 3)
    _require(ok, "The shape of the points", points.shape, f"(n, 3) or (n, {dim})")
    return points[:, :dim]


def _covered(
    x: Array, lower: Array, upper: Array, inside: Callable[[int, Array], npt.NDArray[np.bool_]]
) -> npt.NDArray[np.bool_]:
    """Mark the points of ``x`` in a union of bodies.

    Args:
        x: Points, shape ``(n, dim)``.
        lower: Lower corners of the bodies' bounding boxes, shape ``(num_bodies, dim)``.
        upper: Upper corners, same shape.
        inside: Maps a body's number and the points in its bounding box to a mask.
    """
    # Sorting by the first coordinate leaves each body a slab of candidates instead of all points.
    order = np.argsort(x[:, 0], kind="stable")
    y = x[order]
    first = np.searchsorted(y[:, 0], lower[:, 0], side="left")
    last = np.searchsorted(y[:, 0], upper[:, 0], side="right")
    mask = np.zeros(len(x), dtype=np.bool_)
    for i in range(len(lower)):
        slab = y[first[i] : last[i]]
        near = np.flatnonzero(((slab >= lower[i]) & (slab <= upper[i])).all(axis=1))
        mask[order[first[i] + near[inside(i, slab[near])]]] = True
    return mask


class Channels(Field):
    """Winding channels that cross the box, their branches, and small inclusions between them.

    The values are 1 (background) and ``contrast`` (channels and inclusions). Centre lines are
    sine-generated curves, the plan form of meandering rivers (Langbein and Leopold, USGS Prof.
    Paper 422-H, 1966), with two irregular harmonics and a slowly varying width. In 3D the curves
    also rise and fall, and channels are ribbons, three times as wide as they are high.
    """

    def __init__(
        self,
        dim: int,
        contrast: float = 1e3,
        seed: int = 0,
        *,
        num_channels: int | None = None,
        thickness: float | None = None,
        num_inclusions: int | None = None,
        axis: int = 0,
    ) -> None:
        """Draw the geometry.

        Args:
            dim: Dimension, 2 or 3.
            contrast: Largest over smallest value.
            seed: Non-negative seed.
            num_channels: Number of channels, each with a thinner branch; None: 4 (3D: 14).
            thickness: Mean thickness of a channel, in (0, 1), a fraction of the box; None: 0.035
                (3D: 0.05).
            num_inclusions: Number of inclusions, about as thick as a channel; None: 40 (3D: 150).
            axis: Coordinate axis along which the channels run.

        Raises:
            ValueError: An argument is not as described.
        """
        super().__init__(dim, contrast, seed)
        self.num_channels = (4 if dim == 2 else 12) if num_channels is None else num_channels
        self.thickness = (0.035 if dim == 2 else 0.045) if thickness is None else thickness
        self.num_inclusions = (40 if dim == 2 else 150) if num_inclusions is None else num_inclusions
        self.axis = axis
        for name in ("num_channels", "num_inclusions"):
            n = getattr(self, name)
            _require(_is_integer(n) and n >= 0, name, n, "a non-negative integer")
        _require(_in_unit(self.thickness), "thickness", thickness, "in (0, 1)")
        _require(_is_integer(axis) and 0 <= axis < dim, "axis", axis, f"from 0 to {dim - 1}")
        rng = np.random.Generator(np.random.PCG64(seed))
        # Flattening the horizontal distances makes round cross-sections wider than high.
        self._scale = np.array([0.4, 0.4, 1.0]) if dim == 3 else np.ones(2)
        self._capsules = np.empty((0, 8))  # rows: two end points in 3D, a radius at either
        n = self.num_channels
        strata = np.stack([rng.permutation(n) for _ in range(2)], axis=1)
        starts = (strata + rng.uniform(0.25, 0.75, (n, 2))) / max(n, 1)
        lines = [self._channel(rng, start) for start in starts]
        for i, line in enumerate(lines):
            self._add(line)
            if n > 1:  # an arm that leaves for the nearest other channel
                apart = np.linalg.norm((starts - starts[i])[:, : dim - 1], axis=1)
                self._add(self._arm(rng, line, lines[np.argsort(apart)[1]]))
        # Inclusions in the channels would not show: draw more than asked, keep those outside.
        at = np.roll(rng.uniform(size=(8 * self.num_inclusions, 3))[:, :dim], axis, axis=1)
        at = at[self._evaluate(at) == 1.0] if contrast > 1 else at
        at = np.roll(at[: self.num_inclusions], -axis, axis=1)
        for y in np.hstack([at, np.zeros((len(at), 3 - dim))]):
            lens = rng.uniform(-0.5, 0.5, 3) * [1.0, 1.0, 0.3] * self.thickness
            radius = rng.uniform(0.25, 0.5) * self.thickness
            self._add(np.array([[*(y - lens), radius], [*(y + lens), radius]]))

    def _add(self, line: Array) -> None:
        """Add a polyline with rows ``(x, y, z, radius)``."""
        pieces = np.hstack([line[:-1, :3], line[1:, :3], line[:-1, 3:], line[1:, 3:]])
        self._capsules = np.vstack([self._capsules, pieces])

    def _channel(self, rng: np.random.Generator, start: Array) -> Array:
        """Draw a channel, from before to beyond the box, about the line through ``start``."""
        step = 0.02
        s = step * np.arange(200)
        bend = rng.uniform([0.8, 0.25, 0.1], [1.2, 0.5, 0.3])
        length = rng.uniform([0.3, 0.8, 0.15], [0.55, 1.3, 0.25])
        waves = np.sin(2 * np.pi * (s[:, None] / length + rng.uniform(size=3)))  # (200, 3)
        angle, slope = waves @ bend, 0.15 * waves[:, 1]
        path = np.cumsum(step * np.stack([np.cos(angle), np.sin(angle), slope], axis=1), axis=0)
        path[:, 0] -= 0.2
        path = path[path[:, 0].cumsum() < 1.2 * len(path)]
        path = path[: np.argmax(path[:, 0] > 1.2) or len(path)]
        path[:, 1:] += start - path[:, 1:].mean(axis=0)
        swell = np.sin(2 * np.pi * (s[: len(path), None] / rng.uniform(0.3, 0.6) + rng.uniform()))
        return np.hstack([path, 0.5 * self.thickness * (1.0 + 0.25 * swell)])

    def _arm(self, rng: np.random.Generator, source: Array, target: Array) -> Array:
        """Draw a smooth arm from one channel to another, leaving and joining along their flow."""
        i = int(len(source) * rng.uniform(0.15, 0.5))
        ahead = source[i, 0] + rng.uniform(0.35, 0.55)
        j = min(int(np.argmin(abs(target[:, 0] - ahead))), len(target) - 2)
        p, q = source[i, :3], target[j, :3]
        u, v = source[i + 1, :3] - p, target[j + 1, :3] - q
        pull = 1.2 * np.linalg.norm(q - p) / np.array([np.linalg.norm(u), np.linalg.norm(v)])
        t = np.linspace(0.0, 1.0, 25)[:, None]
        path = p + (q - p) * t**2 * (3 - 2 * t)  # cubic Hermite interpolation
        path = path + pull[0] * u * t * (1 - t) ** 2 - pull[1] * v * t**2 * (1 - t)
        return np.hstack([path, np.full_like(t, 0.3 * self.thickness)])

    def _evaluate(self, x: Array) -> Array:
        p = self._capsules[:, : self.dim] * self._scale
        q = self._capsules[:, 3 : 3 + self.dim] * self._scale
        r = self._capsules[:, 6:]
        squared = np.maximum(((q - p) ** 2).sum(axis=1), 1e-300)
        reach = r.max(axis=1, keepdims=True)

        def inside(i: int, y: Array) -> npt.NDArray[np.bool_]:
            t = np.clip((y - p[i]) @ (q[i] - p[i]) / squared[i], 0.0, 1.0)
            gap = y - p[i] - t[:, None] * (q[i] - p[i])
            radius = r[i, 0] + t * (r[i, 1] - r[i, 0])
            return np.asarray((gap * gap).sum(axis=1) <= radius**2)

        y = np.roll(x, -self.axis, axis=1) * self._scale
        mask = _covered(y, np.minimum(p, q) - reach, np.maximum(p, q) + reach, inside)
        return np.where(mask, float(self.contrast), 1.0)
