# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Small MPI helpers: errors that reach every rank, and records that travel to a given rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._typing import IntArray


@contextmanager
def collective_errors(comm: MPI.Comm) -> Iterator[None]:
    """Turn an exception on some ranks into one and the same exception on all ranks.

    The body must not communicate: a rank that fails leaves it early. On exit the ranks agree
    whether anything failed; the lowest failing rank's exception type and message are then raised
    everywhere. Collective on ``comm``.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as exc:
        error = exc
    first = comm.allreduce(comm.size if error is None else comm.rank, op=MPI.MIN)
    if first == comm.size:
        return
    kind, message = comm.bcast(
        (type(error), str(error)) if comm.rank == first else None, root=first
    )
    if error is not None and type(error) is kind and str(error) == message:
        raise error
    try:
        raised = kind(message)
    except Exception:
        # Exception types that need more than a message are reported by name.
        raised = RuntimeError(f"{kind.__name__}: {message}")
    raise raised from error


def mpi_type(array: npt.NDArray[np.generic]) -> MPI.Datatype:
    """A committed contiguous MPI type for one row of ``array``; the caller frees it."""
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    base = MPI.BYTE if array.dtype == np.bool_ else MPI._typedict[array.dtype.char]
    return base.Create_contiguous(width).Commit()


def route(
    comm: MPI.Comm, dest: npt.NDArray[np.integer], *arrays: npt.NDArray[np.generic]
) -> tuple[IntArray, list[npt.NDArray[Any]]]:
    """Send row ``k`` of every array to rank ``dest[k]``.

    Args:
        comm: Communicator. Collective.
        dest: Destination ranks, shape ``(n,)``.
        arrays: Arrays of shape ``(n, ...)``, of the same dtype and row shape on every rank.

    Returns:
        Source rank of every received row, and the received arrays. Rows are ordered by source
        rank and, within one source, as they were sent.
    """
    order = np.argsort(dest, kind="stable")
    send = np.bincount(dest, minlength=comm.size).astype(np.int64)
    recv = np.empty_like(send)
    comm.Alltoall(send, recv)
    received: list[npt.NDArray[Any]] = []
    for array in arrays:
        out = np.ascontiguousarray(array[order])
        into = np.empty((int(recv.sum()), *array.shape[1:]), dtype=array.dtype)
        row = mpi_type(out)
        try:
            comm.Alltoallv(
                [out, (send, np.cumsum(send) - send), row],
                [into, (recv, np.cumsum(recv) - recv), row],
            )
        finally:
            row.Free()
        received.append(into)
    return np.repeat(np.arange(comm.size, dtype=np.int32), recv), received
