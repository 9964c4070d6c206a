# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Filter and compress: turn any rough guess of the low-energy functions into good modes.

Both work on the true local matrices, so what they return can be trusted whatever the guess was.
The filter is a Chebyshev polynomial of D⁻¹A with D = diag(A), damped on [α, β] and growing below α;
compressing is Rayleigh-Ritz in the pencil (A, S). One after the other they are a round of
Chebyshev-filtered subspace iteration (Zhou, Saad, Tiago, Chelikowsky, J. Comput. Phys. 219, 2006),
here for a generalised problem that is preconditioned by D: since D ~ κ/h² ~ S/h², convergence
hardly depends on κ.

Between the modes φ_i (eigenvalues μ_i of D⁻¹A) and a space of m filtered functions the error falls
by |T_k((β + α - 2 μ_i) / (β - α))| when α is the m+1st eigenvalue (loc. cit., Sect. 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.linalg

from dolfinx_msnn._utils.linalg import rigid_motions
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.bases import _compress, kernels
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

#: Directions with less than this fraction of the largest energy are rounding errors.
RANK_TOLERANCE = 1e-12


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
        return self._mean(energy)

    @cached_property
    def shift(self) -> float:
        """Scale of the wanted λ: Rayleigh quotient of a coordinate, with the diagonal of S."""
        return float((self.stiffness / self._mean(self._energies[2])).min())

    @cached_property
    def _energies(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        return _compress.energies(self.problem.A, self.problem.S, self.geometry.linear)

    def _mean(self, energy: FloatArray) -> FloatArray:
        """Mean over the components of a vector, for each coordinate."""
        gdim = self.problem.gdim
        return np.asarray(energy[: gdim * self.problem.block_size].reshape(gdim, -1).mean(axis=1))

    @cached_property
    def _working(self) -> tuple[Block, Block]:
        """Entries of A and 1/D in the filter's precision."""
        data = self.problem.A.data.astype(self.dtype, copy=False)
        return data, (1.0 / self.diagonal).astype(self.dtype)

    def symbol(self, squared: FloatArray) -> FloatArray:
        """Rayleigh quotients in (A, D) of waves cos(k·x), estimated from smooth functions.

        For a wave that D resolves, Σ_d k_d² ∫κ over ΣD: on square bilinear cells 3/8 (k h)².

        Args:
            squared: k_d², shape ``(num, gdim)``.
        """
        mass = self.diagonal.sum() / self.problem.block_size
        return np.asarray(squared @ (self.stiffness / mass))


def chebyshev_filter(pencil: Pencil, functions: Block, degree: int, lower: float) -> Block:
    """Apply a Chebyshev polynomial of D⁻¹A that is one at zero and small on [lower, upper].

    Args:
        pencil: The pencil.
        functions: One a column, shape ``(n_i, m)``; the time is that of a multiple of 8 columns.
        degree: Degree of the polynomial, one product with A each; 0 does nothing.
        lower: α, with 0 < α < ``pencil.upper``.

    Returns:
        Filtered functions in the filter's precision, shape ``(n_i, m)``.

    Raises:
        ValueError: If ``lower`` or ``degree`` is out of range.
    """
    if not 0 < lower < pencil.upper:
        raise ValueError(
            f"lower must lie between 0 and {pencil.upper:.4g} on {pencil.problem.name}, got "
            f"{lower!r}."
        )
    if degree < 0:
        raise ValueError(f"degree must not be negative, got {degree!r}.")
    y = np.array(functions, dtype=pencil.dtype, order="C")
    m = y.shape[1]
    if degree == 0:
        return y
    data, scale = pencil._working
    y = kernels.padded(y)
    y = kernels.chebyshev(pencil.problem.A, data, scale, y, degree, lower, pencil.upper)
    return np.ascontiguousarray(y[:, :m])


def degree_for(gain: float, lower: float, upper: float) -> int:
    """Smallest degree whose polynomial is ``gain`` times larger at 0 than on [lower, upper]."""
    return math.ceil(math.acosh(max(gain, 1.0)) / math.acosh((upper + lower) / (upper - lower)))


def smoothing_end(degree: int, upper: float) -> float:
    """Lower end α of the interval that a polynomial of some degree damps well: β (π / 2k)².

    For functions that are good at large scale already. At this α the polynomial is 12 to 17 times
    larger at zero than on [α, β] from degree 2 on.
    """
    return min(0.5, (0.5 * math.pi / degree) ** 2) * upper


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs of a local pencil in a subspace.

    Attributes:
        values: Ritz values λ of (A, S), ascending, shape ``(num,)``.
        errors: Estimated squared energy error of the first vectors relative to their energy, shape
            ``(num_checked,)``; see :func:`rayleigh_ritz`.
        basis: Basis of the subspace, one function a column, shape ``(n_i, m)``, either precision.
        coefficients: Ritz vectors in that basis, shape ``(m, num)``.
        first: The first vectors, shape ``(n_i, num_checked)``.
    """

    values: FloatArray
    errors: FloatArray
    basis: Block
    coefficients: FloatArray
    first: FloatArray

    def functions(self, num: int | None = None) -> FloatArray:
        """The first Ritz vectors, one a column, S-orthonormal, shape ``(n_i, num)``."""
        if num is not None and num <= self.first.shape[1]:
            return self.first[:, :num]
        return _compress.combine(self.basis, self.coefficients[:, :num])


def rayleigh_ritz(
    pencil: Pencil,
    functions: Block,
    num_checked: int | None = None,
    *,
    lower: float | None = None,
) -> Ritz:
    """Ritz pairs of (A_i, S_i) in the span of functions, robust to dependent columns.

    Args:
        pencil: The pencil.
        functions: One a column, shape ``(n_i, m)``, of any scale.
        num_checked: Estimate errors of so many pairs; default all.
        lower: α: the error of a pair is what is left of eigenvalues of D⁻¹A above it, so its
            squared energy norm is at most ‖D^(-1/2)(A φ - λ S φ)‖² / α. Default: ``upper``.

    Returns:
        As many pairs as the span has independent functions with finite Ritz values.
    """
    shift, problem = pencil.shift, pencil.problem
    y = np.ascontiguousarray(functions)
    a, s, scale = _project(pencil, y)
    if not scale.any():
        none = np.zeros((y.shape[1], 0))
        return Ritz(np.zeros(0), np.zeros(0), y, none, np.zeros((len(y), 0)))
    white = _whiten(a + shift * s, scale)
    if white is None:
        # Rounding errors of the Gram matrix are magnified: orthonormalise first, then again.
        y = _compress.combine(y, _whiten_dependent(a + shift * s, scale))
        y = np.ascontiguousarray(y)
        a, s, scale = _project(pencil, y)
        white = _whiten_dependent(a + shift * s, scale)
    # The pencil (s, a + shift s) is definite even where s is singular, and has θ = 1/(λ+shift).
    theta, c = _eigh(white.T @ s @ white)
    num = int(np.count_nonzero(theta > 1e-14 * theta[0]))
    c = (white @ c[:, :num]) / np.sqrt(theta[:num])
    values = 1.0 / theta[:num] - shift
    first = _compress.combine(y, c[:, :num_checked])
    checked = values[:num_checked]
    squared = _compress.residuals(problem.A, problem.S, first, checked, pencil.diagonal)
    alpha = pencil.upper if lower is None else lower
    errors = squared / (alpha * np.maximum(checked + shift, np.finfo(float).tiny))
    return Ritz(values, errors, y, c, first)


def _project(pencil: Pencil, y: Block) -> tuple[FloatArray, FloatArray, FloatArray]:
    """yᵀA y, yᵀS y, and factors that give each column of y the norm one."""
    a, s = _compress.project(pencil.problem.A, pencil.problem.S, y)
    size = a.diagonal() + pencil.shift * s.diagonal()
    good = np.isfinite(size) & (size > 0)
    return a, s, np.where(good, 1.0 / np.sqrt(np.where(good, size, 1.0)), 0.0)


def _eigh(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues, descending, and eigenvectors; LAPACK without NumPy's checks around it."""
    values, vectors, info = scipy.linalg.lapack.dsyevd(matrix)
    if info != 0:
        raise np.linalg.LinAlgError("Eigenvalues of a projected matrix did not converge.")
    return values[::-1], vectors[:, ::-1]


def _whiten(g: FloatArray, scale: FloatArray) -> FloatArray | None:
    """W with WᵀgW = 1, or ``None`` if a column depends on the others up to 1e-4."""
    factor, info = scipy.linalg.lapack.dpotrf(g * scale[:, None] * scale, lower=0, clean=1)
    if info != 0 or factor.diagonal().min() <= 1e-4:
        return None
    inverse, _ = scipy.linalg.lapack.dtrtri(factor, lower=0)
    return np.asarray(inverse * scale[:, None])


def _whiten_dependent(g: FloatArray, scale: FloatArray) -> FloatArray:
    """W with WᵀgW = 1 and as many columns as g has independent directions."""
    energy, directions = np.linalg.eigh(g * scale[:, None] * scale)
    independent = energy > RANK_TOLERANCE * energy[-1]
    return np.asarray(directions[:, independent] / np.sqrt(energy[independent]) * scale[:, None])


#: Jumps of κ above which the modes of least energy hide behind more cosines.
HIGH_JUMP = 1e4


def num_start(num_modes: int, jump: float = 1.0) -> int:
    """Functions to start from for so many wanted modes: some more, and a multiple of 8.

    Args:
        num_modes: Wanted modes.
        jump: Largest jump of the coefficient between neighbouring cells. Measured: with channels of
            contrast 1e6, 24 functions need twice the sweeps of 32 for 8 modes.
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
    scalar = geometry.cosines(_lowest_waves(pencil, each), bs)
    if bs == 1:
        return scalar, cosine_end(pencil, num)
    centred = geometry.offsets[::bs] - geometry.offsets[::bs].mean(axis=0)
    rotations = rigid_motions(centred, bs)[bs:]
    functions = np.einsum("nj,cd->ncjd", scalar, np.eye(bs)).reshape(problem.num_dofs, -1)
    return np.hstack([rotations.T, functions])[:, :num], cosine_end(pencil, num)


def cosine_end(pencil: Pencil, num: int) -> float:
    """The (A, D) Rayleigh quotient of the first product of cosines that ``num`` leave out."""
    each = _per_component(pencil, num)
    return _quotient(pencil, _lowest_waves(pencil, each + 1)[each])


def _per_component(pencil: Pencil, num: int) -> int:
    """Products of cosines in each component, among ``num`` functions with the rotations."""
    bs, gdim = pencil.problem.block_size, pencil.problem.gdim
    rotations = gdim * (gdim - 1) // 2 if bs == gdim else 0
    return max(1, -(-(num - rotations) // bs))


def _quotient(pencil: Pencil, wave: npt.NDArray[np.int64]) -> float:
    return float(pencil.symbol((np.pi * wave / pencil.geometry.length) ** 2))


def _lowest_waves(pencil: Pencil, num: int) -> npt.NDArray[np.int64]:
    longest, stiffest = pencil.geometry.length.max(), pencil.stiffness.max()
    length = tuple(round(k, 9) for k in (pencil.geometry.length / longest).tolist())
    # Powers of two, so that rounding errors do not decide between waves of equal energy.
    ratios = (pencil.stiffness / stiffest).tolist()
    return _waves(length, tuple(2.0 ** round(math.log2(k)) for k in ratios), num)


@lru_cache(maxsize=64)
def _waves(
    length: tuple[float, ...], stiffness: tuple[float, ...], num: int
) -> npt.NDArray[np.int64]:
    """Wave numbers (half waves along the box) of least energy, shape ``(num, gdim)``."""
    gdim = len(length)
    count = 4
    while True:
        grid = np.indices((count,) * gdim).reshape(gdim, -1).T
        energy = np.round(((grid / length) ** 2) @ np.array(stiffness), 9)
        order = np.argsort(energy, kind="stable")[:num]
        # Nothing outside the table may have less energy than what is taken.
        outside = min((count / length[k]) ** 2 * stiffness[k] for k in range(gdim))
        if len(order) == num and energy[order[-1]] < outside:
            return np.asarray(grid[order])
        count *= 2
