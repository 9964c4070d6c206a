# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficients made of a Gaussian random field: two-phase and log-normal ones."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from dolfinx_msnn._utils.checks import is_number, number_between, require
from dolfinx_msnn._utils.typing import BoolArray, FloatArray
from dolfinx_msnn.fields._base import Field, TwoValuedField, on_mesh

_NUM_WAVES = 512
_CHUNK = 256  # points at a time: keeps the work space of the Gaussian fields in the cache


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
        ok = len(each) == dim and all(is_number(c) and 0 < c < math.inf for c in each)
        require(ok, "correlation_length", length, f"a positive number or {dim} of them")
        rng = np.random.Generator(np.random.PCG64(seed))
        k = rng.standard_normal((_NUM_WAVES, dim)) / np.array(each, dtype=np.float64)
        self._turns = np.ascontiguousarray(k.T) / (2 * np.pi)
        self._amplitude = np.sqrt(2.0 * rng.standard_exponential(_NUM_WAVES) / _NUM_WAVES)
        self._phase = rng.uniform(size=_NUM_WAVES)

    def __call__(self, x: FloatArray) -> FloatArray:
        """Evaluate at points of shape ``(n, dim)``."""
        z = np.empty(len(x))
        for i in range(0, len(x), _CHUNK):
            # Angles are reduced in double precision; the cosine is ten times faster in single.
            turns = x[i : i + _CHUNK] @ self._turns + self._phase
            turns -= np.rint(turns)
            angle = turns.astype(np.float32) * np.float32(2 * np.pi)
            z[i : i + _CHUNK] = np.cos(angle) @ self._amplitude
        return z


class TwoPhase(TwoValuedField):
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
        number_between("fraction", fraction, 0, 1)
        self.fraction, self.correlation_length = fraction, correlation_length
        self._level = NormalDist().inv_cdf(1.0 - fraction)
        self._z = _Gaussian(seed, dim, correlation_length)

    def _high(self, x: FloatArray) -> BoolArray:
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
        super().__init__(dim, 1.0 if contrast is None else contrast, seed)
        self.contrast = None if contrast is None else float(contrast)
        number_between("variance", variance)
        self.variance, self.correlation_length = variance, correlation_length
        self._z = _Gaussian(seed, dim, correlation_length)

    def _evaluate(self, x: FloatArray) -> FloatArray:
        bound = math.inf if self.contrast is None else 0.5 * math.log(self.contrast)
        return np.exp(np.clip(math.sqrt(self.variance) * self._z(x), -bound, bound))


two_phase = on_mesh(TwoPhase, "two_phase")
log_normal = on_mesh(LogNormal, "log_normal")
