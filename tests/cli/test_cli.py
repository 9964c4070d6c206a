# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The command ``msnn``: what it writes, says and returns. For ``solve`` see test_cli_solve.py."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time

from mpi4py import MPI

import numpy as np
import pytest

typer = pytest.importorskip("typer")

from sample import is_sentence, local_problems  # noqa: E402
from typer.testing import CliRunner  # noqa: E402
from utils import QUAD, box, cell_field, diffusion, mass, on_ranks, two_phase  # noqa: E402

from dolfinx_msnn import __version__  # noqa: E402
from dolfinx_msnn._utils import compat  # noqa: E402
from dolfinx_msnn.bases.spectral import SpectralBasis  # noqa: E402
from dolfinx_msnn.cli import checks, compare  # noqa: E402
from dolfinx_msnn.cli.commands import app  # noqa: E402
from dolfinx_msnn.nn import dataset  # noqa: E402

pytestmark = pytest.mark.serial
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
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
    pytest.importorskip("torch")
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
    model = done[0] / "run" / "tiny.safetensors"
    result = call("info", model)
    assert result.exit_code == 0, result.output
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert rows["dim"] == "2"
    assert rows["family"] == "inclusions"
    card = json.loads(call("info", model, "--json").stdout)
    assert card["n_out"] == 3
    assert 0 <= card["validation"]["all"] <= 1


def test_export(done, tmp_path):
    model, programs = done[0] / "run" / "tiny.safetensors", [tmp_path / "a.pt", tmp_path / "a.pt2"]
    for program in programs:
        assert "3 functions in 2D" in call("export", model, program).stdout
    is_sentence(fails(1, "must end in .pt or .pt2", "export", model, tmp_path / "a.onnx").strip())
    is_sentence(fails(1, "a program already", "export", *programs).strip())
    small = ("--cells", "8", "--boxes", "2", "--modes", "2", "--json")
    one_field = ("--fields", "1", "--family", "log_normal", *small)
    is_sentence(fails(1, "msnn: --trust", "evaluate", programs[0], *one_field).strip())
    solve = ("solve", "--generator", "inclusions", "--basis", f"learned:{programs[0]}", *small)
    is_sentence(fails(1, "msnn: --trust", *solve).strip())
    for arguments in (("evaluate", programs[0], *one_field), solve):
        result = call(*arguments, "--trust")
        assert result.exit_code == 0, result.output


def test_resume(done):
    folder, config = done
    assert "10 steps" in call("train", config, "-o", folder / "run", "--resume").stdout
    message = fails(1, "is there already", "train", config, "-o", folder / "run")
    is_sentence(message.strip())


@needs_torch
def test_errors_are_one_sentence(tmp_path):
    config = write(tmp_path)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(CONFIG.format(folder=tmp_path, steps='"many"', cell="triangle"))
    (tmp_path / "text.safetensors").write_text("no model")
    for match, *arguments in (
        ("There is no configuration file", "sample", tmp_path / "none.toml"),
        ("training.steps must be an integer", "train", wrong),
        ("training.steps must be an integer", "sample", wrong),
        ("There is no file", "train", config, "-o", tmp_path / "run"),
        ("none.safetensors", "info", tmp_path / "none.safetensors"),
        ("text.safetensors", "info", tmp_path / "text.safetensors"),
    ):
        message = fails(1, match, *arguments)
        assert message.startswith("msnn: ")
        is_sentence(message.strip())
    for match, old, new in (
        ("network.outputs must be at least data.num_modes, 2", "outputs = 3", "outputs = 1"),
        ("data.lattice must be at least 7", "outputs = 3", "outputs = 40"),
        ("None of 8 fields is for validation", "validation = 0.3", "validation = 0.0"),
    ):
        wrong.write_text(CONFIG.format(folder=tmp_path, steps=1, cell="triangle").replace(old, new))
        is_sentence(fails(1, match, "sample", wrong).strip())
    assert not (tmp_path / "tiny.h5").exists()
    assert not (tmp_path / "tiny.h5.parts").exists()
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


@needs_torch
def test_interrupted_training_goes_on(tmp_path):
    """SIGINT: exit code 130, a checkpoint, and --resume."""
    config = write(tmp_path, steps=100000)
    assert call("sample", config).exit_code == 0
    command = [sys.executable, "-m", "dolfinx_msnn.cli", "train", config, "-o", tmp_path / "run"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    curves, deadline = tmp_path / "run" / "curves.csv", time.monotonic() + 240
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
    assert os.path.exists(tmp_path / "run" / "tiny.safetensors")


# ---- evaluate ----


def local_problem():
    from dolfinx import fem

    msh = box(MPI.COMM_SELF, QUAD, 8)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, two_phase(100.0))
    return local_problems((2, 2), diffusion(V, kappa), mass(V, kappa))[4]


def test_energy_defect_is_the_share_that_is_missed():
    problem = local_problem()
    every = SpectralBasis(6).modes([problem])[0]
    truth = type(every)(every.values[:4], every.vectors[:4])

    def defect(functions):
        return compare.energy_defect(problem, truth, functions)

    assert defect(truth.vectors[::-1] * 3.0) == pytest.approx(0.0, abs=1e-9)
    # Modes are orthogonal in A and in S.
    assert defect(truth.vectors[[0, 2]]) == pytest.approx(0.5)
    assert defect(every.vectors[4:]) == pytest.approx(1.0)
    M = problem.A + truth.values[-1] * problem.S
    size = [np.sqrt(v @ (M @ v)) for v in every.vectors]
    turned = truth.vectors.copy()
    turned[3] = np.cos(0.3) * every.vectors[3] / size[3] + np.sin(0.3) * every.vectors[5] / size[5]
    assert defect(turned) == pytest.approx(np.sin(0.3) ** 2 / 4)


@needs_torch
def test_evaluate_compares_bases():
    options = ("--fields", 1, "--cells", 20, "--boxes", 2, "--modes", 4)
    families = ("--family", "inclusions:100", "--family", "log_normal")
    result = call("evaluate", "diffusion-2d", *options, *families, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["cells"] == [20, 20]
    rows = found["results"]
    assert [r["basis"] for r in rows] == ["computed", "model", "filtered"] * 2
    assert [r["family"] for r in rows[::3]] == ["inclusions:100", "log_normal"]
    for computed, *others in (rows[:3], rows[3:]):
        assert computed["defect"] < 1e-9
        for other in others:
            assert 0 < other["defect"] < 0.2
            assert other["energy"] == pytest.approx(computed["energy"], rel=0.2)
            assert other["fallbacks"] == 0
    text = call("evaluate", "diffusion-2d", *options, *families[:2]).stdout
    assert text.splitlines()[0].split()[:2] == ["family", "basis"]
    assert len(text.splitlines()) == 4
    fails(2, "There is no family 'lakes'", "evaluate", "diffusion-2d", "--family", "lakes")
    fails(1, "There is no model file", "evaluate", "none.safetensors")


# ---- doctor ----


def findings(*arguments):
    """Exit code, and status by name."""
    result = call("doctor", "--json", *arguments)
    found = json.loads(result.stdout)
    names = [f["name"] for f in found["findings"]]
    assert len(set(names)) == len(names)
    assert found["problems"] == sum(f["status"] == "problem" for f in found["findings"])
    assert all(f["advice"] for f in found["findings"] if f["status"] != "ok"), found
    return result.exit_code, {f["name"]: f for f in found["findings"]}


def test_doctor_finds_a_working_installation():
    from petsc4py import PETSc

    code, found = findings()
    assert code == 0
    assert found["small problem"]["status"] == "ok"
    assert ".".join(map(str, PETSc.Sys.getVersion())) in found["PETSc"]["text"]
    assert "float64" in found["PETSc"]["text"]
    assert "mumps" in found["PETSc packages"]["text"]
    for name in ("diffusion-2d", "diffusion-3d", "solutions-2d", "solutions-3d"):
        assert found[f"model {name}"]["status"] == "ok"
    if importlib.util.find_spec("torch"):
        assert "verified" in found["model diffusion-2d"]["text"]
    text = call("doctor").stdout.splitlines()
    assert text[-1] == "0 problems."
    assert all(line.split()[0] in ("ok", "warning", "->") for line in text[:-1])


@pytest.mark.parametrize("keeps", [True, False])
def test_doctor_warns_of_a_python_that_keeps_meshes(monkeypatch, keeps):
    class Method:
        def __init__(self, function):
            if keeps:
                self._method_cache = {}

    monkeypatch.setattr(checks, "singledispatchmethod", Method)
    wrong = [f for f in checks.check_versions() if f.status != "ok"]
    assert [f.status for f in wrong] == ["warning"] * keeps
    assert all("3.13.2" in f.advice for f in wrong)


def test_doctor_finds_what_is_wrong(monkeypatch, tmp_path):
    def check_the_weather():
        yield checks.Finding("clouds", "few")
        raise KeyError("rain")

    damaged = tmp_path / "diffusion-2d.safetensors"
    data = bytearray(checks.pretrained_models()["diffusion-2d"].read_bytes())
    data[len(data) // 2] ^= 255
    damaged.write_bytes(data)
    monkeypatch.setattr(checks, "pretrained_models", lambda: {"diffusion-2d": damaged})
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(checks, "SMALL_ERROR", 1e-9)
    monkeypatch.setattr(compat, "TESTED", (0, 1))
    some = (checks.check_models, checks.check_kernel, checks.check_dolfinx, check_the_weather)
    monkeypatch.setattr(checks, "CHECKS", some)
    result = call("doctor")
    assert result.exit_code == 1
    # Without torch no weights are read.
    wrong = ["C compiler", "the_weather", "small problem"]
    wrong += ["model diffusion-2d"] * (importlib.util.find_spec("torch") is not None)
    assert f"{len(wrong)} problems." in result.stdout
    assert "-> export OMP_NUM_THREADS=1" in result.stdout
    code, found = findings_of(call("doctor", "--json"))
    assert code == 1
    assert {name for name, status in found.items() if status == "problem"} == set(wrong)
    assert found["clouds"] == "ok"
    assert found["threads"] == found["DOLFINx"] == "warning"


def findings_of(result):
    found = json.loads(result.stdout)["findings"]
    return result.exit_code, {f["name"]: f["status"] for f in found}


# ---- the command itself ----


def python(code, **environment):
    """Run code in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_without_typer_it_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None\nfrom dolfinx_msnn.cli import main; main()"
    done = python(code)
    assert done.returncode == 1
    is_sentence(done.stderr.strip())
    assert 'pip install "dolfinx-msnn[cli]"' in done.stderr


def test_doctor_without_dolfinx_or_torch():
    """What does not load is a line, and the others are there."""
    code = """
import sys
sys.modules |= dict.fromkeys(("dolfinx", "torch", "scipy"))
from dolfinx_msnn.cli import main
sys.argv = "msnn doctor".split()
main()
"""
    done = python(code)
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["ok", "dolfinx_msnn"],
        ["ok", "python"],
        ["ok", "packages"],
    ]
    assert "numpy" in lines[2]
    wrong = [line for line in lines if line.startswith("problem")]
    assert len(wrong) == 1
    assert "and dolfinx is not installed: pip install" in wrong[0]
    assert any(line.startswith("ok       MPI") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--version", f"{__version__}\n"),
        ("solve --wrong", "No such option: --wrong"),
        ("solve", "got none; as in msnn solve --generator channels."),
        ("solve --generator lakes", "There is no family 'lakes'"),
        ("solve --generator channels --basis guessed", "--basis must be computed"),
        ("solve --generator channels -o flow.vtk", "--output must end in"),
        ("evaluate diffusion-2d --modes many", "Error: Invalid value for '--modes'"),
        ("train a.toml --fast", "No such option: --fast"),
    ],
)
def test_answers_wait_for_no_library(arguments, said):
    code = f"""
import sys
from dolfinx_msnn.cli import main
sys.argv = ["msnn", *{arguments.split()!r}]
try:
    main()
finally:
    assert not {{"dolfinx", "torch", "petsc4py"}} & set(sys.modules)
"""
    done = python(code)
    assert "Traceback" not in done.stderr
    assert said in done.stdout + done.stderr
    assert done.returncode == (0 if arguments == "--version" else 2)


def test_it_starts_and_solves_without_torch():
    code = """
import sys
sys.modules["torch"] = None
from dolfinx_msnn.cli import main
sys.argv = "msnn solve --generator inclusions --cells 8 --boxes 2 --modes 2".split()
main()
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "18 dofs" in done.stdout
    code = code.replace("--modes 2", "--basis learned")
    done = python(code)
    assert done.returncode == 1
    assert "needs torch" in done.stderr
    is_sentence(done.stderr.strip())


def test_completion_knows_the_commands():
    code = "import sys; sys.argv = ['msnn']\nfrom dolfinx_msnn.cli import main; main()"
    done = python(code, _MSNN_COMPLETE="complete_bash", COMP_WORDS="msnn s", COMP_CWORD="1")
    assert done.stdout.split() == ["solve", "sample"], done
    done = python(code, _MSNN_COMPLETE="source_bash")
    assert "_MSNN_COMPLETE=complete_bash" in done.stdout


def test_every_command_has_help_with_an_example():
    for command in ("solve", "evaluate", "sample", "train", "info", "doctor", "example"):
        text = call(command, "--help").stdout
        assert f"\n    msnn {command}" in text, text


def test_a_rank_that_fails_alone_ends_the_run():
    """Not a hang: the others wait in a reduction that never comes."""
    launcher, env = on_ranks(2)
    if launcher is None:
        pytest.skip("no mpiexec")
    code = """
from mpi4py import MPI
from dolfinx_msnn._utils import alone
from dolfinx_msnn.cli import common
alone.PATIENCE = 1.0
comm = MPI.COMM_WORLD
with common.errors(comm):
    if comm.rank == 1:
        raise ValueError("Only here.")
    comm.allreduce(1)
"""
    done = subprocess.run(
        [*launcher, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode != 0
    assert "Only here. (Only rank 1 of 2.)" in done.stderr
