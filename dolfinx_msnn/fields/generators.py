# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Random coefficients on the unit box, the same for a seed at any mesh and number of ranks."""

import inspect
import math
import zlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Concatenate

import numpy as np
import numpy.typing as npt

from dolfinx import fem, mesh
from dolfinx_msnn.fields._base import (
    Array,
    Box,
    Mask,
    _agree,
    _dg0,
    _Function,
    _is_finite,
    _is_integer,
    _Mesh,
    _MeshField,
    _points,
    _require,
)

_NUM_WAVES = 512
_CHUNK = 256  # points at a time: keeps the work space of the Gaussian fields in the cache


class Field(_MeshField):
    """A random coefficient on the unit box.

    Attributes:
        dim: Dimension of the box, 2 or 3.
        contrast: Ratio of the largest to the smallest value, finite and at least 1.
        seed: Seed of the random numbers, not negative.
    """

    contrast: float | None

    def __init__(self, dim: int, contrast: float | None, seed: int) -> None:
        """Check what all families share; they raise ValueError for what is not as described."""
        _require(dim in (2, 3), "The dimension of a field or its mesh", dim, "2 or 3")
        ok = contrast is None or (_is_finite(contrast) and contrast >= 1)
        _require(ok, "contrast", contrast, "a finite number not below 1")
        _require(_is_integer(seed), "seed", seed, "a non-negative integer")
        self.dim, self.seed = dim, int(seed)
        self.contrast = None if contrast is None else float(contrast)

    def __repr__(self) -> str:
        """Return the family and its parameters."""
        public = (f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({', '.join(public)})"

    def _checksum(self) -> int:
        return zlib.crc32(repr(self).encode())

    @abstractmethod
    def _evaluate(self, x: Array) -> Array:
        """Evaluate at points of shape ``(n, dim)``."""

    def __call__(self, x: npt.ArrayLike) -> Array:
        """Evaluate the field at points in unit-box coordinates. Not collective.

        Args:
            x: Points, shape ``(n, 3)`` or ``(n, dim)``.

        Returns:
            Values, shape ``(n,)``.
        """
        return self._evaluate(_points(x, self.dim))

    def interpolate(self, msh: _Mesh, *, box: Box | None = None) -> _Function:
        """Evaluate the field at the cell midpoints of a mesh. Collective on ``msh.comm``.

        Args:
            msh: Mesh of geometric dimension ``dim``.
            box: Lower and upper corner of the image of the unit box, by default of the mesh.

        Returns:
            DG0 function ``kappa``, set on owned and ghost cells.

        Raises:
            ValueError: The mesh or the box is of another dimension or flat, or the field differs
                between ranks. Raised on all ranks.
        """
        _, lower, upper = _agree(msh, lambda _: self, box)
        return _dg0(msh, lambda x: self((x - lower) / (upper - lower)))


class _TwoValued(Field):
    """1 in the background, ``contrast`` in the high phase."""

    contrast: float

    def __init__(self, dim: int, contrast: float, seed: int) -> None:
        super().__init__(dim, math.nan if contrast is None else contrast, seed)

    @abstractmethod
    def _high(self, x: Array) -> Mask:
        """Tell which points are in the high phase."""

    def _evaluate(self, x: Array) -> Array:
        return np.where(self._high(x), self.contrast, 1.0)


def _on_mesh[**P](
    family: Callable[Concatenate[int, P], Field], name: str
) -> Callable[Concatenate[_Mesh, P], _Function]:
    """Make the function that takes a mesh where a family takes the dimension."""

    def generate(msh: _Mesh, /, *args: P.args, **kwargs: P.kwargs) -> _Function:
        field, lower, upper = _agree(msh, lambda dim: family(dim, *args, **kwargs))
        return _dg0(msh, lambda x: field((x - lower) / (upper - lower)))

    first = inspect.Parameter("msh", inspect.Parameter.POSITIONAL_ONLY, annotation=mesh.Mesh)
    rest = list(inspect.signature(family).parameters.values())[1:]
    signature = inspect.Signature([first, *rest], return_annotation=fem.Function)
    setattr(generate, "__signature__", signature)  # noqa: B010 (mypy knows no such attribute)
    generate.__name__ = generate.__qualname__ = name
    generate.__doc__ = f"""Return a coefficient as a DG0 function. Collective on ``msh.comm``.

    The same as ``{name.title().replace("_", "")}(dim, ...).interpolate(msh)``, which also takes a
    box. The keyword arguments are the attributes described here.

    {family.__doc__}"""
    return generate


def _covered(x: Array, lower: Array, upper: Array, inside: Callable[[int, Array], Mask]) -> Mask:
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


class Channels(_TwoValued):
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
        _require(_is_integer(n), "num_channels", n, "a non-negative integer")
        _require(_is_finite(width) and 0 < width < 1, "thickness", width, "in (0, 1)")
        _require(_is_integer(num), "num_inclusions", num, "a non-negative integer")
        _require(_is_integer(axis) and axis < dim, "axis", axis, f"from 0 to {dim - 1}")
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
        # Inclusions inside channels would not show: draw more than asked, keep those outside.
        at = rng.uniform(size=(8 * num, 3))
        at = at[~self._in_capsules(at[:, :dim])][:num]
        lens = rng.uniform(-0.5, 0.5, at.shape) * [1.0, 1.0, 0.3] * self.thickness
        radius = rng.uniform(0.25, 0.5, (len(at), 1)) * self.thickness
        ends = np.stack([np.hstack([at - lens, radius]), np.hstack([at + lens, radius])], axis=1)
        self._capsules = np.vstack([self._capsules, self._polylines(list(ends))])

    @staticmethod
    def _polylines(lines: list[Array]) -> Array:
        """Turn polylines, rows ``(x, y, z, radius)``, into capsules, rows of two such ends."""
        return np.vstack([np.empty((0, 8)), *(np.hstack([c[:-1], c[1:]]) for c in lines)])

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
        path = path[: np.argmax(path[:, 0] > 1.2) or len(path)]
        path[:, 1:] += start - path[:, 1:].mean(axis=0)
        swell = np.sin(2 * np.pi * (s[: len(path)] / rng.uniform(0.3, 0.6) + rng.uniform()))
        radius = 0.5 * self.thickness * rng.uniform(0.85, 1.15) * (1.0 + 0.25 * swell)
        return np.column_stack([path, radius])

    def _arm(self, rng: np.random.Generator, source: Array, target: Array) -> Array:
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

    def _in_capsules(self, x: Array) -> Mask:
        p = self._capsules[:, : self.dim] * self._scale
        q = self._capsules[:, 4 : 4 + self.dim] * self._scale
        r, growth = self._capsules[:, 3], self._capsules[:, 7] - self._capsules[:, 3]
        squared = np.maximum(((q - p) ** 2).sum(axis=1), 1e-300)
        reach = np.maximum(r, r + growth)[:, None]

        def inside(i: int, y: Array) -> Mask:
            t = np.clip((y - p[i]) @ (q[i] - p[i]) / squared[i], 0.0, 1.0)
            gap = y - p[i] - t[:, None] * (q[i] - p[i])
            return np.asarray((gap * gap).sum(axis=1) <= (r[i] + t * growth[i]) ** 2)

        lower, upper = np.minimum(p, q) - reach, np.maximum(p, q) + reach
        return _covered(x * self._scale, lower, upper, inside)

    def _high(self, x: Array) -> Mask:
        return self._in_capsules(np.roll(x, -self.axis, axis=1))


class Inclusions(_TwoValued):
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
        _require(_is_finite(fraction) and 0 < fraction < 1, "fraction", fraction, "in (0, 1)")
        ok = isinstance(radius, Sequence) and len(radius) == 2 and all(map(_is_finite, radius))
        _require(ok and 0 < radius[0] <= radius[1], "radius", radius, "a pair 0 < least <= most")
        _require(count is None or _is_integer(count), "count", count, "a non-negative integer")
        _require(shape in ("ball", "box"), "shape", shape, "'ball' or 'box'")
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

    def _high(self, x: Array) -> Mask:
        at, sizes = self._at, self._sizes

        def inside(i: int, y: Array) -> Mask:
            near = ((y - at[i]) ** 2).sum(axis=1) <= sizes[i, 0] ** 2
            return np.asarray(near if self.shape == "ball" else np.ones_like(near))

        return _covered(x, at - sizes, at + sizes, inside)


class _Gaussian:
    """A Gaussian random field of mean 0 and variance 1 on the whole space.

    z(x) = sum_m sqrt(2 e_m / M) cos(k_m.x + p_m) with M = 512, k_m ~ N(0, 1 / length^2),
    e_m ~ Exp(1) and p_m uniform: random Fourier features (Rahimi and Recht, NIPS 2007) with random
    amplitudes. Each value is exactly N(0, 1) and the covariance over seeds is exactly
    exp(-|x - y|^2 / (2 length^2)); values are computed to about 1e-6.
    """

    def __init__(self, seed: int, dim: int, correlation_length: float | Sequence[float]) -> None:
        """Draw the waves; see :class:`TwoPhase` for the correlation length."""
        length = correlation_length
        each = length if isinstance(length, Sequence) else [length] * dim
        ok = len(each) == dim and all(_is_finite(c) and c > 0 for c in each)
        _require(ok, "correlation_length", length, f"a positive number or {dim} of them")
        rng = np.random.Generator(np.random.PCG64(seed))
        k = rng.standard_normal((_NUM_WAVES, dim)) / np.array(each, dtype=np.float64)
        self._turns = np.ascontiguousarray(k.T) / (2 * np.pi)
        self._amplitude = np.sqrt(2.0 * rng.standard_exponential(_NUM_WAVES) / _NUM_WAVES)
        self._phase = rng.uniform(size=_NUM_WAVES)

    def __call__(self, x: Array) -> Array:
        """Evaluate at points of shape ``(n, dim)``."""
        z = np.empty(len(x))
        for i in range(0, len(x), _CHUNK):
            # Angles are reduced in double precision; the cosine is ten times faster in single.
            turns = x[i : i + _CHUNK] @ self._turns + self._phase
            turns -= np.rint(turns)
            angle = turns.astype(np.float32) * np.float32(2 * np.pi)
            z[i : i + _CHUNK] = np.cos(angle) @ self._amplitude
        return z


class TwoPhase(_TwoValued):
    """Two phases that wind into each other: a Gaussian random field cut at a level.

    1 in the one, ``contrast`` in the other. The level is the Gaussian quantile of ``fraction``, so
    every point is in the high phase with exactly that probability.

    Attributes:
        fraction: Expected volume fraction of the high phase, in (0, 1).
        correlation_length: Length c of the covariance exp(-r^2 / (2 c^2)), positive; one number,
            or one for each axis.
    """

    def __init__(
        self,
        dim: int,
        contrast: float = 1e3,
        seed: int = 0,
        *,
        fraction: float = 0.3,
        correlation_length: float | Sequence[float] = 0.06,
    ) -> None:
        """Draw the field; for the arguments see :class:`Field` and the attributes."""
        super().__init__(dim, contrast, seed)
        _require(_is_finite(fraction) and 0 < fraction < 1, "fraction", fraction, "in (0, 1)")
        self.fraction, self.correlation_length = fraction, correlation_length
        self._level = NormalDist().inv_cdf(1.0 - fraction)
        self._z = _Gaussian(seed, dim, correlation_length)

    def _high(self, x: Array) -> Mask:
        return self._z(x) > self._level


class LogNormal(Field):
    """exp(sigma z) with z a Gaussian random field of mean 0 and variance 1.

    Clipped to [contrast^-1/2, contrast^1/2] if there is a contrast, which is then a bound.

    Attributes:
        variance: sigma^2, the variance of the (natural) logarithm, positive.
        correlation_length: As in :class:`TwoPhase`.
    """

    def __init__(
        self,
        dim: int,
        contrast: float | None = None,
        seed: int = 0,
        *,
        variance: float = 4.0,
        correlation_length: float | Sequence[float] = 0.06,
    ) -> None:
        """Draw the field; for the arguments see :class:`Field` and the attributes."""
        super().__init__(dim, contrast, seed)
        _require(_is_finite(variance) and variance > 0, "variance", variance, "a positive number")
        self.variance, self.correlation_length = variance, correlation_length
        self._z = _Gaussian(seed, dim, correlation_length)

    def _evaluate(self, x: Array) -> Array:
        bound = math.inf if self.contrast is None else 0.5 * math.log(self.contrast)
        return np.exp(np.clip(math.sqrt(self.variance) * self._z(x), -bound, bound))


channels = _on_mesh(Channels, "channels")
inclusions = _on_mesh(Inclusions, "inclusions")
two_phase = _on_mesh(TwoPhase, "two_phase")
log_normal = _on_mesh(LogNormal, "log_normal")
