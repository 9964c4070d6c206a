# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Training: configuration, schedule, a step's parts, exact resumption, signals, files."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

from mpi4py import MPI

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import scipy.linalg  # noqa: E402
from sample import is_sentence  # noqa: E402

from dolfinx import mesh  # noqa: E402
from dolfinx_msnn import CoarseGrid  # noqa: E402
from dolfinx_msnn.nn import dataset, losses, steps, train  # noqa: E402
from dolfinx_msnn.nn.checkpoint import (  # noqa: E402
    Muon,
    create_network,
    create_state,
    save_checkpoint,
)
from dolfinx_msnn.nn.config import LOSSES, Config  # noqa: E402
from dolfinx_msnn.nn.model import load_model  # noqa: E402

pytestmark = pytest.mark.serial

CONFIGS = os.path.join(os.path.dirname(__file__), "..", "..", "configs")
TABLE = {
    "seed": 3,
    "problem": {"cells": [10, 10], "coarse": [2, 2]},
    "data": {
        "path": "a.h5",
        "num_fields": 8,
        "num_modes": 3,
        "lattice": 6,
        "validation": 0.25,
        "test": 0.1,
    },
    "family": [
        {"name": "two_phase", "contrast": {"log10": [0, 3]}, "correlation_length": 0.15},
        {"name": "log_normal", "variance": [0.5, 2.0], "correlation_length": 0.2},
    ],
    "network": {"outputs": 5, "width": 8, "modes": 4, "layers": 2},
    "training": {
        "sweeps": 2,
        "batch_size": 8,
        "steps": 40,
        "warmup": 4,
        "validate_every": 10,
        "learning_rate": 5e-3,
        "ema": 0.8,
    },
}


def table(**changed):
    """The configuration with some keys changed, given as ``table__key``."""
    made = {k: dict(v) if isinstance(v, dict) else v for k, v in TABLE.items()}
    for name, value in changed.items():
        part, _, key = name.partition("__")
        if key:
            made.setdefault(part, {})[key] = value
        else:
            made[part] = value
    return made


def write_samples(path, table=TABLE, **more):
    config = Config.parse(table)
    fine = mesh.create_unit_square(MPI.COMM_SELF, 10, 10, mesh.CellType.quadrilateral)
    dataset.generate(
        path,
        CoarseGrid(fine, config.problem.coarse),
        config.families,
        num_fields=8,
        num_modes=3,
        lattice=6,
        seed=3,
        comm=MPI.COMM_SELF,
        **more,
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    path = tmp_path_factory.mktemp("samples") / "a.h5"
    write_samples(path)
    return str(path)


def config(samples, **changed):
    return Config.parse(table(data__path=samples, **changed))


def checkpoint(folder):
    return torch.load(os.path.join(folder, "checkpoint.pt"), weights_only=True)


@pytest.mark.parametrize("program", ["training", "gpu"])
def test_without_dolfinx(solved, tmp_path, program):
    """In a process that can import nothing but torch, h5py and the like."""
    names = ("dolfinx", "petsc4py", "slepc4py", "mpi4py", "ufl", "basix", "ffcx", "cffi")
    (tmp_path / "a.toml").write_text(
        f"seed = 3\n[problem]\ncells = [10, 10]\ncoarse = [2, 2]\n[data]\npath = {solved!r}\n"
        "num_fields = 8\nnum_modes = 3\nlattice = 6\nvalidation = 0.25\nsolutions = 3\n"
        "kinds = ['drop', 'smooth']\n[[family]]\nname = 'log_normal'\n[network]\noutputs = 5\n"
        "fine = true\nsteps = 1\nwidth = 4\nmodes = 3\nlayers = 1\n[training]\n"
        "loss = 'solutions + energy'\nsweeps = 2\nsteps = 2\nvalidate_every = 1\n"
    )
    gpu = os.path.join(CONFIGS, "..", "benchmarks", "gpu.py")
    start, options = {
        "training": ("run_module('dolfinx_msnn.nn.train'", ["-o", str(tmp_path / "run")]),
        "gpu": (f"run_path({gpu!r}", ["--quick", "--output", str(tmp_path / "gpu.json")]),
    }[program]
    code = (
        "import runpy, sys\n"
        f"for name in {names!r}: sys.modules[name] = None\n"
        f"runpy.{start}, run_name='__main__')\n"
        f"assert not [n for n in sys.modules if n.split('.')[0] in {names!r} and sys.modules[n]]\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "a.toml"), *options]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if program == "gpu":
        report = json.loads((tmp_path / "gpu.json").read_text())
        assert report["training"]["steps"] == 2
        assert set(report["forward"]) == set(report["sweeps"]) == {"1", "4"}
        assert min([*report["forward"].values(), *report["sweeps"].values()]) > 0
        return
    assert "all steps are done" in done.stdout
    assert load_model(tmp_path / "run" / "a.safetensors").card.loads == ("drop", "smooth")


# ---- configuration ----


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"sed": 1}, r"^sed is not a known key"),
        ({"training__loss": "energy + x"}, r"^training.loss must be one of .*, got 'energy \+ x'"),
        ({"training__loss": "energy sal"}, r"^training.loss must be one of .*, got 'energy sal'"),
        ({"training__loss": "solutions"}, r"^The loss solutions needs data.solutions of at least"),
        ({"data__kinds": ["rain"]}, r"^data.kinds\[0\] must be one of drop, .*, got 'rain'"),
        ({"network__steps": 2}, r"^network.steps needs network.fine"),
        ({"seed": "x"}, r"^seed must be an integer"),
        ({"seed": -1}, r"^seed must be at least 0"),
        ({"name": "a/b"}, r"^name must be usable"),
        ({"family": []}, r"^family must be"),
        ({"problem": 3}, r"^problem must be a table"),
        ({"problem__cells": [10]}, r"^problem.cells must be two or three"),
        ({"problem__cells": 10}, r"^problem.cells must be a list"),
        ({"problem__cells": [10, 1.5]}, r"^problem.cells\[1\] must be an integer"),
        ({"problem__coarse": [2, 2, 2]}, r"^problem.coarse must be as long as"),
        ({"problem__cell": "hexahedron"}, r"^problem.cell must be one of triangle"),
        ({"data__lattice": 2}, r"^data.lattice must be between 3 and 257"),
        ({"data__lattice": 258}, r"^data.lattice must be between 3 and 257"),
        (
            {"data__lattice": 257, "network__width": 300},
            r"^data.lattice must be at most 236 nodes in each direction for 600 channels, got 257",
        ),
        ({"network__outputs": 1025}, r"^network.outputs must be between 1 and 1024"),
        ({"data__samples": 3}, r"^data.samples must be even"),
        ({"data__num_fields": True}, r"^data.num_fields must be an integer"),
        ({"data__validation": 0.8, "data__test": 0.3}, r"^data.validation and data.test"),
        ({"network__depth": 3}, r"^network.depth is not a known key"),
        ({"network__width": 0}, r"^network.width must be between 1 and 4096"),
        ({"training__loss": "mse"}, r"^training.loss must be one of energy"),
        ({"training__learning_rate": "fast"}, r"^training.learning_rate must be a number"),
        ({"training__learning_rate": float("nan")}, r"^training.learning_rate must be a number"),
        ({"training__ema": 1.0}, r"^training.ema must be between"),
        ({"training__augment": 1}, r"^training.augment must be true or false"),
        ({"training__device": "tpu"}, r"^training.device must be one of"),
        ({"training__steps": 0}, r"^training.steps or training.max_minutes"),
        ({"training__clip": 10**400}, r"^training.clip must be a number"),
        ({"family": [{"name": ["noise"]}]}, r"^family\[0\].name must be one of"),
        ({"family": [{"name": "noise"}]}, r"^family\[0\].name must be one of"),
        ({"family": [{"name": "channels", "fraction": 0.5}]}, r"^family\[0\].fraction is no"),
        ({"family": [{"name": "two_phase", "contrast": 0.5}]}, r"contrast must be at least 1"),
        ({"family": [{"name": "two_phase", "contrast": [3, 2]}]}, r"contrast must be a number, \["),
        (
            {"family": [{"name": "two_phase", "contrast": {"log10": [0, 400]}}]},
            r"log10 must be betw",
        ),
        ({"family": [{"name": "two_phase", "weight": 0}]}, r"weight must be a positive number"),
    ],
)
def test_wrong_keys_are_named(changed, match):
    with pytest.raises(ValueError, match=match) as caught:
        Config.parse(table(**changed))
    is_sentence(str(caught.value))


def test_missing_keys_are_named():
    wrong = table()
    del wrong["data"]["lattice"]
    with pytest.raises(ValueError, match=r"^data.lattice is missing"):
        Config.parse(wrong)


def test_files_that_are_no_configuration(tmp_path):
    path = tmp_path / "a.toml"
    with pytest.raises(FileNotFoundError, match="There is no configuration file") as caught:
        Config.read(path)
    is_sentence(str(caught.value))
    path.write_text("seed = = 1\n")
    with pytest.raises(ValueError, match=r"a\.toml is not a TOML file") as caught:
        Config.read(path)
    is_sentence(str(caught.value))
    path.write_text("seed = 'x'\n")
    with pytest.raises(ValueError, match=r"a\.toml: seed must be an integer"):
        Config.read(path)


@pytest.mark.parametrize("name", sorted(os.listdir(CONFIGS)))
def test_shipped_configurations(name):
    made = Config.read(os.path.join(CONFIGS, name))
    assert made.name == name.removesuffix(".toml")


def test_draws_lie_in_their_ranges():
    families = Config.parse(table()).families
    rng = np.random.default_rng(0)
    contrasts = np.array([families[0].draw(rng)["contrast"] for _ in range(500)])
    assert contrasts.min() >= 1
    assert contrasts.max() <= 1000
    # Uniform exponents: the median is the square root of the largest.
    assert 20 < np.median(contrasts) < 50
    assert families[0].draw(rng)["correlation_length"] == 0.15


# ---- parts of a step ----


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_schedules(samples, schedule):
    options = config(samples, training__schedule=schedule, training__warmup=20).training
    rates = np.array([steps.learning_rate(options, k, 1000) for k in range(1000)])
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(5e-3)
    assert top == pytest.approx(300 if schedule == "one_cycle" else 20, abs=2)
    assert np.all(np.diff(rates[: top + 1]) > 0)
    assert np.all(np.diff(rates[top + 1 :]) <= 0)
    assert rates[0] < 0.1 * rates[top]
    assert rates[-1] < 0.01 * rates[top]


def test_interpolation_has_the_right_gradient(samples):
    group = dataset.load(samples).groups[0]
    shape = steps.Shape(group, torch.device("cpu"), config(samples).data, False)
    y = torch.randn(2, 3, 36, requires_grad=True)
    out = shape.interpolate(y)
    dense = torch.from_numpy(group.interpolation(6).toarray())
    expected = torch.einsum("nk,bmk->bmn", dense, y)
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    (gradient,) = torch.autograd.grad((out * weights).sum(), y)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), y)
    torch.testing.assert_close(gradient, wanted)


def shapes_of(samples, **split):
    """All shapes, and all samples by shape and row."""
    groups = dataset.load(samples, **split).groups
    members = np.array([(k, row) for k, group in enumerate(groups) for row in range(len(group))])
    made = [steps.Shape(g, torch.device("cpu"), config(samples).data, False) for g in groups]
    return made, members


class Equivariant(torch.nn.Module):
    """A stand-in for a network that commutes with all symmetries: smooths log κ."""

    def forward(self, x):
        y = x[:, :4].sum(dim=1, keepdim=True)
        return torch.nn.functional.avg_pool2d(y, 3, 1, 1)


def test_augmentation_of_an_equivariant_network_changes_nothing(samples, tmp_path):
    shapes, members = shapes_of(samples)
    network = Equivariant()

    def predict(rng):
        return [y for *_, y in steps.predict(network, shapes, members, rng)]

    plain = predict(None)
    moved = predict(np.random.default_rng(0))
    assert len(plain) > 3
    for one, two in zip(plain, moved, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    # It would notice: with a network that is not, predictions move.
    network.forward = lambda x: x[:, 4:5] * x[:, :1]
    pairs = zip(predict(None), predict(np.random.default_rng(0)), strict=True)
    assert any(float((a - b).abs().max()) > 0.1 for a, b in pairs)


def test_validation_is_the_energy_defect(samples, tmp_path):
    """Against dense projections in double precision, of tensor cosines, without a filter."""
    changed = config(samples, training__sweeps=0, training__ema=0.0)
    network = create_network(changed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    unseen, _ = shapes_of(samples, split="validation", validation=0.25)
    found = steps.validate(network, unseen, changed.training)
    line = np.pi * np.linspace(0, 1, 6)
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)]
    functions = np.array([np.outer(np.cos(i * line), np.cos(j * line)).ravel() for i, j in pairs])
    defects = {}
    for group in dataset.load(samples, split="validation", validation=0.25).groups:
        Y = (group.interpolation(6) @ functions.T).astype(float)
        for k in range(len(group)):
            A, S = (m.toarray().astype(float) for m in group.pencil(k))
            M = A + group.eigenvalues[k, -1] * S
            modes = group.modes[k].T.astype(float)
            rest = modes - Y @ scipy.linalg.solve(Y.T @ M @ Y, Y.T @ M @ modes, assume_a="pos")
            ratio = np.sum(rest * (M @ rest), 0) / np.sum(modes * (M @ modes), 0)
            for name in ("all", group.class_name):
                defects.setdefault(name, []).append(ratio.mean())
    assert set(found) == set(defects)
    for name, values in defects.items():
        assert found[name] == pytest.approx(np.mean(values), rel=1e-3, abs=1e-6)


SOLVED = {
    "data__solutions": 3,
    "data__kinds": ["drop", "smooth"],
    "network__fine": True,
    "network__constant": True,
    "network__steps": 2,
    "training__loss": "solutions",
    "training__optimiser": "muon",
    "training__sweeps": 0,
}


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A set of samples with solutions."""
    path = tmp_path_factory.mktemp("solved") / "a.h5"
    write_samples(path, solutions=3, kinds=["drop", "smooth"])
    return str(path)


def test_validation_is_what_is_missed_of_solutions(solved):
    """Against dense projections in double precision; the labels' modes miss as much on average."""
    changed = config(solved, **SOLVED, training__ema=0.0)
    options, data = changed.training, changed.data
    groups = dataset.load(solved, split="validation", validation=0.25).groups
    shapes = [steps.Shape(g, torch.device("cpu"), data, True) for g in groups]
    network = create_network(changed)
    for part in (network.head, network.local):
        torch.nn.init.normal_(part.weight, std=0.1)
    found = steps.validate(network, shapes, options)
    errors = {}
    for group in groups:
        with torch.no_grad():
            y = network(torch.from_numpy(group.inputs)).flatten(2).numpy().astype(float)
        lattice, kinds = group.interpolation(11).astype(float), np.array([0, 1, 0])
        left, own = [], []
        for functions in (y @ lattice.T.toarray(), group.modes.astype(float)):
            for k, F in enumerate(functions):
                A = group.pencil(k)[0].toarray().astype(float)
                Y, U = ((F * group.weight[k]).T, (group.solutions[k] * group.weight[k]).T)
                rest = U - Y @ scipy.linalg.lstsq(Y.T @ A @ Y, Y.T @ A @ U)[0]
                left.append(np.sum(rest * (A @ rest), 0))
                own.append(np.sum(group.solutions[k].T * (A @ group.solutions[k].T), 0))
        left, own = (np.array(t).reshape(2, len(group), 3) for t in (left, own))
        left /= own[0] + own[0].mean()
        for kind in (0, 1):
            left[:, :, kinds == kind] /= left[1][:, kinds == kind].mean()
        for name in ("all", group.class_name):
            errors.setdefault(name, []).extend(left[0].mean(axis=1))
    assert set(found) == set(errors)
    for name, values in errors.items():
        assert found[name] == pytest.approx(np.sqrt(np.mean(values)), rel=2e-3)


def test_missed_of_solutions_where_kappa_jumps_by_a_million(tmp_path):
    """Against least squares in double precision; in single precision most of it is rounding."""
    path = str(tmp_path / "a.h5")
    high = {"name": "two_phase", "contrast": 1e6, "correlation_length": 0.15}
    write_samples(path, TABLE | {"family": [high]}, solutions=3, kinds=["drop", "values", "one"])
    for group in dataset.load(path).groups:
        shape = steps.Shape(group, torch.device("cpu"), config(path, **SOLVED).data, True)
        found = steps.missed(shape, np.arange(len(group)), torch.from_numpy(group.modes)).numpy()
        assert np.all(found > -1e-6) and np.all(shape.scale.numpy() > 0)
        for k in range(len(group)):
            A = group.pencil(k)[0].toarray().astype(float)
            A -= np.diag(A.sum(axis=1))
            values, vectors = scipy.linalg.eigh(A)
            root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
            F, U = (root @ (t[k] * group.weight[k]).T for t in (group.modes, group.solutions))
            rest = U - F @ scipy.linalg.lstsq(F, U)[0]
            exact = shape.scale[k].numpy() * np.sum(rest**2, 0) / np.sum(U**2, 0)
            assert found[k] == pytest.approx(exact, rel=2e-2, abs=1e-4)


def test_training_on_solutions(solved, tmp_path):
    """Better than where it began; what it leaves is a model that says what it was trained on."""
    changed = config(solved, **SOLVED, training__steps=60, training__validate_every=15)
    result = train.train(changed, output=tmp_path / "a")
    rows = checkpoint(tmp_path / "a")["history"]
    assert rows[-1]["all"] < 0.97 * rows[0]["all"]
    card = load_model(result.model).card
    assert (card.loads, card.fine, card.constant, card.steps) == (("drop", "smooth"), True, True, 2)
    assert card.in_channels == 10
    # Half of it, and then the rest: the same bits, also of Muon.
    train.train(changed, output=tmp_path / "b", stop=lambda step: step == 31)
    train.train(changed, output=tmp_path / "b", resume=True)
    one, two = (checkpoint(tmp_path / name) for name in "ab")
    assert all(torch.equal(v, two["network"][k]) for k, v in one["network"].items())


def test_muon_is_that_of_torch():
    """Torch's takes one matrix at a time, and products in half precision."""
    torch.manual_seed(0)
    many = torch.nn.Parameter(torch.randn(2, 3, 9, 6))
    single = [torch.nn.Parameter(m.clone()) for m in many.detach().reshape(-1, 9, 6)]
    start = many.detach().clone()
    one = Muon([many], 1e-2, 1e-2)
    two = torch.optim.Muon(single, 1e-2, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        many.grad = torch.randn_like(many)
        for p, g in zip(single, many.grad.reshape(-1, 9, 6), strict=True):
            p.grad = g.clone()
        one.step()
        two.step()
    moved, wanted = many.detach() - start, torch.stack(single).detach().reshape(start.shape) - start
    assert float((moved - wanted).norm()) < 0.03 * float(wanted.norm())


def test_terms_of_losses(samples):
    options = config(samples, training__loss="sal + 0.25 energy").training
    assert options.terms == {"sal": 1.0, "energy": 0.25}


# ---- training ----


@pytest.fixture(scope="module")
def trained(samples, tmp_path_factory):
    """Forty steps on end."""
    folder = str(tmp_path_factory.mktemp("trained"))
    return folder, train.train(config(samples), output=folder)


@pytest.mark.parametrize("augment", [False, True])
def test_steps_on_the_same_samples_learn_them(samples, tmp_path, augment):
    changed = config(samples, training__learning_rate=1e-2, training__augment=augment)
    state = create_state(changed, torch.device("cpu"))
    shapes, members = shapes_of(samples, split="train", validation=0.25)
    found = []
    for _ in range(40):
        found.append(steps.step(state, changed, shapes, members[::6]))
        state.step += 1
    assert np.mean(found[-5:]) < 0.8 * found[0]


def test_what_training_leaves(samples, trained):
    folder, result = trained
    assert result.steps == 40
    assert not result.interrupted
    assert result.reason == "all steps are done"
    with open(os.path.join(folder, "curves.csv")) as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40]
    assert {"loss", "all", "full", "half", "corner"} < set(rows[0])
    assert min(float(row["all"]) for row in rows) == pytest.approx(result.validation["all"])
    with open(os.path.join(folder, "curves.png"), "rb") as stream:
        assert stream.read(8) == b"\x89PNG\r\n\x1a\n"
    left = {"checkpoint.pt", "curves.csv", "curves.png", "model.safetensors"}
    assert set(os.listdir(folder)) == left


def test_the_model_is_that_of_the_best_validation(samples, trained):
    folder, result = trained
    assert result.model == os.path.join(folder, "model.safetensors")
    model = load_model(result.model)
    assert (model.card.dim, model.card.lattice, model.card.samples) == (2, 6, 2)
    assert model.card.n_out == 5
    assert model.card.validation["all"] == pytest.approx(result.validation["all"])
    assert set(model.card.classes) == {"full", "half", "corner"}
    best = create_network(config(samples))
    best.load_state_dict(checkpoint(folder)["best_state"])
    inputs = dataset.load(samples).groups[0].inputs
    with torch.no_grad():
        expected = best(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-4, atol=1e-5)


def test_resumed_training_ends_with_the_same_bits(samples, trained, tmp_path):
    """40 steps are 17 and 23 steps: weights, average, optimiser and curves."""
    folder = str(tmp_path)
    first = train.train(config(samples), output=folder, stop=lambda step: step == 17)
    assert first.interrupted
    assert first.steps == 17
    torch.manual_seed(99)
    second = train.train(config(samples), output=folder, resume=True)
    assert second.steps == 40
    one, two = checkpoint(trained[0]), checkpoint(folder)
    for part in ("network", "average", "best_state"):
        assert set(one[part]) == set(two[part])
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name]), (part, name)
    for k, state in one["optimisers"][0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, two["optimisers"][0]["state"][k][name])
    for a, b in zip(one["history"], two["history"], strict=True):
        assert {k: v for k, v in a.items() if k != "elapsed_s"} == {
            k: v for k, v in b.items() if k != "elapsed_s"
        }


@pytest.mark.parametrize("loss", [*LOSSES[:-1], "sal + 0.5 energy"])
@pytest.mark.parametrize("sweeps", [0, 2])
def test_every_loss_trains(samples, tmp_path, loss, sweeps):
    changed = config(
        samples,
        training__loss=loss,
        training__sweeps=sweeps,
        training__steps=3,
        training__ema=0.0,
        training__schedule="one_cycle",
    )
    start = create_state(changed, torch.device("cpu")).network.state_dict()
    result = train.train(changed, output=tmp_path / "b")
    assert result.steps == 3
    assert np.isfinite(result.validation["all"])
    end = checkpoint(tmp_path / "b")["network"]
    assert all(torch.isfinite(v).all() for v in end.values())
    assert sum(not torch.equal(v, end[k]) for k, v in start.items()) > len(start) // 2


def test_time_budget(samples, tmp_path):
    changed = config(samples, training__steps=0, training__max_minutes=0.04)
    start = time.monotonic()
    result = train.train(changed, output=tmp_path)
    assert time.monotonic() - start < 30
    assert not result.interrupted
    assert result.steps > 5
    state = checkpoint(tmp_path)
    assert state["elapsed"] < 60 * 0.04 + 5


def test_early_stopping(samples, tmp_path):
    changed = config(
        samples,
        training__learning_rate=1e-12,
        training__patience=2,
        training__validate_every=1,
        training__ema=0.0,
    )
    result = train.train(changed, output=tmp_path)
    assert result.steps < 40
    assert "no progress in 2 validations" in result.reason


# ---- mistakes ----


def test_a_folder_with_a_checkpoint_is_not_overwritten(samples, trained):
    with pytest.raises(ValueError, match="is there already") as caught:
        train.train(config(samples), output=trained[0])
    is_sentence(str(caught.value))


def test_nothing_to_resume(samples, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        train.train(config(samples), output=tmp_path, resume=True)


def test_resume_with_another_configuration(samples, trained, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(trained[0], folder)
    with pytest.raises(ValueError, match=r"another network\.width") as caught:
        train.train(config(samples, network__width=9), output=folder, resume=True)
    is_sentence(str(caught.value))
    result = train.train(config(samples, training__steps=42), output=folder, resume=True)
    assert result.steps == 42


def test_no_space_for_a_checkpoint(samples, tmp_path):
    """What was there before stays."""
    path, options = tmp_path / "checkpoint.pt", config(samples)
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"Cannot write .*checkpoint\.pt") as caught:
            save_checkpoint(str(path), create_state(options, torch.device("cpu")), options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    is_sentence(str(caught.value))
    assert os.listdir(tmp_path) == ["checkpoint.pt"] and path.read_text() == "before"


def test_damaged_checkpoint(samples, trained, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(trained[0], folder)
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a readable checkpoint") as caught:
        train.train(config(samples), output=folder, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"seed": 4}, "seed=3"),
        ({"data__lattice": 7}, "lattice=6"),
        ({"network__outputs": 2}, "network.outputs must be at least the 3 modes"),
        ({"data__validation": 0.0}, "no field in the split validation"),
    ],
)
def test_samples_that_do_not_fit(samples, tmp_path, changed, match):
    with pytest.raises(ValueError, match=match) as caught:
        train.train(config(samples, **changed), output=tmp_path / "a")
    is_sentence(str(caught.value))
    assert not os.path.exists(tmp_path / "a")


def test_a_loss_that_is_not_finite_ends_training(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "energy", lambda y, *args, **kwargs: y.sum() * float("nan"))
    with pytest.raises(ValueError, match="The loss is nan") as caught:
        train.train(config(samples), output=tmp_path)
    is_sentence(str(caught.value))


CHILD = """
import sys
sys.path[:] = {path!r}
import test_train
from dolfinx_msnn.nn import train
made = test_train.config({samples!r}, training__steps=100000, training__checkpoint_seconds=0)
result = train.train(made, output={output!r})
assert result.interrupted
sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals(samples, tmp_path, number):
    """After SIGTERM and even SIGKILL there is a whole checkpoint, and training goes on from it."""
    folder = str(tmp_path / "a")
    code = CHILD.format(path=sys.path, samples=samples, output=folder)
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    path, deadline = os.path.join(folder, "checkpoint.pt"), time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(number)
    error = child.communicate()[1].decode()
    assert child.returncode == (130 if number == signal.SIGTERM else -number), error
    done = checkpoint(folder)["step"]
    assert done > 0
    steps = done + 2
    result = train.train(config(samples, training__steps=steps), output=folder, resume=True)
    assert result.steps == steps
    assert not result.interrupted
