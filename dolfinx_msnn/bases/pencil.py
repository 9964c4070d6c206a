# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A local pencil (A_i, S_i) made ready for products with blocks of functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.bases import kernels
from dolfinx_msnn.bases.checks import check_energies
from dolfinx_msnn.bases.kernels import Block
from dolfinx_msnn.local.geometry import Geometry
from dolfinx_msnn.local.problem import LocalProblem

type Precision = Literal["single", "double", "auto"]


def check_precision(precision: object) -> None:
    """Refuse what is no :data:`Precision`.

    Raises:
        ValueError: With the value.
    """
    if precision not in get_args(Precision.__value__):
        raise ValueError(f"precision must be 'single', 'double' or 'auto', got {precision!r}.")


#: Ratio of the entries of diag(A) from which ``"auto"`` chooses double precision. Measured: up to
#: 1e6 single and double precision give the same modes, at 1e8 the last digits of the defect differ.
SINGLE_UP_TO = 1e7


def least_quotient(energy: FloatArray, mass: FloatArray) -> FloatArray:
    """Least ratio of energy and mass; what is without either does not count.

    Args:
        energy: Shape ``(..., m)``.
        mass: The same.

    Returns:
        Shape ``(...,)``; infinite where none counts.
    """
    quotients = np.divide(energy, mass, out=np.full(energy.shape, np.inf), where=mass > 0)
    most = quotients.max(axis=-1, initial=0.0, where=np.isfinite(quotients), keepdims=True)
    return np.asarray(np.where(quotients > 1e-12 * most, quotients, np.inf).min(axis=-1))


@dataclass(frozen=True)
class Pencil:
    """A local problem made ready for products with blocks of vectors.

    Attributes:
        problem: The local problem.
        single: Whether the filter works in single precision (Rayleigh-Ritz never does).
        diagonal: D = diag(A), shape ``(n_i,)``.
        upper: Bound β of the spectrum of D⁻¹A: its largest absolute row sum (Gershgorin).
        jump: Largest ratio of two entries of D that share an entry of A.
    """

    problem: LocalProblem
    single: bool
    diagonal: FloatArray
    upper: float
    jump: float

    @classmethod
    def create(cls, problem: LocalProblem, precision: Precision = "auto") -> Pencil:
        """Measure A_i and choose the precision."""
        measures = kernels.measure(problem.A)
        rough = measures.diagonal.max() > SINGLE_UP_TO * measures.diagonal.min()
        single = precision == "single" or (precision == "auto" and not rough)
        return cls(problem, single, *measures)

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """The filter's precision."""
        return np.float32 if self.single else np.float64

    @property
    def geometry(self) -> Geometry:
        """Where the dofs are."""
        return self.problem.geometry

    @cached_property
    def stiffness(self) -> FloatArray:
        """Energy of each coordinate function (for vectors: mean over components), shape (gdim,).

        Raises:
            ValueError: If S is zero, or a coordinate or the constant has a negative energy.
        """
        energy, size, mass = self._energies
        check_energies(self.problem, energy, size, mass)
        return self.mean(energy)

    @cached_property
    def shift(self) -> float:
        """Scale of the wanted λ: least Rayleigh quotient of a coordinate, with the diagonal of S.

        Coordinates without energy do not count.
        """
        least = least_quotient(self.stiffness, self.mean(self._energies[2]))
        if np.isfinite(least):
            return float(least)
        # As on a hat of one dof, in the middle of the neighbourhood.
        return 1e-6 * float(self.diagonal.sum() / self.problem.S.diagonal().sum())

    @cached_property
    def _energies(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        return kernels.energies(self.problem.A, self.problem.S, self.linear)

    @property
    def linear(self) -> FloatArray:
        """Coordinates and constants of each component, see :meth:`_linear`."""
        return self.geometry.once("linear", self._linear)

    def _linear(self) -> FloatArray:
        """Coordinates from the box's centre, then the constant; for vectors in each component.

        Returns:
            Shape ``(n_i, m)`` with ``m >= (gdim + 1) * block_size`` a multiple of 4, the last
            columns zero: four columns are as fast as one.
        """
        geometry, bs, gdim = self.geometry, self.problem.block_size, self.problem.gdim
        centred = geometry.offsets - geometry.lower - 0.5 * geometry.length
        linear = np.zeros((len(centred), 4 * -(-(gdim + 1) * bs // 4)))
        for c in range(bs):
            linear[c::bs, c : gdim * bs : bs] = centred[c::bs]
            linear[c::bs, gdim * bs + c] = 1.0
        return linear

    def mean(self, energy: FloatArray) -> FloatArray:
        """Mean over the components of a vector, for each coordinate.

        Args:
            energy: Of the functions of :attr:`linear`, shape ``(..., m)``.

        Returns:
            Shape ``(..., gdim)``.
        """
        gdim = self.problem.gdim
        coordinates = energy[..., : gdim * self.problem.block_size]
        return np.asarray(coordinates.reshape(*energy.shape[:-1], gdim, -1).mean(axis=-1))

    @cached_property
    def _working(self) -> tuple[Block, Block]:
        """Entries of A and 1/D in the filter's precision, in units of the largest entry of D."""
        unit = self.diagonal.max()
        data = (self.problem.A.data / unit).astype(self.dtype, copy=False)
        return data, (unit / self.diagonal).astype(self.dtype)

    def symbol(self, squared: FloatArray) -> FloatArray:
        """Rayleigh quotients in (A, D) of waves cos(k·x), estimated from smooth functions.

        For a wave that D resolves, Σ_d k_d² ∫κ over ΣD: on square bilinear cells 3/8 (k h)².

        Args:
            squared: k_d², shape ``(num, gdim)``.
        """
        mass = self.diagonal.sum() / self.problem.block_size
        return np.asarray(squared @ (self.stiffness / mass))
