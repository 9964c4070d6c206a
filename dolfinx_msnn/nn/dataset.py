# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Sets of neighbourhoods for training in memory; :mod:`~dolfinx_msnn.nn.sampling` makes them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dolfinx_msnn._utils.typing import FloatArray, LongArray
from dolfinx_msnn.nn.sample_file import TABLES, open_samples
from dolfinx_msnn.nn.sampling import generate

__all__ = ["SPLITS", "Dataset", "Group", "generate", "load", "split_of"]

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
    with open_samples(name) as file:
        provenance = json.loads(file.attrs["provenance"])
        descriptions: dict[int, dict[str, Any]] = {}
        members: dict[str, dict[int, h5py.Group]] = {}
        for label, field in file["fields"].items():
            number = int(label)
            part = split_of(provenance["seed"], number, validation=validation, test=test)
            if split in (None, part):
                descriptions[number] = json.loads(field.attrs["description"])
                for key, tables in field.items():
                    members.setdefault(key, {})[number] = tables
        groups = [_group(file["geometry"][key], key, found) for key, found in members.items()]
    if not groups:
        raise ValueError(
            f"{name} has no field in the split {split}; sample more fields or enlarge the split."
        )
    groups.sort(key=lambda g: (-len(g.indptr), g.key))
    return Dataset(tuple(groups), provenance, descriptions)


def _group(geometry: h5py.Group, key: str, members: dict[int, h5py.Group]) -> Group:
    """All samples of a shape, one field after the other."""
    read = {name: [tables[name][()] for tables in members.values()] for name in TABLES}
    arrays = {name: np.concatenate(parts) for name, parts in read.items()}
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
        fields=np.repeat(list(members), list(map(len, read["vertex"]))),
        vertices=arrays["vertex"],
        **{name: arrays[name] for name in ("A", "S", "modes", "eigenvalues")},
    )
