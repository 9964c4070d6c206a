# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Modes without eigensolver, factorisation or training: tensor cosines, filtered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from dolfinx_msnn._utils.chebyshev import degree_for
from dolfinx_msnn._utils.checks import default_threads, is_number, positive_integer, require
from dolfinx_msnn.bases.chebyshev import chebyshev_filter, inverse_step
from dolfinx_msnn.bases.checks import check_signs, check_threshold, count_or_limit
from dolfinx_msnn.bases.cosines import cosines, num_start
from dolfinx_msnn.bases.dense import dense_modes
from dolfinx_msnn.bases.kernels import Block
from dolfinx_msnn.bases.nullspace import is_connected, piece_motions, with_exact_null_space
from dolfinx_msnn.bases.pencil import Pencil, Precision, check_precision
from dolfinx_msnn.bases.protocol import LocalModes, modes_below, remember
from dolfinx_msnn.bases.ritz import Ritz, rayleigh_ritz, replace_first
from dolfinx_msnn.bases.spectral import SpectralBasis
from dolfinx_msnn.local.problem import LocalProblem

#: Gain of one round of the filter: more would make the filtered functions nearly dependent.
ROUND_GAIN = 1e9

#: Rounds go on until the estimated error is this fraction of ``tol``: in the low modes, which carry
#: most of a solution, the same relative error weighs more than in the last ones.
STRICTNESS = 0.2

#: Gain of the step of inverse iteration at the end.
INVERSE_GAIN = 100.0

#: Jump of the coefficient from cell to cell beyond which a filter would need more than double
#: precision.
MAX_JUMP = 1e9

#: Products with A_i beyond which computed modes are cheaper. Measured in 2D and 3D on 40 and 20
#: cells across: SLEPc takes as long as 400 to 800 products with 24 functions.
MAX_SWEEPS = 800


class Unfit(ValueError):
    """The start or the neighbourhood is nothing for a filter; other modes are needed."""


@dataclass(frozen=True)
class FilterReport:
    """How the filter ended in one neighbourhood.

    Attributes:
        vertex: Coarse vertex.
        sweeps: Products with A_i in all rounds together.
        rounds: Rounds of filter and Rayleigh-Ritz.
        change: Largest relative change of a wanted Ritz value in the last round (∞ after one).
        error: Largest estimated energy error of a wanted mode relative to its energy, from the
            residual after the last round (the step of inverse iteration after it makes it smaller).
        converged: Whether ``error`` is at most ``tol``. If not, either ``max_rounds`` were done or
            the Ritz values stood still; then only more starting functions help.
        computed: Whether the modes are SLEPc's, as the filter would have taken longer, or failed.
    """

    vertex: int
    sweeps: int
    rounds: int
    change: float
    error: float
    converged: bool
    computed: bool = False


class FilteredBasis:
    """Low-energy modes of A_i φ = λ S_i φ from filtered cosines.

    Starts from products of cosines on the neighbourhood's box (for vectors, of each component, and
    the rotations), applies a Chebyshev filter, and compresses by Rayleigh-Ritz. The filter's
    interval comes from the first cosine that is left out and a rigorous bound of the spectrum; the
    residuals after one round tell the degree of the next; at the end comes a step of inverse
    iteration. Functions without energy (constants, rigid motions, of each piece of a neighbourhood
    that falls into pieces) are exact; so are all modes on neighbourhoods with few dofs, at most
    three for each starting function. Where the filter would take longer than
    :class:`SpectralBasis`, as on very flat cells, or the coefficient jumps by more than 1e9 from
    cell to cell, that computes the modes.

    Args:
        num_modes: Number of modes in each neighbourhood; all of them where it has fewer dofs.
            Default 8, unless ``threshold`` is given.
        threshold: Keep the modes with λ < ``threshold`` (at least one) instead of a fixed number:
            the first one left out lies above.
        max_modes: With ``threshold``: keep at most this many. Default 32.
        tol: Estimated energy error of a mode, relative to its energy, that counts as converged;
            with a form ``s`` it stops at a fifth of that, as solutions need the lowest modes better
            than the others.
        degree: Degree of the filter in each round, instead of what ``tol`` needs; halved where the
            filtered functions depend on each other in finite precision.
        max_rounds: Rounds after which it stops in any case.
        num_start: Number of starting functions; default about ``2 num_modes + 8``, or 8 more where
            κ jumps by more than 1e4.
        precision: Of the filter: ``"single"``, ``"double"``, or ``"auto"`` (single unless the
            diagonal of A_i varies by more than 1e7). Rayleigh-Ritz is always done in double.
        num_threads: Neighbourhoods worked on at a time; default ``OMP_NUM_THREADS``, or 1.

    Attributes:
        reports: One :class:`FilterReport` for each neighbourhood done so far on this rank.

    Example:
        >>> basis = msnn.FilteredBasis(4)
        >>> W = msnn.multiscale_functionspace(V, coarse, basis, a, s=s, bcs=bcs)
        >>> len(basis.reports), max(report.error for report in basis.reports) < 0.05
        (16, True)

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        num_modes: int | None = None,
        *,
        threshold: float | None = None,
        max_modes: int | None = None,
        tol: float = 0.05,
        degree: int | None = None,
        max_rounds: int = 6,
        num_start: int | None = None,
        precision: Precision = "auto",
        num_threads: int | None = None,
    ) -> None:
        self.num_modes = count_or_limit(num_modes, "threshold", threshold, max_modes, (8, 32))
        check_threshold(threshold)
        self.threshold = threshold
        self.settings = FilterSettings(self.num_modes, tol, degree, max_rounds, precision)
        if num_start is not None and positive_integer("num_start", num_start) < self.num_modes:
            raise ValueError(
                f"num_start must not be below num_modes={self.num_modes}, got {num_start!r}."
            )
        self.num_start = num_start
        self.num_threads = default_threads(num_threads)
        self.reports: list[FilterReport] = []

    def modes(self, problems: Sequence[LocalProblem]) -> list[LocalModes]:
        """Filtered modes of each problem.

        Not collective.
        """
        results: list[tuple[LocalModes, FilterReport] | None] = [None] * len(problems)

        def left() -> list[int]:
            return [k for k, result in enumerate(results) if result is None]

        # Cosines on few nodes repeat each other; all functions are not many more.
        most = 3 * (self.num_start or num_start(self.num_modes, np.inf))
        small = [k for k, problem in enumerate(problems) if problem.num_dofs <= most]
        whole = dense_modes([problems[k] for k in small], self.num_modes, self.threshold)
        for k, modes in zip(small, whole, strict=True):
            results[k] = modes, FilterReport(problems[k].vertex, 0, 1, 0.0, 0.0, True)
        large = left()
        done = in_threads(self._solve, [problems[k] for k in large], self.num_threads)
        for k, result in zip(large, done, strict=True):
            results[k] = result
        # Not in threads: PETSc is not made for them.
        basis = SpectralBasis(self.num_modes)
        if self.threshold is not None:
            basis = SpectralBasis(threshold=self.threshold, max_modes=self.num_modes)
        unfit = left()
        for k, modes in zip(unfit, basis.modes([problems[k] for k in unfit]), strict=True):
            results[k] = modes, FilterReport(problems[k].vertex, 0, 0, 0.0, 0.0, True, True)
        found = [result for result in results if result is not None]
        remember(self.reports, [report for _, report in found])
        return [modes for modes, _ in found]

    def _solve(self, problem: LocalProblem) -> tuple[LocalModes, FilterReport] | None:
        """Modes and a report, or ``None`` where the filter is not fit for the neighbourhood."""
        try:
            return self._filter(problem)
        except Unfit:
            return None

    def _filter(self, problem: LocalProblem) -> tuple[LocalModes, FilterReport]:
        pencil = Pencil.create(problem, self.settings.precision)
        if self.threshold is None:
            return self._run(pencil, self.settings)
        reports: list[FilterReport] = []

        def solve(num: int) -> LocalModes:
            modes, report = self._run(pencil, replace(self.settings, num_modes=num))
            reports.append(report)
            return modes

        modes = modes_below(self.threshold, min(self.num_modes, problem.num_dofs), solve)
        return modes, reports[-1]

    def _run(self, pencil: Pencil, settings: FilterSettings) -> tuple[LocalModes, FilterReport]:
        num = self.num_start or num_start(settings.num_modes, pencil.jump)
        start, lower = cosines(pencil, num)
        # Where κ jumps by a factor c, cosines have c times the energy of the modes they stand for,
        # and the filter has to take that away, with something to spare: products are cheaper than
        # another round.
        gain = max(100.0 * pencil.jump, 50.0)
        return settings.run(pencil, start, lower, gain)


@dataclass(frozen=True)
class FilterSettings:
    """How to filter and compress, whatever the start; see :class:`FilteredBasis`.

    Without ``exact`` functions without energy are as good as the filter makes them; ``round_gain``
    is the largest gain of one round.
    """

    num_modes: int
    tol: float
    degree: int | None
    max_rounds: int
    precision: Precision
    exact: bool = True
    round_gain: float = ROUND_GAIN

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        positive_integer("max_rounds", self.max_rounds)
        if self.degree is not None:
            positive_integer("degree", self.degree)
            require(self.degree <= MAX_SWEEPS, "degree", self.degree, f"at most {MAX_SWEEPS}")
        if not is_number(self.tol) or not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol!r}.")
        check_precision(self.precision)

    def run(
        self,
        pencil: Pencil,
        start: Block,
        lower: float,
        gain: float,
        *,
        first_degree: int | None = None,
    ) -> tuple[LocalModes, FilterReport]:
        """Rounds of filter and Rayleigh-Ritz until the errors are below the tolerance.

        Args:
            pencil: The pencil.
            start: Starting functions, shape ``(n_i, m)``.
            lower: The filter's lower end α.
            gain: How many times larger the first filter is at zero than on [α, β].
            first_degree: Degree of the first filter instead; 0 for none.

        Raises:
            Unfit: If ``start`` holds fewer independent functions than modes are wanted, the
                filter needs more than :data:`MAX_SWEEPS` products, or the coefficient jumps by more
                than :data:`MAX_JUMP`.
        """
        if pencil.jump > MAX_JUMP:
            raise Unfit(
                f"The coefficient jumps by {pencil.jump:.2g} on {pencil.problem.name}; expected at "
                f"most {MAX_JUMP:.0e} for a filter."
            )
        n, upper = pencil.problem.num_dofs, pencil.upper
        # Without a form s modes are wanted for a preconditioner, not for a solution; those that a
        # filter leaves unfinished approximate better there.
        for_solutions = pencil.problem.s is not None
        target = STRICTNESS * self.tol if for_solutions else self.tol
        num = min(self.num_modes, n)
        lower = min(lower, 0.5 * upper)
        if not is_connected(pencil.problem):
            # No smooth function tells the pieces apart.
            motions = piece_motions(pencil.problem).T
            start = np.hstack([start, motions.astype(start.dtype)])
        y, sweeps, rounds, change, error = start, 0, 0, np.inf, np.inf
        ritz: Ritz | None = None
        degree = first_degree
        while True:
            if degree is None:
                degree = self.degree or degree_for(min(gain, self.round_gain), lower, upper)
            if sweeps + degree > MAX_SWEEPS:
                raise Unfit(
                    f"Filtering {pencil.problem.name} takes more than {MAX_SWEEPS} products."
                )
            new = rayleigh_ritz(
                pencil, chebyshev_filter(pencil, y, degree, lower), num, lower=lower
            )
            sweeps += degree
            found = len(new.values)
            if degree > 1 and found < num + (y.shape[1] - num) // 4:
                # The filter itself takes functions that far below the others: less at a time.
                degree //= 2
                continue
            if 0 < found < num and y.shape[1] >= n:
                # All functions were there: S_i is zero on the others.
                num = found
            if found < num:
                raise Unfit(
                    f"Filtering found {found} independent modes on {pencil.problem.name}, "
                    f"{num} were asked for."
                )
            rounds += 1
            if ritz is not None:
                scale = np.maximum(np.abs(new.values[:num]), pencil.shift)
                change = float((np.abs(new.values[:num] - ritz.values[:num]) / scale).max())
            ritz, error = new, float(np.sqrt(new.errors.max()))
            # Where Ritz values stand still the filter has found the functions of least (A, D)
            # quotient, and what residual is left tells how (A, S) differs from it.
            if error <= target or change <= 0.1 * target or rounds == self.max_rounds:
                break
            y = ritz.functions()
            gain, degree = max(2.0 * error / target, 10.0), None
        # Who asks for one round, or for a degree, wants that and nothing else.
        # All functions have given the modes exactly.
        whole = start.shape[1] >= n
        if for_solutions and self.degree is None and self.max_rounds > 1 and not whole:
            degree = degree_for(INVERSE_GAIN, lower, upper)
            # What a solution loses weighs most in the lowest modes, where the filter's error,
            # relative to their energy, is as large as in the others.
            wanted = inverse_step(pencil, ritz.functions(num), ritz.values[:num], degree, lower)
            values, functions = replace_first(pencil, ritz, wanted)
            sweeps += -(-degree * num // y.shape[1])
        else:
            values, functions = ritz.values[:num], ritz.functions(num)
        check_signs(pencil.problem, values, pencil.shift)
        converged = error <= self.tol
        report = FilterReport(pencil.problem.vertex, sweeps, rounds, change, error, converged)
        modes = LocalModes(values, np.ascontiguousarray(functions.T))
        return with_exact_null_space(pencil.problem, modes) if self.exact else modes, report


def in_threads[T, R](work: Callable[[T], R], items: Iterable[T], num_threads: int) -> list[R]:
    """Map in so many threads, in order (the heavy parts hold no interpreter lock)."""
    if num_threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(work, items))
