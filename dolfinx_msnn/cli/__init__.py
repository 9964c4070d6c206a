# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The command ``msnn``: solve, evaluate, train, and look at what is installed.

Exit codes: 0 if all went well, 1 for an error (one sentence on standard error), 2 for a wrong
command line, 130 if it was interrupted (and, for training, can be resumed). ``doctor`` exits with 1
if it finds a problem, ``bench`` if a program fails.

All commands may be started by ``mpiexec``. Rank 0 prints.
"""

import contextlib
import io
import sys
import traceback
from typing import Any

from mpi4py import MPI

from dolfinx_msnn._utils.mpi import abort


def main() -> None:
    """Entry point of the command."""
    comm = MPI.COMM_WORLD
    silent = contextlib.ExitStack()
    if comm.rank:
        # Help and usage errors would come once from each rank.
        silent.enter_context(contextlib.redirect_stdout(io.StringIO()))
        silent.enter_context(contextlib.redirect_stderr(io.StringIO()))
    try:
        with silent:
            _app()()
    except ModuleNotFoundError as exc:
        if exc.name != "typer":
            raise
        if comm.rank == 0:
            sys.stderr.write(
                'msnn: The command msnn needs typer, which is not installed: pip install "'
                'dolfinx-msnn[cli]".\n'
            )
        raise SystemExit(1) from None
    except Exception:
        if comm.size == 1:
            raise
        # An unexpected error; the other ranks may be waiting for this one.
        abort(comm, traceback.format_exc(), 1)


def _app() -> Any:
    from dolfinx_msnn.cli.commands import app

    return app
