# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What tests/conftest.py promises: ranks that do not go on together end, and the test is named."""

import subprocess
from pathlib import Path

from mpi4py import MPI

import pytest
from utils import on_ranks

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="starts MPI runs of its own"),
    pytest.mark.skipif(on_ranks(2)[0] is None, reason="no mpiexec"),
]

TESTS = """
from mpi4py import MPI
import pytest

@pytest.fixture
def barrier():
    MPI.COMM_WORLD.Barrier()

@pytest.mark.parametrize("name", ["good", "bad", "later"])
def test_ranks(name):
    if name == "bad":
        {mistake}

def test_fixture(barrier):
    pass
"""


def run(folder, mistake, *options):
    """Status and output of these tests on two ranks, by the conftest.py that all tests have."""
    (folder / "test_some.py").write_text(TESTS.format(mistake=mistake))
    (folder / "conftest.py").write_text(
        Path(__file__).parents[1].joinpath("conftest.py").read_text()
    )
    (folder / "pytest.ini").write_text("[pytest]\nfaulthandler_timeout = 3\n")
    command, env = on_ranks(2)
    # Each rank into a file: in one pipe they write in the middle of each other's lines.
    command[3:3] = ["sh", "-c", 'exec "$@" >said.$$ 2>&1', "sh"]
    done = subprocess.run(
        [*command, "-m", "pytest", "-q", *options, str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env=env,
    )
    said = "".join(file.read_text() for file in sorted(folder.glob("said.*")))
    return done.returncode, said + done.stdout + done.stderr


def test_sound_tests_pass(tmp_path):
    status, said = run(tmp_path, "pass")
    assert status == 0, said
    assert said.count("4 passed") == 2, said


@pytest.mark.parametrize("rank", [0, 1])
def test_a_hang_names_its_test(tmp_path, rank):
    status, said = run(tmp_path, f"MPI.COMM_WORLD.rank == {rank} or MPI.COMM_WORLD.Barrier()")
    assert status != 0, said
    # Both ranks say where they are.
    assert said.count("in test_some.py::test_ranks[bad]\n") == 2, said
    assert "::test_ranks[later]" not in said, said
    assert 'test_some.py", line 12 in test_ranks' in said, said


def test_a_failure_is_told_before_the_hang(tmp_path):
    """An error on one rank, for which the other waits."""
    status, said = run(tmp_path, "1 / (1 - MPI.COMM_WORLD.rank); MPI.COMM_WORLD.Barrier()")
    assert status != 0, said
    assert "rank 1: failed test_some.py::test_ranks[bad]" in said, said
    assert "ZeroDivisionError" in said, said
    assert "in test_some.py::test_ranks[bad]\n" in said, said


def test_all_ranks_stop_at_a_failure_of_one(tmp_path):
    status, said = run(tmp_path, "assert MPI.COMM_WORLD.rank == 0", "-x")
    assert status == 1, said
    assert "Timeout" not in said, said
    assert "stopping after 1 failures" in said, said
