# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A rank that fails alone ends the run, soon and with one message; slow ranks never do."""

import subprocess
import time

from mpi4py import MPI

import pytest
from utils import on_ranks

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="starts MPI runs of its own"),
    pytest.mark.skipif(on_ranks(2)[0] is None, reason="no mpiexec"),
]

HEAD = """
import signal, sys, time, os
from mpi4py import MPI
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import Owner
comm = MPI.COMM_WORLD
here = comm.rank == comm.size - 1
with collective_errors(comm):
    pass
"""

#: What happens on the last rank; the others wait for it.
ALONE = {
    "error": "if here: raise ValueError('only here')\ncomm.barrier()",
    "memory": "if here: raise MemoryError\ncomm.barrier()",
    "Ctrl-C": "if here: os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\ncomm.barrier()",
    "text": """
class Mute(Exception):
    def __str__(self): raise RuntimeError
if here: raise Mute
comm.barrier()
""",
    "freeing": """
class Waiting(Owner):
    def destroy(self): comm.barrier()
with Waiting(comm):
    if here: raise ValueError('only here')
    comm.allreduce(1)
""",
}


def run(code, patience="1", ranks=2, limit=40):
    launcher, env = on_ranks(ranks)
    start = time.perf_counter()
    done = subprocess.run(
        ["timeout", "-k", "2", str(limit), *launcher, "-c", HEAD + code],
        env=env | {"MSNN_PATIENCE": patience},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, time.perf_counter() - start


@pytest.mark.parametrize("name", ALONE)
def test_the_run_ends(name):
    done, seconds = run(ALONE[name])
    assert done.returncode not in (0, 124, 137), done
    assert seconds < 20
    assert done.stderr.count("dolfinx_msnn: Rank 1 of 2 ends with") == 1, done.stderr


def test_an_error_of_all_ranks_is_theirs():
    """Some come late, but within the patience; nothing is added to their tracebacks."""
    code = "time.sleep(1.0 * comm.rank)\nraise ValueError('everywhere')"
    done, _ = run(code, patience="15", ranks=3)
    assert done.returncode not in (0, 124, 137), done
    assert done.stderr.count("ValueError: everywhere") == 3, done.stderr
    assert "dolfinx_msnn: Rank" not in done.stderr


def test_slow_ranks_and_caught_errors_are_no_failures():
    code = """
if here: time.sleep(3)
else:
    try:
        raise ValueError
    except ValueError:
        pass
comm.barrier()
if not here: time.sleep(3)
print("through", flush=True)
"""
    done, _ = run(code)
    assert done.returncode == 0 and done.stdout.count("through") == 2, done
    assert "dolfinx_msnn" not in done.stderr


def test_switched_off():
    """As without this package: the failed rank waits in MPI's finalisation."""
    done, _ = run(ALONE["error"], patience="0", limit=5)
    assert done.returncode in (124, 137), done
    assert "dolfinx_msnn: Rank" not in done.stderr
