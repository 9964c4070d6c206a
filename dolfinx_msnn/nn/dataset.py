# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Sets of neighbourhoods for training, computed from the user's own mesh and coefficients.

A sample is one neighbourhood of one coefficient field for a(u, v) = κ ∇u·∇v dx and
s(u, v) = κ u v dx: the network's input, the local pencil and its lowest modes. Layout of the HDF5
file (format 1), k samples of one shape in a field, p lattice nodes, n dofs, nnz entries:

=============================================  ============================================
name                                           content
=============================================  ============================================
geometry/<key>/indptr, indices                 sparsity pattern of A and S, int32
geometry/<key>/lattice_{indptr,indices,data}   interpolation from the lattice to the dofs
geometry/<key>/x                               dofs in the posed unit box, float32, (n, d)
fields/<number>/<key>/input                    float32, (k, C, p, ..., p)
fields/<number>/<key>/A, S                     float32, (k, nnz)
fields/<number>/<key>/modes                    float32, (k, num_modes, n)
fields/<number>/<key>/eigenvalues              float64, (k, num_modes)
fields/<number>/<key>/vertex                   int64, (k,)
=============================================  ============================================

While a set grows, each finished field is a file of its own in the folder ``<path>.parts``, which
appears there complete or not at all, and so does the merged file: a process killed at any time
loses the fields it was working on, and nothing else.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

import h5py
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dolfinx import fem
from dolfinx_msnn._utils.mpi import check_same, collective_errors
from dolfinx_msnn._utils.typing import FloatArray, Function, LongArray
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.nn.family import Family
from dolfinx_msnn.nn.sample_file import (
    TABLES,
    finished,
    finished_parts,
    merge,
    reading,
    settings_of,
)
from dolfinx_msnn.nn.sampling import DrawnField, choose, draw_field, write_part

SPLITS = ("train", "validation", "test")

type Single = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Group:
    """Samples of one shape: one sparsity pattern, one pose.

    Attributes:
        key: Name of the geometry.
        class_name: Class of the neighbourhoods, see :data:`dolfinx_msnn.nn.lattice.CLASSES`.
        sides: Lengths of the box along the pose axes, relative to the longest.
        indptr: CSR row pointers of A and S, shape ``(n + 1,)``, int32.
        indices: CSR columns, shape ``(nnz,)``, int32.
        lattice: Interpolation from lattice functions to dofs, shape ``(n, p**d)``, float32.
        inputs: Shape ``(N, C, p, ..., p)``, float32.
        A: Entries of A_i, shape ``(N, nnz)``, float32.
        S: Entries of S_i, shape ``(N, nnz)``, float32.
        modes: S-orthonormal modes, shape ``(N, num_modes, n)``, float32.
        eigenvalues: Shape ``(N, num_modes)``, float64.
        fields: Number of the field of each sample, shape ``(N,)``, int64.
        vertices: Coarse vertex of each sample, shape ``(N,)``, int64.
    """

    key: str
    class_name: str
    sides: tuple[float, ...]
    indptr: npt.NDArray[np.int32]
    indices: npt.NDArray[np.int32]
    lattice: sp.csr_matrix
    inputs: Single
    A: Single
    S: Single
    modes: Single
    eigenvalues: FloatArray
    fields: LongArray
    vertices: LongArray

    def __len__(self) -> int:
        return len(self.fields)

    def pencil(self, k: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """A and S of sample ``k``, float32."""
        n = len(self.indptr) - 1
        return tuple(
            sp.csr_matrix((data[k], self.indices, self.indptr), shape=(n, n))
            for data in (self.A, self.S)
        )


@dataclass(frozen=True)
class Dataset:
    """A set of samples in memory.

    Attributes:
        groups: The samples by shape, those of the largest shape first.
        provenance: Seeds, families, mesh, coarse grid, versions.
        descriptions: Family and parameters of each field, by its number.
    """

    groups: tuple[Group, ...]
    provenance: dict[str, Any]
    descriptions: dict[int, dict[str, Any]]

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    @property
    def dim(self) -> int:
        """Dimension of space."""
        return int(self.provenance["dim"])


def generate(
    path: str | os.PathLike[str],
    coarse: CoarseGrid,
    fields: Sequence[Family] | Callable[[int], Function],
    *,
    num_fields: int,
    per_field: int = 0,
    num_modes: int = 8,
    lattice: int,
    samples: int = 2,
    degree: int = 1,
    seed: int = 0,
    comm: MPI.Comm = MPI.COMM_WORLD,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Compute what is missing of a set of samples and write it to one file.

    A set that is there already is continued: fields in it are not computed again, and with a
    larger ``num_fields`` it grows. The set depends on the arguments alone, not on the number of
    ranks nor on interruptions.

    Args:
        path: HDF5 file.
        coarse: Coarse grid on the user's mesh, which must live on ``MPI.COMM_SELF``; equal on all
            ranks, each of which computes whole fields.
        fields: Families to draw from, or a function that gives the DG0 coefficient on that mesh
            of a field's number.
        num_fields: Fields in the set.
        per_field: Neighbourhoods drawn from each field; 0 for all.
        num_modes: Modes of each neighbourhood.
        lattice: Lattice nodes p in each direction.
        samples: Sub-boxes q of a node in each direction, even.
        degree: Degree of the Lagrange elements.
        seed: Seed of the fields and of the choice of neighbourhoods.
        comm: The ranks that share the work.
        progress: Called after each field of this rank with the numbers of those done and to do.

    Returns:
        Number of fields that were computed in this call.

    Raises:
        ValueError: If an argument is out of range, if ``path`` is damaged or of other settings, or
            if a coefficient is not positive and finite.

    Note:
        Collective on ``comm``.
    """
    name = os.fspath(path)
    with collective_errors(comm):
        if coarse.fine.comm.size != 1:
            raise ValueError(
                "The mesh must live on MPI.COMM_SELF, since each rank computes whole fields; got "
                f"one on {coarse.fine.comm.size} ranks."
            )
        for key, value, least in (
            ("num_fields", num_fields, 1),
            ("per_field", per_field, 0),
            ("num_modes", num_modes, 1),
            ("lattice", lattice, 3),
            ("samples", samples, 2),
            ("degree", degree, 1),
            ("seed", seed, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{key} must be an integer of at least {least}, got {value!r}.")
        if samples % 2:
            raise ValueError(f"samples must be even, got {samples}.")
    settings = settings_of(coarse, fields, per_field, num_modes, lattice, samples, degree, seed)
    check_same(comm, path=name, num_fields=num_fields, settings=settings)
    folder = name + ".parts"
    todo: list[int] = []
    with collective_errors(comm):
        if comm.rank == 0:
            done = finished(name, settings) | finished_parts(folder, settings)
            todo = [k for k in range(num_fields) if k not in done]
            os.makedirs(folder, exist_ok=True)
    todo = comm.bcast(todo)
    with collective_errors(comm):
        mine = todo[comm.rank :: comm.size]
        V = fem.functionspace(coarse.fine, ("Lagrange", degree))
        for count, number in enumerate(mine, start=1):
            if callable(fields):
                drawn = DrawnField(fields(number), {"family": "callable"})
            else:
                drawn = draw_field(coarse, fields, seed, number)
            problems = choose(V, coarse, drawn.kappa, per_field, seed, number)
            write_part(folder, number, problems, settings, drawn.description)
            del problems, drawn
            # Function spaces sit in reference cycles, and each holds an MPI communicator.
            gc.collect()
            if progress is not None:
                progress(count, len(mine))
    with collective_errors(comm):
        if comm.rank == 0:
            merge(name, folder, settings)
    return len(todo)


def split_of(seed: int, field: int, *, validation: float, test: float) -> str:
    """The split that a field belongs to, whatever other fields there are; one of SPLITS."""
    digest = hashlib.blake2b(f"{seed}:{field}".encode(), digest_size=8).digest()
    u = int.from_bytes(digest, "big") / 2**64
    return "test" if u < test else "validation" if u < test + validation else "train"


def load(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    validation: float = 0.1,
    test: float = 0.1,
) -> Dataset:
    """Read a set, or one split of it, into memory.

    Args:
        path: File written by :func:`generate`.
        split: ``"train"``, ``"validation"`` or ``"test"``; ``None`` for all samples.
        validation: Fraction of the fields that validate.
        test: Fraction of the fields kept for tests.

    Raises:
        ValueError: If the file is damaged or something else, or has no field in the split.
        FileNotFoundError: If there is none.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    name = os.fspath(path)
    if not os.path.exists(name) and os.path.isdir(name + ".parts"):
        raise FileNotFoundError(
            f"{name} is not finished (its fields are in {name}.parts); sample again to go on."
        )
    with reading(name) as file:
        provenance = json.loads(file.attrs["provenance"])
        descriptions: dict[int, dict[str, Any]] = {}
        pieces: dict[str, list[tuple[int, dict[str, npt.NDArray[Any]]]]] = {}
        for label, group in file["fields"].items():
            number = int(label)
            part = split_of(provenance["seed"], number, validation=validation, test=test)
            if split is not None and part != split:
                continue
            descriptions[number] = json.loads(group.attrs["description"])
            for key, tables in group.items():
                arrays = {table: tables[table][()] for table in TABLES}
                pieces.setdefault(key, []).append((number, arrays))
        groups = [_group(file["geometry"][key], key, found) for key, found in pieces.items()]
    if not groups:
        raise ValueError(
            f"{name} has no field in the split {split}; sample more fields or enlarge the split."
        )
    groups.sort(key=lambda g: (-len(g.indptr), g.key))
    return Dataset(tuple(groups), provenance, descriptions)


def _group(
    geometry: h5py.Group, key: str, found: list[tuple[int, dict[str, npt.NDArray[Any]]]]
) -> Group:
    """All samples of a shape, one field after the other."""
    arrays = {name: np.concatenate([part[name] for _, part in found]) for name in TABLES}
    indptr, indices = geometry["indptr"][()], geometry["indices"][()]
    n, num, nodes = len(indptr) - 1, len(arrays["vertex"]), int(geometry.attrs["nodes"])
    for name, width in (("A", len(indices)), ("S", len(indices)), ("modes", n)):
        if arrays[name].shape[0] != num or arrays[name].shape[-1] != width:
            raise ValueError(f"the table {name} of the geometry {key} has the wrong shape")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"the table {name} of the geometry {key} has a value not finite")
    weights = (geometry[f"lattice_{part}"][()] for part in ("data", "indices", "indptr"))
    return Group(
        key=key,
        class_name=str(geometry.attrs["class"]),
        sides=tuple(geometry.attrs["sides"].tolist()),
        indptr=indptr,
        indices=indices,
        lattice=sp.csr_matrix(tuple(weights), shape=(n, nodes)),
        inputs=arrays["input"],
        A=arrays["A"],
        S=arrays["S"],
        modes=arrays["modes"],
        eigenvalues=arrays["eigenvalues"],
        fields=np.repeat([number for number, _ in found], [len(p["vertex"]) for _, p in found]),
        vertices=arrays["vertex"],
    )
