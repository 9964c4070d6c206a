# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Files that are never half written, and HDF5 files of whatever origin."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mpi4py import MPI

import h5py

from dolfinx_msnn._utils.mpi import collective_errors

#: The version of the HDF5 format that is written.
LIBVER = ("v110", "v110")


class UnfitFile(Exception):
    """A file can be read and is not what is wanted; the message is a whole sentence."""


def reason(error: BaseException) -> str:
    """What an exception says, as the end of a sentence without its full stop."""
    text = " ".join(str(error).split())
    return text.strip("'\"").rstrip(".") or type(error).__name__


def draft_of(path: str | os.PathLike[str]) -> tuple[str, str]:
    """A new name beside a file to write first, and the name of the file behind all links."""
    target = os.path.realpath(path)
    folder, base = os.path.split(target)
    return os.path.join(folder, f".{base}.{uuid.uuid4().hex[:8]}.tmp"), target


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make one sentence of what goes wrong in writing a file.

    Raises:
        OSError: With the name of the file.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise OSError(f"Cannot write {os.fspath(path)}: {reason(error)}.") from error


@contextmanager
def replacing(path: str | os.PathLike[str], comm: MPI.Intracomm = MPI.COMM_SELF) -> Iterator[str]:
    """Write a file under another name; it gets its own when the body is through.

    What was there before stays until then, and if the body fails. Links are followed.

    Args:
        path: The file to write.
        comm: The ranks that write it. Collective; so must be errors of the body.

    Yields:
        The name to write to, in the same folder; the same on all ranks.

    Raises:
        OSError: If the file does not get its name.
    """
    draft, target = comm.bcast(draft_of(path))
    try:
        yield draft
        with collective_errors(comm), writing(path):
            if comm.rank == 0:
                with open(draft, "rb") as stream:
                    os.fsync(stream.fileno())
                os.replace(draft, target)
    except BaseException:
        if comm.rank == 0:
            with suppress(OSError):
                os.unlink(draft)
        raise


@contextmanager
def open_hdf5(path: str, what: str) -> Iterator[h5py.File]:
    """Open a file for reading; whatever goes wrong in the body becomes one sentence.

    Args:
        path: The file.
        what: What it is expected to hold, e.g. ``"samples"``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If HDF5 cannot read it, or the body does not find what it looks for. The
            message is that of the body if it raises :class:`UnfitFile`.

    Note:
        Not collective.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path} with {what}.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UnfitFile as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable HDF5 file with {what}: {reason(error)}."
        ) from error
