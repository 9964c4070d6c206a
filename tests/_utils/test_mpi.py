# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Errors that reach every rank, arguments that must agree, and records that travel."""

import numpy as np
import pytest
from sample import COMM, HERE

from dolfinx_msnn._utils.mpi import RemoteRows, check_same, collective_errors, route


class Local(Exception):
    """An exception that every rank knows."""


class Two(Exception):
    """An exception that is not made from its message."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Odd(BaseException):
    """As UFL's ArityMismatch: not caught by ``except Exception``."""


def unknown():
    class Hidden(Exception):
        pass

    return Hidden("cannot be pickled")


def outcome(error, where=HERE):
    """What all ranks see when some of them raise ``error``."""
    try:
        with collective_errors(COMM):
            if where:
                raise error
    except BaseException as exc:
        return COMM.allgather((type(exc), str(exc)))
    return COMM.allgather(None)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("bad"), ValueError, "bad"),
        (Local("mine"), Local, "mine"),
        (OSError(2, "gone"), FileNotFoundError, "[Errno 2] gone"),
        (KeyError("x"), RuntimeError, "KeyError: 'x'"),
        (Two(1, 2), RuntimeError, "Two: 1 and 2"),
        (unknown(), RuntimeError, "Hidden: cannot be pickled"),
        (StopIteration("end"), RuntimeError, "StopIteration: end"),
        (SystemExit("leave"), RuntimeError, "SystemExit: leave"),
        (Odd("no Exception"), RuntimeError, "Odd: no Exception"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "odd"), RuntimeError, None),
        (ValueError(), ValueError, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@pytest.mark.parametrize("everywhere", [False, True])
def test_every_rank_raises_the_same(error, kind, message, everywhere):
    told = outcome(error, HERE or everywhere)
    assert None not in told
    assert {k for k, _ in told} == {kind}
    assert len({text for _, text in told}) == 1
    if message is not None:
        assert told[0][1] == message


def test_no_error():
    assert outcome(ValueError("never"), where=False) == [None] * COMM.size


def test_lowest_rank_wins():
    told = outcome(ValueError(f"rank {COMM.rank}"), where=True)
    assert told == [(ValueError, "rank 0")] * COMM.size


def test_cause_is_kept():
    """The rank that failed still shows where."""
    error = KeyError("x")
    with pytest.raises(RuntimeError) as info, collective_errors(COMM):
        if HERE:
            raise error
    assert (info.value.__cause__ is error) == HERE


def test_own_exception_is_not_replaced():
    error = ValueError("bad")
    with pytest.raises(ValueError) as info, collective_errors(COMM):
        if HERE:
            raise error
    assert (info.value is error) == HERE


def test_keyboard_interrupt_is_not_delayed():
    with pytest.raises(KeyboardInterrupt), collective_errors(COMM):
        raise KeyboardInterrupt


def test_check_same():
    check_same(COMM, n=[2, 3], name=None)
    if COMM.size == 1:
        check_same(COMM, n=3)
        return
    with pytest.raises(ValueError) as info:
        check_same(COMM, m=1, n=3 if HERE else 2)
    told = COMM.allgather(str(info.value))
    rank = COMM.size - 1
    assert set(told) == {
        f"n differs between the ranks: 2 on rank 0, 3 on rank {rank}; expected the same on all of "
        "them."
    }


@pytest.mark.parametrize("dtype", [bool, np.int32, np.int64, np.uint8, np.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,)])
def test_route(dtype, shape):
    """Rows arrive where they are sent, in order, with their sources; some ranks send nothing."""
    rng = np.random.default_rng(COMM.rank)
    num = 0 if COMM.rank == 0 and COMM.size > 1 else 20
    dest = rng.integers(0, COMM.size, num)
    # What is sent from where to where, and which it is.
    label = np.stack([np.full(num, COMM.rank), dest, np.arange(num)], axis=1)
    data = rng.integers(0, 2, (num, *shape)).astype(dtype)
    source, (labels, received) = route(COMM, dest, label, data)
    assert np.all(labels[:, 1] == COMM.rank)
    assert np.array_equal(labels[:, 0], source)
    # By source, then as sent.
    assert np.array_equal(np.lexsort((labels[:, 2], labels[:, 0])), np.arange(len(labels)))
    assert COMM.allreduce(len(labels)) == COMM.allreduce(num)
    assert received.dtype == dtype and received.shape == (len(labels), *shape)
    everything = COMM.allgather((label, data))
    for (rank, _, k), row in zip(labels, received, strict=True):
        assert np.array_equal(everything[rank][1][k], row)


def test_route_of_rows_that_are_not_contiguous():
    data = np.arange(24.0).reshape(4, 6)[:, ::2]
    _, (received,) = route(COMM, np.full(4, COMM.rank), data)
    assert np.array_equal(received, data)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float64])
@pytest.mark.parametrize("shape", [(), (3, 3)])
def test_remote_rows(dtype, shape):
    """Rows of all ranks, some more than once and some of one's own; again after they changed."""
    rng = np.random.default_rng(COMM.rank)
    sizes = 3 + np.arange(COMM.size)
    num = 0 if COMM.rank == 0 and COMM.size > 1 else 12
    owner = np.sort(rng.integers(0, COMM.size, num)).astype(np.int32)
    index = rng.integers(0, sizes[owner])
    rows = RemoteRows(COMM, owner, index)
    for _ in range(2):
        data = rng.integers(0, 2, (sizes[COMM.rank], *shape)).astype(dtype)
        into = np.empty((num, *shape), dtype=dtype)
        rows.fetch(data, into)
        everything = COMM.allgather(data)
        for k in range(num):
            assert np.array_equal(into[k], everything[owner[k]][index[k]])
