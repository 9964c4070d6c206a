# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The tables of a multiscale space in an HDF5 file: created, and read after checks.

Layout (format 1), ``N_b`` dof blocks of the fine space, ``bs`` components, ``nnz`` entries of P,
``N_v`` neighbourhoods:

===================  ==========  ==================================================================
name                 shape       content
===================  ==========  ==================================================================
points               (N_b, 3)    position of each dof block, float64
dirichlet            (N_b, bs)   which dofs were constrained, uint8
reference            (N_b, ...)  a(f, φ_j) of each dof for two functions f, then s(f, φ_j) if any
rows, cols, values   (nnz,)      P by coordinates; rows, ascending, as ``points`` has them, unrolled
vertex, mode         (N_c,)      neighbourhood and mode of each coarse dof
eigen_vertex         (N_v,)      neighbourhoods, in the order of their coarse dofs
dof_count            (N_v,)      how many coarse dofs each has
eigen_count          (N_v,)      how many eigenvalues each has
eigenvalues          (sum,)      their eigenvalues, one neighbourhood after the other
===================  ==========  ==================================================================

Every table has HDF5's checksums (Fletcher-32), and files are of a version of HDF5 (1.10) that also
has them on all of its own data: a damaged file is refused, not read wrongly. Nothing is collective.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.files import UnfitFile, open_hdf5
from dolfinx_msnn._utils.typing import FunctionSpace
from dolfinx_msnn.space.prolongation import CoarseDofs

FORMAT = "dolfinx_msnn multiscale space"
FORMAT_VERSION = 1

#: Reference functions for each form.
NUM_REFERENCE = 2

DTYPES = {
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

_CHUNK_BYTES = 2**17


def create_table(file: h5py.File, key: str, shape: tuple[int, ...]) -> None:
    """Create one of the tables, with checksums."""
    dtype = np.dtype(DTYPES[key])
    if 0 in shape:
        file.create_dataset(key, shape, dtype)
        return
    width = int(np.prod(shape[1:])) * dtype.itemsize
    rows = min(shape[0], max(1, _CHUNK_BYTES // width))
    file.create_dataset(key, shape, dtype, chunks=(rows, *shape[1:]), fletcher32=True)


class Share(NamedTuple):
    """What a rank reads.

    Attributes:
        id: Differs from file to file.
        tables: Its equal share of the fine dof blocks and the entries of P in their rows; ``rows``
            counts from the first of them.
        dofs: The coarse dofs of its neighbourhoods, about equally many on each rank.
    """

    id: object
    tables: dict[str, npt.NDArray[Any]]
    dofs: CoarseDofs


def read_share(path: str, V: FunctionSpace, num_forms: int) -> Share:
    """Read this rank's share of a file that fits ``V`` and is not damaged.

    Args:
        path: The file.
        V: Fine space.
        num_forms: 2 if the space was built with a form ``s``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a file for ``V``, or is damaged.
    """
    with open_hdf5(path, "a multiscale space") as file:
        attributes = {
            key: value.decode(errors="replace") if isinstance(value, bytes) else value
            for key, value in file.attrs.items()
        }
        # Shapes are looked at before any table is read: a forged file may claim any size.
        _check_header(path, attributes, _shapes(path, attributes, file, V), V, num_forms)
        comm, bs = V.mesh.comm, V.dofmap.index_map_bs
        num_blocks, nnz = len(file["points"]), len(file["rows"])
        blocks = [num_blocks * rank // comm.size for rank in (comm.rank, comm.rank + 1)]
        # The first and the last rank see to it that no entry is left out.
        entries = [
            {0: 0, num_blocks: nnz}.get(block, bisect_left(file["rows"], bs * block))
            for block in blocks
        ]
        tables = {key: file[key][slice(*blocks)] for key in ("points", "dirichlet", "reference")}
        tables |= {key: file[key][slice(*entries)] for key in ("rows", "cols", "values")}
        tables["rows"] -= bs * blocks[0]
        num_cols = len(file["vertex"])
        here, whole = (bs * (blocks[1] - blocks[0]), num_cols), (bs * num_blocks, num_cols)
        for key, top, total in zip(("rows", "cols"), here, whole, strict=True):
            part = tables[key]
            if len(part) and not 0 <= part.min() <= part.max() < top:
                wrong = f"'{key}' has entries outside 0..{total - 1} or out of order"
                raise UnfitFile(f"{path} is damaged: {wrong}.")
        for key in ("points", "values"):
            if not np.isfinite(tables[key]).all():
                raise UnfitFile(f"{path} is damaged: '{key}' has NaN or infinite entries.")
        num_dropped = int(attributes["num_dropped"]) if comm.rank == 0 else 0
        dofs = _read_dofs(path, file, num_dropped, comm.rank, comm.size)
    return Share(attributes["id"], tables, dofs)


def _shapes(
    path: str, attributes: dict[str, Any], file: h5py.File, V: FunctionSpace
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tables of a file of this format, which must all be there."""
    name, version = attributes.get("format"), attributes.get("format_version")
    if not _is(name, FORMAT) or not _is(version, FORMAT_VERSION):
        raise UnfitFile(
            f"{path} is not a file of the format '{FORMAT}', version {FORMAT_VERSION}; it says "
            f"{_shown(repr(name))}, version {_shown(version)}."
        )
    element = attributes.get("element")
    if not _is(element, str(V.ufl_element())):
        raise UnfitFile(
            f"{path} holds a space of the element {_shown(element)}, expected that of V, "
            f"{V.ufl_element()}."
        )
    shapes = {}
    for key, dtype in DTYPES.items():
        table = file.get(key)
        sound = isinstance(table, h5py.Dataset) and table.dtype == np.dtype(dtype)
        if sound and table.size:
            # What is stored, and has checksums, is no mere claim.
            stored = table.id.get_storage_size()
            sound = table.fletcher32 and table.nbytes <= stored <= file.id.get_filesize()
        if not sound:
            raise UnfitFile(f"{path} is damaged: the table '{key}' is missing or incomplete.")
        shapes[key] = table.shape
    return shapes


def _check_header(
    path: str,
    attributes: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    V: FunctionSpace,
    num_forms: int,
) -> None:
    """Refuse a file whose tables do not fit ``V`` or each other."""
    cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_global
    blocks, bs = V.dofmap.index_map.size_global, V.dofmap.index_map_bs
    if not _is(attributes.get("cells"), cells) or shapes["points"] != (blocks, 3):
        raise UnfitFile(
            f"{path} was saved on another mesh, of {_shown(attributes.get('cells'))} cells and "
            f"{shapes['points'][:1]} nodes; the mesh of V has {cells} and {(blocks,)}."
        )
    width = NUM_REFERENCE * bs
    if shapes["reference"] == (blocks, (3 - num_forms) * width):
        saved, given = ("with", "without") if num_forms == 1 else ("without", "with")
        raise UnfitFile(
            f"{path} was saved {saved} a form s, and load() was called {given} one; expected the "
            "same forms."
        )
    expected = {
        "dirichlet": (blocks, bs),
        "reference": (blocks, num_forms * width),
        "rows": shapes["values"],
        "cols": shapes["values"],
        "mode": shapes["vertex"],
        "dof_count": shapes["eigen_vertex"],
        "eigen_count": shapes["eigen_vertex"],
    }
    wrong = [key for key, shape in expected.items() if shapes[key] != shape]
    flat = ("values", "vertex", "eigen_vertex", "eigenvalues")
    wrong += [key for key in flat if len(shapes[key]) != 1]
    if wrong or shapes["vertex"] == (0,):
        raise UnfitFile(
            f"{path} is damaged: tables that belong together differ in shape "
            f"({', '.join(wrong) or 'no coarse dofs'})."
        )
    if not isinstance(attributes.get("num_dropped"), int | np.integer) or "id" not in attributes:
        raise UnfitFile(f"{path} is damaged: an attribute is missing.")


def _read_dofs(path: str, file: h5py.File, num_dropped: int, rank: int, size: int) -> CoarseDofs:
    """The coarse dofs of whole neighbourhoods, about equally many for each of ``size`` ranks."""
    num_coarse = len(file["vertex"])
    vertices, dof_count, eigen_count = (
        file[key][:] for key in ("eigen_vertex", "dof_count", "eigen_count")
    )
    for key, count, total in (
        ("dof_count", dof_count, num_coarse),
        ("eigen_count", eigen_count, len(file["eigenvalues"])),
    ):
        if (count < 0).any() or (count > total).any() or count.sum() != total:
            raise UnfitFile(f"{path} is damaged: the table '{key}' does not fit the others.")
    start = np.cumsum(dof_count) - dof_count
    owner = np.minimum(start * size // num_coarse, size - 1)
    mine = np.flatnonzero(owner == rank)
    begin = int(dof_count[owner < rank].sum())
    end = begin + int(dof_count[mine].sum())
    stop = np.cumsum(eigen_count)[mine]
    spectra = {
        int(vertices[k]): file["eigenvalues"][last - eigen_count[k] : last]
        for k, last in zip(mine, stop, strict=True)
    }
    dofs = CoarseDofs(file["vertex"][begin:end], file["mode"][begin:end], spectra, num_dropped)
    repeated = np.repeat(vertices[mine], dof_count[mine])
    if not np.array_equal(dofs.vertex, repeated) or len(spectra) != len(mine):
        raise UnfitFile(f"{path} is damaged: the table 'vertex' does not fit the others.")
    return dofs


def _shown(value: object) -> str:
    """What a file says, as a part of a sentence."""
    return re.sub(r"[^ -~]|(?<=\.) ", "?", str(value))[:200]


def _is(given: object, expected: str | int) -> bool:
    """Equality of strings and integers; whatever else a file may hold is not equal."""
    return isinstance(given, str | int | np.integer) and given == expected
