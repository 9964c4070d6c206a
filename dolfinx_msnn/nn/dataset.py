# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Sets of neighbourhoods for training in memory; :mod:`~dolfinx_msnn.nn.sampling` makes them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dolfinx_msnn._utils.checks import is_integer, require
from dolfinx_msnn.nn.card import CONVENTIONS
from dolfinx_msnn.nn.lattice import CLASSES, interpolation_to, num_channels
from dolfinx_msnn.nn.sample_file import SOLUTIONS, Reader, open_samples, read_text

if TYPE_CHECKING:
    from dolfinx_msnn._utils.typing import FloatArray, LongArray
    from dolfinx_msnn.nn.sampling import generate

__all__ = ["SPLITS", "Dataset", "Group", "generate", "load", "split_of"]

SPLITS = ("train", "validation", "test")

type Single = npt.NDArray[np.float32]


def __getattr__(name: str) -> Any:
    """Sampling needs DOLFINx, reading does not."""
    if name != "generate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dolfinx_msnn.nn.sampling import generate

    return generate


@dataclass(frozen=True)
class Group:
    """Samples of one shape: one sparsity pattern, one pose.

    Attributes:
        key: Name of the geometry.
        class_name: Class of the neighbourhoods, see :data:`dolfinx_msnn.nn.lattice.CLASSES`.
        sides: Lengths of the box along the pose axes, relative to the longest.
        indptr: CSR row pointers of A and S, shape ``(n + 1,)``, int32.
        indices: CSR columns, shape ``(nnz,)``, int32.
        x: Places of the dofs in the posed unit box, shape ``(n, d)``.
        inputs: Shape ``(N, C, p, ..., p)``, float32.
        A: Entries of A_i, shape ``(N, nnz)``, float32.
        S: Entries of S_i, shape ``(N, nnz)``, float32.
        modes: S-orthonormal modes, shape ``(N, num_modes, n)``, float32.
        eigenvalues: Shape ``(N, num_modes)``, float64.
        fields: Number of the field of each sample, shape ``(N,)``, int64.
        vertices: Coarse vertex of each sample, shape ``(N,)``, int64.
        solutions: Fine solutions of the same κ, of global energy 1, shape
            ``(N, num_solutions, n)``, float32.
        weight: χ, zero at Dirichlet dofs; empty if there are no solutions; shape ``(N, n)``.
    """

    key: str
    class_name: str
    sides: tuple[float, ...]
    indptr: npt.NDArray[np.int32]
    indices: npt.NDArray[np.int32]
    x: Single
    inputs: Single
    A: Single
    S: Single
    modes: Single
    eigenvalues: FloatArray
    fields: LongArray
    vertices: LongArray
    solutions: Single
    weight: Single

    def __len__(self) -> int:
        return len(self.fields)

    def interpolation(self, nodes: int) -> sp.csr_matrix:
        """From functions on a lattice of so many nodes in each direction to the dofs, float32."""
        place = self.x.astype(np.float64) * (nodes - 1)
        # The file's places are rounded: on a node means on that node.
        near = np.rint(place)
        place = np.where(np.abs(place - near) < 1e-4, near, place) / (nodes - 1)
        return interpolation_to(place, nodes).astype(np.float32)

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
    """Read a set, or one split of it, into memory; refused are more than 64 times the file's size.

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
        reader = Reader(file)
        provenance = json.loads(read_text(file, "provenance"))
        require(provenance["dim"] in (2, 3), "dim", provenance["dim"], "2 or 3")
        for key, least in (("lattice", 1), ("samples", 1), ("num_modes", 1), ("solutions", 0)):
            expected = f"an integer of at least {least}"
            require(is_integer(provenance[key], least), key, provenance[key], expected)
        descriptions: dict[int, dict[str, Any]] = {}
        members: dict[str, dict[int, h5py.Group]] = {}
        fields = reader.group(file, "fields")
        for label in fields:
            number, field = int(label), reader.group(fields, label)
            part = split_of(provenance["seed"], number, validation=validation, test=test)
            if split in (None, part):
                descriptions[number] = json.loads(read_text(field, "description"))
                for key in field:
                    members.setdefault(key, {})[number] = reader.group(field, key)
        geometry = reader.group(file, "geometry")
        groups = [
            _group(reader, reader.group(geometry, key), key, found, provenance)
            for key, found in members.items()
        ]
    if not groups:
        raise ValueError(
            f"{name} has no field in the split {split}; sample more fields or enlarge the split."
        )
    groups.sort(key=lambda g: (-len(g.indptr), g.key))
    return Dataset(tuple(groups), provenance, descriptions)


def _group(
    reader: Reader,
    geometry: h5py.Group,
    key: str,
    members: dict[int, h5py.Group],
    provenance: dict[str, Any],
) -> Group:
    """All samples of a shape, one field after the other."""
    dim, p, num_modes = (provenance[name] for name in ("dim", "lattice", "num_modes"))
    class_name, sides = read_text(geometry, "class"), geometry.attrs["sides"].tolist()
    if class_name not in CLASSES[dim] or len(sides) != dim or not 0 < min(sides) <= max(sides) <= 1:
        raise ValueError(f"the geometry {key} has no class or other sides")
    indptr, indices = reader.pattern(geometry)
    n, nnz = len(indptr) - 1, len(indices)
    x = reader.table(geometry, "x", (n, dim))
    solutions = provenance["solutions"]
    convention = CONVENTIONS[bool(solutions)]
    shapes = {
        "input": (num_channels(dim, provenance["samples"], convention), *(p,) * dim),
        "A": (nnz,),
        "S": (nnz,),
        "modes": (num_modes, n),
        "eigenvalues": (num_modes,),
    }
    if solutions:
        shapes |= {"solutions": (solutions, n), "weight": (n,)}
    read = [
        {"vertex": (vertex := reader.table(tables, "vertex", (None,)))}
        | {name: reader.table(tables, name, (len(vertex), *s)) for name, s in shapes.items()}
        for tables in members.values()
    ]
    arrays = {name: np.concatenate([part[name] for part in read]) for name in read[0]}
    return Group(
        key=key,
        class_name=class_name,
        sides=tuple(sides),
        indptr=indptr,
        indices=indices,
        x=x,
        inputs=arrays["input"],
        fields=np.repeat(list(members), [len(part["vertex"]) for part in read]),
        vertices=arrays["vertex"],
        **{name: arrays[name] for name in ("A", "S", "modes", "eigenvalues")},
        **{name: arrays.get(name, np.empty((0, 0), np.float32)) for name in SOLUTIONS},
    )
