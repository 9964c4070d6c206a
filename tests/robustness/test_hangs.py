# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Something breaks on one rank, nobody catches it: all ranks end, soon, and say the same.

Each try is an MPI run of its own, of this file as a script: an exception that leaves the program
on one rank only would let that rank wait in MPI's finalisation, and the others for it. The failing
rank changes from try to try. ``MSNN_HANG_TRIES=50`` makes so many tries at each number of ranks,
instead of some.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import pytest
from sample import Sample
from utils import on_ranks

from dolfinx_msnn import FilteredBasis, LocalModes, MultiscaleFunctionSpace, SpectralBasis
from dolfinx_msnn.bases import kernels

#: Seconds that a run may take, imports included.
LIMIT = 30

# ---- what breaks --------------------------------------------------------------------------------


class Breaks:
    """A basis that does something before it does its work."""

    def __init__(self, basis, before):
        self.basis, self.before = basis, before

    def modes(self, problems):
        self.before()
        return self.basis.modes(problems)


def throw(error):
    def fail(*_, **__):
        raise error

    return fail


class FailingPC:
    """A preconditioner for ``-pc_type python``, the error of which PETSc hands on."""

    error: BaseException | None = None

    def setUp(self, pc):
        if self.error is not None:
            raise self.error

    def apply(self, pc, x, y):
        x.copy(y)


def spectral(**options):
    return SpectralBasis(4, petsc_options=options)


def error_in_modes(here):
    """A basis of the user's raises."""
    basis = Breaks(spectral(), throw(ValueError("The basis is broken.")) if here else lambda: None)
    return {"basis": basis}


def memory_in_modes(here):
    return {"basis": Breaks(spectral(), throw(MemoryError()) if here else lambda: None)}


def exhausted_memory(here):
    """No more memory, indeed, while PETSc factors and SLEPc iterates."""

    def limit():
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**16, resource.RLIM_INFINITY))

    class Starved(Breaks):
        def modes(self, problems):
            # What is free already would do.
            blocks = []
            try:
                self.before()
                while here:
                    try:
                        blocks.append(np.ones(2**12))
                    except MemoryError:
                        break
                return super().modes(problems)
            finally:
                infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                resource.setrlimit(resource.RLIMIT_AS, infinite)

    return {"basis": Starved(SpectralBasis(30), limit if here else lambda: None), "n": 64}


def local_factorisation(here):
    """PETSc's error 55, out of memory, from inside of a local factorisation."""
    FailingPC.error = PETSc.Error(55) if here else None
    return {
        "basis": spectral(st_pc_type="python", st_pc_python_type=f"{__name__}.FailingPC")
        if here
        else spectral()
    }


def worker_raises(here):
    """An exception in a helper thread, from the second neighbourhood on."""
    return threads(here, RuntimeError("A thread failed."))


def worker_exits(here):
    """A helper thread that is told to end."""
    return threads(here, SystemExit(3))


def threads(here, error):
    basis = FilteredBasis(4, num_threads=2)
    if here:
        solve, lock, calls = basis._solve, threading.Lock(), []

        def some(problem):
            with lock:
                calls.append(problem)
            if len(calls) > 1:
                assert threading.current_thread() is not threading.main_thread()
                raise error
            return solve(problem)

        basis._solve = some
    return {"basis": basis}


def no_thread(here):
    """The system gives no more threads."""
    if here:
        threading.Thread.start = throw(RuntimeError("can't start new thread"))
    return {"basis": FilteredBasis(4, num_threads=2)}


def non_finite_modes(here):
    class Spoilt(Breaks):
        def modes(self, problems):
            return [LocalModes(m.values, m.vectors * np.nan) for m in super().modes(problems)]

    return {"basis": (Spoilt if here else Breaks)(spectral(), lambda: None)}


def non_finite_filter(here):
    """The filter overflows, deep inside."""
    if here:
        good = kernels.chebyshev
        kernels.chebyshev = lambda *given: good(*given) * np.nan
    return {"basis": FilteredBasis(4)}


def non_finite_load(here):
    def spoil(p):
        if here:
            p.one.x.array[:] = np.nan

    return {"basis": spectral(), "prepare": spoil}


def columns(here):
    """No memory for the entries of P."""
    from dolfinx_msnn.space import prolongation

    if here:
        prolongation.np = Starving(np, "where")
    return {"basis": spectral()}


def save(here):
    """No memory for the tables of a file."""
    from dolfinx_msnn.space import storage

    if here:
        storage.np = Starving(np, "repeat")
    return {"basis": spectral(), "file": True}


class Starving:
    """NumPy without memory for one of its functions."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __getattr__(self, name):
        if name == self.name:
            return throw(MemoryError(f"Unable to allocate 1. PiB for {name}."))
        return getattr(self.module, name)


FAULTS = {
    f.__name__: f
    for f in (
        error_in_modes,
        memory_in_modes,
        exhausted_memory,
        local_factorisation,
        worker_raises,
        worker_exits,
        no_thread,
        non_finite_modes,
        non_finite_filter,
        non_finite_load,
        columns,
        save,
    )
}


def run(name, rank, folder):
    """One rank of a try: what leaves the program is written down, and not caught."""
    comm = MPI.COMM_WORLD
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def note(kind, error, trace):
        (Path(folder) / f"rank{comm.rank}").write_text(f"{kind.__name__}: {error}")

    sys.excepthook = note
    fault = FAULTS[name](comm.rank == rank)
    p = Sample(n=fault.get("n", 24))
    if "prepare" in fault:
        fault["prepare"](p)
    with p.space(basis=fault["basis"]) as W:
        if fault.get("file"):
            path = comm.bcast(f"{folder}/space.h5")
            W.save(path, p.a)
            MultiscaleFunctionSpace.load(path, p.V, p.a, bcs=p.bcs)
        with p.problem(W, petsc_options=fault.get("options")) as problem:
            problem.solve()


# ---- tries --------------------------------------------------------------------------------------


def attempt(name, rank, size):
    """What each rank said; fails unless all said it, in time."""
    launcher, env = on_ranks(size)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, __file__, name, str(rank), folder]
        child = subprocess.Popen(
            ["timeout", "-k", "5", str(LIMIT), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
        )
        said, _ = child.communicate(timeout=LIMIT + 20)
        told = [path.read_text() for path in sorted(Path(folder).glob("rank*"))]
    seconds = time.perf_counter() - start
    case = f"{name} on rank {rank} of {size}: status {child.returncode}, {told}\n{said[-2000:]}"
    assert child.returncode not in (0, 124, 137), case
    assert len(told) == size and len(set(told)) == 1, case
    return told[0], seconds


@pytest.fixture(scope="module")
def compiled():
    """Forms compiled once, not by every run."""
    p = Sample()
    with p.space() as W, p.problem(W) as problem:
        problem.solve()


TRIES = int(os.environ.get("MSNN_HANG_TRIES", "3"))


@pytest.mark.serial
@pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="starts MPI runs of its own")
@pytest.mark.skipif(shutil.which("timeout") is None, reason="no program to stop them")
@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_end(compiled, size):
    names = list(FAULTS)
    for number in range(TRIES):
        # From few tries to few tries other faults; with many, each on every rank.
        name = names[(7 * number + size) % len(names)]
        message, seconds = attempt(name, number % size, size)
        print(f"{size} ranks, {name}, {seconds:.1f} s: {message}", flush=True)


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), sys.argv[3])
