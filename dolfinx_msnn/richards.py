# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Constitutive laws of unsaturated flow, for Richards' equation in any coarse space.

The steady equation is −∇·(κ k_r(p) ∇p) = f, with p the pressure head (negative where the soil is
unsaturated), κ the saturated conductivity and k_r the relative permeability. Each law is a small
immutable object whose methods turn p, any scalar UFL expression, into a UFL expression:

    law = VanGenuchtenMualem(alpha=3.5, n=2.0)
    F = kappa*law.relative_permeability(p)*inner(grad(p), grad(v))*dx - f*v*dx

A basis from κ alone serves them all: k_r varies slowly where p does.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import ufl


class ConstitutiveLaw(Protocol):
    """A law of unsaturated flow: its methods return UFL expressions without units.

    ``p`` is a pressure head in units of length, those of the law's parameters.
    """

    def saturation(self, p: Any) -> Any:
        """Effective saturation S_e, from 0 (residual) to 1 (saturated)."""
        ...

    def water_content(self, p: Any) -> Any:
        """Volumetric water content θ = θ_r + (θ_s − θ_r) S_e."""
        ...

    def relative_permeability(self, p: Any) -> Any:
        """Relative permeability k_r, positive and at most 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Law:
    """Parameters that the laws share, and their checks."""

    theta_r: float = 0.0
    theta_s: float = 1.0
    k_min: float = 0.0

    #: Lower bound of each parameter, and whether it is allowed itself.
    _LEAST: ClassVar[dict[str, tuple[float, bool]]] = {
        "theta_r": (0.0, True),
        "theta_s": (0.0, False),
        "k_min": (0.0, True),
    }

    def __post_init__(self) -> None:
        for parameter in fields(self):
            name, value = parameter.name, getattr(self, parameter.name)
            least, included = self._LEAST[name]
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if (
                not number
                or not math.isfinite(value)
                or value < least
                or not (included or value > least)
            ):
                wanted = "at least" if included else "above"
                raise ValueError(
                    f"{name} of {type(self).__name__} must be a finite number {wanted} {least:g}, "
                    f"got {value!r}."
                )
        if not self.theta_r < self.theta_s <= 1.0:
            raise ValueError(
                f"The water contents of {type(self).__name__} must be theta_r < theta_s <= 1, got "
                f"{self.theta_r!r} and {self.theta_s!r}."
            )
        if self.k_min >= 1.0:
            raise ValueError(f"k_min of {type(self).__name__} must be below 1, got {self.k_min!r}.")

    def saturation(self, p: Any) -> Any:
        """Effective saturation."""
        raise NotImplementedError

    def water_content(self, p: Any) -> Any:
        """Volumetric water content θ_r + (θ_s − θ_r) S_e."""
        return self.theta_r + (self.theta_s - self.theta_r) * self.saturation(p)

    def _floor(self, k: Any) -> Any:
        return self.k_min + (1.0 - self.k_min) * k


@dataclass(frozen=True, kw_only=True)
class Haverkamp(_Law):
    """The power laws of Haverkamp et al.: k_r = A / (A + |p|^γ), S_e = a / (a + |p|^β).

    Without arguments k_r = 1/(1 + |p|), the law of the steady problems in Rudikov et al. Both are
    even in p, as written there: pressures above zero are not saturated. At p = 0 the derivatives
    are finite; with γ = 1 or β = 1 they jump there.

    Attributes:
        A: Scale of k_r, in units of length^γ.
        gamma: Exponent γ ≥ 1 of k_r.
        a: Scale of S_e, in units of length^β.
        beta: Exponent β ≥ 1 of S_e.
        theta_r: Residual water content.
        theta_s: Water content at saturation.
        k_min: Floor: k_r becomes k_min + (1 − k_min) k_r. Without one k_r is positive for every
            finite p, but as small as the power law makes it.

    Raises:
        ValueError: If a parameter is out of range.

    References:
        R. Haverkamp, M. Vauclin, J. Touma, P. J. Wierenga, G. Vachaud. A comparison of numerical
        simulation models for one-dimensional infiltration. Soil Science Society of America Journal
        41, 285–294, 1977. Rudikov et al. ICLR 2026, arXiv:2505.16030.
    """

    A: float = 1.0
    gamma: float = 1.0
    a: float = 1.0
    beta: float = 1.0

    _LEAST: ClassVar[dict[str, tuple[float, bool]]] = _Law._LEAST | {
        "A": (0.0, False),
        "gamma": (1.0, True),
        "a": (0.0, False),
        "beta": (1.0, True),
    }

    def saturation(self, p: Any) -> Any:
        """Effective saturation a / (a + |p|^β)."""
        return self.a / (self.a + _power(abs(p), self.beta))

    def relative_permeability(self, p: Any) -> Any:
        """Relative permeability A / (A + |p|^γ), above the floor."""
        return self._floor(self.A / (self.A + _power(abs(p), self.gamma)))


@dataclass(frozen=True, kw_only=True)
class VanGenuchtenMualem(_Law):
    """The retention curve of van Genuchten with the permeability of Mualem, m = 1 − 1/n.

    With the scaled suction h = α max(−p, 0)::

        S_e = (1 + hⁿ)^−m,    k_r = √S_e (1 − (1 − S_e^(1/m))^m)² = √S_e (1 − h^(n−1) S_e)²

    For n < 2 the slope of k_r is infinite at p = 0⁻, where Newton's method then fails. So
    max(−p, 0) is replaced by (√(p² + δ²) − p)/2 with δ = epsilon/α: positive, smooth, and δ/2 at
    p = 0. All derivatives are finite; k_r(0) = (1 − (epsilon/2)^(n−1))², nearly, which is 0.999 for
    n = 2 with the default, and 0.96 for n = 1.5. For n near 1 even a small epsilon matters; that is
    a property of the model, not of the regularisation.

    Attributes:
        alpha: Scale α of the suction, in units of 1/length.
        n: Exponent n > 1 (2–10 in sands, 1.1–1.5 in clays).
        theta_r: Residual water content.
        theta_s: Water content at saturation.
        k_min: Floor: k_r becomes k_min + (1 − k_min) k_r, so that dry soil still conducts.
        epsilon: Width of the regularisation about p = 0, in units of 1/α.

    Raises:
        ValueError: If a parameter is out of range.

    References:
        M. T. van Genuchten. A closed-form equation for predicting the hydraulic conductivity of
        unsaturated soils. Soil Science Society of America Journal 44, 892–898, 1980, equations 3
        and 8. Y. Mualem. A new model for predicting the hydraulic conductivity of unsaturated
        porous media. Water Resources Research 12, 513–522, 1976.
    """

    alpha: float = 1.0
    n: float = 2.0
    k_min: float = 1e-8
    epsilon: float = 1e-3

    _LEAST: ClassVar[dict[str, tuple[float, bool]]] = _Law._LEAST | {
        "alpha": (0.0, False),
        "n": (1.0, False),
        "epsilon": (0.0, False),
    }

    def suction(self, p: Any) -> Any:
        """Scaled suction h, regularised: positive for every p."""
        delta = self.epsilon / self.alpha
        root = ufl.sqrt(p**2 + delta**2)
        # (root − p)/2, without cancellation where p > 0; no |p|, whose slope at 0 is 0 in UFL.
        twice = ufl.conditional(ufl.lt(p, 0), root - p, delta**2 / (root + p))
        return 0.5 * self.alpha * twice

    def saturation(self, p: Any) -> Any:
        """Effective saturation (1 + hⁿ)^−m."""
        return (1.0 + self.suction(p) ** self.n) ** (1.0 / self.n - 1.0)

    def relative_permeability(self, p: Any) -> Any:
        """Relative permeability √S_e (1 − h^(n−1) S_e)², above the floor."""
        h = self.suction(p)
        effective = (1.0 + h**self.n) ** (1.0 / self.n - 1.0)
        return self._floor(effective**0.5 * (1.0 - h ** (self.n - 1.0) * effective) ** 2)


def _power(base: Any, exponent: float) -> Any:
    """Base to the exponent; without a call of ``pow`` for the exponent 1."""
    return base if exponent == 1.0 else base**exponent
