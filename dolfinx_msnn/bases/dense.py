# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""All modes of small neighbourhoods by LAPACK; those that are alike are treated as one stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dolfinx_msnn._utils.linalg import fix_signs, motion_tolerances, whiten
from dolfinx_msnn._utils.typing import BoolArray, FloatArray
from dolfinx_msnn.bases.checks import check_energies, check_signs
from dolfinx_msnn.bases.nullspace import null_space, piece_motions
from dolfinx_msnn.bases.pencil import Pencil, least_quotient
from dolfinx_msnn.bases.protocol import LocalModes
from dolfinx_msnn.local.problem import LocalProblem

#: Neighbourhoods treated at once, by the entries of their dense matrices.
STACK_ENTRIES = 2**21


def dense_modes(
    problems: Sequence[LocalProblem], num_modes: int, threshold: float | None = None
) -> list[LocalModes]:
    """The modes of smallest λ of small neighbourhoods, exact to rounding.

    Args:
        problems: The local problems.
        num_modes: How many, at most; there are as many as S_i does not vanish on.
        threshold: Only those with λ below it, at least one.

    Returns:
        S-orthonormal modes, functions without energy first.

    Raises:
        ValueError: If A_i is not positive semi-definite, or if S_i is zero.
    """
    results: list[LocalModes | None] = [None] * len(problems)
    for chosen in alike(problems):
        step = max(1, STACK_ENTRIES // problems[chosen[0]].num_dofs ** 2)
        for first in range(0, len(chosen), step):
            part = chosen[first : first + step]
            values, vectors = _solve([problems[k] for k in part], num_modes)
            counts = np.isfinite(values).sum(axis=1)
            if threshold is not None:
                counts = np.minimum(counts, np.maximum(1, (values < threshold).sum(axis=1)))
            for k, num, mine, modes in zip(part, counts.tolist(), values, vectors, strict=True):
                results[k] = LocalModes(mine[:num], modes[:num])
    return [result for result in results if result is not None]


def alike(problems: Sequence[LocalProblem]) -> Iterator[list[int]]:
    """Places of problems of one sparsity pattern, and with dofs at the same places up to a shift.

    Args:
        problems: The local problems.
    """
    patterns: dict[tuple[bytes, int, bool], list[int]] = {}
    for k, problem in enumerate(problems):
        key = problem.pattern, problem.block_size, problem.s is None
        patterns.setdefault(key, []).append(k)
    for places in patterns.values():
        left = np.array(places)
        while len(left):
            offsets = np.stack([problems[k].x for k in left.tolist()])
            offsets -= offsets[:, :1]
            apart = np.abs(offsets - offsets[0]).max(axis=(1, 2))
            same = apart <= 1e-9 * np.ptp(offsets[0], axis=0).max()
            same[0] = True
            yield left[same].tolist()
            left = left[~same]


def _solve(problems: Sequence[LocalProblem], num: int) -> tuple[FloatArray, FloatArray]:
    """Values, infinite where there are none, and vectors of problems that are alike.

    Returns:
        Shapes ``(num_problems, num)`` and ``(num_problems, num, n_i)``.
    """
    A, S = _dense_pencils(problems)
    shift = _shifts(problems, A, S)
    null = _null_spaces(problems, A, S)
    # The pencil (S, A/shift + S) is definite also where S is singular: θ = shift / (λ + shift).
    whole = A / shift[:, None, None] + S
    W = _whiten(problems, whole)
    # What is without energy has θ = 1, and is taken out.
    known = null @ (whole @ W)
    C = W.transpose(0, 2, 1) @ S @ W - known.transpose(0, 2, 1) @ known
    theta, vectors = np.linalg.eigh(C)
    theta, vectors = theta[:, : -num - 1 : -1], vectors[:, :, : -num - 1 : -1]
    finite = theta > 1e-14
    theta = np.where(finite, theta, 1.0)
    vectors = (W @ vectors / np.sqrt(theta)[:, None]).transpose(0, 2, 1)
    values = np.where(finite, shift[:, None] * (1.0 / theta - 1.0), np.inf)
    for k in np.flatnonzero(values.min(axis=1, initial=0.0) < 0.0).tolist():
        check_signs(problems[k], values[k][finite[k]], float(shift[k]))
    # Without energy first; zeros stand for motions that something resists.
    exact = np.where((null != 0).any(axis=2), 0.0, np.inf)
    order = np.argsort(np.hstack([exact - 1.0, values]), axis=1, kind="stable")[:, :num]
    values = np.take_along_axis(np.hstack([exact, values]), order, axis=1)
    vectors = np.take_along_axis(np.concatenate([null, vectors], axis=1), order[:, :, None], axis=1)
    return values, fix_signs(vectors)


def _dense_pencils(problems: Sequence[LocalProblem]) -> tuple[FloatArray, FloatArray]:
    """Matrices A and S, shape ``(num_problems, n_i, n_i)`` each."""
    one, n = problems[0].A, problems[0].num_dofs
    place = n * np.repeat(np.arange(n), np.diff(one.indptr)) + one.indices

    def dense(rows: list[FloatArray]) -> FloatArray:
        out = np.zeros((len(rows), n * n))
        out[:, place] = rows
        return out.reshape(-1, n, n)

    A = dense([problem.A.data for problem in problems])
    given = [problem.s.data for problem in problems if problem.s is not None]
    if given:
        return A, dense(given)
    chi = np.stack([problem.chi for problem in problems])
    return A, chi[:, :, None] * A * chi[:, None, :]


def _shifts(problems: Sequence[LocalProblem], A: FloatArray, S: FloatArray) -> FloatArray:
    """The scale of the wanted λ, as :attr:`Pencil.shift`; refuses what is not coercive."""
    one = Pencil.create(problems[0])
    linear = one.linear
    d, s = (np.einsum("kii->ki", matrix) for matrix in (A, S))
    energy = np.einsum("im,kim->km", linear, A @ linear)
    size, mass = d @ linear**2, s @ linear**2
    bad = ~(s > 0).any(axis=1) | (energy < -1e-10 * size).any(axis=1)
    for k in np.flatnonzero(bad).tolist():
        check_energies(problems[k], energy[k], size[k], s[k])
    least = least_quotient(one.mean(energy), one.mean(mass))
    return np.asarray(np.where(np.isfinite(least), least, 1e-6 * d.sum(axis=1) / s.sum(axis=1)))


def _null_spaces(problems: Sequence[LocalProblem], A: FloatArray, S: FloatArray) -> FloatArray:
    """S-orthonormal motions that A takes to zero; zeros in place of others.

    Returns:
        Shape ``(num_problems, num_motions, n_i)``.
    """
    motions, bs = piece_motions(problems[0]), problems[0].block_size
    x = np.stack([problem.x for problem in problems])
    tolerances = motion_tolerances(np.stack([x.min(axis=1), x.max(axis=1)], axis=1), bs)
    tolerances = np.tile(tolerances, (1, len(motions) // tolerances.shape[1]))
    defects = np.linalg.norm(motions @ A / np.einsum("kii->ki", A)[:, None], axis=2)
    free: BoolArray = (defects <= tolerances * np.linalg.norm(motions, axis=1)).all(axis=1)
    found = np.tile(motions, (len(problems), 1, 1))
    for j in range(len(motions)):
        z = found[:, j]
        size = np.einsum("ki,kij,kj->k", z, S, z)
        for _ in range(2):
            share = found[:, :j] @ (S @ z[:, :, None])
            z = z - (share * found[:, :j]).sum(axis=1)
        square = np.einsum("ki,kij,kj->k", z, S, z)
        good = square > 1e-20 * size
        found[:, j] = np.where(good[:, None], z / np.sqrt(np.where(good, square, 1.0))[:, None], 0)
    for k in np.flatnonzero(~free).tolist():
        some = null_space(problems[k])
        found[k] = 0.0
        found[k, : len(some)] = some
    return found


def _whiten(problems: Sequence[LocalProblem], whole: FloatArray) -> FloatArray:
    """W with Wᵀ G W = 1 for definite matrices G; with zeros where a function has no energy."""
    try:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(whole)).transpose(0, 2, 1))
    except np.linalg.LinAlgError:
        found = np.zeros_like(whole)
        for k, gram in enumerate(whole):
            size = gram.diagonal()
            if np.linalg.eigvalsh(gram)[0] < -1e-8 * size.max():
                raise ValueError(
                    f"The form a is not positive semi-definite on {problems[k].name}; expected a "
                    "coercive form."
                ) from None
            W = whiten(gram)
            found[k, :, : W.shape[1]] = W
        return found
