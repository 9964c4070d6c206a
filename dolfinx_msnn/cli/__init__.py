# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The command ``msnn``: solve, evaluate, train, and look at what is installed.

Exit codes: 0 if all went well, 1 for an error (one sentence on standard error), 2 for a wrong
command line, 130 if it was interrupted (and, for training, can be resumed). ``doctor`` exits with 1
if it finds a problem.

All commands may be started by ``mpiexec``. Rank 0 prints.
"""

import contextlib
import io
import sys
import traceback


def main() -> None:
    """Entry point of the command."""
    comm = None
    try:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        from dolfinx_msnn.cli.commands import app
    except (ImportError, RuntimeError) as exc:
        # A RuntimeError is what mpi4py raises if it finds no MPI library.
        what = "mpi4py" if comm is None else "typer"
        if comm is None or comm.rank == 0:
            sys.stderr.write(
                f"msnn: The command msnn needs {what}, which is not installed or does not load "
                f'({" ".join(str(exc).split())}): pip install "dolfinx-msnn[cli]".\n'
            )
        raise SystemExit(1) from None
    silent = contextlib.ExitStack()
    if comm.rank:
        # Help and usage errors would come once from each rank.
        silent.enter_context(contextlib.redirect_stdout(io.StringIO()))
        silent.enter_context(contextlib.redirect_stderr(io.StringIO()))
    try:
        with silent:
            app()
    except Exception:
        if comm.size == 1:
            raise
        # An unexpected error; the other ranks may be waiting for this one.
        from dolfinx_msnn._utils.alone import abort

        abort(traceback.format_exc())
