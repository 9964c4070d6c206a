# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Modes that are checked, whoever made them, and repaired or computed anew where they fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dolfinx_msnn._utils.chebyshev import degree_for
from dolfinx_msnn._utils.checks import default_threads, is_number, point, positive_integer
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.bases.chebyshev import chebyshev_filter
from dolfinx_msnn.bases.checks import check_signs
from dolfinx_msnn.bases.cosines import cosine_end
from dolfinx_msnn.bases.filtered import MAX_JUMP, in_threads
from dolfinx_msnn.bases.harmonic import HarmonicBasis
from dolfinx_msnn.bases.inertia import can_count, count_below
from dolfinx_msnn.bases.nullspace import piece_motions, with_exact_null_space
from dolfinx_msnn.bases.pencil import Pencil, Precision, check_precision
from dolfinx_msnn.bases.protocol import (
    BasisNeeds,
    LocalBasis,
    LocalModes,
    is_local_basis,
    remember,
)
from dolfinx_msnn.bases.ritz import Ritz, rayleigh_ritz
from dolfinx_msnn.bases.spectral import SpectralBasis
from dolfinx_msnn.local.problem import LocalProblem

#: Ritz values below this fraction of the scale of the wanted λ are measured against the fraction.
#: Modes that are constant on stiff inclusions have such values, the less the stiffer those are.
#: Measured at contrast 1e6: with 1e-2 they pass with noise that doubles the error of the solution.
FLOOR = 1e-4

#: Modes that were rejected once have to come so far below the tolerance.
AFTER_REPAIR = 0.2

OUTCOMES = ("accepted", "repaired", "recomputed")


@dataclass(frozen=True)
class GuardReport:
    """What the guard found in one neighbourhood.

    Attributes:
        vertex: Coarse vertex.
        place: Its position, shape ``(gdim,)``.
        lower: Lower corner of the neighbourhood's bounding box.
        upper: Upper corner.
        outcome: ``"accepted"``, ``"repaired"`` (filtered further) or ``"recomputed"`` (by the
            fallback).
        deficiency: By how much a wanted Ritz value of the given modes is too high, relative; see
            :class:`GuardedBasis`. Infinite if they could not be used.
        final: The same of the modes that were kept, as last measured; 0 if recomputed.
        sweeps: Products with A_i, each with three times as many functions as modes.
        reason: Why the modes were not accepted; empty if they were.
    """

    vertex: int
    place: FloatArray
    lower: FloatArray
    upper: FloatArray
    outcome: str
    deficiency: float
    final: float
    sweeps: int
    reason: str


class GuardedBasis:
    """Checks the modes of another basis, neighbourhood by neighbourhood.

    The modes and twice as many random vectors are filtered (a Chebyshev polynomial of D⁻¹A_i), and
    Rayleigh-Ritz is done in the span of the modes and all filtered functions. If the modes are
    good, nothing in that larger space lowers their Ritz values λ_k: filtering does not improve
    them, and the random vectors, which hold a share of every mode, bring none that is missing. The
    deficiency is max_k (λ_k - μ_k) / (μ_k + δ), with μ_k the Ritz values of the larger space and δ
    10⁻⁴ times the Rayleigh quotient of a coordinate, or less at contrasts above 10⁶. Up to the
    tolerance the modes are accepted; else the Ritz vectors of the larger space, which are better
    ones, are checked in turn, with new random vectors, until the deficiency is below a fifth of the
    tolerance; and if that does not end, the fallback computes the modes.

    What is kept are always the Ritz vectors of the larger space: the check has paid for them.

    The check is sound up to chance (a mode is missed if all random vectors are orthogonal to it) as
    long as functions of low energy in the inner product of S_i are so in that of D = diag(A_i):
    with S_i the mass matrix of κ. With ``inertia`` neither is left open: the eigenvalues below the
    last accepted one are counted, at the price of a factorisation.

    Args:
        primary: Where the modes come from.
        fallback: Basis for neighbourhoods that cannot be repaired. Default: ``SpectralBasis`` of
            as many modes as ``primary.num_modes``.
        tolerance: Largest deficiency that is accepted.
        max_repairs: Rounds of filtering after which the fallback is asked.
        inertia: Count eigenvalues exactly as well. Default: where the space is built without a form
            ``s``, if PETSc has MUMPS.
        precision: Of the filter, see :class:`~dolfinx_msnn.bases.filtered.FilteredBasis`.
        seed: Of the random vectors. Those of a neighbourhood depend on it and on the coarse vertex
            only, so that results do not depend on the number of ranks.
        num_threads: Neighbourhoods checked at a time; default ``OMP_NUM_THREADS``, or 1.

    Attributes:
        reports: One :class:`GuardReport` for each neighbourhood done so far on this rank.

    Raises:
        ValueError: If an argument is not what is expected.
    """

    def __init__(
        self,
        primary: LocalBasis,
        fallback: LocalBasis | None = None,
        *,
        tolerance: float = 0.1,
        max_repairs: int = 3,
        inertia: bool | None = None,
        precision: Precision = "auto",
        seed: int = 0,
        num_threads: int | None = None,
    ) -> None:
        given_bases = {"primary": primary} | ({} if fallback is None else {"fallback": fallback})
        for name, basis in given_bases.items():
            if not is_local_basis(basis):
                raise ValueError(f"Expected a local basis as {name}, got {basis!r}.")
            if isinstance(basis, HarmonicBasis):
                raise ValueError(
                    f"The {name} basis is a HarmonicBasis; expected one that gives modes, which is "
                    "what the guard checks."
                )
            if BasisNeeds.of(basis).threshold is not None:
                raise ValueError(
                    f"The {name} basis keeps all modes below a threshold; expected one with "
                    "num_modes."
                )
        given = BasisNeeds.of(primary if fallback is None else fallback).num_modes
        if given is None:
            which = "primary basis" if fallback is None else "fallback"
            raise ValueError(f"The {which} has no num_modes; expected the number of modes there.")
        self.num_modes = positive_integer("num_modes", given)
        if not is_number(tolerance) or not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance!r}.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be an integer that is not negative, got {seed!r}.")
        check_precision(precision)
        self.primary = primary
        self.fallback = SpectralBasis(self.num_modes) if fallback is None else fallback
        self.wrapped, self.matrices = (self.primary, self.fallback), True
        if inertia is not None and not isinstance(inertia, bool):
            raise ValueError(f"inertia must be True, False or None, got {inertia!r}.")
        self.tolerance, self.inertia = float(tolerance), inertia
        self.max_repairs = positive_integer("max_repairs", max_repairs)
        self.precision, self.seed = precision, seed
        self.num_threads = default_threads(num_threads)
        self.reports: list[GuardReport] = []

    def modes(self, problems: Sequence[LocalProblem]) -> list[LocalModes]:
        """Checked modes of each problem.

        Not collective.

        Raises:
            ValueError: If the primary basis gives another number of results than asked for.
            RuntimeError: If ``inertia`` was asked for and PETSc has no MUMPS.
        """
        given = self.primary.modes(list(problems))
        if not isinstance(given, Sequence) or len(given) != len(problems):
            count = len(given) if isinstance(given, Sequence) else type(given).__name__
            raise ValueError(
                f"The primary basis gave {count} results for {len(problems)} neighbourhoods; "
                "expected one for each."
            )
        done = in_threads(self._check, list(zip(problems, given, strict=True)), self.num_threads)
        results = [modes for modes, _ in done]
        reports = [report for _, report in done]
        # Not in threads: PETSc is not made for them.
        for k, (problem, modes) in enumerate(zip(problems, results, strict=True)):
            counted = self.inertia
            if counted is None:
                counted = problem.s is None and can_count()
            if modes is not None and counted and self._hidden(problem, modes):
                results[k] = None
                reports[k] = _rejected(reports[k], "eigenvalues were missed")
        left = [k for k, modes in enumerate(results) if modes is None]
        if left:
            computed = self.fallback.modes([problems[k] for k in left])
            for k, modes in zip(left, computed, strict=True):
                results[k] = modes
        remember(self.reports, reports)
        return [modes for modes in results if modes is not None]

    def _check(
        self, item: tuple[LocalProblem, LocalModes]
    ) -> tuple[LocalModes | None, GuardReport]:
        problem, given = item
        x = problem.x
        report = GuardReport(
            problem.vertex, problem.place, x.min(0), x.max(0), "accepted", np.inf, 0.0, 0, ""
        )
        unusable = self._unusable(problem, given)
        if unusable:
            return None, _rejected(report, unusable)
        pencil = Pencil.create(problem, self.precision)
        if pencil.jump > MAX_JUMP:
            return None, _rejected(report, f"the coefficient jumps by {pencil.jump:.0e}")
        size = np.abs(given.vectors).max(axis=1)
        old = rayleigh_ritz(pencil, (given.vectors / size[:, None]).T, 0)
        num = self._num(problem)
        if len(old.values) < num:
            return None, _rejected(report, "the modes depend on each other")
        deficiencies, sweeps = [], 0
        for attempt in range(1 + self.max_repairs):
            new, degree = self._improve(pencil, old, attempt)
            sweeps += degree
            deficiencies.append(self._deficiency(pencil, old, new))
            old = new
            bound = self.tolerance * (AFTER_REPAIR if attempt else 1.0)
            if deficiencies[-1] <= bound:
                break
        first, last = deficiencies[0], deficiencies[-1]
        values = old.values[:num]
        check_signs(problem, values, pencil.shift)
        outcome = "accepted" if len(deficiencies) == 1 else "repaired"
        reason = "" if outcome == "accepted" else "the modes could be improved"
        report = replace(
            report, outcome=outcome, deficiency=first, final=last, sweeps=sweeps, reason=reason
        )
        if last > bound:
            return None, _rejected(report, "filtering did not end")
        vectors = np.ascontiguousarray(old.functions(num).T)
        return with_exact_null_space(problem, LocalModes(values, vectors)), report

    def _num(self, problem: LocalProblem) -> int:
        return min(self.num_modes, problem.num_dofs)

    def _unusable(self, problem: LocalProblem, given: LocalModes) -> str:
        """Why the modes cannot even be looked at, or nothing."""
        vectors = given.vectors if isinstance(given, LocalModes) else None
        if not isinstance(vectors, np.ndarray) or vectors.dtype.kind not in "fiu":
            return "no modes were given"
        if vectors.ndim != 2 or vectors.shape[1] != problem.num_dofs:
            return "the modes are of another shape"
        if len(vectors) < self._num(problem):
            return f"{len(vectors)} of {self._num(problem)} modes were given"
        if not np.isfinite(vectors).all():
            return "the modes are not finite"
        if np.count_nonzero(np.abs(vectors).max(axis=1)) < len(vectors):
            return "some modes are zero"
        return ""

    def _improve(self, pencil: Pencil, old: Ritz, attempt: int) -> tuple[Ritz, int]:
        """Ritz pairs of the modes, and of the filtered modes and random vectors."""
        num, n = self._num(pencil.problem), pencil.problem.num_dofs
        start = np.asarray(old.functions(num))
        total = 8 * -(-3 * num // 8)
        if 6 * total >= n:
            return rayleigh_ritz(pencil, np.eye(n), num), 0
        size = np.abs(start).max(axis=0)
        random = np.random.default_rng([self.seed, pencil.problem.vertex, attempt])
        # Rigid motions are known, and their energy is the first that noise spoils.
        motions = piece_motions(pencil.problem)[: total - num]
        # White in the inner product of D, the filter's own: soft regions count as stiff ones do.
        weight = np.sqrt(pencil.diagonal.min() / pencil.diagonal)
        probes = random.uniform(-1.0, 1.0, (n, total - num)) * weight[:, None]
        # Fewer functions below α than there are random vectors, which can so tell them apart.
        lower = min(cosine_end(pencil, 2 * num), 0.5 * pencil.upper)
        # A random vector holds a mode with a share of 1/sqrt(n), and the rest has up to β/α times
        # the energy of the wanted modes; more if those hardly have any, as on stiff inclusions.
        least = max(float(old.values[num - 1]), pencil.shift / pencil.jump)
        soft = max(1.0, pencil.shift / least)
        gain = 10.0 * np.sqrt(soft * n * pencil.upper / lower)
        degree = degree_for(gain, lower, pencil.upper)
        start = start / size
        filtered = chebyshev_filter(pencil, np.hstack([start, probes]), degree, lower)
        filtered[:, num : num + len(motions)] = motions.T
        both = np.hstack([start, filtered])
        return rayleigh_ritz(pencil, both, num, lower=lower), degree

    def _deficiency(self, pencil: Pencil, old: Ritz, new: Ritz) -> float:
        part = slice(0, self.num_modes)
        before, after = old.values[part], np.maximum(new.values[part], 0.0)
        if len(after) < len(before):
            return float("inf")
        floor = min(FLOOR, 100.0 / pencil.jump) * pencil.shift
        return float(((before - after) / (after + floor)).max(initial=0.0))

    def _hidden(self, problem: LocalProblem, modes: LocalModes) -> bool:
        """Whether there are more eigenvalues below the last Ritz value than Ritz values."""
        threshold = float(modes.values[-1]) / (1.0 + self.tolerance)
        if threshold <= 1e-8 * Pencil.create(problem).shift:
            # The modes are the kernel of A_i: nothing is below.
            return False
        return count_below(problem, threshold) > int(np.sum(modes.values < threshold))


def _rejected(report: GuardReport, reason: str) -> GuardReport:
    return replace(report, outcome="recomputed", final=0.0, reason=reason)


def guard_table(reports: Sequence[GuardReport]) -> str:
    """A table of the reports, worst first, with a count of the outcomes above.

    Args:
        reports: Of one rank, or gathered from all.

    Returns:
        Markdown.
    """
    counts = Counter(report.outcome for report in reports)
    head = ", ".join(f"{counts[name]} {name}" for name in OUTCOMES)
    lines = [
        f"{len(reports)} neighbourhoods: {head}",
        "",
        "| vertex | at | outcome | deficiency | left | sweeps | why |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in sorted(reports, key=lambda r: (-OUTCOMES.index(r.outcome), -r.deficiency)):
        lines.append(
            f"| {r.vertex} | {point(r.place)} | {r.outcome} | {r.deficiency:.2g} | {r.final:.2g} | "
            f"{r.sweeps} | {r.reason} |"
        )
    return "\n".join(lines)
