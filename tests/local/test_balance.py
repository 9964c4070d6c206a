# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Load balance of neighbourhoods, on simulated ranks."""

import time

import numpy as np
import pytest

from dolfinx_msnn.local.balance import assign

pytestmark = pytest.mark.serial


def boxes(n, parts, dim=3):
    """Pairs of neighbourhoods and ranks of ``n`` boxes a side, split unevenly into slabs a side."""
    cuts = np.sort(np.random.default_rng(0).random(parts - 1))
    rank_of = np.searchsorted(cuts, (np.arange(n) + 0.5) / n)
    index = np.indices((n + 1,) * dim).reshape(dim, -1)
    keys = []
    for corner in np.indices((2,) * dim).reshape(dim, -1).T:
        box = index - corner[:, None]
        inside = ((box >= 0) & (box < n)).all(axis=0)
        rank = np.ravel_multi_index(rank_of[box[:, inside]], (parts,) * dim)
        keys.append(np.flatnonzero(inside) * parts**dim + rank)
    pairs, counts = np.unique(np.concatenate(keys), return_counts=True)
    where, ranks = np.divmod(pairs, parts**dim)
    return where, ranks.astype(np.int32), 1000 * counts, parts**dim


def by_search(where, ranks, counts, size, dim):
    """The same choice, by a search over everything for each move."""
    cells = np.bincount(where, weights=counts)
    cost = cells ** (1.2 if dim == 2 else 1.5)
    num = len(cells)
    held = [
        sorted((-c, r) for w, r, c in zip(where, ranks, counts, strict=True) if w == i)
        for i in range(num)
    ]
    owner = [part[0][1] for part in held]
    for _ in range(4 * num):
        load = np.bincount(owner, weights=cost, minlength=size)
        busiest = int(np.argmax(load))
        best, move = 0.0, None
        for i in range(num):
            for c, r in held[i] if owner[i] == busiest else ():
                gain = min(load[busiest] - load[r] - cost[i], cost[i]) if r != busiest else 0.0
                if gain * (0.1 - c / cells[i]) > best * (1 + 1e-9):
                    best, move = gain * (0.1 - c / cells[i]), (i, r)
        if move is None:
            return np.array(owner)
        owner[move[0]] = move[1]
    return np.array(owner)


@pytest.mark.parametrize(("n", "parts", "dim"), [(6, 2, 2), (9, 3, 2), (4, 2, 3)])
def test_same_choice_as_a_search(n, parts, dim):
    pairs = boxes(n, parts, dim)
    np.testing.assert_array_equal(assign(*pairs, dim), by_search(*pairs, dim))


def test_owner_holds_cells_and_load_is_levelled():
    where, ranks, counts, size = boxes(12, 2)
    owner = assign(where, ranks, counts, size, 3)
    assert set(zip(range(len(owner)), owner, strict=True)) <= set(zip(where, ranks, strict=True))
    cost = np.bincount(where, weights=counts) ** 1.5
    first = np.array([ranks[where == i][np.argmax(counts[where == i])] for i in range(len(owner))])
    before, after = (np.bincount(o, weights=cost, minlength=size).max() for o in (first, owner))
    assert after < before


def test_nothing_to_assign():
    none = np.zeros(0, np.int64)
    assert len(assign(none, none.astype(np.int32), none, 3, 2)) == 0


def test_nearly_linear():
    seconds = []
    for n in (22, 45):
        pairs = boxes(n, 4)
        begin = time.process_time()
        assign(*pairs, 3)
        seconds.append(time.process_time() - begin)
    # Eight times as many neighbourhoods, 97,336 of them, on 64 ranks.
    assert seconds[1] < 32 * max(seconds[0], 0.05), seconds
