# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficients made of bodies in a background: winding channels, and balls or boxes."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from dolfinx_msnn._utils.checks import is_integer, is_number, number_between, require
from dolfinx_msnn._utils.typing import BoolArray, FloatArray
from dolfinx_msnn.fields._base import TwoValuedField, on_mesh


class Channels(TwoValuedField):
    """Winding channels across the box, thinner arms between them, and small inclusions.

    1 in the background, ``contrast`` in all of these. Centre lines are sine-generated curves, the
    plan of meandering rivers (Langbein and Leopold, USGS Prof. Paper 422-H, 1966), with two more
    harmonics and a varying width. In 3D they also rise and fall, and are flat ribbons.

    Attributes:
        num_channels: Number of channels; by default 4, in 3D 12.
        thickness: Mean thickness of a channel, in (0, 1); by default 0.035, in 3D 0.045 (and 2.5
            times as wide).
        num_inclusions: Number of inclusions, no thicker than a channel; by default 40, in 3D 150.
        axis: Coordinate axis along which the channels run.
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
        """Draw the channels; for the arguments see :class:`Field` and the attributes."""
        super().__init__(dim, contrast, seed)
        wide = dim == 3
        n = (12 if wide else 4) if num_channels is None else num_channels
        num = (150 if wide else 40) if num_inclusions is None else num_inclusions
        width = (0.045 if wide else 0.035) if thickness is None else thickness
        require(is_integer(n), "num_channels", n, "a non-negative integer")
        number_between("thickness", width, 0, 1)
        require(is_integer(num), "num_inclusions", num, "a non-negative integer")
        require(is_integer(axis) and axis < dim, "axis", axis, f"from 0 to {dim - 1}")
        self.num_channels, self.thickness, self.num_inclusions = n, width, num
        self.axis = axis
        rng = np.random.Generator(np.random.PCG64(seed))
        # Shrinking the horizontal distances makes ribbons of round cross-sections.
        self._scale = np.array([0.4, 0.4, 1.0]) if dim == 3 else np.ones(2)
        strata = np.stack([rng.permutation(n) for _ in range(2)], axis=1)
        starts = (strata + rng.uniform(0.35, 0.65, (n, 2))) / max(n, 1)
        lines = [self._channel(rng, start) for start in starts]
        if n > 1:
            apart = np.linalg.norm((starts[:, None] - starts)[:, :, : dim - 1], axis=2)
            nearest = np.argsort(apart + np.diag([np.inf] * n), axis=1)[:, 0]
            pairs = sorted({(min(i, j), max(i, j)) for i, j in enumerate(nearest.tolist())})
            lines += [self._arm(rng, lines[i], lines[j]) for i, j in pairs]
        self._capsules = self._polylines(lines)
        # Inclusions inside channels are not visible: draw more than needed, keep those outside.
        at = rng.uniform(size=(8 * num, 3))
        at = at[~self._in_capsules(at[:, :dim])][:num]
        lens = rng.uniform(-0.5, 0.5, at.shape) * [1.0, 1.0, 0.3] * self.thickness
        radius = rng.uniform(0.25, 0.5, (len(at), 1)) * self.thickness
        ends = np.stack([np.hstack([at - lens, radius]), np.hstack([at + lens, radius])], axis=1)
        self._capsules = np.vstack([self._capsules, self._polylines(list(ends))])

    @staticmethod
    def _polylines(lines: list[FloatArray]) -> FloatArray:
        """Turn polylines, rows ``(x, y, z, radius)``, into capsules, rows of two such ends."""
        return np.vstack([np.empty((0, 8)), *(np.hstack([c[:-1], c[1:]]) for c in lines)])

    def _channel(self, rng: np.random.Generator, start: FloatArray) -> FloatArray:
        """Draw a channel, from before to beyond the box, about the line through ``start``."""
        step = 0.02
        s = step * np.arange(200)
        bend = rng.uniform([0.8, 0.25, 0.1], [1.2, 0.5, 0.3])
        length = rng.uniform([0.3, 0.8, 0.15], [0.55, 1.3, 0.25])
        waves = np.sin(2 * np.pi * (s[:, None] / length + rng.uniform(size=3)))  # (200, 3)
        angle, slope = waves @ bend, 0.15 * waves[:, 1]
        path = np.cumsum(step * np.stack([np.cos(angle), np.sin(angle), slope], axis=1), axis=0)
        path[:, 0] -= 0.2
        path = path[: np.argmax(path[:, 0] > 1.2) or len(path)]
        path[:, 1:] += start - path[:, 1:].mean(axis=0)
        swell = np.sin(2 * np.pi * (s[: len(path)] / rng.uniform(0.3, 0.6) + rng.uniform()))
        radius = 0.5 * self.thickness * rng.uniform(0.85, 1.15) * (1.0 + 0.25 * swell)
        return np.column_stack([path, radius])

    def _arm(self, rng: np.random.Generator, source: FloatArray, target: FloatArray) -> FloatArray:
        """Draw a smooth arm from one channel to another, leaving and joining along their flow."""
        i = int(len(source) * rng.uniform(0.15, 0.5))
        ahead = source[i, 0] + rng.uniform(0.35, 0.55)
        j = min(int(np.argmin(abs(target[:, 0] - ahead))), len(target) - 2)
        p, q = source[i, :3], target[j, :3]
        u, v = source[i + 1, :3] - p, target[j + 1, :3] - q
        pull = 1.2 * np.linalg.norm(q - p)
        u, v = pull * u / np.linalg.norm(u), pull * v / np.linalg.norm(v)
        t = np.linspace(0.0, 1.0, 31)[:, None]
        path = p + (q - p) * t**2 * (3 - 2 * t) + u * t * (1 - t) ** 2 - v * t**2 * (1 - t)
        aside = 0.12 * np.array([p[1] - q[1], q[0] - p[0], 0.0])
        path += aside * np.sin(np.pi * t) * np.sin(4 * np.pi * t + rng.uniform(0, 2 * np.pi))
        return np.hstack([path, np.full_like(t, 0.3 * self.thickness)])

    def _in_capsules(self, x: FloatArray) -> BoolArray:
        p = self._capsules[:, : self.dim] * self._scale
        q = self._capsules[:, 4 : 4 + self.dim] * self._scale
        r, growth = self._capsules[:, 3], self._capsules[:, 7] - self._capsules[:, 3]
        squared = np.maximum(((q - p) ** 2).sum(axis=1), 1e-300)
        reach = np.maximum(r, r + growth)[:, None]

        def inside(i: int, y: FloatArray) -> BoolArray:
            t = np.clip((y - p[i]) @ (q[i] - p[i]) / squared[i], 0.0, 1.0)
            gap = y - p[i] - t[:, None] * (q[i] - p[i])
            return np.asarray((gap * gap).sum(axis=1) <= (r[i] + t * growth[i]) ** 2)

        lower, upper = np.minimum(p, q) - reach, np.maximum(p, q) + reach
        return _covered(x * self._scale, lower, upper, inside)

    def _high(self, x: FloatArray) -> BoolArray:
        return self._in_capsules(np.roll(x, -self.axis, axis=1))


class Inclusions(TwoValuedField):
    """Balls or boxes at random places, which may overlap.

    1 outside, ``contrast`` inside. A Boolean model: centres are a Poisson process, so that every
    point is covered with probability ``fraction`` (Chiu et al., Stochastic Geometry and its
    Applications, 2013, section 3.1).

    Attributes:
        fraction: Expected volume fraction, in (0, 1).
        radius: Smallest and largest radius of a ball, or half side of a box.
        count: Number of inclusions with centres in the box, in place of ``fraction``.
        shape: ``"ball"`` or ``"box"``.
    """

    def __init__(
        self,
        dim: int,
        contrast: float = 1e3,
        seed: int = 0,
        *,
        fraction: float = 0.2,
        radius: tuple[float, float] = (0.03, 0.08),
        count: int | None = None,
        shape: str = "ball",
    ) -> None:
        """Draw the inclusions; for the arguments see :class:`Field` and the attributes."""
        super().__init__(dim, contrast, seed)
        number_between("fraction", fraction, 0, 1)
        ok = isinstance(radius, Sequence) and len(radius) == 2 and all(map(is_number, radius))
        ok = ok and 0 < radius[0] <= radius[1] < math.inf
        require(ok, "radius", radius, "a pair 0 < least <= most")
        require(count is None or is_integer(count), "count", count, "a non-negative integer")
        require(shape in ("ball", "box"), "shape", shape, "'ball' or 'box'")
        self.fraction, self.radius, self.count, self.shape = fraction, radius, count, shape
        rng = np.random.Generator(np.random.PCG64(seed))
        a, b = map(float, radius)
        margin = 0.0
        if count is None:
            margin = b  # centres outside the box, too, or its margin would be covered less
            power = (b ** (dim + 1) - a ** (dim + 1)) / ((dim + 1) * (b - a)) if b > a else a**dim
            ball = math.pi * power * (1 if dim == 2 else 4 / 3)
            volume = ball if shape == "ball" else (a + b) ** dim
            count = int(rng.poisson(-math.log1p(-fraction) / volume * (1 + 2 * margin) ** dim))
        self._at = rng.uniform(-margin, 1 + margin, (count, dim))
        sizes = rng.uniform(a, b, (count, 1 if shape == "ball" else dim))
        self._sizes = np.broadcast_to(sizes, (count, dim))

    def _high(self, x: FloatArray) -> BoolArray:
        at, sizes = self._at, self._sizes

        def inside(i: int, y: FloatArray) -> BoolArray:
            near = ((y - at[i]) ** 2).sum(axis=1) <= sizes[i, 0] ** 2
            return np.asarray(near if self.shape == "ball" else np.ones_like(near))

        return _covered(x, at - sizes, at + sizes, inside)


def _covered(
    x: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    inside: Callable[[int, FloatArray], BoolArray],
) -> BoolArray:
    """Mark the points ``x``, shape ``(n, dim)``, that lie in a union of bodies.

    Args:
        x: Points.
        lower: Lower corners of the bodies' bounding boxes, shape ``(num_bodies, dim)``.
        upper: Upper corners.
        inside: Tells which of some points in the bounding box of a body are in the body.
    """
    # Sorted by one coordinate, a slab of points is a slice: few are tested against each body.
    order = np.argsort(x[:, 0], kind="stable")
    columns = np.ascontiguousarray(x[order].T)
    first = np.searchsorted(columns[0], lower[:, 0], side="left")
    last = np.searchsorted(columns[0], upper[:, 0], side="right")
    covered = np.zeros(len(x), dtype=np.bool_)
    for i in range(len(lower)):
        near = np.arange(first[i], last[i])
        for c, least, most in zip(columns[1:], lower[i, 1:], upper[i, 1:], strict=True):
            y = c[near]
            near = near[(y >= least) & (y <= most)]
        covered[near[inside(i, columns[:, near].T)]] = True
    mask = np.empty_like(covered)
    mask[order] = covered
    return mask


channels = on_mesh(Channels, "channels")
inclusions = on_mesh(Inclusions, "inclusions")
