# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Small MPI helpers: errors that reach every rank, and records that travel to a given rank."""

from __future__ import annotations

import pickle
from types import TracebackType
from typing import Any, Self

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.alone import install
from dolfinx_msnn._utils.typing import IntArray


class collective_errors:
    """Turn an exception on some ranks into one and the same exception on all ranks.

    The body of the ``with`` statement must not communicate: a rank that fails leaves it early. On
    exit the ranks agree whether anything failed; the lowest failing rank's exception type and
    message are then raised everywhere. An exception that is not made from its message alone, or
    whose type the other ranks may not know, becomes a ``RuntimeError`` that names it.

    What is handed to :meth:`agree` in the body is compared afterwards, so that one block at the
    entry of a public function serves for both::

        with collective_errors(comm) as checks:
            check_form(a, V, "a")
            checks.agree(a=identify(a))

    Args:
        comm: Communicator. Leaving the body is collective.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self._arguments: dict[str, object] = {}

    def __enter__(self) -> Self:
        """Nothing is done before the body."""
        return self

    def agree(self, **arguments: object) -> None:
        """Arguments that must be the same on all ranks, see :func:`check_same`.

        All ranks must come here, or fail. Not collective.
        """
        self._arguments |= arguments

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not only Exception: SystemExit and UFL's ArityMismatch would leave the others waiting.
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            return
        comm = self._comm
        if comm.size > 1:
            install()
        first = comm.allreduce(comm.size if error is None else comm.rank, op=MPI.MIN)
        if first == comm.size:
            if self._arguments:
                check_same(comm, **self._arguments)
            return
        parcel = _pack(error) if error is not None and comm.rank == first else b""
        common, message = pickle.loads(comm.bcast(parcel, root=first))
        if error is None or error_type is not common or _text(error) != message:
            raise common(message) from error


def _pack(error: BaseException) -> bytes:
    """An exception's type and message such that ``error_type(message)`` says the same elsewhere."""
    error_type, message = type(error), _text(error)
    try:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            parcel = pickle.dumps((error_type, message))
            if str(pickle.loads(parcel)[0](message)) == message:
                return parcel
    except Exception:
        pass
    return pickle.dumps((RuntimeError, f"{error_type.__name__}: {message}"))


def _text(error: BaseException) -> str:
    """What an exception says, even if it cannot."""
    try:
        return str(error)
    except Exception as failure:
        return f"its text cannot be had ({type(failure).__name__})"


def check_same(comm: MPI.Comm, **arguments: object) -> None:
    """Refuse arguments that are not the same on all ranks, as told by their ``repr``.

    Raises:
        ValueError: With both values; the same on every rank.

    Note:
        Collective.
    """
    if comm.size == 1:
        return
    mine = {name: repr(value) for name, value in arguments.items()}
    theirs = comm.bcast(mine, root=0)
    with collective_errors(comm):
        for name, text in mine.items():
            if text != theirs[name]:
                raise ValueError(
                    f"{name} differs between the ranks: {theirs[name]} on rank 0, {text} on rank "
                    f"{comm.rank}; expected the same on all of them."
                )


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
    with collective_errors(comm):
        order = np.argsort(dest, kind="stable")
        send = np.bincount(dest, minlength=comm.size)
        sorted_arrays = [array[order] for array in arrays]
    recv = np.empty_like(send)
    comm.Alltoall(send, recv)
    with collective_errors(comm):
        num = int(recv.sum())
        received = [np.empty((num, *array.shape[1:]), dtype=array.dtype) for array in arrays]
    for array, into in zip(sorted_arrays, received, strict=True):
        _exchange(comm, array, send, into, recv)
    return np.repeat(np.arange(comm.size, dtype=np.int32), recv), received


class RemoteRows:
    """Rows of other ranks' arrays: named once, fetched as often as wanted.

    Args:
        comm: Communicator. Creation is collective.
        owner: Ranks that hold the rows, ascending, shape ``(n,)``.
        index: Numbers of the rows there, shape ``(n,)``.
    """

    def __init__(self, comm: MPI.Comm, owner: IntArray, index: npt.NDArray[np.integer]) -> None:
        self._comm = comm
        asker, (self._asked,) = route(comm, owner, index)
        self._send = np.bincount(asker, minlength=comm.size)
        self._recv = np.bincount(owner, minlength=comm.size)

    def fetch(self, data: npt.NDArray[np.generic], into: npt.NDArray[np.generic]) -> None:
        """Fetch the rows.

        Args:
            data: What this rank holds, shape ``(num, ...)``.
            into: Filled; shape ``(n, ...)``, of the same type, contiguous.

        Note:
            Collective.
        """
        _exchange(self._comm, data[self._asked], self._send, into, self._recv)


def _exchange(
    comm: MPI.Comm,
    out: npt.NDArray[np.generic],
    send: npt.NDArray[np.integer],
    into: npt.NDArray[np.generic],
    recv: npt.NDArray[np.integer],
) -> None:
    """Send and receive rows, sorted by rank; ``send`` and ``recv`` count those of each rank."""
    width = int(np.prod(out.shape[1:], dtype=np.int64))
    base = MPI.BYTE if out.dtype == np.bool_ else MPI._typedict[out.dtype.char]
    row = base.Create_contiguous(width).Commit()
    try:
        comm.Alltoallv(
            [np.ascontiguousarray(out), (send, np.cumsum(send) - send), row],
            [into, (recv, np.cumsum(recv) - recv), row],
        )
    finally:
        row.Free()
