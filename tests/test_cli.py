# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The command ``msnn``: what it writes, says and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from mpi4py import MPI  # noqa: F401

import pytest

pytest.importorskip("torch")
typer = pytest.importorskip("typer")

from sample import is_sentence  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from dolfinx_msnn.cli.commands import app  # noqa: E402
from dolfinx_msnn.nn import dataset  # noqa: E402

pytestmark = pytest.mark.serial

CONFIG = """
seed = 2
name = "tiny"
[problem]
cells = [8, 8]
coarse = [2, 2]
cell = "{cell}"
[data]
path = "{folder}/tiny.h5"
num_fields = 8
num_modes = 2
lattice = 5
validation = 0.3
[[family]]
name = "inclusions"
contrast = 100
[network]
outputs = 3
width = 6
modes = 3
layers = 1
[training]
sweeps = 1
steps = {steps}
validate_every = 5
"""


def write(folder, *, steps=10, cell="triangle"):
    path = folder / "tiny.toml"
    path.write_text(CONFIG.format(folder=folder, steps=steps, cell=cell))
    return str(path)


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def fails(code, match, *arguments):
    """The command must fail with one sentence on standard error and nothing else."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert match in result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Sampled and trained."""
    folder = tmp_path_factory.mktemp("cli")
    config = write(folder)
    sampled = call("sample", config)
    assert sampled.exit_code == 0, sampled.output
    assert "8 new fields" in sampled.stdout
    trained = call("train", config, "-o", folder / "run")
    assert trained.exit_code == 0, trained.output
    assert "10 steps, all steps are done." in trained.stdout
    return folder, config


def test_samples_are_those_of_the_configuration(done):
    found = dataset.load(done[0] / "tiny.h5")
    assert len(found.descriptions) == 8
    assert {d["family"] for d in found.descriptions.values()} == {"inclusions"}
    assert found.provenance["cell"] == "triangle"
    assert found.provenance["lattice"] == 5
    assert len(found) == 8 * 9


def test_sampling_again_adds_what_is_missing(done):
    folder, config = done
    assert "0 new fields" in call("sample", config).stdout
    assert "1 new fields" in call("sample", config, "--fields", "9").stdout
    assert len(dataset.load(folder / "tiny.h5").descriptions) == 9


def test_info(done):
    model = done[0] / "run" / "tiny.pt"
    result = call("info", model)
    assert result.exit_code == 0, result.output
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert rows["dim"] == "2"
    assert rows["family"] == "inclusions"
    card = json.loads(call("info", model, "--json").stdout)
    assert card["n_out"] == 3
    assert 0 <= card["validation"]["all"] <= 1


def test_resume(done):
    folder, config = done
    assert "10 steps" in call("train", config, "-o", folder / "run", "--resume").stdout
    message = fails(1, "is there already", "train", config, "-o", folder / "run")
    is_sentence(message.strip())


def test_errors_are_one_sentence(tmp_path):
    config = write(tmp_path)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(CONFIG.format(folder=tmp_path, steps='"many"', cell="triangle"))
    (tmp_path / "text.pt").write_text("no model")
    for match, *arguments in (
        ("There is no configuration file", "sample", tmp_path / "none.toml"),
        ("training.steps must be an integer", "train", wrong),
        ("training.steps must be an integer", "sample", wrong),
        ("There is no file", "train", config, "-o", tmp_path / "run"),
        ("none.pt", "info", tmp_path / "none.pt"),
        ("text.pt", "info", tmp_path / "text.pt"),
    ):
        message = fails(1, match, *arguments)
        assert message.startswith("msnn: ")
        is_sentence(message.strip())
    coarse = tmp_path / "coarse.toml"
    coarse.write_text(CONFIG.format(folder=tmp_path, steps=1, cell="quadrilateral"))
    coarse.write_text(coarse.read_text().replace("coarse = [2, 2]", "coarse = [20, 20]"))
    is_sentence(fails(1, "finer than the mesh", "sample", coarse).strip())


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["sample"], ["train", "a.toml", "--fast"], ["sample", "a", "--fields", "0"]],
)
def test_wrong_command_lines(arguments):
    assert call(*arguments).exit_code == 2


def test_interrupted_training_goes_on(tmp_path):
    """SIGINT: exit code 130, a checkpoint, and --resume."""
    config = write(tmp_path, steps=100000)
    assert call("sample", config).exit_code == 0
    command = [sys.executable, "-m", "dolfinx_msnn.cli", "train", config, "-o", tmp_path / "run"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    curves, deadline = tmp_path / "run" / "curves.csv", time.monotonic() + 60
    while not curves.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    out, error = (text.decode() for text in child.communicate())
    assert child.returncode == 130, error
    assert "interrupted" in out
    assert "Traceback" not in error
    steps = int(out.split()[0])
    config = write(tmp_path, steps=steps + 5)
    again = call("train", config, "-o", tmp_path / "run", "--resume")
    assert again.exit_code == 0, again.output
    assert f"{steps + 5} steps" in again.stdout
    assert os.path.exists(tmp_path / "run" / "tiny.pt")
