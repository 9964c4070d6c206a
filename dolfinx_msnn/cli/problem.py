# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""From options to a boundary value problem: coefficient, mesh, conditions."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI

import numpy as np

import ufl
from dolfinx import fem, mesh
from dolfinx_msnn import (
    CoarseGrid,
    LocalBasis,
    MultiscaleFunctionSpace,
    fields,
    multiscale_functionspace,
)
from dolfinx_msnn._utils.mesh import bounding_box, mean_cell_extent
from dolfinx_msnn._utils.typing import DirichletBC, Function, FunctionSpace, Mesh
from dolfinx_msnn.cli.common import WrongCommandLine, family_name, number, numbers, pairs
from dolfinx_msnn.petsc import LinearProblem

#: Axis and end of the sides of the mesh's bounding box.
SIDES = {
    dim: {name: (k // 2, k % 2) for k, name in enumerate(names.split())}
    for dim, names in ((2, "left right bottom top"), (3, "left right front back bottom top"))
}
CELLS = {2: ("quadrilateral", "triangle"), 3: ("hexahedron", "tetrahedron")}
#: Cells in each direction where none are given.
DEFAULT_CELLS = {2: 100, 3: 20}

#: Cells of a box in each direction where the number of boxes is not given.
CELLS_A_BOX = {2: 10, 3: 5}


@dataclass(frozen=True)
class Problem:
    """−div(κ ∇u) = f with u or κ ∂u/∂n given on the sides; with its forms.

    Attributes:
        V: Fine space.
        kappa: Coefficient, DG0.
        a: Bilinear form.
        s: Right-hand form of the local eigenproblems: the mass matrix of κ.
        L: Linear form.
        bcs: Dirichlet conditions; no dof is in two of them.
        values: Their values.
        source: f.
        flux: κ ∂u/∂n where nothing else is given, a UFL expression or a number.
    """

    V: FunctionSpace
    kappa: Function
    a: ufl.Form
    s: ufl.Form
    L: ufl.Form
    bcs: list[DirichletBC]
    values: list[float]
    source: float
    flux: Any

    @property
    def comm(self) -> MPI.Intracomm:
        """Communicator of the mesh."""
        comm: MPI.Intracomm = self.V.mesh.comm
        return comm

    def space(self, coarse: CoarseGrid, basis: LocalBasis) -> MultiscaleFunctionSpace:
        """A multiscale space for the problem. Collective."""
        return multiscale_functionspace(self.V, coarse, basis, self.a, s=self.s, bcs=self.bcs)

    def within(self, W: MultiscaleFunctionSpace, prefix: str) -> LinearProblem:
        """The problem in a multiscale space, with a prefix of PETSc's options. Collective."""
        return LinearProblem(self.a, self.L, W, bcs=self.bcs, petsc_options_prefix=prefix)


def generator(
    name: str, dim: int, contrast: float | None, seed: int, options: Sequence[str]
) -> fields.Field:
    """A coefficient by the name of its family, with further keywords as ``KEY=VALUE``."""
    name = family_name(name)
    family: Any = getattr(fields, name.title().replace("_", ""))
    known = [
        key
        for key, parameter in inspect.signature(family).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    keywords = {}
    for key, value in pairs("--parameter", options, "KEY=VALUE"):
        if key not in known:
            raise WrongCommandLine(
                f"--parameter {key} is none of {name}; expected {', '.join(known)}."
            )
        keywords[key] = _value(key, value)
    if contrast is None and name != "log_normal":
        contrast = 1e3
    field: fields.Field = family(dim, contrast, seed, **keywords)
    return field


def _value(key: str, text: str) -> Any:
    if key == "shape":
        return text
    values = [number(f"--parameter {key}", part) for part in text.split(",")]
    whole = [
        int(v) if re.fullmatch(r"[+-]?\d+", t) else v
        for v, t in zip(values, text.split(","), strict=True)
    ]
    return whole[0] if len(whole) == 1 else tuple(whole)


def read_field(
    path: str,
    comm: MPI.Intracomm,
    *,
    layers: str | None,
    component: str,
    low: float | None,
    high: float | None,
    phases: Sequence[str],
    size: str | None,
) -> fields.LatticeField:
    """A coefficient from a file: SPE10 if layers are given, else an array or images. Collective."""
    spe10 = Path(path).name == "spe_perm.dat" or (Path(path) / "spe_perm.dat").exists()
    if layers is None and comm.bcast(spe10):
        raise WrongCommandLine(
            f"{path} looks like SPE10; expected --layers with one layer (2D) or FIRST:LAST (3D)."
        )
    if layers is not None:
        parts = layers.split(":")
        if len(parts) > 2 or not all(part.isdigit() for part in parts):
            raise WrongCommandLine(f"--layers must be a number or FIRST:LAST, got {layers!r}.")
        first, last = int(parts[0]), int(parts[-1])
        return fields.read_spe10(
            path, (first, last) if len(parts) == 2 else first, component=component, comm=comm
        )
    mapping = {
        number("--phase", grey): number("--phase", value)
        for grey, value in pairs("--phase", phases, "GREY=VALUE")
    }
    grey = fields.read_image_stack(path, comm=comm)
    step = None
    if size is not None and grey.ndim in (2, 3):
        sides = numbers("--size", size, float, grey.ndim)
        step = [length / n for length, n in zip(sides, grey.shape, strict=True)]
    return fields.from_array(grey, low=low, high=high, phases=mapping or None, cell_size=step)


def create_mesh(
    comm: MPI.Intracomm,
    field: Any,
    *,
    cells: str | None = None,
    size: str | None = None,
    cell: str | None = None,
) -> Mesh:
    """A mesh of a lattice's cells, or of a box of ``field.dim`` dimensions. Collective."""
    dim: int = field.dim
    if cell is not None and cell not in CELLS[dim]:
        raise WrongCommandLine(f"--cell must be {' or '.join(CELLS[dim])} in {dim}D, got {cell!r}.")
    cell_type = mesh.CellType[cell or CELLS[dim][0]]
    lattice = field if isinstance(field, fields.LatticeField) else None
    if lattice is not None and cells is None:
        return lattice.create_mesh(comm, cell_type)
    counts = numbers("--cells", cells or str(DEFAULT_CELLS[dim]), int, dim)
    corners = [np.zeros(dim), np.ones(dim)]
    if lattice:
        corners = [np.array(lattice.origin), np.add(lattice.origin, lattice.extent)]
    elif size is not None:
        corners[1] = np.array(numbers("--size", size, float, dim))
    create: Any = mesh.create_rectangle if dim == 2 else mesh.create_box
    made: Mesh = create(comm, corners, list(counts), cell_type)
    return made


def default_boxes(msh: Mesh) -> tuple[int, ...]:
    """About :data:`CELLS_A_BOX` cells in each direction, by the mean size of a cell. Collective."""
    cells = np.ptp(bounding_box(msh), axis=0) / mean_cell_extent(msh)
    return tuple(max(1, round(n / CELLS_A_BOX[msh.topology.dim])) for n in cells.tolist())


def pose(
    msh: Mesh,
    kappa: Function,
    *,
    degree: int = 1,
    dirichlet: Sequence[str] = (),
    flux: Sequence[str] = (),
    source: float = 0.0,
) -> Problem:
    """The boundary value problem. Collective.

    Args:
        msh: Mesh.
        kappa: Coefficient.
        degree: Degree of the Lagrange space.
        dirichlet: ``SIDE=VALUE``, later ones win where sides meet; empty for 1 on the left and 0
            on the right, ``none`` for none.
        flux: κ ∂u/∂n as ``SIDE=VALUE``; zero where nothing is given.
        source: f.
    """
    dim = msh.topology.dim
    fixed = [] if list(dirichlet) == ["none"] else list(dirichlet) or ["left=1", "right=0"]
    names = ", ".join([*SIDES[dim], "all"])
    values = _by_side(
        "--dirichlet", fixed, [*SIDES[dim], "all"], f"none or SIDE=VALUE with a side of {names}"
    )
    given = _by_side(
        "--flux", flux, [*SIDES[dim]], f"SIDE=VALUE with a side of {', '.join(SIDES[dim])}"
    )
    V = fem.functionspace(msh, ("Lagrange", degree))
    box = bounding_box(msh)
    near = 1e-9 * float(np.ptp(box, axis=0).max())
    taken = np.zeros(0, dtype=np.int32)
    bcs: list[DirichletBC] = []
    for side, value in reversed(values):
        if side == "all":
            msh.topology.create_connectivity(dim - 1, dim)
            facets = mesh.exterior_facet_indices(msh.topology)
            dofs = fem.locate_dofs_topological(V, dim - 1, facets)
        else:
            axis, end = SIDES[dim][side]
            at = box[end, axis]
            dofs = fem.locate_dofs_geometrical(
                V, lambda p, axis=axis, at=at: np.abs(p[axis] - at) <= near
            )
        if msh.comm.allreduce(len(dofs)) == 0:
            raise ValueError(f"--dirichlet {side} meets no node of the mesh.")
        bcs.append(fem.dirichletbc(value, np.setdiff1d(dofs, taken).astype(np.int32), V))
        taken = np.union1d(taken, dofs).astype(np.int32)

    place = ufl.SpatialCoordinate(msh)
    g: Any = 0.0
    for side, value in given:
        axis, end = SIDES[dim][side]
        g = g + ufl.conditional(abs(place[axis] - float(box[end, axis])) <= near, value, 0.0)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    L = fem.Constant(msh, np.float64(source)) * v * ufl.dx
    if given:
        L = L + g * v * ufl.ds
    u_given = [value for _, value in values]
    return Problem(V, kappa, a, kappa * u * v * ufl.dx, L, bcs[::-1], u_given, source, g)


def _by_side(
    option: str, texts: Sequence[str], sides: Sequence[str], expected: str
) -> list[tuple[str, float]]:
    found = []
    for side, value in pairs(option, texts, expected):
        if side not in sides:
            raise WrongCommandLine(f"{option} must be {expected}, got the side {side!r}.")
        found.append((side, number(f"{option} {side}", value)))
    return found
