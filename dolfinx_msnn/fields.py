# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficient fields: seeded generators, and readers of data on a lattice, in 2D and 3D.

A generator (:class:`Channels`, :class:`Inclusions`, :class:`TwoPhase`, :class:`LogNormal`) is a
function on the unit box, drawn from ``numpy``'s ``PCG64(seed)`` alone. On a mesh, the unit box is
mapped onto the mesh's bounding box and the field evaluated at cell midpoints, so one seed gives
one field at any mesh size, cell type and number of ranks. Lengths are fractions of the box.
:func:`channels`, :func:`inclusions`, :func:`two_phase` and :func:`log_normal` do both steps.
"""

import inspect
import math
import numbers
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from statistics import NormalDist
from typing import Any, Concatenate, cast

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx import fem, mesh

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Box = Sequence[Sequence[float]]
File = str | PathLike[str]
type _Mesh = mesh.Mesh[Any]
type _Function = fem.Function[Any]

_SPE10_SHAPE = (60, 220, 85)
_SPE10_CELL_SIZE = (6.096, 3.048, 0.6096)  # metres; 20 ft x 10 ft x 2 ft
_NUM_WAVES = 512
_CHUNK = 256  # points at a time: keeps the work space of the Gaussian fields in the cache


def _require(ok: object, what: str, given: object, expected: str) -> None:
    """Raise a one-sentence ValueError unless ``ok``."""
    if not ok:
        raise ValueError(f"{what} must be {expected}, but {given!r} was given.")


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _is_integer(value: object, least: int = 0) -> bool:
    return isinstance(value, numbers.Integral) and int(value) >= least


def _points(x: npt.ArrayLike, dim: int) -> Array:
    points = np.asarray(x, dtype=np.float64)
    ok = points.ndim == 2 and points.shape[1] in (dim, 3)
    _require(ok, "The shape of the points", points.shape, f"(n, {dim}) or (n, 3)")
    return points[:, :dim]


class _MeshField(ABC):
    """What generated and lattice fields share: one way onto a mesh."""

    dim: int

    @abstractmethod
    def _checksum(self) -> int:
        """A number that fields with unlike values do not share."""


def _agree[T: _MeshField](
    msh: _Mesh, make: Callable[[int], T], box: Box | None = None
) -> tuple[T, Array, Array]:
    """Make a field on every rank and find the box it is mapped to, or fail on every rank.

    Collective on ``msh.comm``: one reduction carries the mesh's bounding box, whether a rank
    failed, and a checksum, since ranks with unlike arguments would build unlike fields.
    """
    gdim = msh.geometry.dim
    x = msh.geometry.x[:, :gdim].astype(np.float64)
    lower, upper = x.min(axis=0, initial=np.inf), x.max(axis=0, initial=-np.inf)
    error: Exception | None = None
    checksum = 0
    try:
        field = make(gdim)
        _require(field.dim == gdim, "The dimension of the mesh", gdim, f"{field.dim}")
        checksum = zlib.crc32(repr(box).encode(), field._checksum())
        if box is not None:
            given = np.asarray(box, dtype=np.float64)
            ok = (
                given.shape == (2, gdim)
                and np.isfinite(given).all()
                and (given[0] < given[1]).all()
            )
            _require(ok, "box", box, f"a lower and an upper corner of {gdim} coordinates")
            lower, upper = given
    except Exception as exc:  # of any kind: the other ranks wait in the reduction
        error = exc
    sent = np.concatenate([lower, -upper, [-float(error is not None), checksum, -checksum]])
    least = np.empty_like(sent)
    msh.comm.Allreduce(sent, least, MPI.MIN)
    if least[-3] < 0:
        raise next(e for e in msh.comm.allgather(error) if e is not None)
    if least[-2] != -least[-1]:
        raise ValueError("The field must have the same arguments on all ranks, but they differ.")
    lower, upper = least[:gdim], -least[gdim : 2 * gdim]
    corners = [lower.tolist(), upper.tolist()]
    _require((lower < upper).all(), "The box", corners, "of positive size along each axis")
    return field, lower, upper


def _dg0(msh: _Mesh, evaluate: Callable[[Array], Array]) -> _Function:
    """Return the DG0 function of values at the midpoints of all cells, ghosts included."""
    tdim = msh.topology.dim
    cells = msh.topology.index_map(tdim)
    local = np.arange(cells.size_local + cells.num_ghosts, dtype=np.int32)
    x = mesh.compute_midpoints(msh, tdim, local)[:, : msh.geometry.dim]
    V = fem.functionspace(msh, ("DG", 0))
    kappa = fem.Function(V, name="kappa", dtype=msh.geometry.x.dtype)
    kappa.x.array[V.dofmap.list[:, 0]] = evaluate(x.astype(np.float64))
    return kappa


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


class LatticeField(_MeshField):
    """A positive coefficient, constant on each cell of a lattice of equal boxes.

    Attributes:
        values: Positive and finite, one value a cell, shape ``(nx, ny)`` or ``(nx, ny, nz)``,
            float64, read-only.
        cell_size: Sides of a cell; by default all cells are cubes and the longest side of the
            lattice is 1. In metres for SPE10.
        origin: Lower corner of the lattice, by default zero.
    """

    def __init__(
        self,
        values: npt.ArrayLike,
        cell_size: Sequence[float] | None = None,
        origin: Sequence[float] | None = None,
    ) -> None:
        """Copy and check the values; raise ValueError for what is not as described above."""
        v = np.array(values, dtype=np.float64)
        ok = v.ndim in (2, 3) and v.size > 0
        _require(ok, "The shape of the lattice", v.shape, "2D or 3D and not empty")
        bad = v[~(np.isfinite(v) & (v > 0))]
        _require(not bad.size, "Every value", bad[:1].tolist(), "positive and finite")
        v.flags.writeable = False
        self.values, self.dim = v, v.ndim
        size = np.array([1 / max(v.shape)] * self.dim if cell_size is None else cell_size, float)
        ok = size.shape == (self.dim,) and bool(np.isfinite(size).all() and (size > 0).all())
        _require(ok, "cell_size", cell_size, f"{self.dim} positive lengths")
        corner = np.array([0.0] * self.dim if origin is None else origin, float)
        ok = corner.shape == (self.dim,) and bool(np.isfinite(corner).all())
        _require(ok, "origin", origin, f"{self.dim} finite coordinates")
        self.cell_size, self.origin = tuple(size.tolist()), tuple(corner.tolist())

    def __repr__(self) -> str:
        """Return shape, cell size and origin."""
        return f"LatticeField(shape={self.shape}, cell_size={self.cell_size}, origin={self.origin})"

    def _checksum(self) -> int:
        return zlib.crc32(self.values.tobytes(), zlib.crc32(repr(self).encode()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each axis."""
        return self.values.shape

    @property
    def extent(self) -> tuple[float, ...]:
        """Lengths of the sides of the lattice."""
        return tuple(n * h for n, h in zip(self.shape, self.cell_size, strict=True))

    @property
    def contrast(self) -> float:
        """Largest over smallest value."""
        return float(self.values.max() / self.values.min())

    def __getitem__(self, key: Any) -> "LatticeField":
        """Crop: slices of step 1 keep their axes and places, integers drop theirs (3D to 2D)."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis not in keys:
            keys.append(Ellipsis)
        i = keys.index(Ellipsis)
        keys[i : i + 1] = [slice(None)] * (self.dim + 1 - len(keys))
        ok = all(
            k.step in (None, 1) if isinstance(k, slice) else isinstance(k, numbers.Integral)
            for k in keys
        )
        _require(ok and len(keys) == self.dim, "The index", key, "slices of step 1 or integers")
        kept = [a for a, k in enumerate(keys) if isinstance(k, slice)]
        start = [keys[a].indices(self.shape[a])[0] for a in kept]
        size = [self.cell_size[a] for a in kept]
        origin = [self.origin[a] + i * h for a, i, h in zip(kept, start, size, strict=True)]
        return LatticeField(self.values[tuple(keys)], size, origin)

    def __call__(self, x: npt.ArrayLike) -> Array:
        """Return the values of the cells nearest to points, in the lattice's own units.

        Not collective.

        Args:
            x: Points, shape ``(n, 3)`` or ``(n, dim)``.

        Returns:
            Values, shape ``(n,)``.
        """
        # A point on a face, up to round-off, belongs to the upper cell, whatever the round-off.
        cell = np.floor((_points(x, self.dim) - self.origin) / self.cell_size + 1e-6)
        index = np.clip(cell.astype(np.int64), 0, np.array(self.shape) - 1)
        return np.asarray(self.values[tuple(index.T)])

    def create_mesh(self, comm: MPI.Comm, cell_type: mesh.CellType | None = None) -> _Mesh:
        """Create the mesh of the lattice: one quadrilateral or hexahedron a cell, or simplices.

        Args:
            comm: Communicator. Collective.
            cell_type: By default quadrilateral or hexahedron; otherwise triangle or tetrahedron.

        Returns:
            Mesh in the lattice's own units.

        Raises:
            ValueError: A cell type of another dimension.
        """
        types = {
            2: (mesh.CellType.quadrilateral, mesh.CellType.triangle),
            3: (mesh.CellType.hexahedron, mesh.CellType.tetrahedron),
        }[self.dim]
        chosen = types[0] if cell_type is None else cell_type
        _require(chosen in types, "cell_type", chosen, f"{types[0].name} or {types[1].name}")
        corners = [np.array(self.origin), np.add(self.origin, self.extent)]
        create = mesh.create_rectangle if self.dim == 2 else mesh.create_box
        return create(comm, corners, self.shape, chosen)

    def interpolate(self, msh: _Mesh, *, fit: bool = False) -> _Function:
        """Take for each mesh cell the value at its midpoint. Collective on ``msh.comm``.

        Args:
            msh: Mesh of the same dimension, inside the lattice.
            fit: Stretch the lattice onto the mesh's bounding box instead.

        Returns:
            DG0 function ``kappa``, set on owned and ghost cells.

        Raises:
            ValueError: The mesh is of another dimension or leaves the lattice, or the lattice
                differs between ranks. Raised on all ranks.
        """
        _, lower, upper = _agree(msh, lambda _: self)
        origin, extent = np.array(self.origin), np.array(self.extent)
        if fit:
            return _dg0(msh, lambda x: self(origin + (x - lower) / (upper - lower) * extent))
        slack = np.sqrt(np.finfo(msh.geometry.x.dtype).eps) * extent
        ok = (lower >= origin - slack).all() and (upper <= origin + extent + slack).all()
        box = [lower.tolist(), upper.tolist()]
        _require(ok, "The mesh without fit=True", box, f"inside {self!r}")
        return _dg0(msh, self)


def _read_on_root[T](comm: MPI.Comm, path: object, read: Callable[[], T]) -> T:
    """Read on rank 0 and broadcast the result, or the error, which is raised on every rank."""
    result: T | None = None
    error: Exception | None = None
    if comm.rank == 0:
        try:
            result = read()
        except (FileNotFoundError, ImportError) as exc:
            error = exc
        except Exception as exc:
            error = ValueError(f"Cannot read {path}: {exc}")
    result, error = comm.bcast((result, error), root=0)
    if error is not None:
        raise error
    return cast(T, result)


def _existing(path: File) -> Path:
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no file or directory {path}.")
    return Path(path)


def _spe10_block(path: Path, component: str, first_layer: int | None) -> tuple[int, Array]:
    """Return the first layer and the values ``(nx, ny, num_layers)`` of one file."""
    if path.suffix != ".npz":
        data = np.fromfile(path, sep=" ")
        num = 3 * math.prod(_SPE10_SHAPE)
        _require(data.size == num, "The number of values", data.size, f"3 x 60 x 220 x 85 = {num}")
        k = data.reshape(3, -1)["xyz".index(component)].reshape(_SPE10_SHAPE, order="F")
        return 1, k
    _require(component != "z", "component", component, "x or y (an .npz file holds kx = ky)")
    with np.load(path) as file:
        _require("k" in file, "The arrays", list(file), "'k' and possibly 'source'")
        k, source = file["k"], str(file["source"]) if "source" in file else ""
    _require(k.ndim == 3, "The shape of k", k.shape, "(nx, ny, num_layers)")
    stated = re.search(r"layers (\d+)", source)
    if first_layer is None and stated is not None:
        first_layer = int(stated[1])
    if first_layer is None and k.shape[2] == _SPE10_SHAPE[2]:
        first_layer = 1
    if first_layer is None:
        raise ValueError("first_layer must be given, since the file does not tell its layers.")
    return first_layer, k


def read_spe10(
    path: File,
    layers: int | tuple[int, int],
    *,
    component: str = "x",
    first_layer: int | None = None,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> LatticeField:
    """Read the permeability of SPE10 Model 2 (Christie and Blunt, SPE 72469, 2001).

    Rank 0 reads, with its arguments, and broadcasts. Layers count from 1 (top) to 85, cells are
    6.096 m x 3.048 m x 0.6096 m, and the third axis points down.

    Args:
        path: ``spe_perm.dat`` (text: kx of all 60 x 220 x 85 cells, x fastest and layer slowest,
            then ky, then kz), or an ``.npz`` file with ``k``, kx = ky of some layers, shape
            ``(60, 220, num_layers)``, and possibly a ``source`` that contains "layers N" with the
            number of the first; or a directory with either.
        layers: One layer (a 2D field), or the first and the last of a block (3D).
        component: ``"x"``, ``"y"`` or ``"z"``.
        first_layer: Number of the first layer in an ``.npz`` file whose ``source`` does not say.
        comm: Communicator. Collective.

    Returns:
        Permeability in millidarcy; the origin of a block is at the depth of its first layer below
        the top of the model.

    Raises:
        FileNotFoundError: There is no such file. Raised on all ranks, like the next.
        ValueError: The file is truncated, malformed or lacks a layer, or a value is not positive
            and finite, or an argument is not as described.
    """

    def read() -> LatticeField:
        first, last = layers if isinstance(layers, tuple) else (layers, layers)
        ok = _is_integer(first, 1) and _is_integer(last, 1) and first <= last <= 85
        _require(ok, "layers", layers, "one or (first, last) of 1 to 85")
        _require(component in ("x", "y", "z"), "component", component, "'x', 'y' or 'z'")
        where = _existing(path)
        files = [where]
        if where.is_dir():
            files = sorted(where.glob("spe_perm.dat")) or sorted(where.glob("*.npz"))
        ok = first_layer is None or (_is_integer(first_layer, 1) and len(files) == 1)
        _require(ok, "first_layer", first_layer, "a positive integer, and for one file")
        found: dict[int, Array] = {}
        for file in files:
            start, k = _spe10_block(file, component, first_layer)
            found |= {start + i: k[:, :, i] for i in range(k.shape[2])}
        missing = [i for i in range(first, last + 1) if i not in found]
        _require(not missing, "layers", layers, f"in the file, which lacks layer {missing[:1]}")
        k = np.stack([found[i] for i in range(first, last + 1)], axis=2)
        depth = (first - 1) * _SPE10_CELL_SIZE[2]
        field = LatticeField(k, _SPE10_CELL_SIZE, (0.0, 0.0, depth))
        return field if isinstance(layers, tuple) else field[:, :, 0]

    return _read_on_root(comm, path, read)


def from_array(
    array: npt.ArrayLike,
    *,
    low: float | None = None,
    high: float | None = None,
    phases: Mapping[float, float] | None = None,
    cell_size: Sequence[float] | None = None,
    origin: Sequence[float] | None = None,
) -> LatticeField:
    """Make a lattice field of an array, as it is or with its grey values mapped. Not collective.

    Args:
        array: One (grey) value a cell, indexed (x, y) or (x, y, z).
        low: Coefficient of the smallest grey value; the others follow affinely up to ``high``.
        high: Coefficient of the largest grey value.
        phases: Coefficient of each grey value, in place of ``low`` and ``high``.
        cell_size: As in :class:`LatticeField`.
        origin: As in :class:`LatticeField`.

    Returns:
        The field.

    Raises:
        ValueError: A grey value without a phase, an incomplete mapping, or what
            :class:`LatticeField` refuses.
    """
    grey = np.asarray(array, dtype=np.float64)
    mapping = (low, high, phases)
    ok = [v is not None for v in mapping] in ([0, 0, 0], [1, 1, 0], [0, 0, 1])
    _require(ok, "(low, high, phases)", mapping, "low and high, or phases, or none")
    if phases is not None:
        levels, where = np.unique(grey, return_inverse=True)
        unknown = [v for v in levels.tolist() if v not in phases]
        _require(not unknown, "Grey values", unknown[:5], f"among the phases {list(phases)}")
        grey = np.array([phases[v] for v in levels.tolist()])[where.reshape(grey.shape)]
    elif low is not None and high is not None:
        least, most = grey.min(initial=np.inf), grey.max(initial=-np.inf)
        _require(least < most, "The grey values", "a single one", "at least two to be mapped")
        grey = low + (grey - least) / (most - least) * (high - low)
    return LatticeField(grey, cell_size, origin)


def _grey_images(path: Path) -> list[Array]:
    """Return the images in a file as arrays indexed (x, y), with y upwards."""
    if path.suffix in (".npy", ".npz"):
        loaded = np.load(path)
        if isinstance(loaded, np.ndarray):
            return [loaded.astype(np.float64)]
        with loaded:
            _require(len(loaded.files) == 1, "The arrays in the file", loaded.files, "one")
            return [loaded[loaded.files[0]].astype(np.float64)]
    try:
        from PIL import Image, ImageSequence
    except ImportError:
        raise ImportError(f"Reading the image {path} needs Pillow: pip install pillow.") from None
    grey = ("1", "L", "I", "I;16", "I;16L", "I;16B", "F")
    with Image.open(path) as image:
        frames = [
            f.copy() if f.mode in grey else f.convert("L") for f in ImageSequence.Iterator(image)
        ]
    return [np.asarray(f, dtype=np.float64)[::-1].T for f in frames]


def read_image_stack(path: File | Sequence[File], *, comm: MPI.Comm = MPI.COMM_WORLD) -> Array:
    """Read the grey values of an image or a stack of images, for :func:`from_array`.

    Rank 0 reads, and broadcasts. The rows of an image run from top to bottom, and y points up;
    the images of a stack follow each other along z.

    Args:
        path: An image (PNG, TIFF with one page or more, or another format of Pillow; colours
            become grey), a ``.npy`` or ``.npz`` file with one array indexed (x, y) or (x, y, z),
            a directory of images, which are taken in the order of their names, or a sequence of
            images.
        comm: Communicator. Collective.

    Returns:
        Grey values, shape ``(nx, ny)`` or ``(nx, ny, nz)``.

    Raises:
        FileNotFoundError: There is no such file. Raised on all ranks, like the next two.
        ImportError: The file is an image and Pillow is not installed.
        ValueError: The file is malformed, or images differ in shape.
    """

    def read() -> Array:
        files = [_existing(p) for p in ([path] if isinstance(path, str | PathLike) else path)]
        if len(files) == 1 and files[0].is_dir():
            files = sorted(p for p in files[0].iterdir() if p.is_file())
        images = [image for p in files for image in _grey_images(p)]
        shapes = {image.shape for image in images}
        _require(len(shapes) == 1, "The shapes of the images", sorted(shapes), "the same")
        return images[0] if len(images) == 1 else np.stack(images, axis=2)

    return _read_on_root(comm, path, read)
