# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The HDF5 file of a set of samples.

Layout (format 3), k samples of one shape in a field, p lattice nodes, n dofs, nnz entries:

=============================================  ============================================
name                                           content
=============================================  ============================================
geometry/<key>/indptr, indices                 sparsity pattern of A and S, int32
geometry/<key>/x                               dofs in the posed unit box, float32, (n, d)
fields/<number>/<key>/input                    float32, (k, C, p, ..., p)
fields/<number>/<key>/A, S                     float32, (k, nnz)
fields/<number>/<key>/modes                    float32, (k, num_modes, n)
fields/<number>/<key>/eigenvalues              float64, (k, num_modes)
fields/<number>/<key>/vertex                   int64, (k,)
fields/<number>/<key>/solutions                float32, (k, num_solutions, n), if there are any
fields/<number>/<key>/weight                   χ, zero at Dirichlet dofs, float32, (k, n), with them
=============================================  ============================================

Every table has HDF5's checksums. What a set takes in memory is bounded by the size of its file, see
:class:`Reader`.

While a set grows, each finished field is a file of its own in the folder ``<path>.parts``, which
appears there complete or not at all, and so does the merged file: a process killed at any time
loses the fields it was working on, and nothing else. Nothing here is collective.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.files import (
    LIBVER,
    find_group,
    find_table,
    open_hdf5,
    replacing,
    reserve,
    writing,
)
from dolfinx_msnn._version import __version__

FORMAT = "dolfinx_msnn neighbourhood samples"
FORMAT_VERSION = 3

#: The tables of a field; the first index is that of the sample.
TABLES = ("input", "A", "S", "modes", "eigenvalues", "vertex")
SOLUTIONS = ("solutions", "weight")

_DTYPES = {
    "indptr": "i4",
    "indices": "i4",
    "eigenvalues": "f8",
    "vertex": "i8",
}

#: Bytes in memory for each byte of a file, and in any case: much above what samples compress to.
_EXPANSION, _SMALL = 64, 2**26


class Reader:
    """Groups and tables of a file of samples, checked before there is memory for them.

    Only what the file itself holds is read, not what links, external or virtual tables lead to.
    All tables together may take 64 times the size of the file and 64 MiB.

    Raises:
        ValueError: For what is not as it should be, by all methods.
    """

    def __init__(self, file: h5py.File) -> None:
        self._room = _EXPANSION * file.id.get_filesize() + _SMALL

    def group(self, parent: h5py.Group, name: str) -> h5py.Group:
        """A group."""
        found = find_group(parent, name)
        if found is None:
            raise ValueError(f"it has no group {name}")
        return found

    def table(
        self, parent: h5py.Group, name: str, shape: tuple[int | None, ...]
    ) -> npt.NDArray[Any]:
        """A table of finite numbers; its shape is given but for entries that are ``None``."""
        table = find_table(parent, name, _DTYPES.get(name, "f4"), self._room)
        wanted = () if table is None else table.shape
        if table is None or len(shape) != len(wanted):
            raise ValueError(f"the table {name} is missing, of another kind or too large")
        if any(n not in (None, m) for n, m in zip(shape, wanted, strict=True)):
            raise ValueError(f"the table {name} has the wrong shape")
        self._room -= table.nbytes
        values: npt.NDArray[Any] = table[()]
        if not np.isfinite(values).all():
            raise ValueError(f"the table {name} has a value not finite")
        return values

    def pattern(self, parent: h5py.Group) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Row pointers and columns of a square matrix."""
        indptr = self.table(parent, "indptr", (None,))
        indices = self.table(parent, "indices", (None,))
        ends = indptr[:1].tolist() + indptr[-1:].tolist()
        top = len(indptr) - 1
        inside = ((indices >= 0) & (indices < top)).all()
        if ends != [0, len(indices)] or (np.diff(indptr) < 0).any() or not inside or top < 1:
            raise ValueError("the table indices has entries out of range")
        return indptr, indices


@contextmanager
def new_samples(path: str, settings: dict[str, Any], size: int = 0) -> Iterator[h5py.File]:
    """A file of samples to write, which gets its name when the body is through.

    Args:
        path: Its name.
        settings: What the samples were made with.
        size: Bytes that it will have at most; without, it is written in memory first.

    Raises:
        OSError: If there is no room for it.
    """
    import dolfinx

    versions = {"package": __version__, "dolfinx": dolfinx.__version__, "numpy": np.__version__}
    memory: dict[str, Any] = {} if size else {"driver": "core", "backing_store": False}
    with replacing(path) as draft:
        if size:
            with writing(path):
                reserve(draft, size)
        with h5py.File(draft, "w-", libver=LIBVER, **memory) as file:
            file.attrs["format"] = np.bytes_(FORMAT)
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["provenance"] = np.bytes_(json.dumps({**settings, "versions": versions}))
            yield file
            file.flush()
            image = b"" if size else file.id.get_file_image()
        if not size:
            with writing(path), open(draft, "wb") as stream:
                stream.write(image)


@contextmanager
def open_samples(path: str) -> Iterator[h5py.File]:
    """Open a file of samples; whatever is wrong with it becomes one sentence.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or something else.
    """
    with open_hdf5(path, "samples") as file:
        if read_text(file, "format") != FORMAT:
            raise ValueError("it has another format")
        version = int(file.attrs["format_version"])
        if version != FORMAT_VERSION:
            raise ValueError(f"it has format {version}, expected {FORMAT_VERSION}")
        yield file


def read_text(item: h5py.Group, name: str) -> str:
    """An attribute of text.

    Raises:
        ValueError: If it has no fixed length: HDF5 reads on for ever where such a text is damaged.
    """
    if item.attrs.get_id(name).dtype.kind != "S":
        raise ValueError(f"its {name} is not kept as text of fixed length, as now; sample again")
    return bytes(item.attrs[name]).decode()


def put(group: h5py.Group, name: str, array: npt.NDArray[Any]) -> None:
    """Write a table, one chunk a sample, compressed, with checksums."""
    sampled = name in TABLES + SOLUTIONS and array.ndim > 1
    group.create_dataset(
        name,
        data=array,
        chunks=(1, *array.shape[1:]) if sampled else array.shape,
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        fletcher32=True,
    )


def files_of(path: str) -> list[str]:
    """The files that hold the fields of a set: that of the set, and its parts."""
    folder = path + ".parts"
    listed = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    parts = [os.path.join(folder, name) for name in listed if not name.startswith(".")]
    return [path, *parts] if os.path.exists(path) else parts


def finished_fields(path: str, settings: dict[str, Any]) -> set[int]:
    """Numbers of the fields of a set that are there.

    Raises:
        ValueError: If a file is damaged or was made with other settings.
    """
    numbers: set[int] = set()
    for name in files_of(path):
        with open_samples(name) as file:
            found = json.loads(read_text(file, "provenance"))
            numbers |= {int(label) for label in Reader(file).group(file, "fields")}
        for key, value in settings.items():
            if found.get(key) != value:
                told = f"{key}={found.get(key)!r}, not with {value!r}"
                told = {"families": "other families", "mesh": "another mesh"}.get(key, told)
                raise ValueError(
                    f"{name} was made with {told}; give another path or the same settings."
                )
    return numbers


def merge_parts(path: str, settings: dict[str, Any]) -> None:
    """Put the fields of a set and of its parts into one file in place of it."""
    sources = files_of(path)
    if sources != [path]:
        # Tables are copied as they are; each file has some bytes that the others have, too.
        size = sum(map(os.path.getsize, sources)) + 2**20
        with new_samples(path, settings, size) as file:
            for source in sources:
                with open_samples(source) as other:
                    for section in ("fields", "geometry"):
                        group = file.require_group(section)
                        for key in sorted(
                            Reader(other).group(other, section).keys() - group.keys()
                        ):
                            other.copy(f"{section}/{key}", group)
    shutil.rmtree(path + ".parts", ignore_errors=True)
