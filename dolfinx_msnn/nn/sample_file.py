# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Files with samples, never half written. Their layout: :mod:`~dolfinx_msnn.nn.dataset`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

import dolfinx
from dolfinx_msnn._utils.files import LIBVER, open_hdf5, replacing
from dolfinx_msnn._utils.typing import Function
from dolfinx_msnn._version import __version__
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.nn.config import Family

FORMAT = "dolfinx_msnn neighbourhood samples"


FORMAT_VERSION = 1


#: Tables of the samples of one shape in a field.
TABLES = ("input", "A", "S", "modes", "eigenvalues", "vertex")


def settings_of(
    coarse: CoarseGrid,
    fields: Sequence[Family] | Callable[[int], Function],
    per_field: int,
    num_modes: int,
    lattice: int,
    samples: int,
    degree: int,
    seed: int,
) -> dict[str, Any]:
    """What a set depends on: sets of equal settings may be joined."""
    msh = coarse.fine
    points = np.round(msh.geometry.x, 9) + 0.0
    families = "callable" if callable(fields) else [family.describe() for family in fields]
    return {
        "dim": msh.topology.dim,
        "cell": msh.topology.cell_type.name,
        "num_cells": msh.topology.index_map(msh.topology.dim).size_global,
        "mesh": hashlib.blake2b(points.tobytes(), digest_size=8).hexdigest(),
        "coarse": list(getattr(coarse, "n", ())),
        "oversampling": coarse.oversampling,
        "degree": int(degree),
        "families": families,
        "per_field": int(per_field),
        "num_modes": int(num_modes),
        "lattice": int(lattice),
        "samples": int(samples),
        "seed": int(seed),
    }


@contextmanager
def writing(name: str, settings: Mapping[str, Any]) -> Iterator[h5py.File]:
    """A new set; it gets its name when the body is through, and is on the disk by then."""
    versions = {"package": __version__, "dolfinx": dolfinx.__version__, "numpy": np.__version__}
    with replacing(name) as draft, h5py.File(draft, "w-", libver=LIBVER) as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["provenance"] = json.dumps({**settings, "versions": versions})
        yield file


@contextmanager
def reading(name: str) -> Iterator[h5py.File]:
    """Open a set; whatever is wrong with it becomes one sentence."""
    with open_hdf5(name, "samples") as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError("it has another format")
        version = int(file.attrs["format_version"])
        if version != FORMAT_VERSION:
            raise ValueError(f"it has format {version}, expected {FORMAT_VERSION}")
        yield file


def put(group: h5py.Group, name: str, array: npt.NDArray[Any]) -> None:
    """Write a table, one chunk a sample, compressed, with checksums."""
    sampled = name in TABLES and array.ndim > 1
    chunks = (1, *array.shape[1:]) if sampled else array.shape
    group.create_dataset(
        name,
        data=array,
        chunks=chunks,
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        fletcher32=True,
    )


def _difference(name: str, file: h5py.File, settings: dict[str, Any]) -> str | None:
    """What differs between a file's settings and those wanted, as a sentence."""
    found = json.loads(file.attrs["provenance"])
    for key, value in settings.items():
        if found.get(key) != value:
            pair = f"{key}={found.get(key)!r}, not with {value!r}"
            if key in ("families", "mesh"):
                pair = f"other {key}" if key == "families" else "another mesh"
            return f"{name} was made with {pair}; give another path or the same settings."
    return None


def finished(name: str, settings: dict[str, Any]) -> set[int]:
    """The fields that a file holds."""
    if not os.path.exists(name):
        return set()
    with reading(name) as file:
        wrong = _difference(name, file, settings)
        numbers = {int(label) for label in file["fields"]}
    if wrong:
        raise ValueError(wrong)
    return numbers


def finished_parts(folder: str, settings: dict[str, Any]) -> set[int]:
    """The fields that are there as parts."""
    numbers: set[int] = set()
    for part in parts_of(folder):
        numbers |= finished(part, settings)
    return numbers


def parts_of(folder: str) -> list[str]:
    """The finished parts of a set, sorted."""
    if not os.path.isdir(folder):
        return []
    return sorted(os.path.join(folder, f) for f in os.listdir(folder) if not f.startswith("."))


def merge(name: str, folder: str, settings: dict[str, Any]) -> None:
    """Put the fields of a file and of all parts into one file in place of it."""
    sources = [name] if os.path.exists(name) else []
    parts = parts_of(folder)
    if parts:
        with writing(name, settings) as file:
            for section in ("fields", "geometry"):
                file.create_group(section)
            for source in sources + parts:
                with reading(source) as other:
                    for section in ("fields", "geometry"):
                        for key in other[section]:
                            if key not in file[section]:
                                other.copy(f"{section}/{key}", file[section])
    shutil.rmtree(folder, ignore_errors=True)
