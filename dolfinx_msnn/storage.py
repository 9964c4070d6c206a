# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Multiscale spaces in HDF5 files, readable on any number of ranks.

A fine dof is known in the file by its position, since its number depends on how the mesh was
distributed. That the mesh, the forms and their coefficients are those of the saved space is
checked by energies of fixed functions of position, a(f, f), which see all of them.

Layout (format 1), ``N_b`` dof blocks of the fine space, ``bs`` components, ``nnz`` entries of P:

===================  =========  ==================================================================
name                 shape      content
===================  =========  ==================================================================
points               (N_b, 3)   position of each dof block, float64
dirichlet            (N_b, bs)  which dofs were constrained, uint8
rows, cols, values   (nnz,)     P by coordinates; rows in the numbering of ``points``, unrolled
vertex, mode         (N_c,)     neighbourhood and mode of each coarse dof
eigen_vertex         (N_v,)     neighbourhoods, sorted, and how many eigenvalues each has
eigen_count          (N_v,)
eigenvalues          (sum,)     their eigenvalues, one neighbourhood after the other
===================  =========  ==================================================================
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mpi4py import MPI
from petsc4py import PETSc

import h5py
import numpy as np
import numpy.typing as npt

import ufl
from dolfinx import fem
from dolfinx_msnn import elements
from dolfinx_msnn._compat import require_real
from dolfinx_msnn._mpi import collective_errors, route
from dolfinx_msnn._typing import (
    BoolArray,
    DirichletBC,
    FloatArray,
    FunctionSpace,
    IntArray,
    LongArray,
)
from dolfinx_msnn._version import __version__
from dolfinx_msnn.coarse import bounding_box
from dolfinx_msnn.local import Timings, dirichlet_mask
from dolfinx_msnn.prolongation import CoarseDofs, create_coo_matrix

if TYPE_CHECKING:
    from dolfinx_msnn.functionspace import MultiscaleFunctionSpace

FORMAT = "dolfinx_msnn multiscale space"
FORMAT_VERSION = 1

#: Relative difference at which a saved energy counts as another form's.
ENERGY_TOLERANCE = 1e-8

_DATASETS = {
    "points": 2,
    "dirichlet": 2,
    "rows": 1,
    "cols": 1,
    "values": 1,
    "vertex": 1,
    "mode": 1,
    "eigen_vertex": 1,
    "eigen_count": 1,
    "eigenvalues": 1,
}


def save(
    W: MultiscaleFunctionSpace,
    path: str | os.PathLike[str],
    a: ufl.Form,
    s: ufl.Form | None,
) -> None:
    """Write a space; see :meth:`MultiscaleFunctionSpace.save`. Collective."""
    V, comm = W.V, W.comm
    with collective_errors(comm):
        elements.check_form(a, V, "a")
        if s is not None:
            elements.check_form(s, V, "s")
    energies = _energies(V, [a] if s is None else [a, s])
    index_map, bs = V.dofmap.index_map, V.dofmap.index_map_bs
    owned = index_map.size_local
    indptr, indices, values = _local_rows(W.P)
    rows = np.repeat(np.arange(bs * owned) + bs * index_map.local_range[0], np.diff(indptr))
    vertices = np.array(sorted(W.eigenvalues), dtype=np.int64)
    spectra = [W.eigenvalues[v] for v in vertices]
    parts: dict[str, npt.NDArray[Any]] = {
        "points": V.tabulate_dof_coordinates()[:owned],
        "dirichlet": W.dirichlet.reshape(-1, bs).astype(np.uint8),
        "rows": rows.astype(np.int64),
        "cols": indices.astype(np.int64),
        "values": values,
        "vertex": W.vertex,
        "mode": W.mode,
        "eigen_vertex": vertices,
        "eigen_count": np.array([len(x) for x in spectra], dtype=np.int64),
        "eigenvalues": np.concatenate([*spectra, np.zeros(0)]),
    }
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "element": str(V.ufl_element()),
        "cells": V.mesh.topology.index_map(V.mesh.topology.dim).size_global,
        "energies": energies,
        "num_dropped": W.num_dropped,
    }
    offsets = {name: comm.exscan(len(part)) or 0 for name, part in parts.items()}
    totals = {name: comm.allreduce(len(part)) for name, part in parts.items()}
    for rank in range(comm.size):
        # In turn: HDF5 without MPI support allows one writer at a time.
        with collective_errors(comm):
            if rank == comm.rank:
                with h5py.File(path, "w" if rank == 0 else "r+") as file:
                    if rank == 0:
                        file.attrs.update(attributes)
                        for name, part in parts.items():
                            shape = (totals[name], *part.shape[1:])
                            file.create_dataset(name, shape, part.dtype)
                    for name, part in parts.items():
                        file[name][offsets[name] : offsets[name] + len(part)] = part


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
        elements.check_space(V)
        elements.check_form(a, V, "a")
        if s is not None:
            elements.check_form(s, V, "s")
        elements.check_bcs(bcs, V)
    energies = _energies(V, [a] if s is None else [a, s])
    index_map, bs = V.dofmap.index_map, V.dofmap.index_map_bs
    with collective_errors(comm), _open(path) as file:
        _check_header(path, file, V, energies)
        parts = {name: _slab(file[name], comm) for name in _DATASETS if name in file}
        num_coarse = len(file["vertex"])
        dropped = int(file.attrs["num_dropped"]) if comm.rank == 0 else 0
        _check_content(path, file, parts, index_map.size_global * bs)
    rows = _match_points(path, V, parts["points"])
    mask = dirichlet_mask(V, bcs)[: index_map.size_local].reshape(-1)
    _check_dirichlet(path, V, rows, parts["dirichlet"], mask)

    # A rank that read a slab of P knows new numbers only for its slab of points.
    block, component = np.divmod(parts["rows"], bs)
    new = _lookup(comm, rows, index_map.size_global, block) * bs + component
    share = comm.size * np.arange(num_coarse, dtype=np.int64) // max(num_coarse, 1)
    num_local = int(np.count_nonzero(share == comm.rank))
    first = int(np.searchsorted(share, comm.rank))
    P = create_coo_matrix(
        V,
        num_local,
        new.astype(PETSc.IntType),
        parts["cols"].astype(PETSc.IntType),
        parts["values"],
        mat_type,
    )
    with collective_errors(comm), _open(path) as file:
        mine = slice(first, first + num_local)
        dofs = CoarseDofs(file["vertex"][mine], file["mode"][mine], _spectra(file, comm), dropped)
    return V, P, dofs, mask, Timings()


def _local_rows(
    P: PETSc.Mat,
) -> tuple[IntArray, IntArray, FloatArray]:
    """CSR of this rank's rows with global columns; device matrices go through a host copy."""
    host = P if P.getType() in ("seqaij", "mpiaij") else P.copy().convert(PETSc.Mat.Type.AIJ)
    try:
        return host.getValuesCSR()
    finally:
        if host is not P:
            host.destroy()


def _energies(V: FunctionSpace, forms: list[ufl.Form]) -> FloatArray:
    """a(f, f) for three fixed functions f of position, for each form. Collective."""
    low, high = bounding_box(V.mesh)
    f = fem.Function(V)
    bs, gdim = V.dofmap.index_map_bs, V.mesh.geometry.dim
    t = (V.tabulate_dof_coordinates()[:, :gdim] - low) / (high - low)
    energies = []
    for form in forms:
        test, trial = form.arguments()
        functional = fem.form(ufl.replace(form, {test: f, trial: f}))
        for k in range(3):
            # Incommensurate waves, another one for each component.
            phase = t @ (np.array([3.1, 5.7, 8.3])[:gdim] * (k + 1)) + 0.37 * k
            f.x.array[:] = np.cos(phase[:, None] + 0.71 * np.arange(bs)).reshape(-1)
            energies.append(V.mesh.comm.allreduce(fem.assemble_scalar(functional), op=MPI.SUM))
    return np.array(energies)


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open for reading; whatever HDF5 trips over becomes one sentence."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {os.fspath(path)} with a multiscale space.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, TypeError) as exc:
        raise ValueError(
            f"{os.fspath(path)} is not a readable HDF5 file with a multiscale space: {exc}."
        ) from exc


def _check_header(
    path: str | os.PathLike[str],
    file: h5py.File,
    V: FunctionSpace,
    energies: FloatArray,
) -> None:
    name = os.fspath(path)
    if file.attrs.get("format") != FORMAT or file.attrs.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{name} is not a file of the format '{FORMAT}', version {FORMAT_VERSION}; it says "
            f"{file.attrs.get('format')!r}, version {file.attrs.get('format_version')!r}."
        )
    if file.attrs["element"] != str(V.ufl_element()):
        raise ValueError(
            f"{name} holds a space of the element {file.attrs['element']}, V has {V.ufl_element()}."
        )
    cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_global
    blocks = V.dofmap.index_map.size_global
    points = file["points"]
    if file.attrs["cells"] != cells or points.shape != (blocks, 3):
        raise ValueError(
            f"{name} was saved on another mesh: {file.attrs['cells']} cells and {points.shape[0]} "
            f"nodes, the mesh of V has {cells} and {blocks}."
        )
    saved = np.asarray(file.attrs["energies"], dtype=np.float64)
    if saved.shape != energies.shape:
        raise ValueError(
            f"{name} was saved {'with' if len(saved) == 6 else 'without'} a form s; give "
            "load() the same forms."
        )
    if not np.allclose(saved, energies, rtol=ENERGY_TOLERANCE, atol=0.0):
        raise ValueError(
            f"{name} was saved for another form, coefficient or mesh: a reference energy was "
            f"{saved[np.argmax(np.abs(saved - energies))]:.10g} and is now "
            f"{energies[np.argmax(np.abs(saved - energies))]:.10g}."
        )


def _check_content(
    path: str | os.PathLike[str],
    file: h5py.File,
    parts: dict[str, npt.NDArray[Any]],
    num_fine: int,
) -> None:
    """Refuse damaged tables before PETSc sees them."""
    name = os.fspath(path)
    for key, ndim in _DATASETS.items():
        if key not in file or file[key].ndim != ndim:
            raise ValueError(f"{name} is damaged: the table '{key}' is missing or misshapen.")
    num_coarse, nnz = len(file["vertex"]), len(file["rows"])
    if len(file["cols"]) != nnz or len(file["values"]) != nnz or len(file["mode"]) != num_coarse:
        raise ValueError(f"{name} is damaged: tables that belong together differ in length.")
    for key, top in (("rows", num_fine), ("cols", num_coarse)):
        part = parts[key]
        if part.dtype.kind != "i" or (len(part) and not (0 <= part.min() <= part.max() < top)):
            raise ValueError(f"{name} is damaged: '{key}' has entries outside 0..{top - 1}.")
    if not np.isfinite(parts["values"]).all():
        raise ValueError(f"{name} is damaged: P has NaN or infinite entries.")
    if int(np.sum(file["eigen_count"])) != len(file["eigenvalues"]):
        raise ValueError(f"{name} is damaged: the eigenvalues do not fit their neighbourhoods.")


def _slab(data: h5py.Dataset, comm: MPI.Comm) -> npt.NDArray[Any]:
    """This rank's equal share of the rows of a table."""
    n = len(data)
    return data[n * comm.rank // comm.size : n * (comm.rank + 1) // comm.size]


def _match_points(path: str | os.PathLike[str], V: FunctionSpace, points: FloatArray) -> LongArray:
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
                f"{os.fspath(path)} was saved on another mesh: {int(np.sum(found < 0))} of "
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


def _check_dirichlet(
    path: str | os.PathLike[str],
    V: FunctionSpace,
    rows: LongArray,
    saved: npt.NDArray[np.uint8],
    mask: BoolArray,
) -> None:
    """Refuse a file whose constrained dofs are not those of ``mask``. Collective."""
    comm, index_map = V.mesh.comm, V.dofmap.index_map
    ranges = np.array(comm.allgather(index_map.local_range[0]))
    owner = (np.searchsorted(ranges, rows, side="right") - 1).astype(np.int32)
    _, (row, flags) = route(comm, owner, rows, saved)
    with collective_errors(comm):
        now = mask.reshape(-1, V.dofmap.index_map_bs)[row - index_map.local_range[0]]
        if flags.shape[1:] != now.shape[1:] or np.any((flags > 0) != now):
            raise ValueError(
                f"{os.fspath(path)} was saved with other Dirichlet dofs: {int((flags > 0).sum())} "
                f"on this rank's nodes, bcs constrain {int(now.sum())}; expected the same ones."
            )


def _spectra(file: h5py.File, comm: MPI.Comm) -> dict[int, FloatArray]:
    """Eigenvalues of this rank's share of the neighbourhoods."""
    counts = file["eigen_count"][:]
    ends = np.cumsum(counts)
    n = len(counts)
    first, last = n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size
    vertices, values = file["eigen_vertex"][first:last], file["eigenvalues"]
    return {
        int(v): values[end - count : end]
        for v, count, end in zip(vertices, counts[first:last], ends[first:last], strict=True)
    }
