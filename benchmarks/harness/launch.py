# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Processes of their own for single runs: on several ranks, within limits, by another Python.

A program starts itself by :func:`launch`; in the process that is started, :func:`serve` does the
work and prints what it made.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class WorkerError(RuntimeError):
    """A process that failed.

    Attributes:
        out_of_time: Whether it was stopped at the limit of its time.
        lines: What it wrote to the standard error.
    """

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.out_of_time = done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
        self.lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        super().__init__("\n".join(self.lines[-20:]))


def launch(
    program: str,
    *arguments: Any,
    ranks: int = 1,
    python: Sequence[str] = (sys.executable,),
    minutes: float | None = None,
    gib: float | None = None,
) -> Any:
    """Run a program as a worker in processes of its own.

    Args:
        program: File, or name of a module of this package.
        arguments: Of its work; have to be known to JSON.
        ranks: MPI processes.
        python: Command of the Python to run it.
        minutes: Limit of processor time.
        gib: Limit of memory.

    Returns:
        What the work made on the first rank.

    Raises:
        WorkerError: If it fails, or exceeds a limit.
        FileNotFoundError: If there is no mpiexec, and several ranks are asked for.
    """
    command = [*mpiexec(ranks), *python, *([] if program.endswith(".py") else ["-m"]), program]

    def limit() -> None:
        if gib is not None:
            resource.setrlimit(resource.RLIMIT_AS, (int(gib * 2**30),) * 2)
        if minutes is not None:
            seconds = int(60 * minutes)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))

    done = subprocess.run(
        [*command, "--worker", json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        # Where any Python finds a module of this package.
        cwd=None if program.endswith(".py") else Path(__file__).parent.parent,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    if done.returncode or not found:
        raise WorkerError(done)
    return json.loads(found[-1])


def mpiexec(ranks: int) -> list[str]:
    """The command before a program that is to run on some ranks; none for one."""
    if ranks == 1:
        return []
    here = Path(sys.executable).parent / "mpiexec"
    found = str(here) if here.exists() else shutil.which("mpiexec")
    if found is None:
        raise FileNotFoundError(f"There is no mpiexec: nothing on {ranks} ranks.")
    return [found, "-n", str(ranks)]


def serve(work: Callable[..., Any]) -> bool:
    """Do the work, and print what it made, if this process was started for that.

    Args:
        work: Called with the arguments of :func:`launch`. Ranks that have nothing to say return
            ``None``.

    Returns:
        Whether it was.
    """
    if sys.argv[1:2] != ["--worker"]:
        return False
    made = work(*json.loads(sys.argv[2]))
    if made is not None:
        print(json.dumps(made, default=lambda number: number.item()))
    return True


def other_python() -> list[str] | None:
    """``PETSC_PYTHON``: the command of a Python whose PETSc has hypre, if there is one."""
    return shlex.split(os.environ.get("PETSC_PYTHON", "")) or None
