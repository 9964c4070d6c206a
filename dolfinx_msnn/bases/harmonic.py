# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A-harmonic functions and source responses on oversampled neighbourhoods, compressed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

import ufl
from dolfinx_msnn._utils.checks import is_integer, is_number, require
from dolfinx_msnn._utils.linalg import rigid_motions, whiten
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.bases import kernels
from dolfinx_msnn.bases.checks import count_or_limit
from dolfinx_msnn.bases.direct import DirectSolvers
from dolfinx_msnn.bases.filtered import FilteredBasis
from dolfinx_msnn.bases.nullspace import null_motions, piece_motions
from dolfinx_msnn.bases.protocol import LocalBasis, LocalModes, is_local_basis, remember
from dolfinx_msnn.local.problem import LocalProblem

#: Boundary values that are those of a motion without energy up to this fraction of them are a
#: filter's in single precision; functions up to the other are rounding errors, of whatever energy.
FILTERED, ROUNDED = 1e-6, 1e-9

#: Candidates beyond the A-harmonic functions that there is room for.
MORE_TRACES = 8

#: Gain of the filter that boundary values come from. With 1e9 errors of solutions are less than a
#: fifth smaller, at jumps of the coefficient up to 1e8.
TRACE_GAIN = 1e4


@dataclass(frozen=True)
class HarmonicReport:
    """How many functions were chosen in one neighbourhood, and what the others are worth.

    Attributes:
        vertex: Coarse vertex.
        num_modes: Functions kept, with rigid motions and source responses.
        num_candidates: A-harmonic functions to choose from.
        width: Largest energy ‖χ v‖ on the neighbourhood of a left-out function v with energy one on
            the oversampled neighbourhood: an estimate of the local n-width.
    """

    vertex: int
    num_modes: int
    num_candidates: int
    width: float


class HarmonicBasis:
    """Functions that solutions are made of: A-harmonic ones and source responses.

    On the oversampled neighbourhood ω* a solution is the sum of an A-harmonic function and of the
    response to the load there. The basis holds the rigid motions (constants), responses to loads
    and to Dirichlet values that are not zero, and of the A-harmonic functions those with most
    energy on the neighbourhood among all that have the same energy on ω*: the optimal local spaces
    of Babuška and Lipton (Multiscale Model. Simul. 9, 2011; here with the partition of unity, as by
    Ma, Scheichl and Dodwell, SIAM J. Numer. Anal. 60, 2022). They are chosen among the extensions
    of the boundary values of modes of low energy on ω*. Dirichlet conditions hold in the local
    problems, Neumann and Robin conditions are natural. No form ``s`` is needed.

    Where the coefficient has a contrast of 10^6 and more, the energy hardly sees the soft phase. A
    fixed number of functions can be far off there in L2, above all in 3D: give a ``tolerance``.

    Boundary values may come from any other basis instead, as a network that was trained on
    solutions: only its errors on the boundary of ω* count then.

    Unless the coarse grid says otherwise, ω* is wider than the neighbourhood by 0.4 coarse cells on
    each side, and by 0.6 around boxes that overlap.

    Args:
        num_modes: Functions in each neighbourhood, all counted; fewer where there are not as many.
            Default 11, unless ``tolerance`` is given.
        tolerance: Choose the number in each neighbourhood instead: a function with energy one on ω*
            that is left out has at most this energy norm on the neighbourhood.
        max_modes: With ``tolerance``: at most this many. Default 40.
        sources: Linear forms (UFL, with a test function on the fine space) whose responses are
            held. Default: polynomials of degree zero, one or two in each component; the degree is
            as high as leaves room for 2^d A-harmonic functions for each component, and for degree
            two for twice as many.
        traces: Whose boundary values are extended: so many modes of ω*, or the functions of
            another local basis, which sees ω* as its neighbourhood. Default: eight modes more than
            there is room for.

    Attributes:
        reports: One :class:`HarmonicReport` for each neighbourhood done so far on this rank.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> with msnn.multiscale_functionspace(V, coarse, msnn.HarmonicBasis(8), a, bcs=bcs) as W:
        ...     max(len(values) for values in W.eigenvalues.values())
        8

        Predicted boundary values, for the jumps by up to 1000 that the network was trained on:

        >>> traces = msnn.LearnedBasis.pretrained("solutions-2d", kappa, max_jump=2000)
        >>> basis = msnn.HarmonicBasis(8, traces=traces)
    """

    #: It looks at the local matrices, whether those traces come from does or not.
    matrices = True
    #: Width of the ring around a neighbourhood, in coarse cells.
    oversampling = 0.4

    def __init__(
        self,
        num_modes: int | None = None,
        *,
        tolerance: float | None = None,
        max_modes: int | None = None,
        sources: Sequence[ufl.Form] | None = None,
        traces: LocalBasis | int | None = None,
    ) -> None:
        self.num_modes = count_or_limit(num_modes, "tolerance", tolerance, max_modes, (11, 40))
        small = tolerance is None or (is_number(tolerance) and 0 < tolerance < 1)
        require(small, "tolerance", tolerance, "a number between 0 and 1")
        self.tolerance = tolerance
        self.sources: Sequence[ufl.Form] | int = (
            self.num_modes if sources is None else tuple(sources)
        )
        ok = traces is None or is_local_basis(traces) or is_integer(traces, 1)
        require(ok, "traces", traces, "a positive integer or a local basis")
        self.traces = traces
        self.wrapped = (traces,) if isinstance(traces, LocalBasis) else ()
        self.reports: list[HarmonicReport] = []

    def modes(self, problems: Sequence[LocalProblem]) -> list[LocalModes]:
        """Functions of each problem, rigid motions and source responses first.

        Not collective.

        Raises:
            RuntimeError: If a local matrix cannot be factored.
        """
        if not problems:
            return []
        traces = self._traces(problems[0]).modes([_lumped(problem) for problem in problems])
        with DirectSolvers() as solvers:
            return [
                self._solve(problem, found.vectors, solvers)
                for problem, found in zip(problems, traces, strict=True)
            ]

    def _traces(self, first: LocalProblem) -> LocalBasis:
        """What gives boundary values, for problems of which one is given."""
        if isinstance(self.traces, LocalBasis):
            return self.traces
        num = self.traces
        if num is None:
            motions = len(rigid_motions(first.x[:1], first.block_size))
            num = MORE_TRACES + max(self.num_modes - motions - len(first.loads), 0)
        # Only what the modes look like on the boundary matters.
        filtered = FilteredBasis(num, max_rounds=1)
        filtered.settings = replace(filtered.settings, exact=False, round_gain=TRACE_GAIN)
        return filtered

    def _solve(
        self, problem: LocalProblem, traces: FloatArray, solvers: DirectSolvers
    ) -> LocalModes:
        boundary = problem.interface & ~problem.dirichlet
        null = null_motions(problem, problem.A, np.arange(problem.num_dofs))
        null = null[~null[:, problem.dirichlet].any(axis=1)]
        given = _without(problem, traces * boundary, null * boundary, FILTERED)
        harmonic, responses = _extend(problem, given, solvers)
        if not boundary.any():
            # ω* is all of the domain, and nothing is A-harmonic but motions without energy.
            harmonic = traces * ~problem.dirichlet
        harmonic = _without(problem, harmonic, null, ROUNDED)
        harmonic = np.asarray(whiten(harmonic @ _product(problem, harmonic)).T @ harmonic)
        return self._compress(problem, np.vstack([piece_motions(problem), responses]), harmonic)

    def _compress(
        self, problem: LocalProblem, kept: FloatArray, harmonic: FloatArray
    ) -> LocalModes:
        """All of ``kept``, and of the others those with most energy on ω beside them.

        Args:
            problem: The local problem.
            kept: Shape ``(num_kept, n_i)``.
            harmonic: A-harmonic functions, orthonormal in energy, shape ``(num, n_i)``.
        """
        weight = problem.chi * ~problem.dirichlet
        local = np.vstack([kept, harmonic]) * weight
        energy, num = local @ _product(problem, local), len(kept)
        share = energy[num:, :num] @ whiten(energy[:num, :num])
        width, turn = np.linalg.eigh(energy[num:, num:] - share @ share.T)
        width, turn = np.sqrt(np.maximum(width[::-1], 0.0)), turn[:, ::-1]
        most = max(self.num_modes - len(kept), 0)
        num = min(most, len(width))
        if self.tolerance is not None:
            num = min(num, int(np.count_nonzero(width > self.tolerance)))
        left = float(width[num]) if num < len(width) else 0.0
        chosen = turn[:, :num].T @ harmonic
        kept = kept[: self.num_modes]
        report = HarmonicReport(problem.vertex, len(kept) + num, len(width), left)
        remember(self.reports, [report])
        values = np.concatenate([np.zeros(len(kept)), 1.0 / np.maximum(width[:num], 1e-30) ** 2])
        return LocalModes(values, np.vstack([kept, chosen]))


def _without(
    problem: LocalProblem, rows: FloatArray, motions: FloatArray, fraction: float
) -> FloatArray:
    """Functions without their share in motions; those of which only a fraction is left are gone.

    Both of shape ``(num, n_i)``, as is the result.
    """
    weight = np.sqrt(problem.A.diagonal())
    rows, motions = rows * weight, motions * weight
    basis = (whiten(motions @ motions.T).T @ motions).T
    whole = np.linalg.norm(rows, axis=1)
    rows = rows - (rows @ basis) @ basis.T
    return np.asarray(rows[np.linalg.norm(rows, axis=1) > fraction * whole] / weight)


def _product(problem: LocalProblem, rows: FloatArray) -> FloatArray:
    """A times functions, one a row; one a column, shape ``(n_i, num)``."""
    columns = kernels.padded(rows.T)
    return kernels.multiply(problem.A, columns)[:, : len(rows)]


def _lumped(problem: LocalProblem) -> LocalProblem:
    """The same problem with S_i = diag(A_i): no form is needed, and low modes are as smooth."""
    A = problem.A
    rows = np.repeat(np.arange(problem.num_dofs), np.diff(A.indptr))
    data = np.where(A.indices == rows, A.data, 0.0)
    return replace(problem, s=sp.csr_matrix((data, A.indices, A.indptr), shape=A.shape))


def _extend(
    problem: LocalProblem, given: FloatArray, solvers: DirectSolvers
) -> tuple[FloatArray, FloatArray]:
    """A-harmonic extensions of boundary values, and responses to Dirichlet values and loads.

    Args:
        problem: The local problem.
        given: Boundary values, zero at other dofs, shape ``(num, n_i)``.
        solvers: Solve on the inside.

    Returns:
        Shapes ``(num, n_i)`` and ``(num_responses, n_i)``.
    """
    inside = ~problem.interface & ~problem.dirichlet
    # What solutions do at Dirichlet values that are not zero, no other function does.
    lift = problem.lift[None, :] if problem.lift.any() else given[:0]
    outside = np.vstack([given, lift])
    rhs = np.vstack([-_product(problem, outside).T, problem.loads])
    functions = solvers.solve(problem, inside, rhs)
    functions[: len(outside)] += outside
    return functions[: len(given)], functions[len(given) :]
