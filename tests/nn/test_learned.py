# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""LearnedBasis with networks that are not trained, or are made to fail; filters under autograd."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache

from mpi4py import MPI

import numpy as np
import pytest
import scipy.linalg
from numpy.polynomial.chebyshev import Chebyshev
from sample import (
    HERE,
    Sample,
    expect_error,
    is_sentence,
    local_problems,
    model_card,
    network,
)
from utils import (
    COMM,
    HEX,
    QUAD,
    TRI,
    box,
    cell_field,
    clamp,
    diffusion,
    dof_points,
    elasticity,
    energy_error,
    gather_function,
    holed_square,
    mass,
    match,
    on_root,
    pencil_eigh,
    two_phase,
)

torch = pytest.importorskip("torch")

import dolfinx_msnn  # noqa: E402
import ufl  # noqa: E402
from dolfinx import fem  # noqa: E402
from dolfinx_msnn import (  # noqa: E402
    CoarseGrid,
    LocalBasis,
    SpectralBasis,
    multiscale_functionspace,
)
from dolfinx_msnn.bases.filtered import FilteredBasis  # noqa: E402
from dolfinx_msnn.nn import learned  # noqa: E402
from dolfinx_msnn.nn.card import CONVENTIONS  # noqa: E402
from dolfinx_msnn.nn.ffno import FFNO  # noqa: E402
from dolfinx_msnn.nn.filter import Pencils  # noqa: E402
from dolfinx_msnn.nn.lattice import Pose, network_input  # noqa: E402
from dolfinx_msnn.nn.learned import LearnedBasis  # noqa: E402
from dolfinx_msnn.nn.model import load_model, save_model  # noqa: E402
from dolfinx_msnn.petsc import LinearProblem  # noqa: E402

serial = pytest.mark.serial

CARD = model_card()
CARD_3D = model_card(dim=3, lattice=7)


class Fails(torch.nn.Module):
    """A network that gives something else where log κ rises by much between two nodes."""

    def __init__(self, inner: FFNO, bad: float, factor: float):
        super().__init__()
        self.inner = inner
        self.bad = bad
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.inner(x)
        rough = (x[:, 0].amax((1, 2)) - x[:, 0].amin((1, 2)) > 1.0).view(-1, 1, 1, 1)
        return torch.where(rough, self.factor * out + self.bad, out)


class Some(torch.nn.Module):
    """Some of a network's outputs."""

    def __init__(self, inner: FFNO, first: int, last: int):
        super().__init__()
        self.inner = inner
        self.first = first
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[:, self.first : self.last]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Model files by name, each rank its own; those with code in them are loaded already."""
    folder = tmp_path_factory.mktemp(f"models{COMM.rank}")
    made = {
        "cosines": (network(CARD), CARD),
        "perturbed": (network(CARD, 0.05), CARD),
        "full only": (network(CARD), replace(CARD, classes=("full",))),
        "cube": (network(CARD_3D), CARD_3D),
        "nan": (Fails(network(CARD), float("nan"), 1.0), CARD),
        "infinite": (Fails(network(CARD), float("inf"), 1.0), CARD),
        "zero": (Fails(network(CARD), 0.0, 0.0), CARD),
        "constant": (Fails(network(CARD), 1.0, 0.0), CARD),
        "huge": (Fails(network(CARD), 0.0, 1e37), CARD),
        "tiny": (Fails(network(CARD), 0.0, 1e-37), CARD),
        "sixteen": (Some(network(CARD, 0.05), 0, 16), replace(CARD, n_out=16)),
        "without constant": (Some(network(CARD), 8, 24), replace(CARD, n_out=16)),
    }
    paths = {}
    for name, (net, card) in made.items():
        ours = isinstance(net, FFNO)
        path = folder / f"{name}.{'safetensors' if ours else 'pt'}"
        save_model(path, net, card)
        paths[name] = path if ours else load_model(path, trust=True)
    return paths


def left_rough(x):
    """Rough at the left, one at the right."""
    return np.where((x[0] < 0.3) & (np.sin(40 * x[1]) > 0), 1e3, 1.0)


def problems(msh, n, value, degree=1, overlap=None):
    """Local problems with their coefficient, in the order in which they come."""
    V = fem.functionspace(msh, ("Lagrange", degree))
    kappa = cell_field(msh, value)
    return local_problems(n, diffusion(V, kappa), mass(V, kappa), kappa, overlap)


@cache
def square(contrast=1e3, n=3, cells=24):
    return problems(box(MPI.COMM_SELF, QUAD, cells), (n, n), two_phase(contrast))


def exact(p, num):
    """Eigenvalues by LAPACK."""
    known = _known.get(id(p))
    if known is None:
        known = _known[id(p)] = (p, pencil_eigh(p.A.toarray(), p.S.toarray(), 16)[0])
    return known[1][:num]


_known: dict[int, tuple] = {}


@cache
def rough_at_the_left():
    return problems(box(MPI.COMM_SELF, QUAD, 24), (3, 3), left_rough)


# ---- modes ----


@serial
@pytest.mark.parametrize("name", ["cosines", "perturbed"])
def test_modes(files, name):
    """Ritz values from above and close; reports in the order of the problems."""
    basis = LearnedBasis(files[name], 1.0, 6)
    chosen = square()
    found = basis.modes(chosen)
    assert [r.vertex for r in basis.reports] == [p.vertex for p in chosen]
    assert {r.source for r in basis.reports} == {"model"} and basis.num_fallbacks == 0
    assert all(r.reason == "" and r.filtered.vertex == r.vertex for r in basis.reports)
    for p, modes in zip(chosen, found, strict=True):
        S, values = p.S.toarray(), exact(p, 7)
        assert modes.vectors.shape == (6, p.num_dofs)
        np.testing.assert_allclose(modes.vectors @ S @ modes.vectors.T, np.eye(6), atol=1e-7)
        excess = modes.values - values[:6]
        assert excess.min() > -1e-7 * values[6]
        assert (excess / np.maximum(values[:6], 1e-3 * values[6])).max() < 0.05
    # A second call adds to the reports.
    basis.modes(chosen[:2])
    assert len(basis.reports) == len(chosen) + 2
    assert basis.modes([]) == []


@serial
@pytest.mark.parametrize("steps", [0, 2])
def test_raw_functions_are_the_networks_and_no_matrix_is_looked_at(tmp_path, steps):
    card = replace(
        CARD,
        n_out=6,
        lattice=9,
        fine=True,
        constant=True,
        steps=steps,
        loads=("drop",),
        input_convention=CONVENTIONS[1],
    )
    save_model(tmp_path / "a.safetensors", network(card, 0.1), card)
    basis = LearnedBasis(tmp_path / "a.safetensors", 1.0, max_jump=1e3)
    assert (basis.refine, basis.num_modes, basis.matrices) == (None, 6, False)
    chosen = [p for p in square(1e3, 2, 32) if len(p.x) == 33**2 or p.chi.argmax() == 0]
    assert len(chosen) >= 2
    bare = [replace(p, A=None, s=None) for p in chosen]
    for p, modes, report in zip(chosen, basis.modes(bare), basis.reports, strict=False):
        assert modes.vectors.shape == (6, p.num_dofs) and not modes.values.any()
        np.testing.assert_allclose(modes.vectors[0], 1.0, atol=1e-6)
        assert (report.source, report.filtered) == ("model", None)
        if len(p.x) < 33**2:
            continue
        # 17² nodes on 33² dofs: every second dof is a node.
        inputs = network_input(p, Pose.of(p), 9, 2, CONVENTIONS[1])
        out = basis.model(inputs[None])[0]
        grid = modes.vectors.reshape(6, 33, 33)[:, ::2, ::2]
        order = [1 + axis for axis in np.argsort(Pose.of(p).axes)]
        # Dofs run along x first.
        np.testing.assert_allclose(grid, out.transpose(0, *order).swapaxes(1, 2), atol=1e-5)
    for arguments, told in (
        ({"num_modes": 5}, "num_modes must be 6, the functions that the model predicts, got 5"),
        ({"max_jump": 0.5}, "max_jump must be a number, at least 1, got 0.5"),
        ({"refine": "polish"}, "refine must be 'filter' or None, got 'polish'"),
    ):
        with expect_error(ValueError, told):
            LearnedBasis(tmp_path / "a.safetensors", 1.0, **arguments)
    refined = LearnedBasis(tmp_path / "a.safetensors", 1.0, 5, refine="filter")
    assert refined.modes(chosen[:1])[0].vectors.shape[0] == 5
    careful = LearnedBasis(tmp_path / "a.safetensors", 1.0)
    with expect_error(ValueError, r"kappa jumps by 1e\+03, more than max_jump=20; expected a fall"):
        careful.modes(bare)
    careful.modes(chosen)
    assert careful.num_fallbacks == len(chosen)
    known = replace(card, classes=("half", "corner"))
    save_model(tmp_path / "b.safetensors", network(known, 0.1), known)
    fewer = LearnedBasis(tmp_path / "b.safetensors", 1.0, max_jump=1e3)
    full = chosen.index(next(p for p in chosen if Pose.of(p).name == "full"))
    with expect_error(ValueError, "the model knows no class full; expected a fallback="):
        fewer.modes(bare)
    assert fewer.modes(chosen)[full].vectors.shape[0] == fewer.fallback.num_modes
    assert fewer.reports[full].source == "fallback"
    assert LearnedBasis(tmp_path / "b.safetensors", 1.0, fallback=FilteredBasis(3)).matrices


@serial
@pytest.mark.parametrize("cells", [16, 32])
def test_without_sweeps_the_prediction_is_compressed_and_nothing_else(files, cells):
    """The Ritz values in the span of the cosines, which are evaluated by their formula."""
    chosen = problems(box(MPI.COMM_SELF, QUAD, cells), (2, 2), two_phase(1e3))
    basis = LearnedBasis(files["cosines"], 1.0, 5, sweeps=0, max_rounds=1)
    waves = sorted(
        ((a, b) for a in range(24) for b in range(24)), key=lambda w: (w[0] ** 2 + w[1] ** 2, w)
    )[:24]
    compared = 0
    for p, modes in zip(chosen, basis.modes(chosen), strict=True):
        low, side = p.x.min(axis=0), np.ptp(p.x, axis=0)
        if not np.allclose(side, 16 / cells):
            # Where the lattice is not the mesh, the interpolated cosines are no cosines.
            continue
        compared += 1
        t = (p.x - low) / side
        if np.allclose(p.place, 1):
            t = 1 - t
        Y = np.stack([np.prod(np.cos(np.pi * t * w), axis=1) for w in waves], axis=1)
        A, S = p.A.toarray(), p.S.toarray()
        values = scipy.linalg.eigh(Y.T @ A @ Y, Y.T @ S @ Y, eigvals_only=True)[:5]
        np.testing.assert_allclose(modes.values, values, rtol=1e-4, atol=1e-4 * values[-1])
    # The middle of the coarse mesh, the corners of the fine one.
    assert compared == (1 if cells == 16 else 4)
    assert all((r.filtered.sweeps, r.filtered.rounds) == (0, 1) for r in basis.reports)


@serial
def test_sweeps(files):
    """Degree of the first filter; more of it is better."""
    p = next(p for p in square() if np.allclose(p.place, [1 / 3, 1 / 3]))
    values = []
    for sweeps in (0, 2, 8, 24):
        basis = LearnedBasis(files["cosines"], 1.0, 8, sweeps=sweeps, max_rounds=1)
        values.append(basis.modes([p])[0].values.sum())
        assert basis.reports[0].filtered.sweeps == sweeps
    assert values[0] > 1.2 * values[1] and values[1] > values[2] > values[3]
    assert values[3] < 1.02 * exact(p, 8).sum()


@serial
@pytest.mark.parametrize(
    "make",
    [
        lambda: problems(holed_square(MPI.COMM_SELF, 24), (3, 3), two_phase(1e3)),
        lambda: problems(box(MPI.COMM_SELF, TRI, 8), (2, 2), two_phase(1e3), 2),
        lambda: problems(box(MPI.COMM_SELF, QUAD, 30), (2, 1), two_phase(1e2)),
        lambda: problems(box(MPI.COMM_SELF, QUAD, 24), (3, 3), two_phase(1e3), overlap=2),
    ],
    ids=["unstructured", "P2", "long boxes", "overlap"],
)
def test_other_meshes_degrees_and_grids(files, make):
    """One model for all of them."""
    chosen = make()
    found = LearnedBasis(files["perturbed"], 1.0, 6).modes(chosen)
    for p, modes in zip(chosen, found, strict=True):
        values = exact(p, 7)
        excess = modes.values - values[:6]
        assert excess.min() > -1e-6 * values[6]
        assert (excess / np.maximum(values[:6], 1e-2 * values[6])).max() < 0.1


@serial
def test_more_neighbourhoods_than_a_batch(files, monkeypatch):
    """The network sees a few at a time, which does not change what it says."""
    chosen = square()
    whole = LearnedBasis(files["perturbed"], 1.0, 4, precision="double").modes(chosen)
    monkeypatch.setattr(learned, "BATCH", 3)
    seen = []
    basis = LearnedBasis(files["perturbed"], 1.0, 4, precision="double")
    model = basis.model
    basis.model = Stub(model.card, lambda x: (seen.append(len(x)), model(x))[1])
    for one, two in zip(whole, basis.modes(chosen), strict=True):
        np.testing.assert_allclose(one.values, two.values, rtol=1e-3, atol=1e-6 * one.values[-1])
    assert seen == [3, 3, 3, 3, 3, 1]


@serial
def test_threads(files):
    """The same numbers; torch's own setting is left as it was."""
    before = torch.get_num_threads()
    one = LearnedBasis(files["perturbed"], 1.0, 5, num_threads=1).modes(square())
    two = LearnedBasis(files["perturbed"], 1.0, 5, num_threads=2).modes(square())
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.values, b.values, rtol=1e-4, atol=1e-6 * a.values[-1])
    assert torch.get_num_threads() == before
    # Also when something goes wrong in between, and whatever it was.
    during = []

    def fail(x):
        during.append(torch.get_num_threads())
        raise RuntimeError("no")

    torch.set_num_threads(3)
    try:
        basis = LearnedBasis(files["perturbed"], 1.0, 5, num_threads=2)
        basis.model = Stub(basis.model.card, fail)
        with pytest.raises(RuntimeError, match="no"):
            basis.modes(square())
        assert during == [2] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


class Stub:
    """A model that calls a function."""

    def __init__(self, card, call):
        self.card, self.call = card, call

    def __call__(self, inputs):
        return self.call(inputs)


# ---- fallbacks ----


@serial
def test_classes_that_the_model_lacks(files):
    """The fallback's modes, exactly; counted and explained."""
    chosen = square()
    basis = LearnedBasis(files["full only"], 1.0, 5)
    found = basis.modes(chosen)
    assert basis.num_fallbacks == 12
    assert [r.vertex for r in basis.reports] == [p.vertex for p in chosen]
    # Together: small neighbourhoods of one shape are treated as one stack, up to rounding.
    others = [p for p in chosen if Pose.of(p).name != "full"]
    fallback = iter(FilteredBasis(5).modes(others))
    for p, modes, report in zip(chosen, found, basis.reports, strict=True):
        name = Pose.of(p).name
        if name == "full":
            assert (report.source, report.reason) == ("model", "") and report.filtered
        else:
            assert (report.source, report.filtered) == ("fallback", None)
            assert report.reason == f"the model knows no class {name}"
            expected = next(fallback)
            np.testing.assert_array_equal(modes.values, expected.values)
            np.testing.assert_array_equal(modes.vectors, expected.vectors)


@serial
def test_another_fallback(files):
    chosen = square()
    basis = LearnedBasis(files["full only"], 1.0, 5, fallback=SpectralBasis(5))
    for p, modes in zip(chosen, basis.modes(chosen), strict=True):
        if Pose.of(p).name != "full":
            np.testing.assert_allclose(
                modes.values, exact(p, 5), rtol=1e-8, atol=1e-8 * modes.values[-1]
            )


@serial
@pytest.mark.parametrize("cosines", [None, 0])
@pytest.mark.parametrize(
    "name,reason",
    [
        ("nan", "the prediction is not finite"),
        ("infinite", "the prediction is not finite"),
        ("zero", "the predicted functions depend on each other"),
        ("constant", "the predicted functions depend on each other"),
    ],
)
def test_predictions_that_are_of_no_use(files, name, reason, cosines):
    """Only where they are; the others in the same batch are kept."""
    chosen = rough_at_the_left()
    basis = LearnedBasis(files[name], 1.0, 5, cosines=cosines)
    found = basis.modes(chosen)
    reasons = {p.vertex: r.reason for p, r in zip(chosen, basis.reports, strict=True)}
    bad = {p.vertex for p in chosen if p.place[0] < 0.5}
    assert {v for v, told in reasons.items() if told} == bad and basis.num_fallbacks == 8
    assert {told for told in reasons.values() if told} == {reason}
    for p, modes in zip(chosen, found, strict=True):
        values = exact(p, 6)
        assert np.isfinite(modes.vectors).all()
        assert np.abs(modes.values - values[:5]).max() < 0.02 * values[5]


@serial
@pytest.mark.parametrize("sweeps", [None, 4, 0])
@pytest.mark.parametrize("contrast", [1e2, 1e6])
def test_constant_is_in_the_space(files, sweeps, contrast):
    """Exactly, whatever the network and the filter left of it."""
    for cosines in (None, 1, 0):
        basis = LearnedBasis(
            files["without constant"], 1.0, 5, sweeps=sweeps, cosines=cosines, max_rounds=1
        )
        for p, modes in zip(square(contrast), basis.modes(square(contrast)), strict=True):
            constant = np.ones(p.num_dofs)
            share = modes.vectors @ (p.S @ constant)
            assert np.abs(constant - share @ modes.vectors).max() < 1e-10
            assert abs(modes.values[0]) < 1e-10 * exact(p, 2)[1]


@serial
@pytest.mark.parametrize("num", [8, 16])
def test_as_many_modes_as_outputs(files, num):
    """The last outputs are the worst; cosines help out."""
    chosen = square(1e3, cells=36)
    found = LearnedBasis(files["sixteen"], 1.0, num).modes(chosen)
    for p, modes in zip(chosen, found, strict=True):
        values = exact(p, num)
        excess = (modes.values - values) / np.maximum(values, 1e-3 * values[-1])
        assert excess.max() < 0.1


@serial
@pytest.mark.parametrize("name", ["huge", "tiny"])
def test_scale_of_predictions_does_not_matter(files, name):
    chosen = rough_at_the_left()
    basis = LearnedBasis(files[name], 1.0, 5)
    expected = LearnedBasis(files["cosines"], 1.0, 5).modes(chosen)
    for one, two in zip(basis.modes(chosen), expected, strict=True):
        np.testing.assert_allclose(one.values, two.values, rtol=1e-3, atol=1e-5 * two.values[-1])
    assert basis.num_fallbacks == 0


@serial
def test_contrast_beyond_that_of_training(files):
    for contrast, inside in ((1e3, True), (1e4, False)):
        basis = LearnedBasis(files["cosines"], 1.0, 4)
        basis.modes(square(contrast))
        rough = [np.ptp(np.log(p.sample.values)) > 5.0 for p in square(contrast)]
        assert any(rough)
        flags = [r.in_range for r, far in zip(basis.reports, rough, strict=True) if far]
        assert set(flags) == {inside}


# ---- solutions ----


def pose(comm, dim=2, contrast=1e3, n=None):
    n = n or (24 if dim == 2 else 8)
    msh = box(comm, QUAD if dim == 2 else HEX, n)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, two_phase(contrast))
    v, x = ufl.TestFunction(V), ufl.SpatialCoordinate(msh)
    load = (1 + x[1]) * v * ufl.dx
    bcs = [clamp(V, lambda x: np.isclose(x[0], 0.0))]
    grid = CoarseGrid(msh, (3, 3) if dim == 2 else (2, 2, 2))
    return V, grid, diffusion(V, kappa), mass(V, kappa), load, bcs, kappa


def solve(comm, make_basis, **options):
    V, grid, a, s, load, bcs, kappa = pose(comm, **options)
    basis = make_basis(kappa)
    with (
        multiscale_functionspace(V, grid, basis, a, s, bcs) as W,
        LinearProblem(a, load, W, bcs=bcs, petsc_options_prefix="learned_") as problem,
    ):
        problem.solve()
        reports = getattr(basis, "reports", [])
        return gather_function(problem.u), dof_points(V), reports


@serial
@pytest.mark.parametrize("dim,name", [(2, "cosines"), (2, "perturbed"), (3, "cube")])
def test_solution_is_as_good_as_that_of_the_eigensolver(files, dim, name):
    """Two phases, contrast 1e3, default sweeps."""
    u, _, reports = solve(MPI.COMM_SELF, lambda kappa: LearnedBasis(files[name], kappa, 8), dim=dim)
    assert len(reports) == (16 if dim == 2 else 27)
    assert {r.source for r in reports} == {"model"} and all(r.in_range for r in reports)
    reference, _, _ = solve(MPI.COMM_SELF, lambda kappa: SpectralBasis(8), dim=dim)
    _, _, a, _, load, bcs, _ = pose(MPI.COMM_SELF, dim)
    errors = [energy_error(x, a, load, bcs) for x in (u, reference)]
    assert errors[0] <= 1.05 * errors[1]
    assert 1e-3 < errors[1] < 0.5


@pytest.mark.parametrize(
    "dim,name,contrast",
    [(2, "perturbed", 1e3), (2, "full only", 1e2), (2, "nan", 1e4), (3, "cube", 1e2)],
)
def test_same_solution_on_any_number_of_ranks(files, dim, name, contrast):
    def basis(kappa):
        return LearnedBasis(files[name], kappa, 6)

    options = {"dim": dim, "contrast": contrast}
    u, points, reports = solve(COMM, basis, **options)
    alone, places, ours = on_root(lambda: solve(MPI.COMM_SELF, basis, **options))
    order = match(places, points)
    # Network and filter work in single precision.
    assert np.linalg.norm(u[order] - alone) <= 1e-5 * np.linalg.norm(alone)
    # Each neighbourhood once, from the same source.
    told = sorted((r.vertex, r.source) for part in COMM.allgather(reports) for r in part)
    assert told == sorted((r.vertex, r.source) for r in ours)


# ---- errors ----


def test_is_a_local_basis(files):
    basis = LearnedBasis(load_model(files["cosines"]), 2.0)
    assert isinstance(basis, LocalBasis)
    assert (basis.num_modes, basis.coefficient, basis.reports) == (8, 2.0, [])


@pytest.mark.parametrize(
    "arguments,told",
    [
        (
            {"num_modes": 25},
            "num_modes must be at most 24, the functions that the model predicts, got 25",
        ),
        ({"num_modes": 0}, "num_modes must be a positive integer, got 0"),
        ({"num_modes": 1.5}, "num_modes must be a positive integer, got 1.5"),
        ({"lattice": 5000}, "lattice must be at most 257 nodes in each direction for 24 channels"),
        ({"sweeps": -1}, "sweeps must be an integer from 0 to 800, got -1"),
        ({"sweeps": 2.0}, "sweeps must be an integer from 0 to 800, got 2.0"),
        ({"sweeps": True}, "sweeps must be an integer from 0 to 800, got True"),
        ({"sweeps": 10**30}, "sweeps must be an integer from 0 to 800, got 1000"),
        ({"cosines": -1}, "cosines must be an integer from 0 to 800, got -1"),
        ({"cosines": 1.0}, "cosines must be an integer from 0 to 800, got 1.0"),
        ({"tol": 2}, "tol must lie between 0 and 1, got 2"),
        ({"max_rounds": 0}, "max_rounds must be a positive integer, got 0"),
        ({"precision": 32}, "precision must be 'single', 'double' or 'auto', got 32"),
        ({"num_threads": -1}, "num_threads must be a positive integer, got -1"),
        ({"fallback": "slepc"}, "fallback must be a local basis, got 'slepc'"),
        ({"fallback": SpectralBasis}, "fallback must be a local basis, got <class"),
        ({"device": "abacus"}, "device is 'abacus', expected one that torch has here"),
    ],
    ids=str,
)
def test_bad_arguments(files, arguments, told):
    with expect_error(ValueError, told):
        LearnedBasis(files["cosines"], 1.0, **arguments)


@serial
def test_files_that_are_no_models(tmp_path):
    missing, text = tmp_path / "missing.safetensors", tmp_path / "text.safetensors"
    program = tmp_path / "program.pt"
    save_model(program, network(CARD), CARD)
    text.write_text("no model")
    for path, kind, told in (
        (missing, FileNotFoundError, f"There is no file {missing} with a model"),
        (text, ValueError, f"{text} is not a model"),
        (tmp_path, ValueError, f"{tmp_path} is not a file"),
        (program, ValueError, f"{program} is a program, .*trust=True"),
    ):
        with expect_error(kind, told):
            LearnedBasis(path, 1.0)
    assert LearnedBasis(program, 1.0, trust=True).model.card.n_out == CARD.n_out


@serial
def test_a_lattice_with_odd_samples(tmp_path):
    """Nodes are corners of sub-boxes."""
    card = replace(CARD, samples=3)
    save_model(tmp_path / "odd.safetensors", network(card), card)
    with expect_error(ValueError, "samples of kappa must be even, got 3"):
        LearnedBasis(tmp_path / "odd.safetensors", 1.0)


def test_another_dimension(files):
    """Found where the modes are computed, told on all ranks."""
    cube, flat = Sample(n=4, dim=3), Sample()
    with expect_error(ValueError, r"The model is for 2 dimensions, neighbourhood \d+ at .* has 3"):
        cube.space(basis=LearnedBasis(files["cosines"], 1.0, 3))
    with expect_error(ValueError, r"The model is for 3 dimensions, neighbourhood \d+ at .* has 2"):
        flat.space(basis=LearnedBasis(files["cube"], 1.0, 3))


def test_a_vector_problem(files):
    msh = box(COMM, QUAD, 6)
    V = fem.functionspace(msh, ("Lagrange", 1, (2,)))
    basis = LearnedBasis(files["cosines"], 1.0, 3)
    told = r"for scalar problems, neighbourhood \d at .* has 2 components; use FilteredBasis or"
    with expect_error(ValueError, told):
        multiscale_functionspace(V, CoarseGrid(msh, (2, 2)), basis, elasticity(V, 1.0))


def test_a_coefficient_that_is_bad_on_one_rank(files):
    sample = Sample()
    kappa = sample.kappa.copy()
    if HERE:
        kappa.x.array[0] = -1.0
    with expect_error(ValueError, "kappa is -1 in the cell at"):
        sample.space(basis=LearnedBasis(files["cosines"], kappa, 3))
    with expect_error(ValueError, "kappa must be a Function, .*, got None"):
        LearnedBasis(files["cosines"], None, 3)


def test_more_modes_than_dofs(files):
    """Neighbourhoods of few dofs give all they have."""
    sample = Sample()
    with sample.space(basis=LearnedBasis(files["cosines"], sample.kappa, 20)) as W:
        counts = COMM.allreduce([len(values) for values in W.eigenvalues.values()])
        assert max(counts) == 20 > min(counts)


@serial
def test_pretrained(files, monkeypatch):
    monkeypatch.setattr(learned, "pretrained_models", lambda: {"mine": files["cosines"]})
    basis = LearnedBasis.pretrained("mine", 1.0, 4, sweeps=3)
    assert (basis.num_modes, basis.sweeps, basis.model.card.n_out) == (4, 3, 24)
    with expect_error(ValueError, "name must be one of mine, got 'yours'"):
        LearnedBasis.pretrained("yours", 1.0)


# ---- torch is optional ----


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@serial
def test_no_torch_is_imported():
    code = (
        "import sys, dolfinx_msnn\n"
        "import dolfinx_msnn.bases.filtered, dolfinx_msnn.nn.lattice\n"
        "dolfinx_msnn.bases.filtered.FilteredBasis(3)\n"
        "print('torch' in sys.modules)"
    )
    assert run(code) == "False"


@serial
def test_name_in_the_package():
    assert dolfinx_msnn.LearnedBasis is LearnedBasis


@serial
def test_without_torch():
    """Asking for it says what to install; all the rest works."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import dolfinx_msnn\n"
        "dolfinx_msnn.SpectralBasis(3)\n"
        "try:\n"
        "    dolfinx_msnn.LearnedBasis\n"
        "except ImportError as exc:\n"
        "    print(exc)\n"
    )
    told = run(code)
    assert told.startswith("dolfinx_msnn.LearnedBasis needs torch, which is not installed: pip")
    is_sentence(told)


# ---- filters under autograd ----


@cache
def pairs():
    """Two pencils of one sparsity pattern."""
    made = []
    for contrast in (1e1, 1e3):
        p = next(p for p in square(contrast, 2, 10) if np.allclose(p.place, 0.5))
        made.append((p.A, p.S))
    return made


def pencils():
    """The same for training."""
    A, S = (np.stack([pair[k].data for pair in pairs()]).astype(np.float32) for k in (0, 1))
    return Pencils(pairs()[0][0].indptr, pairs()[0][0].indices, A, S)


def rounded(matrix):
    return torch.from_numpy(matrix.toarray().astype(np.float32).astype(np.float64))


def blocks(m, seed=0):
    torch.manual_seed(seed)
    return torch.randn(2, m, pairs()[0][0].shape[0])


def close(found, expected, tol=1e-5):
    assert found.dtype == torch.float32 and found.shape == expected.shape
    error = (found.double() - expected).abs().max()
    assert error <= tol * expected.abs().max()


@serial
@pytest.mark.parametrize("which", ["apply_a", "apply_s"])
def test_products_and_their_gradients(which):
    """Y A and its transpose; gradients of second order, too."""
    dense = torch.stack([rounded(pair[which == "apply_s"]) for pair in pairs()])
    apply = getattr(pencils(), which)
    for m in (1, 5, 16):
        y = blocks(m).requires_grad_()
        out = apply(y)
        close(out, y.detach().double() @ dense)
        weight = blocks(m, 1)
        (gradient,) = torch.autograd.grad((out * weight).sum(), y)
        close(gradient, weight.double() @ dense)
        energy = 0.5 * (apply(y) * y).sum()
        (gradient,) = torch.autograd.grad(energy, y)
        close(gradient, y.detach().double() @ dense)


@serial
@pytest.mark.parametrize("degree", [1, 2, 7])
def test_filter_and_its_gradient(degree):
    """p(D⁻¹A) y by dense linear algebra, and its transpose for the gradient."""
    maps = []
    for A, _ in pairs():
        A = A.toarray().astype(np.float32).astype(float)
        d = A.diagonal()
        upper = (np.abs(A).sum(axis=1) / d).max()
        lower = min(0.5, (np.pi / (2 * degree)) ** 2) * upper
        p = Chebyshev.basis(degree, domain=[lower, upper])
        mu, U = scipy.linalg.eigh(A, np.diag(d))
        # D⁻¹A = U diag(mu) Uᵀ D
        maps.append(torch.from_numpy(U * (p(mu) / p(0.0)) @ (U.T * d)))
    dense = torch.stack(maps)
    y = blocks(6).requires_grad_()
    before = y.detach().clone()
    out = pencils().filter(y, degree)
    assert torch.equal(y.detach(), before)
    close(out, before.double() @ dense.transpose(1, 2), 1e-4)
    weight = blocks(6, 1)
    (gradient,) = torch.autograd.grad((out * weight).sum(), y)
    close(gradient, weight.double() @ dense, 1e-4)


@serial
def test_filter_of_degree_zero():
    y = blocks(3)
    assert torch.equal(pencils().filter(y, 0), y)


@serial
@pytest.mark.parametrize("shapes", [((2, 5), (3, 5)), ((2, 4), (2, 4)), ((5,), (5,))])
def test_pencils_that_do_not_fit(shapes):
    indptr, indices = np.array([0, 2, 5], np.int32), np.array([0, 1, 0, 1, 1], np.int32)
    A, S = (np.ones(shape, np.float32) for shape in shapes)
    with pytest.raises(ValueError, match=r"Expected entries of shape \(B, 5\) .*, got") as error:
        Pencils(indptr, indices, A, S)
    is_sentence(str(error.value))
