# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Adaptive enrichment against dense oracles, uniform spaces and other numbers of ranks."""

from __future__ import annotations

import itertools

from mpi4py import MPI

import numpy as np
import pytest
import scipy.sparse.linalg
from sample import COMM, HERE, expect_error
from test_estimate import Case
from utils import gather_function, gather_matrix

import ufl
from dolfinx import fem
from dolfinx_msnn import FilteredBasis, HarmonicBasis, SpectralBasis
from dolfinx_msnn.estimate import adapt, enrich, local_indicators
from dolfinx_msnn.estimate.marking import colour, mark, position_in_vertex
from dolfinx_msnn.petsc import LinearProblem


def energy_norm(case, u):
    form = fem.form(ufl.replace(case.a, dict.fromkeys(case.a.arguments(), u)))
    return np.sqrt(case.W.comm.allreduce(fem.assemble_scalar(form)))


class Truth:
    """The fine solution, and errors against it."""

    def __init__(self, case):
        self.A, b, _ = case.gathered()
        self.x = scipy.sparse.linalg.spsolve(self.A.tocsc(), b)
        self.mask = np.concatenate(case.W.comm.allgather(case.W.dirichlet))
        fine = fem.Function(case.V)
        fine.x.array[:] = case.u.x.array
        size = case.V.dofmap.index_map.size_local * case.V.dofmap.index_map_bs
        first = case.W.comm.exscan(size) or 0
        own = fine.x.array[:size]
        own[~case.W.dirichlet] = self.x[first : first + size][~case.W.dirichlet]
        fine.x.scatter_forward()
        self.size = energy_norm(case, fine)

    def error(self, u):
        e = np.where(self.mask, 0.0, self.x - gather_function(u))
        return np.sqrt(e @ (self.A @ e))


def uniform(case, num):
    """The solution with the first modes of each neighbourhood."""
    keep = position_in_vertex(case.W.vertex) < num
    with (
        enrich(case.W, keep=keep) as W,
        LinearProblem(case.a, case.L, W, bcs=case.bcs, petsc_options_prefix="u_") as problem,
    ):
        return problem.solve(), W.num_dofs


def start(case, **options):
    return adapt(
        case.a, case.L, case.W, case.coarse, petsc_options_prefix="a_", bcs=case.bcs, **options
    )


def test_enrich_adds_and_drops_columns():
    with Case() as case:
        W = case.W
        keep = W.mode % 2 == 0
        rows = {int(v): W.R.getRow(W.dof_range[0] + k)[0] for k, v in enumerate(W.vertex)}
        new = [(v, dofs.astype(np.int64), np.cos(1.0 * dofs)) for v, dofs in rows.items()]
        with enrich(W, new, keep=keep) as other:
            before, after = gather_matrix(W.P).toarray(), gather_matrix(other.P).toarray()
            kept = np.concatenate(COMM.allgather(keep))
            old = np.concatenate(COMM.allgather(other.mode)) >= 0
            np.testing.assert_array_equal(after[:, old], before[:, kept])
            support = np.abs(before).max(axis=1) > 0
            added = after[:, ~old]
            rows = np.arange(len(added))[:, None]
            assert added.shape[1] == W.num_neighbourhoods
            np.testing.assert_allclose(added, np.cos(rows) * (added != 0), rtol=1e-14)
            assert ((added != 0).any(axis=1) == support).all()
            assert (other.vertex[other.mode < 0] == list(dict.fromkeys(W.vertex))).all()
        with expect_error(ValueError, "keep has type"):
            enrich(W, keep=keep[:-1])
        with expect_error(ValueError, "not on this rank"):
            enrich(W, [(10**6, np.zeros(1, np.int64), np.zeros(1))] if HERE else [])
        with expect_error(ValueError, "as many, finite"):
            bad = [(v, dofs, values * np.nan) for v, dofs, values in new]
            enrich(W, bad if HERE else new)


def test_colours_are_uncoupled():
    with Case(n=24, boxes=6) as case:
        found = colour(case.W, case.problem.A0)
        assert all(part == found for part in COMM.allgather(found))
        A, P = gather_matrix(case.problem.A), gather_matrix(case.W.P).tocsc()
        vertex = np.concatenate(COMM.allgather(case.W.vertex))
        assert set(found) == set(vertex) and max(found.values()) < 9
        for c in set(found.values()):
            members = [v for v in found if found[v] == c]
            for k, i in enumerate(members):
                for j in members[:k]:
                    product = abs(P[:, vertex == i].T) @ abs(A) @ abs(P[:, vertex == j])
                    assert product.sum() == 0


def test_marking():
    vertex = np.arange(COMM.rank, 12, COMM.size)
    energy = 2.0**-vertex
    for fraction in (0.3, 0.5, 0.9, 1.0):
        marked = mark(COMM, vertex, energy, fraction)
        every = 2.0 ** -np.arange(12)
        assert marked == set(range(len(marked)))
        assert every[: len(marked)].sum() >= fraction * every.sum() * (1 - 1e-9)
        assert every[: len(marked) - 1].sum() < fraction * every.sum()
    assert mark(COMM, vertex, 0 * energy, 0.5) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"contrast": 1e4},
        {"basis": FilteredBasis(num_modes=8), "conditions": "dirichlet"},
        {"vector": True, "basis": SpectralBasis(8), "n": 20, "boxes": 4},
    ],
)
def test_online_enrichment(options):
    """Every bound holds, a round divides the error by three, and uniform spaces need more dofs."""
    options = {"n": 24, "boxes": 4, "basis": SpectralBasis(8)} | options
    with Case(**options) as case:
        truth = Truth(case)
        with start(case, tol=1e-3, initial_modes=4) as found:
            assert found.converged
            last = found.rounds[-1]
            true = truth.error(found.u)
            assert last.lower <= true * (1 + 1e-6) and true <= last.upper * (1 + 1e-6)
            assert true <= 1e-3 * truth.size
            assert last.relative * truth.size >= true
            assert last.num_dofs == found.W.num_dofs
            errors = [r.lower for r in found.rounds]
            assert all(a > 3 * b for a, b in itertools.pairwise(errors)), errors
            u, num_dofs = uniform(case, 8)
            assert num_dofs > last.num_dofs
            assert truth.error(u) > 10 * true
        # The space given is as it was.
        assert (case.W.mode >= 0).all()


@pytest.mark.slow
def test_modes_go_where_the_error_is():
    with Case(n=24, boxes=4, basis=SpectralBasis(12), contrast=1e4) as case:
        truth = Truth(case)
        with start(case, tol=1e-9, kind="modes", initial_modes=2, marking=0.4, max_rounds=4) as s:
            assert not s.converged and len(s.rounds) == 5
            assert (s.W.mode >= 0).all()
            true = truth.error(s.u)
            assert s.rounds[-1].lower <= true * (1 + 1e-6) and true <= s.rounds[-1].upper
            fewer = min(n for n in range(1, 13) if uniform(case, n)[1] >= s.W.num_dofs)
            assert true < truth.error(uniform(case, fewer)[0])
        # All modes are used in the end, then both goes on with online functions.
        with start(case, tol=1e-9, kind="modes", initial_modes=11, marking=1.0) as s:
            assert s.W.num_dofs == case.W.num_dofs and not s.converged
        with start(case, tol=2e-2, kind="both", initial_modes=11, marking=1.0) as s:
            assert s.converged and (s.W.mode < 0).sum() <= s.W.num_local_dofs
            assert s.W.num_dofs > case.W.num_dofs


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [None, 2])
def test_all_at_once(overlap):
    with Case(n=24, boxes=4, basis=SpectralBasis(4), overlap=overlap) as case:
        with start(case, tol=1e-4, colours=False, marking=1.0, initial_modes=4) as found:
            errors = [r.lower for r in found.rounds]
            assert found.converged
            assert all(a > 3 * b for a, b in itertools.pairwise(errors)), errors


def test_same_on_any_number_of_ranks():
    outcomes = []
    for comm in (COMM, MPI.COMM_SELF):
        with Case(comm, n=16, boxes=4, basis=SpectralBasis(4)) as case:
            with start(case, tol=1e-4, marking=0.8) as found:
                outcomes.append(found.rounds)
                assert local_indicators(case.problem).total > 0
    assert [r.num_dofs for r in outcomes[0]] == [r.num_dofs for r in outcomes[1]]
    for r, s in zip(*outcomes, strict=True):
        assert r.upper == pytest.approx(s.upper, rel=0.05)
        assert r.lower == pytest.approx(s.lower, rel=0.05)


@pytest.fixture(scope="module")
def any_case():
    with Case() as case:
        yield case


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tol": 0.0}, "tol must be a positive number, got 0.0"),
        ({"kind": "best"}, "kind must be 'online', 'modes' or 'both', got 'best'"),
        ({"initial_modes": 0}, "initial_modes must be a positive integer, got 0"),
        ({"marking": 0.0}, r"marking must be a number in \(0, 1\], got 0.0"),
        ({"max_rounds": -1}, "max_rounds must be a non-negative integer, got -1"),
    ],
)
def test_refuses(any_case, options, match):
    with expect_error(ValueError, match):
        start(any_case, **options)


@pytest.mark.parametrize(
    "kind", [*(pytest.param(k, marks=pytest.mark.slow) for k in ("online", "modes")), "both"]
)
def test_harmonic_functions(kind):
    """From constants and responses on: the bound holds in each round, and the last is small."""
    with Case(n=20, basis=HarmonicBasis(14)) as case, start(case, tol=0.05, kind=kind) as found:
        truth = Truth(case)
        error = truth.error(found.u)
        last = found.rounds[-1]
        assert (
            found.converged
            and error <= last.upper * (1 + 1e-9)
            and error >= last.lower * (1 - 1e-9)
        )
        assert error < 0.05 * truth.size and found.W.coarse is case.coarse
