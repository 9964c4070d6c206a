# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Multiscale spaces in HDF5 files, readable on any number of ranks.

A fine dof is known in the file by its position, since its number depends on how the mesh was
distributed. That the forms and their coefficients are those of the saved space is checked by what
they do to fixed functions of position: the vectors a(f, φ_j), entry by entry.

Layout (format 1), ``N_b`` dof blocks of the fine space, ``bs`` components, ``nnz`` entries of P,
``N_v`` neighbourhoods:

===================  ==========  ==================================================================
name                 shape       content
===================  ==========  ==================================================================
points               (N_b, 3)    position of each dof block, float64
dirichlet            (N_b, bs)   which dofs were constrained, uint8
reference            (N_b, ...)  a(f, φ_j) of each dof for two functions f, then s(f, φ_j) if any
rows, cols, values   (nnz,)      P by coordinates; rows in the numbering of ``points``, unrolled
vertex, mode         (N_c,)      neighbourhood and mode of each coarse dof
eigen_vertex         (N_v,)      neighbourhoods, in the order of their coarse dofs
dof_count            (N_v,)      how many coarse dofs each has
eigen_count          (N_v,)      how many eigenvalues each has
eigenvalues          (sum,)      their eigenvalues, one neighbourhood after the other
===================  ==========  ==================================================================

Every table has HDF5's checksums (Fletcher-32), and files are of a version of HDF5 (1.10) that also
has them on all of its own data: a damaged file is refused, not read wrongly.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from mpi4py import MPI
from petsc4py import PETSc

import h5py
import numpy as np
import numpy.typing as npt

import ufl
from dolfinx import fem, la
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.compat import require_real
from dolfinx_msnn._utils.mesh import bounding_box, dirichlet_mask
from dolfinx_msnn._utils.mpi import check_same, collective_errors, route
from dolfinx_msnn._utils.petsc import check_mat_type
from dolfinx_msnn._utils.timings import Timings
from dolfinx_msnn._utils.typing import (
    BoolArray,
    DirichletBC,
    FloatArray,
    Function,
    FunctionSpace,
    LongArray,
)
from dolfinx_msnn._version import __version__
from dolfinx_msnn.space.prolongation import CoarseDofs, create_coo_matrix

if TYPE_CHECKING:
    from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

FORMAT = "dolfinx_msnn multiscale space"
FORMAT_VERSION = 1

#: Relative difference at which a reference value counts as another form's.
REFERENCE_TOLERANCE = 1e-8

#: Reference functions for each form.
NUM_REFERENCE = 2

#: The version of the HDF5 format that is written.
_LIBVER = ("v110", "v110")

_CHUNK_BYTES = 2**17

_DTYPES = {
    "points": "f8",
    "dirichlet": "u1",
    "reference": "f8",
    "rows": "i8",
    "cols": "i8",
    "values": "f8",
    "vertex": "i8",
    "mode": "i4",
    "eigen_vertex": "i8",
    "dof_count": "i8",
    "eigen_count": "i8",
    "eigenvalues": "f8",
}


def save(
    W: MultiscaleFunctionSpace,
    path: str | os.PathLike[str],
    a: ufl.Form,
    s: ufl.Form | None,
) -> None:
    """Write a space; see :meth:`MultiscaleFunctionSpace.save`. Collective."""
    V, comm, P = W.V, W.comm, W.P
    with collective_errors(comm):
        name = _check_path(path)
        forms.check_form(a, V, "a")
        if s is not None:
            forms.check_form(s, V, "s")
    check_same(comm, path=name, a=forms.identify(a), s=forms.identify(s))
    parts = _tables(W, P, [a] if s is None else [a, s])
    try:
        _match_points(name, V, parts["points"])
    except ValueError:
        raise ValueError(
            "The fine space has nodes at the same place, by which a file cannot tell them apart; "
            "expected a mesh without slits."
        ) from None
    attributes = {
        "format": np.bytes_(FORMAT),
        "format_version": FORMAT_VERSION,
        "package_version": np.bytes_(__version__),
        "id": np.bytes_(comm.bcast(uuid.uuid4().hex)),
        "element": np.bytes_(str(V.ufl_element())),
        "cells": V.mesh.topology.index_map(V.mesh.topology.dim).size_global,
        "num_dropped": W.num_dropped,
    }
    offsets = {key: comm.exscan(len(part)) or 0 for key, part in parts.items()}
    totals = {key: comm.allreduce(len(part)) for key, part in parts.items()}
    # Under another name until it is complete; where path is a link, beside what it points to.
    target = os.path.realpath(name)
    folder, base = os.path.split(target)
    draft = os.path.join(folder, f".{base}.{comm.bcast(uuid.uuid4().hex)[:8]}.tmp")
    try:
        for rank in range(comm.size):
            # In turn: HDF5 without MPI support allows one writer at a time.
            with collective_errors(comm), _writing(name):
                if rank != comm.rank:
                    continue
                with h5py.File(draft, "w-" if rank == 0 else "r+", libver=_LIBVER) as file:
                    if rank == 0:
                        file.attrs.update(attributes)
                        for key, part in parts.items():
                            _create_table(file, key, (totals[key], *part.shape[1:]))
                    for key, part in parts.items():
                        file[key][offsets[key] : offsets[key] + len(part)] = part
        with collective_errors(comm), _writing(name):
            if comm.rank == 0:
                os.replace(draft, target)
    except BaseException:
        if comm.rank == 0:
            with suppress(OSError):
                os.unlink(draft)
        raise


def load(
    path: str | os.PathLike[str],
    V: FunctionSpace,
    a: ufl.Form,
    s: ufl.Form | None,
    bcs: Sequence[DirichletBC],
    mat_type: str | None,
) -> tuple[FunctionSpace, PETSc.Mat, CoarseDofs, BoolArray, Timings]:
    """Read a space; see :meth:`MultiscaleFunctionSpace.load`. Collective."""
    require_real()
    comm = V.mesh.comm
    with collective_errors(comm):
        name = _check_path(path)
        forms.check_form(a, V, "a")
        if s is not None:
            forms.check_form(s, V, "s")
        forms.check_bcs(bcs, V)
        check_mat_type(mat_type)
    check_same(comm, path=name, a=forms.identify(a), s=forms.identify(s), mat_type=mat_type)
    given = [a] if s is None else [a, s]
    index_map, bs = V.dofmap.index_map, V.dofmap.index_map_bs
    with collective_errors(comm):
        header = _read_header(name)
        _check_header(name, header, V, len(given))
        share = _read_share(name, header, comm)
        _check_share(name, share, index_map.size_global * bs)
    check_same(comm, file=header.attributes["id"])

    parts = share.parts
    blocks = _match_points(name, V, parts["points"])
    mask = dirichlet_mask(V, bcs)[: index_map.size_local].reshape(-1)
    _check_dofs(name, V, blocks, parts, mask, _reference(V, given))
    # A rank that read a slab of P knows new numbers only for its slab of points.
    block, component = np.divmod(parts["rows"], bs)
    rows = _lookup(comm, blocks, index_map.size_global, block) * bs + component
    P = create_coo_matrix(
        V,
        len(share.dofs.vertex),
        rows.astype(PETSc.IntType),
        parts["cols"].astype(PETSc.IntType),
        parts["values"],
        mat_type,
    )
    return V, P, share.dofs, mask, Timings()


class _Header(NamedTuple):
    """What a file says about itself, read without any of its tables.

    Attributes:
        attributes: The attributes of the file.
        tables: Shape and dtype of each table, and whether it has all of its data and checksums.
    """

    attributes: dict[str, Any]
    tables: dict[str, tuple[tuple[int, ...], np.dtype[Any], bool]]


class _Share(NamedTuple):
    """What a rank reads.

    Attributes:
        parts: Its share of the tables on fine dofs and entries of P.
        dofs: Its neighbourhoods' coarse dofs.
        num_coarse: N_c.
    """

    parts: dict[str, npt.NDArray[Any]]
    dofs: CoarseDofs
    num_coarse: int


def _check_path(path: str | os.PathLike[str]) -> str:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ValueError(f"path must be the name of a file, got {path!r}.")
    return os.fspath(path)


@contextmanager
def _writing(name: str) -> Iterator[None]:
    """Make one sentence of what goes wrong in writing."""
    try:
        yield
    except (OSError, RuntimeError) as exc:
        raise OSError(f"Cannot write {name}: {_reason(exc)}.") from exc


@contextmanager
def _reading(name: str) -> Iterator[h5py.File]:
    """Open for reading; whatever HDF5 trips over becomes one sentence."""
    if not os.path.isfile(name):
        raise FileNotFoundError(f"There is no file {name} with a multiscale space.")
    try:
        with h5py.File(name, "r") as file:
            yield file
    except Exception as exc:
        raise ValueError(
            f"{name} is not a readable HDF5 file with a multiscale space: {_reason(exc)}."
        ) from exc


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split()).rstrip(".") or type(exc).__name__


def _tables(
    W: MultiscaleFunctionSpace, P: PETSc.Mat, forms: list[ufl.Form]
) -> dict[str, npt.NDArray[Any]]:
    """This rank's part of all tables. Collective."""
    reference = _reference(W.V, forms)
    # Device matrices go through a host copy.
    host = P if P.getType() in ("seqaij", "mpiaij") else P.copy().convert(PETSc.Mat.Type.AIJ)
    try:
        # For these tables there may be no memory left on some ranks.
        with collective_errors(W.comm):
            return _local_tables(W, host, reference)
    finally:
        if host is not P:
            host.destroy()


def _local_tables(
    W: MultiscaleFunctionSpace, P: PETSc.Mat, reference: FloatArray
) -> dict[str, npt.NDArray[Any]]:
    """The same, but for what needs other ranks. Not collective."""
    V = W.V
    index_map, bs = V.dofmap.index_map, V.dofmap.index_map_bs
    owned = index_map.size_local
    indptr, indices, values = P.getValuesCSR()
    rows = np.repeat(np.arange(bs * owned) + bs * index_map.local_range[0], np.diff(indptr))
    # Neighbourhoods in the order of their coarse dofs; those without any come last.
    present, first, count = np.unique(W.vertex, return_index=True, return_counts=True)
    order = np.argsort(first)
    empty = np.setdiff1d(np.array(list(W.eigenvalues), dtype=np.int64), present)
    vertices = np.concatenate([present[order], empty])
    spectra = [W.eigenvalues[int(v)] for v in vertices]
    tables = {
        "points": V.tabulate_dof_coordinates()[:owned],
        "dirichlet": W.dirichlet.reshape(-1, bs),
        "reference": reference,
        "rows": rows,
        "cols": indices,
        "values": values,
        "vertex": W.vertex,
        "mode": W.mode,
        "eigen_vertex": vertices,
        "dof_count": np.concatenate([count[order], np.zeros(len(empty), np.int64)]),
        "eigen_count": np.array([len(x) for x in spectra], dtype=np.int64),
        "eigenvalues": np.concatenate([*spectra, np.zeros(0)]),
    }
    return {key: table.astype(_DTYPES[key], copy=False) for key, table in tables.items()}


def _create_table(file: h5py.File, key: str, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(_DTYPES[key])
    if 0 in shape:
        file.create_dataset(key, shape, dtype)
        return
    width = int(np.prod(shape[1:])) * dtype.itemsize
    rows = min(shape[0], max(1, _CHUNK_BYTES // width))
    file.create_dataset(key, shape, dtype, chunks=(rows, *shape[1:]), fletcher32=True)


def _reference(V: FunctionSpace, forms: list[ufl.Form]) -> FloatArray:
    """a(f, φ_j) of owned dofs for fixed functions f of position, for each form.

    The functions vary from node to node on any mesh, so that no entry is small by cancellation.

    Returns:
        Shape ``(num_owned_blocks, len(forms) * NUM_REFERENCE * bs)``. Collective.
    """
    low, high = bounding_box(V.mesh)
    bs, gdim, owned = V.dofmap.index_map_bs, V.mesh.geometry.dim, V.dofmap.index_map.size_local
    f: Function = fem.Function(V)
    t = (V.tabulate_dof_coordinates()[:, :gdim] - low) / (high - low)
    columns = []
    for form in forms:
        trial = form.arguments()[1]
        action = fem.form(ufl.replace(form, {trial: f}))
        for k in range(NUM_REFERENCE):
            phase = t @ (np.array([731.3, 1177.9, 1531.7])[:gdim] * (1 + 0.37 * k)) + 0.7 * k
            f.x.array[:] = np.cos(phase[:, None] + 0.71 * np.arange(bs)).reshape(-1)
            vector = fem.assemble_vector(action)
            vector.scatter_reverse(la.InsertMode.add)
            columns.append(vector.array[: bs * owned].reshape(-1, bs).copy())
    return np.hstack(columns)


def _read_header(name: str) -> _Header:
    with _reading(name) as file:
        attributes = dict(file.attrs)
        size = os.path.getsize(name)
        tables = {}
        for key in _DTYPES:
            data = file.get(key)
            if isinstance(data, h5py.Dataset):
                # Shapes are claims; what is stored, and checked when read, is not.
                stored = data.id.get_storage_size()
                sound = data.size == 0 or (data.fletcher32 and data.nbytes <= stored <= size)
                tables[key] = (data.shape, data.dtype, bool(sound))
    return _Header(attributes, tables)


def _check_header(name: str, header: _Header, V: FunctionSpace, num_forms: int) -> None:
    """Refuse a file that does not fit ``V``, before any table is read."""
    text = {
        key: value.decode(errors="replace") if isinstance(value, bytes) else value
        for key, value in header.attributes.items()
    }
    kind, version = text.get("format"), text.get("format_version")
    if not _is(kind, FORMAT) or not _is(version, FORMAT_VERSION):
        raise ValueError(
            f"{name} is not a file of the format '{FORMAT}', version {FORMAT_VERSION}; it says "
            f"{_shown(repr(kind))}, version {_shown(version)}."
        )
    cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_global
    blocks, bs = V.dofmap.index_map.size_global, V.dofmap.index_map_bs
    if not _is(text.get("element"), str(V.ufl_element())):
        raise ValueError(
            f"{name} holds a space of the element {_shown(text.get('element'))}, expected that of "
            f"V, {V.ufl_element()}."
        )
    shapes = {key: table[0] for key, table in header.tables.items()}
    for key, dtype in _DTYPES.items():
        if key not in shapes or header.tables[key][1:] != (np.dtype(dtype), True):
            raise ValueError(f"{name} is damaged: the table '{key}' is missing or incomplete.")
    if not _is(text.get("cells"), cells) or shapes["points"] != (blocks, 3):
        raise ValueError(
            f"{name} was saved on another mesh, of {_shown(text.get('cells'))} cells and "
            f"{shapes['points'][:1]} nodes; the mesh of V has {cells} and {(blocks,)}."
        )
    width = NUM_REFERENCE * bs
    if shapes["reference"] == (blocks, (3 - num_forms) * width):
        given = "without" if num_forms == 1 else "with"
        raise ValueError(
            f"{name} was saved {'with' if num_forms == 1 else 'without'} a form s, and load() was "
            f"called {given} one; expected the same forms."
        )
    nnz, coarse = shapes["values"], shapes["vertex"]
    expected = {
        "dirichlet": (blocks, bs),
        "reference": (blocks, num_forms * width),
        "rows": nnz,
        "cols": nnz,
        "mode": coarse,
        "dof_count": shapes["eigen_vertex"],
        "eigen_count": shapes["eigen_vertex"],
    }
    wrong = [key for key, shape in expected.items() if shapes[key] != shape]
    flat = ("values", "vertex", "eigen_vertex", "eigenvalues")
    wrong += [key for key in flat if len(shapes[key]) != 1]
    if wrong or coarse == (0,):
        raise ValueError(
            f"{name} is damaged: tables that belong together differ in shape "
            f"({', '.join(wrong) or 'no coarse dofs'})."
        )
    if not isinstance(text.get("num_dropped"), int | np.integer) or "id" not in text:
        raise ValueError(f"{name} is damaged: an attribute is missing.")


def _shown(value: object) -> str:
    """What a file says, as a part of a sentence."""
    return re.sub(r"[^ -~]|(?<=\.) ", "?", str(value))[:200]


def _is(given: object, expected: str | int) -> bool:
    """Equality of strings and integers; whatever else a file may hold is not equal."""
    return isinstance(given, str | int | np.integer) and given == expected


def _read_share(name: str, header: _Header, comm: MPI.Comm) -> _Share:
    """This rank's equal share of the fine tables, and of the neighbourhoods by coarse dofs."""
    with _reading(name) as file:
        if file.attrs["id"] != header.attributes["id"]:
            raise ValueError("it was replaced while it was read")
        parts = {}
        for key in ("points", "dirichlet", "reference", "rows", "cols", "values"):
            n = len(file[key])
            parts[key] = file[key][n * comm.rank // comm.size : n * (comm.rank + 1) // comm.size]
        num_coarse = len(file["vertex"])
        vertices, dof_count, eigen_count = (
            file[key][:] for key in ("eigen_vertex", "dof_count", "eigen_count")
        )
        for key, count, total in (
            ("dof_count", dof_count, num_coarse),
            ("eigen_count", eigen_count, len(file["eigenvalues"])),
        ):
            if (count < 0).any() or (count > total).any() or count.sum() != total:
                raise ValueError(f"the table '{key}' does not fit the others")
        # Whole neighbourhoods, about equally many coarse dofs on each rank.
        start = np.cumsum(dof_count) - dof_count
        owner = np.minimum(start * comm.size // num_coarse, comm.size - 1)
        mine = np.flatnonzero(owner == comm.rank)
        begin = int(dof_count[owner < comm.rank].sum())
        end = begin + int(dof_count[mine].sum())
        stop = np.cumsum(eigen_count)[mine]
        spectra = {
            int(vertices[k]): file["eigenvalues"][last - eigen_count[k] : last]
            for k, last in zip(mine, stop, strict=True)
        }
        dofs = CoarseDofs(
            file["vertex"][begin:end],
            file["mode"][begin:end],
            spectra,
            int(header.attributes["num_dropped"]) if comm.rank == 0 else 0,
        )
        repeated = np.repeat(vertices[mine], dof_count[mine])
        if not np.array_equal(dofs.vertex, repeated) or len(spectra) != len(mine):
            raise ValueError("the table 'vertex' does not fit the others")
    return _Share(parts, dofs, num_coarse)


def _check_share(name: str, share: _Share, num_fine: int) -> None:
    """Refuse entries that PETSc should not see."""
    for key, top in (("rows", num_fine), ("cols", share.num_coarse)):
        part = share.parts[key]
        if len(part) and not 0 <= part.min() <= part.max() < top:
            raise ValueError(f"{name} is damaged: '{key}' has entries outside 0..{top - 1}.")
    for key in ("points", "values"):
        if not np.isfinite(share.parts[key]).all():
            raise ValueError(f"{name} is damaged: '{key}' has NaN or infinite entries.")


def _match_points(name: str, V: FunctionSpace, points: FloatArray) -> LongArray:
    """New global block numbers of this rank's slab of saved points, found by position.

    Rounded positions are sent to a rank that their hash names, where saved and present ones meet.
    Rounding errors can push a position over the edge of its bin; the few that stay unmatched meet
    again on a grid moved by half a bin. Collective.
    """
    comm, index_map = V.mesh.comm, V.dofmap.index_map
    low, high = bounding_box(V.mesh)
    own = V.tabulate_dof_coordinates()[: index_map.size_local]
    numbers = index_map.local_range[0] + np.arange(len(own), dtype=np.int64)
    found = np.full(len(points), -1, dtype=np.int64)
    taken = np.zeros(len(own), dtype=bool)
    gdim = len(low)
    for shift in (0.0, 0.5):
        open_saved, open_own = np.flatnonzero(found < 0), np.flatnonzero(~taken)
        # An odd scale, so that positions on regular grids stay away from the edges of bins.
        scale = 0.7391e8 / (high - low).max()
        keys = [
            np.floor((x[:, :gdim] - low) * scale + shift).astype(np.int64)
            for x in (points[open_saved], own[open_own])
        ]
        dest = [
            ((k @ np.array([73856093, 19349663, 83492791])[:gdim]) % comm.size).astype(np.int32)
            for k in keys
        ]
        asker, (saved_key, asked) = route(comm, dest[0], keys[0], open_saved)
        holder, (own_key, number, place) = route(
            comm, dest[1], keys[1], numbers[open_own], open_own
        )
        both, inverse = np.unique(np.concatenate([saved_key, own_key]), axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        partner = np.full(len(both), -1, dtype=np.int64)
        partner[inverse[len(saved_key) :]] = np.arange(len(own_key))
        hit = partner[inverse[: len(saved_key)]]
        ok = hit >= 0
        _, (back, answer) = route(comm, asker[ok], asked[ok], number[hit[ok]])
        found[back] = answer
        _, (used,) = route(comm, holder[hit[ok]], place[hit[ok]])
        taken[used] = True
    with collective_errors(comm):
        if np.any(found < 0) or not taken.all():
            raise ValueError(
                f"{name} was saved on another mesh: {int(np.sum(found < 0))} of "
                f"{len(found)} nodes of this rank's share have no counterpart."
            )
    return found


def _lookup(comm: MPI.Comm, table: LongArray, size: int, index: LongArray) -> LongArray:
    """Entries ``index`` of a table of which each rank holds its slab. Collective."""
    bounds = size * np.arange(comm.size + 1) // comm.size
    wanted, inverse = np.unique(index, return_inverse=True)
    owner = (np.searchsorted(bounds, wanted, side="right") - 1).astype(np.int32)
    asker, (asked,) = route(comm, owner, wanted)
    _, (answer,) = route(comm, asker, table[asked - bounds[comm.rank]])
    # Answers come back by owner, and ``wanted`` is sorted by owner.
    return answer[inverse]


def _check_dofs(
    name: str,
    V: FunctionSpace,
    blocks: LongArray,
    parts: dict[str, npt.NDArray[Any]],
    mask: BoolArray,
    reference: FloatArray,
) -> None:
    """Refuse a file with other constrained dofs, forms or coefficients. Collective.

    Args:
        name: File.
        V: Fine space.
        blocks: Global block numbers of the dofs in ``parts``.
        parts: This rank's share of the tables.
        mask: Constrained dofs among the owned ones.
        reference: From :func:`_reference`.
    """
    comm, index_map, bs = V.mesh.comm, V.dofmap.index_map, V.dofmap.index_map_bs
    ranges = np.array(comm.allgather(index_map.local_range[0]))
    owner = (np.searchsorted(ranges, blocks, side="right") - 1).astype(np.int32)
    _, (block, flags, saved) = route(comm, owner, blocks, parts["dirichlet"], parts["reference"])
    local = block - index_map.local_range[0]
    with collective_errors(comm):
        now = mask.reshape(-1, bs)[local]
        if np.any((flags > 0) != now):
            raise ValueError(
                f"{name} was saved with other Dirichlet dofs: {int((flags > 0).sum())} on this "
                f"rank's nodes, bcs constrain {int(now.sum())}; expected the same ones."
            )
    with collective_errors(comm):
        width = NUM_REFERENCE * bs
        for k, form in enumerate(("a", "s")[: saved.shape[1] // width]):
            old = saved[:, k * width : (k + 1) * width]
            new = reference[local, k * width : (k + 1) * width]
            size = np.maximum(np.abs(old), np.abs(new)).max(axis=1, initial=0.0)
            # Written such that NaN is refused.
            bad = ~(np.abs(old - new).max(axis=1, initial=0.0) <= REFERENCE_TOLERANCE * size)
            if bad.any():
                at = int(np.argmax(bad))
                x = V.tabulate_dof_coordinates()[local[at], : V.mesh.geometry.dim]
                raise ValueError(
                    f"{name} was saved for another form {form} or coefficient: they differ at the "
                    f"node ({', '.join(f'{v:.4g}' for v in x)}) and {int(bad.sum()) - 1} others "
                    "of this rank."
                )
