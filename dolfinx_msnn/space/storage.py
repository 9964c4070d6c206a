# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Multiscale spaces in HDF5 files, readable on any number of ranks.

A fine dof is known in the file by its position. That the forms and their coefficients are those of
the saved space is checked by what they do to fixed functions of position: the vectors a(f, φ_j),
entry by entry.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any

from petsc4py import PETSc

import h5py
import numpy as np
import numpy.typing as npt

import ufl
from dolfinx import fem, la
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.checks import point
from dolfinx_msnn._utils.files import LIBVER, replacing, reserve, writing
from dolfinx_msnn._utils.mesh import bounding_box, dirichlet_mask
from dolfinx_msnn._utils.mpi import collective_errors, route
from dolfinx_msnn._utils.petsc import check_mat_type
from dolfinx_msnn._utils.typing import (
    BoolArray,
    DirichletBC,
    FloatArray,
    Function,
    FunctionSpace,
    LongArray,
)
from dolfinx_msnn._version import __version__
from dolfinx_msnn.space.file_tables import (
    DTYPES,
    FORMAT,
    FORMAT_VERSION,
    NUM_REFERENCE,
    are_eigenvalues,
    create_table,
    read_share,
)
from dolfinx_msnn.space.positions import has_twins, match_points
from dolfinx_msnn.space.prolongation import CoarseDofs, create_coo_matrix

#: Relative difference at which a reference value counts as another form's.
REFERENCE_TOLERANCE = 1e-8


def save(
    path: str | os.PathLike[str],
    a: ufl.Form,
    s: ufl.Form | None,
    *,
    V: FunctionSpace,
    P: PETSc.Mat,
    dofs: CoarseDofs,
    dirichlet: BoolArray,
) -> None:
    """Write a space; see :meth:`MultiscaleFunctionSpace.save`. Collective.

    Args:
        path: File to write.
        a: Bilinear form of the problem.
        s: Bilinear form of the right-hand matrix, if any.
        V: Fine space.
        P: Prolongation.
        dofs: Coarse dofs of this rank.
        dirichlet: Which owned fine dofs (unrolled) are constrained.
    """
    comm = V.mesh.comm
    with collective_errors(comm) as checks:
        name = _check_file(path, V, a, s)
        checks.agree(path=name, a=forms.identify(a), s=forms.identify(s))
    reference = _reference(V, [a] if s is None else [a, s])
    # Device matrices go through a host copy.
    host = P if P.getType() in ("seqaij", "mpiaij") else P.copy().convert(PETSc.Mat.Type.AIJ)
    try:
        # For these tables there may be no memory left on some ranks.
        with collective_errors(comm):
            if not np.isfinite(reference).all():
                raise ValueError(
                    "A form has NaN or infinite coefficients; expected those that the space was "
                    "built with."
                )
            parts = _tables(V, host, dofs, dirichlet, reference)
            if not are_eigenvalues(parts["eigenvalues"]):
                least = parts["eigenvalues"].min()
                raise ValueError(
                    f"The basis gave the eigenvalue {least:.4g}, expected none below zero."
                )
    finally:
        if host is not P:
            host.destroy()
    if has_twins(V):
        raise ValueError(
            "The fine space has nodes at the same place, by which a file cannot tell them apart; "
            "expected a mesh without slits."
        )
    attributes = {
        "format": np.bytes_(FORMAT),
        "format_version": FORMAT_VERSION,
        "package_version": np.bytes_(__version__),
        "id": np.bytes_(uuid.uuid4().hex),
        "element": np.bytes_(str(V.ufl_element())),
        "cells": V.mesh.topology.index_map(V.mesh.topology.dim).size_global,
        "num_dropped": comm.allreduce(dofs.num_dropped),
    }
    offsets = {key: comm.exscan(len(part)) or 0 for key, part in parts.items()}
    totals = {key: comm.allreduce(len(part)) for key, part in parts.items()}
    # With some for checksums, and chunks that are not full.
    room = int(1.01 * comm.allreduce(sum(part.nbytes for part in parts.values())))
    room += 2**18 * len(parts)
    with replacing(name, comm) as draft:
        for rank in range(comm.size):
            # In turn: HDF5 without MPI support allows one writer at a time.
            with collective_errors(comm), writing(name):
                if rank != comm.rank:
                    continue
                if rank == 0:
                    reserve(draft, room)
                with h5py.File(draft, "w-" if rank == 0 else "r+", libver=LIBVER) as file:
                    if rank == 0:
                        file.attrs.update(attributes)
                        for key, part in parts.items():
                            create_table(file, key, (totals[key], *part.shape[1:]))
                    for key, part in parts.items():
                        file[key][offsets[key] : offsets[key] + len(part)] = part


def load(
    path: str | os.PathLike[str],
    V: FunctionSpace,
    a: ufl.Form,
    s: ufl.Form | None,
    bcs: Sequence[DirichletBC],
    mat_type: str | None,
) -> tuple[PETSc.Mat, CoarseDofs, BoolArray]:
    """Read a space; see :meth:`MultiscaleFunctionSpace.load`. Collective.

    Returns:
        The prolongation, which the caller destroys, the coarse dofs of this rank, and which owned
        fine dofs (unrolled) are constrained.
    """
    comm = V.mesh.comm
    given = [a] if s is None else [a, s]
    with collective_errors(comm) as checks:
        forms.check_space(V)
        name = _check_file(path, V, a, s)
        forms.check_bcs(bcs, V)
        check_mat_type(mat_type)
        checks.agree(path=name, a=forms.identify(a), s=forms.identify(s), mat_type=mat_type)
    with collective_errors(comm) as checks:
        tables, dofs, file = read_share(name, V, len(given))
        checks.agree(file=file)

    index_map, bs = V.dofmap.index_map, V.dofmap.index_map_bs
    blocks, missing = match_points(V, tables["points"])
    if missing:
        raise ValueError(
            f"{name} was saved on another mesh: {missing} of {index_map.size_global} nodes of the "
            "mesh of V are not in the file."
        )
    if not comm.allreduce(int(np.count_nonzero(tables["values"]))):
        raise ValueError(f"{name} is damaged: all entries of P are zero.")
    mask = dirichlet_mask(V, bcs)[: index_map.size_local]
    _check_dofs(name, V, blocks, tables, mask, _reference(V, given))
    block, component = np.divmod(tables["rows"], bs)
    P = create_coo_matrix(
        V,
        len(dofs.vertex),
        (blocks[block] * bs + component).astype(PETSc.IntType),
        tables["cols"].astype(PETSc.IntType),
        tables["values"],
        mat_type,
    )
    return P, dofs, mask.reshape(-1)


def _check_file(
    path: str | os.PathLike[str], V: FunctionSpace, a: ufl.Form, s: ufl.Form | None
) -> str:
    """The name of the file, if the arguments are what they should be. Not collective."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ValueError(f"path must be the name of a file, got {path!r}.")
    forms.check_form(a, V, "a")
    if s is not None:
        forms.check_form(s, V, "s")
    return os.fspath(path)


def _tables(
    V: FunctionSpace,
    P: PETSc.Mat,
    dofs: CoarseDofs,
    dirichlet: BoolArray,
    reference: FloatArray,
) -> dict[str, npt.NDArray[Any]]:
    """This rank's part of all tables, see :mod:`dolfinx_msnn.space.file_tables`.

    Args:
        V: Fine space.
        P: Prolongation, on the host.
        dofs: Coarse dofs of this rank.
        dirichlet: Constrained ones among the owned dofs, shape ``(num_owned_dofs,)``.
        reference: From :func:`_reference`.

    Note:
        Not collective.
    """
    index_map, bs = V.dofmap.index_map, V.dofmap.index_map_bs
    owned = index_map.size_local
    indptr, indices, values = P.getValuesCSR()
    rows = np.repeat(np.arange(bs * owned) + bs * index_map.local_range[0], np.diff(indptr))
    # Neighbourhoods in the order of their coarse dofs; those without any come last.
    present, first, count = np.unique(dofs.vertex, return_index=True, return_counts=True)
    order = np.argsort(first)
    empty = np.setdiff1d(np.array(list(dofs.eigenvalues), dtype=np.int64), present)
    vertices = np.concatenate([present[order], empty])
    spectra = [dofs.eigenvalues[int(v)] for v in vertices]
    tables = {
        "points": V.tabulate_dof_coordinates()[:owned],
        "dirichlet": dirichlet.reshape(-1, bs),
        "reference": reference,
        "rows": rows,
        "cols": indices,
        "values": values,
        "vertex": dofs.vertex,
        "mode": dofs.mode,
        "eigen_vertex": vertices,
        "dof_count": np.concatenate([count[order], np.zeros(len(empty), np.int64)]),
        "eigen_count": np.array([len(x) for x in spectra], dtype=np.int64),
        "eigenvalues": np.concatenate([*spectra, np.zeros(0)]),
    }
    return {key: table.astype(DTYPES[key], copy=False) for key, table in tables.items()}


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


def _check_dofs(
    name: str,
    V: FunctionSpace,
    blocks: LongArray,
    tables: dict[str, npt.NDArray[Any]],
    mask: BoolArray,
    reference: FloatArray,
) -> None:
    """Refuse a file with other constrained dofs, forms or coefficients. Collective.

    Args:
        name: File.
        V: Fine space.
        blocks: Global block numbers of the dofs in ``tables``, shape ``(num,)``.
        tables: This rank's share of the tables.
        mask: Constrained ones among the owned dofs, shape ``(num_owned_blocks, bs)``.
        reference: From :func:`_reference`.
    """
    comm, index_map, bs = V.mesh.comm, V.dofmap.index_map, V.dofmap.index_map_bs
    ranges = np.array(comm.allgather(index_map.local_range[0]))
    owner = (np.searchsorted(ranges, blocks, side="right") - 1).astype(np.int32)
    _, (block, flags, saved) = route(comm, owner, blocks, tables["dirichlet"], tables["reference"])
    local = block - index_map.local_range[0]
    with collective_errors(comm):
        now = mask[local]
        if np.any((flags > 0) != now):
            raise ValueError(
                f"{name} was saved with other Dirichlet dofs: {int((flags > 0).sum())} on this "
                f"rank's nodes, bcs constrain {int(now.sum())}; expected the same ones."
            )
        width = NUM_REFERENCE * bs
        old = saved.reshape(len(local), saved.shape[1] // width, width)
        new = reference[local].reshape(old.shape)
        size = np.maximum(np.abs(old), np.abs(new)).max(axis=2)
        # Written such that NaN is refused.
        bad = ~(np.abs(old - new).max(axis=2) <= REFERENCE_TOLERANCE * size)
        for form, wrong in zip("as", bad.T, strict=False):
            if wrong.any():
                x = V.tabulate_dof_coordinates()[local[np.argmax(wrong)], : V.mesh.geometry.dim]
                raise ValueError(
                    f"{name} was saved for another form {form} or coefficient: they differ at the "
                    f"node {point(x)} and {int(wrong.sum()) - 1} others of this rank."
                )
