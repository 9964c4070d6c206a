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
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, NamedTuple

from mpi4py import MPI

import h5py
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

import dolfinx
import ufl
from dolfinx import fem
from dolfinx_msnn import fields as generators
from dolfinx_msnn._utils.mpi import check_same, collective_errors
from dolfinx_msnn._utils.typing import FloatArray, Function, FunctionSpace, LongArray
from dolfinx_msnn._version import __version__
from dolfinx_msnn.bases.spectral import SpectralBasis
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.problem import LocalProblem
from dolfinx_msnn.nn.config import Family
from dolfinx_msnn.nn.lattice import CLASSES, Pose, interpolation, network_input

FORMAT = "dolfinx_msnn neighbourhood samples"
FORMAT_VERSION = 1
SPLITS = ("train", "validation", "test")

type Single = npt.NDArray[np.float32]

_LIBVER = ("v110", "v110")


class DrawnField(NamedTuple):
    """A coefficient and where it came from.

    Attributes:
        kappa: DG0 function.
        description: Family, parameters and seed, as they go to the file.
    """

    kappa: Function
    description: dict[str, Any]


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


def draw_field(
    coarse: CoarseGrid, families: Sequence[Family], seed: int, number: int
) -> DrawnField:
    """Draw a family by its weight, its parameters and the field, from two numbers alone."""
    rng = np.random.default_rng([seed, number])
    weights = np.array([family.weight for family in families])
    family = families[int(rng.choice(len(families), p=weights / weights.sum()))]
    parameters: dict[str, Any] = family.draw(rng)
    parameters["seed"] = int(rng.integers(2**31))
    kappa = getattr(generators, family.name)(coarse.fine, **parameters)
    return DrawnField(kappa, {"family": family.name, **parameters})


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
    settings = _settings(coarse, fields, per_field, num_modes, lattice, samples, degree, seed)
    check_same(comm, path=name, num_fields=num_fields, settings=settings)
    folder = name + ".parts"
    todo: list[int] = []
    with collective_errors(comm):
        if comm.rank == 0:
            done = _finished(name, settings) | _finished_parts(folder, settings)
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
            problems = _choose(V, coarse, drawn.kappa, per_field, seed, number)
            _write_part(folder, number, problems, settings, drawn.description)
            del problems, drawn
            # Function spaces sit in reference cycles, and each holds an MPI communicator.
            gc.collect()
            if progress is not None:
                progress(count, len(mine))
    with collective_errors(comm):
        if comm.rank == 0:
            _merge(name, folder, settings)
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
    with _reading(name) as file:
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
                arrays = {table: tables[table][()] for table in _TABLES}
                pieces.setdefault(key, []).append((number, arrays))
        groups = [_group(file["geometry"][key], key, found) for key, found in pieces.items()]
    if not groups:
        raise ValueError(
            f"{name} has no field in the split {split}; sample more fields or enlarge the split."
        )
    groups.sort(key=lambda g: (-len(g.indptr), g.key))
    return Dataset(tuple(groups), provenance, descriptions)


class Symmetries(NamedTuple):
    """Reflections and permutations of the axes that keep a pose, as index tables.

    Attributes:
        channels: Input channel that each channel is taken from, shape ``(num, C)``.
        nodes: Lattice node that each node of the input is taken from, shape ``(num, p**d)``.
        inverse: The same for the way back, for the output.
    """

    channels: LongArray
    nodes: LongArray
    inverse: LongArray


def symmetries(class_name: str, sides: Sequence[float], p: int, q: int) -> Symmetries:
    """All symmetries of a class: two-sided axes may be reflected, alike axes permuted.

    The network's input of the mirrored problem is the input with its nodes and sub-boxes moved;
    its coordinates and proportions stay, since only axes of equal length are permuted.

    Args:
        class_name: Class of the neighbourhood.
        sides: Lengths of the box along the pose axes.
        p: Lattice nodes in each direction.
        q: Sub-boxes of a node in each direction.
    """
    dim = len(sides)
    one_sided = CLASSES[dim].index(class_name)
    kind = [(k < one_sided, round(side / max(sides), 6)) for k, side in enumerate(sides)]
    nodes = np.arange(p**dim).reshape((p,) * dim)
    boxes = np.arange(q**dim).reshape((q,) * dim)
    channels, moved, inverse = [], [], []
    for axes in permutations(range(dim)):
        if any(kind[a] != kind[k] for k, a in enumerate(axes)):
            continue
        for flips in product(*[(False,) if k < one_sided else (False, True) for k in range(dim)]):
            flipped = tuple(k for k in range(dim) if flips[k])
            move = np.flip(nodes.transpose(axes), flipped).reshape(-1)
            box = np.flip(boxes.transpose(axes), flipped).reshape(-1)
            moved.append(move)
            inverse.append(np.argsort(move))
            channels.append(np.concatenate([box, np.arange(q**dim, q**dim + 2 * dim)]))
    return Symmetries(*(np.array(t, dtype=np.int64) for t in (channels, moved, inverse)))


# ---- one field ----


def _choose(
    V: FunctionSpace,
    coarse: CoarseGrid,
    kappa: Function,
    per_field: int,
    seed: int,
    number: int,
) -> list[LocalProblem]:
    """The local problems of the neighbourhoods drawn from a field, by their vertex."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    s = kappa * ufl.inner(u, v) * ufl.dx
    local = LocalProblems(V, coarse, a, s, [], coefficient=kappa)
    chosen = np.arange(len(local))
    if per_field and per_field < len(local):
        rng = np.random.default_rng([seed, number, 1])
        chosen = rng.choice(len(local), per_field, replace=False)
    wanted = set(chosen.tolist())
    return sorted(
        (problem for k, problem in enumerate(local) if k in wanted), key=lambda p: p.vertex
    )


_TABLES = ("input", "A", "S", "modes", "eigenvalues", "vertex")


def _write_part(
    folder: str,
    number: int,
    problems: list[LocalProblem],
    settings: dict[str, Any],
    description: dict[str, Any],
) -> None:
    """Compute the samples of a field and write them as a file that appears when complete."""
    p, q = settings["lattice"], settings["samples"]
    modes = SpectralBasis(settings["num_modes"]).modes(problems)
    shapes: dict[str, tuple[Pose, list[int]]] = {}
    for k, problem in enumerate(problems):
        pose = Pose.of(problem)
        shapes.setdefault(_geometry_key(problem, pose, p), (pose, []))[1].append(k)
    with _writing(os.path.join(folder, f"{number:06d}.h5"), settings) as file:
        field = file.create_group(f"fields/{number:06d}")
        field.attrs["description"] = json.dumps(description)
        for key, (pose, members) in sorted(shapes.items()):
            mine = [problems[k] for k in members]
            _write_geometry(file.create_group(f"geometry/{key}"), mine[0], pose, p)
            group = field.create_group(key)
            _put(group, "input", np.stack([network_input(m, Pose.of(m), p, q) for m in mine]))
            _put(group, "A", np.stack([m.A.data for m in mine]).astype(np.float32))
            _put(group, "S", np.stack([m.S.data for m in mine]).astype(np.float32))
            _put(group, "modes", np.stack([modes[k].vectors for k in members]).astype(np.float32))
            _put(group, "eigenvalues", np.stack([modes[k].values for k in members]))
            _put(group, "vertex", np.array([m.vertex for m in mine], dtype=np.int64))


def _geometry_key(problem: LocalProblem, pose: Pose, p: int) -> str:
    """Name of a shape: equal for equal patterns with dofs at the same places of the pose."""
    positions = np.rint(pose.positions(problem, problem.x) * 1e6).astype(np.int32)
    sides = np.round(np.array(pose.sides) / max(pose.sides), 6).tolist()
    content = problem.pattern + positions.tobytes() + repr((pose.name, sides, p)).encode()
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _write_geometry(group: h5py.Group, problem: LocalProblem, pose: Pose, p: int) -> None:
    if problem.block_size != 1:
        raise ValueError(f"{problem.name} has vector-valued dofs; expected a scalar problem.")
    # Rounded: the rounding errors of a neighbourhood's place are no part of its shape.
    weights = interpolation(problem, pose, p)
    weights = weights.copy()
    weights.data = _rounded(weights.data)
    weights.eliminate_zeros()
    group.attrs["class"] = pose.name
    group.attrs["sides"] = _rounded(np.array(pose.sides) / max(pose.sides))
    group.attrs["nodes"] = p**problem.gdim
    _put(group, "indptr", problem.A.indptr.astype(np.int32))
    _put(group, "indices", problem.A.indices.astype(np.int32))
    _put(group, "lattice_indptr", weights.indptr.astype(np.int32))
    _put(group, "lattice_indices", weights.indices.astype(np.int32))
    _put(group, "lattice_data", weights.data.astype(np.float32))
    _put(group, "x", _rounded(pose.positions(problem, problem.x)).astype(np.float32))


def _rounded(x: FloatArray) -> FloatArray:
    """To multiples of 2^-20, and no negative zeros."""
    return np.rint(x * 2.0**20) / 2.0**20 + 0.0


def _put(group: h5py.Group, name: str, array: npt.NDArray[Any]) -> None:
    """Write a table, one chunk a sample, compressed, with checksums."""
    sampled = name in _TABLES and array.ndim > 1
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


# ---- files ----


def _settings(
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
def _writing(name: str, settings: dict[str, Any]) -> Iterator[h5py.File]:
    """A file that gets its name when the body is through, and is on the disk by then."""
    folder, base = os.path.split(os.path.realpath(name))
    draft = os.path.join(folder, f".{base}.{uuid.uuid4().hex[:8]}.tmp")
    versions = {"package": __version__, "dolfinx": dolfinx.__version__, "numpy": np.__version__}
    try:
        with h5py.File(draft, "w-", libver=_LIBVER) as file:
            file.attrs["format"] = FORMAT
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["provenance"] = json.dumps({**settings, "versions": versions})
            yield file
        with open(draft, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(draft, os.path.join(folder, base))
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise


@contextmanager
def _reading(name: str) -> Iterator[h5py.File]:
    """Open a set; whatever is wrong with it becomes one sentence."""
    if not os.path.isfile(name):
        raise FileNotFoundError(f"There is no file {name} with samples.")
    try:
        with h5py.File(name, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ValueError("it has another format")
            version = int(file.attrs["format_version"])
            if version != FORMAT_VERSION:
                raise ValueError(f"it has format {version}, expected {FORMAT_VERSION}")
            yield file
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as exc:
        reason = " ".join(str(exc).split()).strip("'\"").rstrip(".") or type(exc).__name__
        raise ValueError(f"{name} is not a readable set of samples: {reason}.") from exc


def _check_settings(name: str, file: h5py.File, settings: dict[str, Any]) -> str | None:
    """What differs between a file's settings and those wanted, as a sentence."""
    found = json.loads(file.attrs["provenance"])
    for key, value in settings.items():
        if found.get(key) != value:
            pair = f"{key}={found.get(key)!r}, not with {value!r}"
            if key in ("families", "mesh"):
                pair = f"other {key}" if key == "families" else "another mesh"
            return f"{name} was made with {pair}; give another path or the same settings."
    return None


def _finished(name: str, settings: dict[str, Any]) -> set[int]:
    """The fields that a file holds."""
    if not os.path.exists(name):
        return set()
    with _reading(name) as file:
        wrong = _check_settings(name, file, settings)
        numbers = {int(label) for label in file["fields"]}
    if wrong:
        raise ValueError(wrong)
    return numbers


def _finished_parts(folder: str, settings: dict[str, Any]) -> set[int]:
    """The fields that are there as parts."""
    numbers: set[int] = set()
    for part in _parts(folder):
        numbers |= _finished(part, settings)
    return numbers


def _parts(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(os.path.join(folder, f) for f in os.listdir(folder) if not f.startswith("."))


def _merge(name: str, folder: str, settings: dict[str, Any]) -> None:
    """Put the fields of a file and of all parts into one file in place of it."""
    sources = [name] if os.path.exists(name) else []
    parts = _parts(folder)
    if parts:
        with _writing(name, settings) as file:
            for section in ("fields", "geometry"):
                file.create_group(section)
            for source in sources + parts:
                with _reading(source) as other:
                    for section in ("fields", "geometry"):
                        for key in other[section]:
                            if key not in file[section]:
                                other.copy(f"{section}/{key}", file[section])
    shutil.rmtree(folder, ignore_errors=True)


def _group(
    geometry: h5py.Group, key: str, found: list[tuple[int, dict[str, npt.NDArray[Any]]]]
) -> Group:
    """All samples of a shape, one field after the other."""
    arrays = {name: np.concatenate([part[name] for _, part in found]) for name in _TABLES}
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
