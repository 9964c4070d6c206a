# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""No room for a file: one sentence, the old file stays, and the program goes on to its end."""

import os
import subprocess
import sys

import pytest
from sample import is_sentence
from utils import on_ranks

from dolfinx_msnn._utils import files

serial = pytest.mark.serial

HEAD = """
import os, resource, sys, signal
folder = sys.argv[1]
def tight(number):
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))
def tell(action):
    try:
        action()
    except OSError as error:
        said = f"told: {type(error).__name__} {error}"
    else:
        said = "no error"
    # In one piece: several ranks speak at the same time.
    os.write(1, (said + chr(10)).encode())
sys.path.insert(0, sys.argv[2])
"""

SPACE = """
from sample import COMM, Sample
p = Sample(n=16)
path = folder + "/space.h5"
with p.space() as W:
    W.save(path, p.a)
    old = open(path, "rb").read()
    for size in (4096, 60000):
        tight(size)
        tell(lambda: W.save(path, p.a))
    tight(-1)
    COMM.barrier()
    assert open(path, "rb").read() == old and os.listdir(folder) == ["space.h5"]
    COMM.barrier()
    W.save(path, p.a)
"""

SAMPLES = """
from mpi4py import MPI
from dolfinx import fem, mesh
from dolfinx_msnn import CoarseGrid
from dolfinx_msnn.nn.dataset import generate, load
coarse = CoarseGrid(mesh.create_unit_square(MPI.COMM_SELF, 8, 8), (2, 2))
def field(number):
    kappa = fem.Function(fem.functionspace(coarse.fine, ("DG", 0)))
    kappa.x.array[:] = 1 + number
    return kappa
def sample(num):
    generate(folder + "/set.h5", coarse, field, num_fields=num, num_modes=2, lattice=3)
sample(1)
size = os.path.getsize(folder + "/set.h5")
tight(4096)
tell(lambda: sample(2))
# Room for the parts, and none for the whole.
tight(size + 4096)
tell(lambda: sample(2))
tight(-1)
assert len(load(folder + "/set.h5")) == 9
sample(2)
assert len(load(folder + "/set.h5")) == 18
"""

MODEL = """
import torch
from dolfinx_msnn.nn.model import export_model
from dolfinx_msnn.pretrained import pretrained_models
tight(4096)
model = pretrained_models()["diffusion-2d"]
for name in ("model.pt", "model.pt2"):
    tell(lambda: export_model(model, folder + "/" + name))
tight(-1)
assert os.listdir(folder) == []
"""


def run(code, folder, ranks=1):
    """Standard output and error of a program that may write files of a few KiB."""
    launcher, env = on_ranks(ranks)
    if ranks > 1 and launcher is None:
        pytest.skip("no mpiexec")
    command = [sys.executable] if ranks == 1 else launcher
    tests = os.path.dirname(os.path.dirname(__file__))
    done = subprocess.run(
        [*command, "-c", HEAD + code, str(folder), tests],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "HDF5-DIAG" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def check(lines, name, number):
    assert len(lines) == number, lines
    for line in lines:
        assert line.startswith("told: OSError Cannot write ") and name in line, line
        is_sentence(line.removeprefix("told: OSError "))


@serial
@pytest.mark.parametrize("ranks", [1, 3])
def test_space(tmp_path, ranks):
    check(run(SPACE, tmp_path, ranks), "space.h5: ", 2 * ranks)


@serial
def test_samples(tmp_path):
    pytest.importorskip("torch")
    check(run(SAMPLES, tmp_path), "set.h5", 2)


@serial
def test_models(tmp_path):
    pytest.importorskip("torch")
    check(run(MODEL, tmp_path), ": ", 2)


@serial
def test_devices_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkdir(tmp_path / "folder")
    for name in ("pipe", "folder"):
        with pytest.raises(
            OSError, match=f"Cannot write .*{name}: it is there and no regular file"
        ):
            files.write_file(tmp_path / name, b"text")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


@serial
def test_old_drafts_go(tmp_path):
    path = tmp_path / "file"
    old, new, other = (files.draft_of(tmp_path / name)[0] for name in ("file", "file", "filex"))
    for name in (old, new, other):
        with open(name, "w"):
            pass
    for name in (old, other):
        os.utime(name, (0, 0))
    files.write_file(path, b"text")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [os.path.basename(new), os.path.basename(other), "file"]
    )
