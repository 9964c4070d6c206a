# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A rank that fails alone ends the run: the others may be waiting for it, for ever.

Errors that this package foresees are the same on all ranks. What remains is an error in the user's
program, Ctrl-C or a lack of memory on one rank. Such a rank waits :data:`PATIENCE` seconds for the
others to fail, too; nothing happens unless a rank has failed, however slow the others are.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType

from mpi4py import MPI


def _patience() -> float:
    try:
        return max(0.0, float(os.environ.get("MSNN_PATIENCE", "10")))
    except ValueError:
        return 10.0


#: Seconds that a rank with an error waits for the others, before it ends them; zero: for ever.
PATIENCE = _patience()

#: Of the messages by which failed ranks find each other; MPI has tags up to 32767 at least.
_TAG = 32741


def abort(text: str, code: int = 1) -> None:
    """End all ranks with an exit code, after saying why on standard error. Not collective."""
    stream = sys.__stderr__
    if stream is not None:
        stream.write(text)
        stream.flush()
    # mpiexec passes on what the ranks print, but not after it has begun to kill them.
    time.sleep(2.0)
    MPI.COMM_WORLD.Abort(code)


def end_together(text: str, code: int = 1) -> None:
    """Wait until all ranks of the run have come here; if some do not, end them all.

    For a rank that has failed, on the way to its end. The first rank is told by the others that
    they are here, and tells them when all are.

    Args:
        text: What to say if this rank is alone.
        code: Exit code of the run, then.
    """
    comm = MPI.COMM_WORLD
    if comm.size == 1 or not PATIENCE or MPI.Is_finalized():
        return
    first, deadline = comm.rank == 0, time.monotonic() + PATIENCE
    others = range(1, comm.size) if first else [0]
    nothing = [bytearray(), MPI.BYTE]
    sends = [] if first else [comm.Isend(nothing, 0, _TAG)]
    receives = [comm.Irecv(nothing, rank, _TAG) for rank in others]
    while not MPI.Request.Testall(receives):
        if time.monotonic() > deadline:
            abort(text, code)
        time.sleep(0.02)
    MPI.Request.Waitall(sends + [comm.Isend(nothing, rank, _TAG) for rank in others if first])


@contextmanager
def in_time() -> Iterator[None]:
    """What may take all ranks, such as to free PETSc objects; limited in time after an error."""
    if sys.exception() is None or MPI.COMM_WORLD.size == 1 or not PATIENCE:
        yield
        return
    timer = threading.Timer(PATIENCE, abort, [_message("an error")])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@cache
def install() -> None:
    """Have errors that leave the program looked at by :func:`end_together`. Not collective.

    Called when ranks first work together: of ranks that each do something else none ends others.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        if not hasattr(sys, "ps1"):
            end_together(_message(kind.__name__))

    sys.excepthook = hook


def _message(what: str) -> str:
    comm = MPI.COMM_WORLD
    return (
        f"dolfinx_msnn: Rank {comm.rank} of {comm.size} ends with {what}, and others have not "
        f"within {PATIENCE:g} s, so the run is ended (MSNN_PATIENCE=0 in the environment: it is "
        "not).\n"
    )
