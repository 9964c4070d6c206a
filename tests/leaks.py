# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Measures of what is left behind: PETSc objects, communicators, memory."""

import gc
import re

from mpi4py import MPI
from petsc4py import PETSc

import pytest
from sample import COMM

from dolfinx_msnn._utils import petsc


@pytest.fixture(scope="module", autouse=True)
def logging():
    PETSc.Log.begin()


def live_objects(path):
    """How many PETSc and SLEPc objects of each class this rank holds, from PETSc's own log."""
    gc.collect()
    viewer = PETSc.Viewer().createASCII(str(path), comm=MPI.COMM_SELF)
    PETSc.Log.view(viewer)
    viewer.destroy()
    counts = {}
    text = path.read_text()
    for line in text[text.index("Object Type") :].splitlines():
        match = re.fullmatch(r"\s*(\S.*?)\s+([0-9]+)\s+([0-9]+)", line)
        if match and match[1] != "Viewer":
            counts[match[1]] = int(match[2]) - int(match[3])
    return {name: count for name, count in counts.items() if count}


def grown(before, after):
    """Classes with more objects than before; what earlier tests left may go in between."""
    return {name: count for name, count in after.items() if count > before.get(name, 0)}


def free_communicators():
    """How many more this process can make (MPICH has some 2000).

    Open MPI has no such limit, and gives each one the lowest free number: what is counted there is
    how many numbers are left below a limit.
    """
    made, limit = [], 4000
    try:
        while len(made) < limit:
            made.append(MPI.COMM_SELF.Dup())
    except MPI.Exception:
        pass
    free = len(made)
    if free == limit:
        free -= max(comm.py2f() for comm in made) + 1 - len(made)
    for comm in made:
        comm.Free()
    return free


def memory():
    """Resident memory in KiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def check_cycles(cycle, path, num):
    """Nothing is left of a cycle after the next one.

    One rank does in seconds what several ranks on few cores do in minutes; they do only two.
    """
    num, warm = (num, min(5, num)) if COMM.size == 1 else (2, 1)
    # What tests before this one have left.
    gc.collect()
    petsc.sweep(COMM)
    for _ in range(warm):
        cycle()
    objects, communicators = live_objects(path), free_communicators()
    before = memory()
    for _ in range(num):
        cycle()
    after = memory()
    assert not grown(objects, live_objects(path))
    assert free_communicators() >= communicators
    # Noise of the allocator; with 200 cycles, 10 KiB a cycle are found.
    assert after - before < 2048, f"{after - before} KiB in {num} cycles"
