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
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.files import UnfitFile, find_table, open_hdf5
from dolfinx_msnn._utils.typing import FloatArray, FunctionSpace
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


def are_eigenvalues(values: FloatArray) -> bool:
    """Whether values are finite, and negative by rounding at most."""
    largest = float(values.max(initial=1.0))
    return bool(np.isfinite(values).all() and values.min(initial=0.0) >= -1e-6 * largest)


def read_share(
    path: str, V: FunctionSpace, num_forms: int
) -> tuple[dict[str, npt.NDArray[Any]], CoarseDofs, object]:
    """Read this rank's share of a file that fits ``V`` and is not damaged.

    Args:
        path: The file.
        V: Fine space.
        num_forms: 2 if the space was built with a form ``s``.

    Returns:
        The tables of an equal share of the fine dof blocks, with the entries of P in their rows
        (``rows`` counts from the first of them); the coarse dofs of whole neighbourhoods, about
        equally many on each rank; and what tells this file from others.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a file for ``V``, or is damaged.
    """
    comm, bs = V.mesh.comm, V.dofmap.index_map_bs
    with open_hdf5(path, "a multiscale space") as file:
        attributes = {
            key: value.decode(errors="replace") if isinstance(value, bytes) else value
            for key, value in file.attrs.items()
        }
        _check_format(path, attributes, V)
        # Shapes are looked at before any table is read: a forged file may claim any size.
        _check_shapes(path, attributes, _shapes(path, file), V, num_forms)
        num_blocks, num_cols = len(file["points"]), len(file["vertex"])
        blocks = [num_blocks * rank // comm.size for rank in (comm.rank, comm.rank + 1)]
        # The first and the last rank see to it that no entry is left out.
        ends = {0: 0, num_blocks: len(file["rows"])}
        entries = [ends.get(k, bisect_left(file["rows"], bs * k)) for k in blocks]
        tables = {key: file[key][slice(*blocks)] for key in ("points", "dirichlet", "reference")}
        tables |= {key: file[key][slice(*entries)] for key in ("rows", "cols", "values")}
        tables["rows"] -= bs * blocks[0]
        here, whole = (bs * (blocks[1] - blocks[0]), num_cols), (bs * num_blocks, num_cols)
        for key, top, total in zip(("rows", "cols"), here, whole, strict=True):
            inside = ((tables[key] >= 0) & (tables[key] < top)).all()
            wrong = f"'{key}' has entries outside 0..{total - 1} or out of order"
            _require(inside, f"{path} is damaged: {wrong}.")
        for key in ("points", "values"):
            finite = np.isfinite(tables[key]).all()
            _require(finite, f"{path} is damaged: '{key}' has NaN or infinite entries.")
        num_dropped = int(attributes["num_dropped"]) if comm.rank == 0 else 0
        dofs = _read_dofs(path, file, num_dropped, comm.rank, comm.size)
    return tables, dofs, attributes["id"]


def _check_format(path: str, attributes: dict[str, Any], V: FunctionSpace) -> None:
    """Refuse a file of another format, or for another element."""
    name, version, element = (
        attributes.get(key) for key in ("format", "format_version", "element")
    )
    _require(
        _is(name, FORMAT) and _is(version, FORMAT_VERSION),
        f"{path} is not a file of the format '{FORMAT}', version {FORMAT_VERSION}; it says "
        f"{_shown(repr(name))}, version {_shown(version)}.",
    )
    _require(
        _is(element, str(V.ufl_element())),
        f"{path} holds a space of the element {_shown(element)}, expected that of V, "
        f"{V.ufl_element()}.",
    )


def _shapes(path: str, file: h5py.File) -> dict[str, tuple[int, ...]]:
    """Shapes of the tables, which must all be there."""
    for key, dtype in DTYPES.items():
        sound = find_table(file, key, dtype) is not None
        _require(sound, f"{path} is damaged: the table '{key}' is missing or incomplete.")
    return {key: file[key].shape for key in DTYPES}


def _check_shapes(
    path: str,
    attributes: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    V: FunctionSpace,
    num_forms: int,
) -> None:
    """Refuse a file whose tables do not fit ``V`` or each other."""
    cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_global
    blocks, bs = V.dofmap.index_map.size_global, V.dofmap.index_map_bs
    _require(
        _is(attributes.get("cells"), cells) and shapes["points"] == (blocks, 3),
        f"{path} was saved on another mesh, of {_shown(attributes.get('cells'))} cells and "
        f"{shapes['points'][:1]} nodes; the mesh of V has {cells} and {(blocks,)}.",
    )
    width = NUM_REFERENCE * bs
    saved, given = ("with", "without") if num_forms == 1 else ("without", "with")
    _require(
        shapes["reference"] != (blocks, (3 - num_forms) * width),
        f"{path} was saved {saved} a form s, and load() was called {given} one; expected the same "
        "forms.",
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
    _require(
        not wrong and shapes["vertex"] != (0,),
        f"{path} is damaged: tables that belong together differ in shape "
        f"({', '.join(wrong) or 'no coarse dofs'}).",
    )
    complete = "id" in attributes and isinstance(attributes.get("num_dropped"), int | np.integer)
    _require(complete, f"{path} is damaged: an attribute is missing.")


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
        fits = ((count >= 0) & (count <= total)).all() and count.sum() == total
        _require(fits, f"{path} is damaged: the table '{key}' does not fit the others.")
    first, stop = np.cumsum(dof_count) - dof_count, np.cumsum(eigen_count)
    owner = np.minimum(first * size // num_coarse, size - 1)
    mine = np.flatnonzero(owner == rank)
    begin = int(dof_count[owner < rank].sum())
    part = slice(begin, begin + int(dof_count[mine].sum()))
    spectra = {
        int(vertices[k]): file["eigenvalues"][stop[k] - eigen_count[k] : stop[k]] for k in mine
    }
    sound = are_eigenvalues(np.concatenate([*spectra.values(), np.zeros(0)]))
    _require(sound, f"{path} is damaged: 'eigenvalues' has negative or infinite entries.")
    dofs = CoarseDofs(file["vertex"][part], file["mode"][part], spectra, num_dropped)
    repeated = np.repeat(vertices[mine], dof_count[mine])
    fits = np.array_equal(dofs.vertex, repeated) and len(spectra) == len(mine)
    _require(fits, f"{path} is damaged: the table 'vertex' does not fit the others.")
    return dofs


def _require(ok: object, text: str) -> None:
    if not ok:
        raise UnfitFile(text)


def _shown(value: object) -> str:
    """What a file says, as a part of a sentence."""
    return re.sub(r"[^ -~]|(?<=\.) ", "?", str(value))[:200]


def _is(given: object, expected: str | int) -> bool:
    """Equality of strings and integers; whatever else a file may hold is not equal."""
    return isinstance(given, str | int | np.integer) and given == expected
