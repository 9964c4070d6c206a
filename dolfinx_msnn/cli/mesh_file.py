# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Meshes from files of Gmsh and XDMF, with the tags of their cells, and coefficients from tags."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from mpi4py import MPI

import numpy as np

from dolfinx import fem, io
from dolfinx_msnn._utils.files import reason
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import Function, Mesh
from dolfinx_msnn.cli.common import WrongCommandLine, number, pairs


def read_mesh(comm: MPI.Intracomm, file: str) -> tuple[Mesh, Any]:
    """The mesh in a file, and the tags of its cells (``None`` without any). Collective.

    Raises:
        FileNotFoundError: If it is not there.
        ImportError: If gmsh is needed, and does not load.
        ValueError: If it is no mesh.
    """
    with collective_errors(comm):
        if not Path(file).exists():
            raise FileNotFoundError(f"There is no mesh file {file}.")
        if Path(file).suffix not in (".msh", ".xdmf"):
            raise WrongCommandLine(f"--mesh must be an .msh or .xdmf file, got {file!r}.")
    return _read_msh(comm, file) if Path(file).suffix == ".msh" else _read_xdmf(comm, file)


def _read_xdmf(comm: MPI.Intracomm, file: str) -> tuple[Mesh, Any]:
    """The first grid with points is the mesh, the first with values in cells their tags."""
    name, tagged = "", ""
    with collective_errors(comm):
        try:
            grids = [g for g in ET.parse(file).iter("Grid") if g.find("Topology") is not None]
        except ET.ParseError as exc:
            raise ValueError(f"{file} is not an XDMF file: {reason(exc)}.") from exc
        name = next(
            (g.get("Name", "") for g in grids if g.find("Geometry/DataItem") is not None), ""
        )
        if not name:
            raise ValueError(f"{file} has no grid with points and cells; expected a mesh.")
        cells = (g for g in grids if g.find("Attribute[@Center='Cell']") is not None)
        tagged = next((g.get("Name", "") for g in cells), "")
    with io.XDMFFile(comm, file, "r") as xdmf:
        msh: Mesh = xdmf.read_mesh(name=name)
        return msh, xdmf.read_meshtags(msh, name=tagged) if tagged else None


def _read_msh(comm: MPI.Intracomm, file: str) -> tuple[Mesh, Any]:
    """Rank 0 reads. Cells without physical groups are of one group, 1."""
    gmsh: Any = None
    dim = 0
    with collective_errors(comm):
        if comm.rank == 0:
            try:
                gmsh = importlib.import_module("gmsh")
            except (ImportError, OSError) as exc:
                raise ImportError(
                    f"{file} needs gmsh, which is not installed or does not load ({reason(exc)}): "
                    "pip install gmsh, or make it an .xdmf file."
                ) from exc
            gmsh.initialize(interruptible=False)
            gmsh.option.setNumber("General.Terminal", 0)
    try:
        with collective_errors(comm):
            if comm.rank == 0:
                dim = _open(gmsh, file)
        from dolfinx.io.gmsh import model_to_mesh

        try:
            found = model_to_mesh(gmsh and gmsh.model, comm, 0, gdim=comm.bcast(dim))
        except RuntimeError as exc:
            raise ValueError(f"{file}: {reason(exc)}.") from exc
        return found.mesh, found.cell_tags
    finally:
        if comm.rank == 0:
            gmsh.finalize()


def _open(gmsh: Any, file: str) -> int:
    """Open a file for :func:`dolfinx.io.gmsh.model_to_mesh`; its dimension."""
    try:
        gmsh.merge(file)
    except Exception as exc:
        raise ValueError(f"{file} is not a mesh that Gmsh reads: {reason(exc)}.") from exc
    dim = int(gmsh.model.getDimension())
    z = gmsh.model.mesh.getNodes()[1][2::3]
    if dim < 2 or len(z) == 0 or (dim == 2 and np.ptp(z) > 0):
        raise ValueError(f"{file} must be a mesh in space or in the plane z = 0.")
    gmsh.model.mesh.renumberNodes()
    if not gmsh.model.getPhysicalGroups(dim):
        gmsh.model.addPhysicalGroup(dim, [tag for _, tag in gmsh.model.getEntities(dim)], 1)
    return dim


def from_tags(msh: Mesh, tags: Any, texts: Sequence[str]) -> Function:
    """A coefficient, DG0, with a value for each tag of the cells. Collective.

    Args:
        msh: Mesh.
        tags: Tags of its cells.
        texts: ``TAG=VALUE``.
    """
    values: dict[int, float] = {}
    for tag, text in pairs("--tag", texts, "TAG=VALUE"):
        values[int(number("--tag", tag))] = value = number(f"--tag {tag}", text)
        if value <= 0:
            raise WrongCommandLine(f"--tag {tag} must be positive, got {text!r}.")
    kappa: Function = fem.Function(fem.functionspace(msh, ("DG", 0)), name="kappa")
    if tags is None:
        raise ValueError("--tag was given, and the mesh has no cells with tags.")
    here = set(np.unique(tags.values).tolist())
    known = sorted(set().union(*msh.comm.allgather(here)))
    if known != sorted(values):
        raise ValueError(f"--tag must give each tag of the cells, {known}, got {sorted(values)}.")
    kappa.x.array[tags.indices] = [values[tag] for tag in tags.values.tolist()]
    kappa.x.scatter_forward()
    if msh.comm.allreduce(float(kappa.x.array.min(initial=np.inf)), MPI.MIN) <= 0:
        raise ValueError("The mesh has cells without a tag; expected one for each.")
    return kappa
