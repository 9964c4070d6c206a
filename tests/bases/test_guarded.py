# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The guard: good modes pass, bad ones do not, and what comes out is good in any case."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np
import pytest
import scipy.linalg
from pencils import (
    PROBLEMS,
    check_same_on_any_ranks,
    dense,
    energy_error,
    exact_modes,
    pose,
    problem,
    solve,
)
from sample import is_sentence
from utils import COMM, HEX, TRI

from dolfinx_msnn import LocalModes, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.bases.filtered import FilteredBasis
from dolfinx_msnn.bases.guarded import GuardedBasis, guard_table
from dolfinx_msnn.bases.inertia import count_below
from dolfinx_msnn.bases.protocol import BasisNeeds

serial = pytest.mark.serial

NUM = 6


class Given:
    """A basis that gives what it was told to, and counts what it was asked for."""

    def __init__(self, make, num_modes=NUM):
        self.make, self.num_modes, self.asked = make, num_modes, 0

    def modes(self, problems):
        self.asked += len(problems)
        return [self.make(p) for p in problems]


def exact(name, skip=()):
    values, phi = exact_modes(name)
    kept = [k for k in range(len(values)) if k not in skip][:NUM]
    return LocalModes(values[kept], phi[kept])


def noise(p, num=NUM):
    random = np.random.default_rng(p.vertex)
    return LocalModes(np.zeros(num), random.standard_normal((num, p.num_dofs)))


def guarded(name, modes, **options):
    """The guard's modes for one named problem, its report, and the fallback."""
    fallback = Given(lambda p: exact(name))
    basis = GuardedBasis(Given(lambda p: modes), fallback, **options)
    (found,) = basis.modes([problem(name)])
    (report,) = basis.reports
    return found, report, fallback


def check_modes(name, found, tolerance):
    """S-orthonormal Ritz vectors whose values are the least ones, up to a tolerance."""
    A, S = dense(name)
    exact_values = exact_modes(name)[0]
    scale = np.maximum(exact_values[:NUM], 1e-3 * exact_values[NUM])
    ritz = scipy.linalg.eigh(
        found.vectors @ A @ found.vectors.T, found.vectors @ S @ found.vectors.T, eigvals_only=True
    )
    assert np.all((ritz - exact_values[:NUM]) / scale <= tolerance)
    np.testing.assert_allclose(found.values, ritz, atol=1e-6 * exact_values[NUM])


# ---- one neighbourhood ----


@serial
@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_modes_are_accepted(name):
    found, report, fallback = guarded(name, exact(name))
    assert report.outcome == "accepted" and report.reason == "" and fallback.asked == 0
    assert abs(report.deficiency) < 1e-5 and report.final == report.deficiency
    check_modes(name, found, 1e-5)


@serial
@pytest.mark.parametrize("missing", [0, 1, NUM // 2, NUM - 1])
@pytest.mark.parametrize("name", PROBLEMS)
def test_missed_modes_are_found(name, missing):
    """Whichever exact mode is left out, unless the next one is as good."""
    values = exact_modes(name)[0]
    found, report, _ = guarded(name, exact(name, skip=[missing]))
    ordered = np.delete(values, missing)[:NUM]
    deficiency = ((ordered - values[:NUM]) / np.maximum(values[:NUM], 1e-3 * values[NUM])).max()
    if deficiency > 0.2:
        assert report.outcome != "accepted"
        assert report.deficiency > 0.1 or report.reason == "eigenvalues were missed"
    check_modes(name, found, 0.15)


@serial
@pytest.mark.parametrize("name", PROBLEMS)
def test_noise_is_repaired_or_recomputed(name):
    found, report, fallback = guarded(name, noise(problem(name)))
    assert report.outcome == ("recomputed" if fallback.asked else "repaired")
    assert report.deficiency > 1 and 0 <= report.final <= 0.02
    check_modes(name, found, 0.15)


def broken(what, p):
    vectors = np.array(exact_modes("two phases")[1][:NUM])
    if what == "nan":
        vectors[2, 7] = np.nan
    elif what == "inf":
        vectors[0, 0] = np.inf
    elif what == "zero":
        vectors[:] = 0.0
    elif what == "one zero":
        vectors[3] = 0.0
    elif what == "few":
        vectors = vectors[:-1]
    elif what == "other mesh":
        vectors = vectors[:, :-1]
    elif what == "flat":
        vectors = vectors[0]
    elif what == "complex":
        vectors = vectors * 1j
    elif what == "dependent":
        vectors[5] = vectors[4] + vectors[3]
    return LocalModes(np.zeros(len(vectors)), vectors)


BROKEN = ("nan", "inf", "zero", "one zero", "few", "other mesh", "flat", "complex", "dependent")


@serial
@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_used_is_recomputed(what):
    found, report, fallback = guarded("two phases", broken(what, problem("two phases")))
    assert report.outcome == "recomputed" and report.reason and fallback.asked == 1
    assert report.deficiency == np.inf and report.final == 0 and report.sweeps == 0
    np.testing.assert_array_equal(found.vectors, exact("two phases").vectors)


@serial
def test_what_is_no_modes_is_recomputed():
    for modes in (None, 3, "modes"):
        _, report, fallback = guarded("two phases", modes)
        assert report.reason == "no modes were given" and fallback.asked == 1


@serial
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale_of_the_modes(scale):
    values, phi = exact("two phases")
    found, report, _ = guarded("two phases", LocalModes(values, scale * phi))
    assert report.outcome == "accepted"
    check_modes("two phases", found, 1e-5)


@serial
def test_more_modes_than_asked_for():
    """The best of them are taken, whatever their order."""
    values, phi = exact_modes("two phases")
    found, report, _ = guarded("two phases", LocalModes(values[::-1], phi[::-1].copy()))
    assert report.outcome == "accepted" and len(found.values) == NUM
    check_modes("two phases", found, 1e-5)


@serial
def test_tolerance_and_repairs():
    modes = noise(problem("two phases"))
    _, strict, _ = guarded("two phases", modes, tolerance=1e-6, max_repairs=1)
    assert strict.outcome == "recomputed" and strict.reason == "filtering did not end"
    _, longer, _ = guarded("two phases", modes, tolerance=1e-6, max_repairs=12)
    assert longer.outcome == "repaired" and longer.final <= 2e-7
    assert longer.sweeps > strict.sweeps > 0


@serial
def test_seed_and_vertex_decide():
    modes = noise(problem("two phases"))
    values = [guarded("two phases", modes, seed=seed)[0].values for seed in (0, 0, 1)]
    np.testing.assert_array_equal(values[0], values[1])
    assert np.abs(values[0] - values[2]).max() > 0


# ---- counting ----


@serial
@pytest.mark.parametrize("name", PROBLEMS)
def test_count_below(name):
    values = exact_modes(name)[0]
    for k in range(1, 14):
        if values[k] > max(1.001 * values[k - 1], 1e-6 * values[13]):
            assert count_below(problem(name), 0.5 * (values[k - 1] + values[k])) == k


@serial
def test_counting_finds_what_random_vectors_do_not(monkeypatch):
    """With blind random vectors only the count tells that a mode is missing."""
    monkeypatch.setattr(GuardedBasis, "_improve", lambda self, pencil, old, attempt: (old, 0))
    modes = exact("two phases", skip=[2])
    assert guarded("two phases", modes)[1].outcome == "accepted"
    found, report, _ = guarded("two phases", modes, inertia=True)
    assert report.outcome == "recomputed" and report.reason == "eigenvalues were missed"
    check_modes("two phases", found, 1e-9)
    monkeypatch.undo()
    for name in PROBLEMS:
        report = guarded(name, exact(name), inertia=True)[1]
        assert report.outcome == "accepted", (name, report)


# ---- arguments ----


@serial
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"primary": 3}, "local basis as primary"),
        ({"primary": FilteredBasis}, "local basis as primary"),
        ({"primary": SpectralBasis(threshold=1.0)}, "below a threshold"),
        ({"fallback": "SLEPc"}, "local basis as fallback"),
        ({"fallback": SpectralBasis(threshold=1.0)}, "below a threshold"),
        ({"fallback": Given(noise, num_modes=None)}, "num_modes"),
        ({"primary": Given(noise, num_modes=0)}, "num_modes"),
        ({"tolerance": 0}, "tolerance"),
        ({"tolerance": True}, "tolerance"),
        ({"tolerance": "small"}, "tolerance"),
        ({"max_repairs": 0}, "max_repairs"),
        ({"precision": "half"}, "precision"),
        ({"seed": -1}, "seed"),
        ({"inertia": 1}, "inertia"),
        ({"seed": 1.5}, "seed"),
        ({"num_threads": 0}, "num_threads"),
    ],
    ids=str,
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        GuardedBasis(**({"primary": FilteredBasis(NUM)} | options))
    is_sentence(str(caught.value))


@serial
def test_number_of_results():
    for given, words in (([], "0 results"), (None, "NoneType")):
        basis = Given(noise)
        basis.modes = lambda problems, given=given: given
        with pytest.raises(ValueError, match=words):
            GuardedBasis(basis).modes([problem("two phases")])


@serial
def test_table():
    basis = GuardedBasis(
        Given(lambda p: broken("nan", p) if p.vertex == 4 else noise(p)),
        Given(lambda p: exact("two phases")),
    )
    basis.modes([problem("two phases")])
    text = guard_table(basis.reports)
    assert text.startswith("1 neighbourhoods: 0 accepted, 0 repaired, 1 recomputed")
    assert "the modes are not finite" in text and "(0.5, 0.5)" in text
    assert guard_table([]).startswith("0 neighbourhoods")


# ---- solutions ----


@serial
@pytest.mark.parametrize(
    "options",
    [{"contrast": 1e3}, {"contrast": 1e6}, {"shape": (2,), "contrast": 1e3}, {"cell": TRI},
     {"cell": HEX, "n": 9, "coarse": 2}],
    ids=str,
)  # fmt: skip
def test_solution_from_noise(options):
    num = 8 if "shape" not in options else 12
    bases = (
        lambda: GuardedBasis(Given(lambda p: noise(p, num), num)),
        lambda: SpectralBasis(num),
        lambda: Given(lambda p: noise(p, num), num),
    )
    good, best, bad = (
        energy_error(solve(MPI.COMM_SELF, basis, **options)[0], **options) for basis in bases
    )
    assert good <= 1.05 * best and best < 0.8 * bad


@pytest.mark.parametrize(
    "options", [{"contrast": 1e4}, {"cell": HEX, "n": 8, "coarse": 2}], ids=str
)
def test_same_solution_on_any_number_of_ranks(options):
    check_same_on_any_ranks(
        lambda: GuardedBasis(FilteredBasis(NUM, degree=2, max_rounds=1)), **options
    )


def test_reports_of_all_ranks():
    V, grid, a, s, _, bcs = pose(COMM)
    basis = GuardedBasis(FilteredBasis(4))
    with multiscale_functionspace(V, grid, basis, a, s, bcs):
        reports = [r for part in COMM.allgather(basis.reports) for r in part]
    assert sorted(r.vertex for r in reports) == list(range(16))
    for report in reports:
        assert np.all(report.lower <= report.place + 1e-12)
        assert np.all(report.place <= report.upper + 1e-12)


@serial
def test_coefficient_of_either_basis():
    class Looking(Given):
        coefficient = 2.0

    plain, looking = Given(noise), Looking(noise)
    assert BasisNeeds.of(GuardedBasis(plain)).coefficient is None
    assert BasisNeeds.of(GuardedBasis(looking)).coefficient == 2.0
    assert BasisNeeds.of(GuardedBasis(plain, looking)).coefficient == 2.0
    assert BasisNeeds.of(GuardedBasis(GuardedBasis(plain, looking))).coefficient == 2.0


@serial
def test_what_a_basis_declares():
    class Least:
        def modes(self, problems):
            return [noise(p) for p in problems]

    assert BasisNeeds.of(Least()) == BasisNeeds()
    least = Least()
    least.wrapped = (Least(), SpectralBasis(threshold=0.5, max_modes=7))
    assert BasisNeeds.of(least) == BasisNeeds(num_modes=7, threshold=0.5)
    least.num_modes = 3
    assert BasisNeeds.of(least) == BasisNeeds(num_modes=3, threshold=0.5)
    with pytest.raises(ValueError, match="threshold"):
        GuardedBasis(least)
