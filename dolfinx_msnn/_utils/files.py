# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Files that are never half written, and HDF5 files of whatever origin."""

from __future__ import annotations

import errno
import math
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import h5py
import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

#: The version of the HDF5 format that is written.
LIBVER = ("v110", "v110")

#: Seconds after which a draft is taken for left behind.
DRAFTS_STAY = 3600.0

_CHECKED = {h5py.h5z.FILTER_FLETCHER32}
_FILTERS = _CHECKED | {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}


class UnfitFile(Exception):
    """A file can be read and is not what is wanted; the message is a whole sentence."""


def reason(error: BaseException) -> str:
    """What an exception says, as the end of a sentence without its full stop."""
    text = " ".join(str(error).split())
    return text.strip("'\"").rstrip(".") or type(error).__name__


def find_group(group: h5py.Group, name: str) -> h5py.Group | None:
    """A group in a group, or ``None``; links, which may lead to another file, are not followed."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    found = group[name]
    return found if isinstance(found, h5py.Group) else None


def find_table(
    group: h5py.Group, name: str, dtype: str, largest: int | None = None
) -> h5py.Dataset | None:
    """A table with checksums that a file itself holds, or ``None``.

    Links and tables whose values lie in other files (external, virtual) are not followed.

    Args:
        group: Where it should be.
        name: Its name.
        dtype: Its dtype.
        largest: Bytes that it may take in memory; by default those that it takes in the file.
    """
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    table = group[name]
    if not isinstance(table, h5py.Dataset) or table.dtype != np.dtype(dtype):
        return None
    if not table.size:
        return table
    settings = table.id.get_create_plist()
    filters = {settings.get_filter(k)[0] for k in range(settings.get_nfilters())}
    # In chunks of this file, and not external, virtual or without checksums.
    if settings.get_layout() != h5py.h5d.CHUNKED or not _CHECKED <= filters <= _FILTERS:
        return None
    # What is stored, and has checksums, is no mere claim.
    stored = table.id.get_storage_size()
    memory = max(table.size, math.prod(settings.get_chunk())) * table.dtype.itemsize
    sound = 0 < stored <= group.file.id.get_filesize()
    return table if sound and memory <= (stored if largest is None else largest) else None


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
def replacing(path: str | os.PathLike[str], comm: MPI.Intracomm | None = None) -> Iterator[str]:
    """Write a file under another name; it gets its own when the body is through.

    What was there before stays until then, and if the body fails. Links are followed; what is no
    regular file, such as a device, is not replaced. Drafts that killed programs have left are
    removed after an hour.

    Args:
        path: The file to write.
        comm: The ranks that write it; by default this process alone. Collective; so must be errors
            of the body.

    Yields:
        The name to write to, in the same folder; the same on all ranks.

    Raises:
        OSError: If the file cannot be replaced.
    """
    first = comm is None or comm.rank == 0
    draft, target = draft_of(path) if comm is None else comm.bcast(draft_of(path))
    with _together(comm), writing(path):
        if first:
            if os.path.exists(target) and not os.path.isfile(target):
                raise OSError("it is there and no regular file")
            _remove_drafts(target)
    try:
        yield draft
        with _together(comm), writing(path):
            if first:
                with open(draft, "rb") as stream:
                    os.fsync(stream.fileno())
                os.replace(draft, target)
    except BaseException:
        if first:
            with suppress(OSError):
                os.unlink(draft)
        raise


def _together(comm: MPI.Intracomm | None) -> AbstractContextManager[object]:
    """Errors on all ranks, if there are others; without them no MPI is needed."""
    if comm is None:
        return nullcontext()
    from dolfinx_msnn._utils.mpi import collective_errors

    return collective_errors(comm)


def _remove_drafts(target: str) -> None:
    """Remove old drafts of a file; of younger ones somebody may still be the author."""
    folder, base = os.path.split(target)
    pattern = re.compile(rf"\.{re.escape(base)}\.[0-9a-f]{{8}}\.tmp")
    with suppress(OSError):
        for entry in os.scandir(folder):
            if pattern.fullmatch(entry.name) and entry.stat().st_mtime < time.time() - DRAFTS_STAY:
                os.unlink(entry.path)


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that is in memory.

    Raises:
        OSError: With the name of the file.
    """
    with replacing(path) as draft, writing(path), open(draft, "wb") as stream:
        stream.write(data)


def reserve(draft: str, size: int) -> None:
    """See that there is room for a file before HDF5 writes it.

    HDF5 does not survive a full disk: it ends the process when it closes the file.

    Args:
        draft: Name to write to, not there yet.
        size: Number of bytes, rather more than less.

    Raises:
        OSError: If there is no room.
    """
    with open(draft, "xb") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, size)
        except AttributeError:
            # Not on macOS.
            pass
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    os.unlink(draft)


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
