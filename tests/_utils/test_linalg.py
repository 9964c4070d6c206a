# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Rigid motions that a truss does not resist, at any contrast and anywhere in the plane."""

import numpy as np
import pytest
from sample import COMM

from dolfinx_msnn._utils.linalg import motion_tolerances, null_combinations, rigid_motions

#: Which dofs are held: all of two nodes, of one node (a pin), or one component of all (a roller).
HELD = {"free": [], "pin": [10, 11], "roller": range(0, 60, 2), "clamped": [10, 11, 20, 21]}

#: How many motions are left.
LEFT = {"free": 3, "pin": 1, "roller": 1, "clamped": 0}


def truss(contrast, offset, held):
    """30 nodes and springs between all of them, softer ones at the first nodes; held by ones."""
    rng = np.random.default_rng(3)
    x = rng.random((30, 2)) + offset
    A = np.zeros((60, 60))
    for i in range(30):
        for j in range(i):
            direction = (x[i] - x[j]) / np.linalg.norm(x[i] - x[j])
            ends = np.zeros((30, 2))
            ends[i], ends[j] = direction, -direction
            spring = contrast if j > 12 else 1.0
            A += spring * np.outer(ends.ravel(), ends.ravel())
    held = list(held)
    A[held] = A[:, held] = 0.0
    A[held, held] = 1.0
    return A, rigid_motions(x - x.mean(axis=0), 2)


@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("contrast", [1.0, 1e10])
@pytest.mark.parametrize("name", HELD)
def test_truss(name, contrast, offset):
    A, motions = truss(contrast, offset, HELD[name])
    mine = np.array_split(np.arange(60), COMM.size)[COMM.rank]
    # Constants to rounding, the rotation to that of the coordinates.
    tolerances = motion_tolerances(np.array([[0.0, 0.0], [1.0, 1.0]]) + offset, 2)
    found = null_combinations(
        motions[:, mine], (motions @ A)[:, mine], A.diagonal()[mine], tolerances, COMM
    )
    assert found.shape == (LEFT[name], 3)
    assert all(np.array_equal(found, other) for other in COMM.allgather(found))
    z = found @ motions
    residual = np.abs(z @ A) / A.diagonal()
    assert residual.max(initial=0.0) <= 1e-9 * np.abs(z).max(initial=0.0)
    # A motion that is free by itself comes by itself.
    if name == "free":
        np.testing.assert_allclose(found, np.eye(3), atol=1e-15)
    elif name == "roller":
        np.testing.assert_array_equal(found, [[0.0, 1.0, 0.0]])
    elif name == "pin":
        np.testing.assert_allclose(z[0, [10, 11]], 0.0, atol=1e-12)
        assert np.abs(z[0]).max() > 0.1


def test_dependent_motions():
    """On one node a rotation is a translation; on none there is nothing."""
    x = np.array([[0.5, 0.25]])
    motions, tolerances = rigid_motions(x, 2), motion_tolerances(np.array([x[0], x[0]]), 2)
    held = null_combinations(motions, motions, np.ones(2), tolerances)
    free = null_combinations(motions, 0 * motions, np.ones(2), tolerances)
    assert held.shape == (0, 3) and free.shape == (2, 3)
    assert np.linalg.matrix_rank(free @ motions) == 2
    nothing = null_combinations(np.zeros((3, 4)), np.zeros((3, 4)), np.ones(4), tolerances)
    assert nothing.shape == (0, 3)
    bad = null_combinations(np.ones((1, 2)), np.array([[np.nan, 0]]), np.ones(2), tolerances[:1])
    assert bad.shape == (0, 1)
