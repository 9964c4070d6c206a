# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Functions without energy, known beforehand: rigid motions of the pieces of a neighbourhood."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from dolfinx_msnn._utils.linalg import motion_tolerances, null_combinations, rigid_motions
from dolfinx_msnn._utils.typing import FloatArray, LongArray
from dolfinx_msnn.bases.protocol import LocalModes
from dolfinx_msnn.local.problem import LocalProblem


def piece_motions(problem: LocalProblem) -> FloatArray:
    """Constants, and in elasticity rotations, of each connected piece, zero on the others.

    A fault or a thin gap can cut a neighbourhood into pieces that no cell connects.

    Returns:
        One motion a row, shape ``(num, n_i)``; not orthonormal.
    """
    bs, offsets = problem.block_size, problem.geometry.offsets

    def make() -> FloatArray:
        count, label = connected_components(problem.A, directed=False)
        found = []
        for piece in range(count):
            inside = label == piece
            x = offsets[inside][::bs]
            motions = rigid_motions(x - x.mean(axis=0), bs)
            found.append(np.zeros((len(motions), len(label))))
            found[-1][:, inside] = motions
        return np.concatenate(found)

    return problem.geometry.once("motions of pieces", make)


def is_connected(problem: LocalProblem) -> bool:
    """Whether the cells of a neighbourhood are connected."""
    one = rigid_motions(problem.x[:1], problem.block_size)
    return len(piece_motions(problem)) == len(one)


def null_motions(problem: LocalProblem, A: sp.csr_matrix, dofs: LongArray) -> FloatArray:
    """Motions of pieces that A takes to zero; a Robin or Dirichlet condition may resist some.

    Args:
        problem: The local problem.
        A: Its matrix A_i, rows and columns of some dofs, shape ``(n, n)``.
        dofs: Which ones, shape ``(n,)``.

    Returns:
        One motion a row, shape ``(num, n)``; independent, not orthonormal.
    """
    motions = piece_motions(problem)[:, dofs]
    box = np.array([problem.x.min(axis=0), problem.x.max(axis=0)])
    once = motion_tolerances(box, problem.block_size)
    images, diagonal = (A @ motions.T).T, A.diagonal()
    if problem.block_size == 1:
        # Constants on different pieces have nothing to do with each other.
        defects = np.linalg.norm(images / diagonal, axis=1)
        null: FloatArray = motions[defects <= once[0] * np.linalg.norm(motions, axis=1)]
        return null
    tolerances = np.tile(once, len(motions) // len(once))
    return null_combinations(motions, images, diagonal, tolerances) @ motions


def null_space(problem: LocalProblem) -> FloatArray:
    """Motions of pieces that A_i takes to zero, S-orthonormal, shape ``(num, n_i)``."""
    found: list[FloatArray] = []
    for z in null_motions(problem, problem.A, np.arange(problem.num_dofs)):
        whole = z @ (problem.S @ z)
        for _ in range(2):
            for q in found:
                z = z - (q @ (problem.S @ z)) * q
        square = z @ (problem.S @ z)
        if square > 1e-20 * whole:
            found.append(z / np.sqrt(square))
    return np.array(found).reshape(-1, problem.num_dofs)


def with_exact_null_space(problem: LocalProblem, modes: LocalModes) -> LocalModes:
    """Put the known functions without energy in place of their approximations.

    A filter in single precision holds them to 1e-7 only, and the null space of a coarse matrix
    needs them to rounding.

    Args:
        problem: The local problem.
        modes: S-orthonormal, and A-orthogonal with the values for energies: Ritz pairs.

    Returns:
        As many modes, S-orthonormal, the null space first.
    """
    null = null_space(problem)[: len(modes.values)]
    if len(null) == 0:
        return modes
    # What is left of the modes beside the null space: of so many functions as many are independent.
    share = modes.vectors @ (problem.S @ null.T)
    left, directions = np.linalg.eigh(np.eye(len(share)) - share @ share.T)
    kept = directions[:, len(null) :] / np.sqrt(left[len(null) :])
    rest = kept.T @ (modes.vectors - share @ null)
    values, turn = np.linalg.eigh(kept.T @ (modes.values[:, None] * kept))
    return LocalModes(
        np.concatenate([np.zeros(len(null)), values]), np.concatenate([null, turn.T @ rest])
    )
