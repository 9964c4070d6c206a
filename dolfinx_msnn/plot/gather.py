# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Collect cell values, functions and slices on rank 0, to be drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay

import basix
from dolfinx import fem, geometry
from dolfinx_msnn._utils.checks import is_integer, is_number, require
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mesh import bounding_box
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, Function, IntArray, LongArray, Mesh

#: A slice lies this far above the plane asked for (and its pixels off centre), in sides of the
#: bounding box: on a face between two cells it would depend on rounding which one is seen.
OFFSET = 1e-7

#: Corners of a 2D cell in the order of its boundary, by the number of corners.
AROUND = {3: [0, 1, 2], 4: [0, 1, 3, 2]}


class CellValues(NamedTuple):
    """One value a cell of a 2D mesh; the order of the cells does not depend on the ranks.

    Attributes:
        corners: Corners of each cell, around it, shape ``(num_cells, 3 or 4, 2)``.
        values: Shape ``(num_cells,)``.
    """

    corners: FloatArray
    values: FloatArray


class NodalValues(NamedTuple):
    """A function on the triangles between the nodes of its space, one node a dof block.

    Attributes:
        x: Nodes, shape ``(num_nodes, 2)``.
        triangles: Nodes of each triangle, shape ``(num_triangles, 3)``.
        values: Shape ``(num_nodes,)``.
    """

    x: FloatArray
    triangles: LongArray
    values: FloatArray


class Slice(NamedTuple):
    """A function on a lattice of pixels in a plane through a 3D mesh.

    Attributes:
        x: Centres of the pixels along the first axis in the plane, shape ``(nx,)``.
        y: The same along the second, shape ``(ny,)``.
        values: Shape ``(ny, nx)``; NaN outside of the mesh.
        axes: Which coordinate axes lie in the plane.
        normal: The axis that is cut.
        at: Where it is cut.
    """

    x: FloatArray
    y: FloatArray
    values: FloatArray
    axes: tuple[int, int]
    normal: int
    at: float


@checked
def gather_cells(msh: Mesh, values: npt.ArrayLike) -> CellValues | None:
    """Collect cell values of a 2D mesh on rank 0. Collective.

    Args:
        msh: Mesh of triangles or quadrilaterals.
        values: One value for each cell that this rank owns (more are ignored: those of ghosts).

    Returns:
        On rank 0 the values of all cells, elsewhere ``None``.

    Raises:
        ValueError: If the mesh is not two-dimensional, or there are too few values.
    """
    with collective_errors(msh.comm):
        _check_plane_mesh(msh)
        given = owned_values(msh, values)
    num = len(given)
    width = {"triangle": 3, "quadrilateral": 4}[msh.topology.cell_type.name]
    nodes = msh.geometry.dofmaps[0][:num, AROUND[width]]
    part = msh.topology.original_cell_index[:num], msh.geometry.x[nodes][:, :, :2], given
    parts = msh.comm.gather(part)
    if parts is None:
        return None
    index, corners, all_values = (np.concatenate(p) for p in zip(*parts, strict=True))
    order = np.argsort(index)
    return CellValues(corners[order], all_values[order])


@checked
def gather_nodes(u: Function, *, component: int | None = None) -> NodalValues | None:
    """Collect a function on a 2D mesh on rank 0, with triangles between its nodes. Collective.

    Cells of degree two (and quadrilaterals) become several triangles, so that nothing of the nodal
    values is lost; functions of higher degree are interpolated to degree two first.

    Args:
        u: Function in a Lagrange space, continuous or not, of degree one at least.
        component: Of a vector, which component; by default its Euclidean length.

    Returns:
        On rank 0 the function, elsewhere ``None``. Nodes are in the order of global dofs.

    Raises:
        ValueError: If the function is of another kind.
    """
    V = check_function(u)
    msh, bs, degree = V.mesh, V.dofmap.index_map_bs, V.ufl_element().degree
    with collective_errors(msh.comm) as checks:
        _check_plane_mesh(msh)
        if degree < 1:
            raise ValueError(
                "The function is constant on each cell; expected degree one at least (draw_cells "
                "draws cell values)."
            )
        check_component(component, bs)
        checks.agree(component=component)
    if degree > 2:
        V = fem.functionspace(msh, ("Lagrange", 2, V.value_shape))
        lower: Function = fem.Function(V)
        lower.interpolate(u)
        u = lower
    index_map = V.dofmap.index_map
    num_owned, num_cells = index_map.size_local, msh.topology.index_map(2).size_local
    values = scalar(u.x.array.reshape(-1, bs)[:num_owned], component)
    # basix gives the nodes of the reference cell in the order of the cell's dofs.
    between = Delaunay(V.element.interpolation_points).simplices
    dofs = V.dofmap.list[:num_cells][:, between].reshape(-1, 3)
    triangles = index_map.local_to_global(dofs.reshape(-1)).reshape(-1, 3)
    x = V.tabulate_dof_coordinates()[:num_owned, :2]
    parts = msh.comm.gather((x, triangles, values))
    if parts is None:
        return None
    return NodalValues(*(np.concatenate(p) for p in zip(*parts, strict=True)))


@checked
def gather_slice(
    u: Function,
    plane: tuple[int, float] | None = None,
    *,
    component: int | None = None,
    pixels: int = 200,
) -> Slice | None:
    """Collect a function on a plane through a 3D mesh on rank 0.

    Args:
        u: Function in a Lagrange space, or constant on each cell.
        plane: Axis to cut (0, 1 or 2), and where; default the last axis, in the middle.
        component: Of a vector, which component; by default its Euclidean length.
        pixels: Pixels along the longer side.

    Returns:
        On rank 0 the slice, elsewhere ``None``.

    Raises:
        ValueError: If the mesh is not three-dimensional, or the plane misses its bounding box.

    Note:
        Collective. Memory on each rank is that of the picture.
    """
    msh = check_function(u).mesh
    with collective_errors(msh.comm) as checks:
        if msh.geometry.dim != 3 or msh.topology.dim != 3:
            raise ValueError(
                f"The mesh has dimension {msh.topology.dim} in {msh.geometry.dim}; expected 3 for "
                "a slice."
            )
        require(is_integer(pixels, 2), "pixels", pixels, "an integer of at least 2")
        if plane is not None:
            ok = isinstance(plane, tuple) and len(plane) == 2
            ok = ok and plane[0] in (0, 1, 2) and is_number(plane[1])
            require(ok, "plane", plane, "(axis, where) with axis 0, 1 or 2")
        check_component(component, u.function_space.dofmap.index_map_bs)
        checks.agree(plane=plane, component=component, pixels=pixels)
    lower, upper = bounding_box(msh)
    normal, at = (2, 0.5 * (lower[2] + upper[2])) if plane is None else plane
    if not lower[normal] <= at <= upper[normal]:
        raise ValueError(
            f"The plane is at {at:.4g} on axis {normal}, the mesh spans {lower[normal]:.4g} to "
            f"{upper[normal]:.4g} there; expected a plane through the mesh."
        )
    across, up = (k for k in range(3) if k != normal)
    side = upper - lower
    step = max(side[across], side[up]) / pixels
    counts = [max(2, round(side[k] / step)) for k in (across, up)]
    x, y = (
        lower[k] + side[k] * (np.arange(n) + 0.5) / n
        for k, n in zip((across, up), counts, strict=True)
    )
    points = np.empty((len(y), len(x), 3))
    points[..., across], points[..., up] = np.meshgrid(x, y)
    points[..., normal] = at
    points += OFFSET * side
    points[..., normal] = np.minimum(points[..., normal], upper[normal] - OFFSET * side[normal])
    index, values = _evaluate(u, points.reshape(-1, 3))
    parts = msh.comm.gather((index, scalar(values, component)))
    if parts is None:
        return None
    image = np.full(len(x) * len(y), np.nan)
    # The lowest rank that has a point gives its value.
    for where, found in reversed(parts):
        image[where] = found
    return Slice(x, y, image.reshape(len(y), len(x)), (across, up), normal, float(at))


def check_function(u: object) -> fem.FunctionSpace[np.float64]:
    """The space of a function that can be drawn. Not collective.

    Raises:
        ValueError: If it is not a DOLFINx function in a Lagrange space.
    """
    if not isinstance(u, fem.Function):
        raise ValueError(f"Expected a dolfinx.fem.Function, got {type(u).__name__}.")
    V = u.function_space
    element = V.ufl_element()
    parts = getattr(element, "sub_elements", None) or [element]
    if getattr(parts[0], "element_family", None) != basix.ElementFamily.P or len(set(parts)) != 1:
        raise ValueError(f"The function is in {element}; expected a Lagrange space.")
    return V


def owned_values(msh: Mesh, values: npt.ArrayLike) -> FloatArray:
    """The values of this rank's own cells, shape ``(num_cells,)``. Not collective.

    Raises:
        ValueError: If there are fewer, or more than one a cell.
    """
    num = msh.topology.index_map(msh.topology.dim).size_local
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or len(given) < num:
        raise ValueError(
            f"Got cell values of shape {given.shape}; expected one for each of the {num} cells of "
            "this rank."
        )
    return given[:num]


def check_component(component: object, num: int) -> None:
    """Check the number of a component, or ``None``. Not collective."""
    ok = component is None or (isinstance(component, int) and 0 <= component < num)
    require(ok, "component", component, f"from 0 to {num - 1}")


def scalar(values: FloatArray, component: int | None) -> FloatArray:
    """A component, or the Euclidean length, of each row: ``(n, num)`` to ``(n,)``."""
    if component is not None or values.shape[1] == 1:
        return np.asarray(values[:, component or 0])
    return np.asarray(np.linalg.norm(values, axis=1))


def _check_plane_mesh(msh: Mesh) -> None:
    if msh.geometry.dim != 2 or msh.topology.dim != 2:
        raise ValueError(
            f"The mesh has dimension {msh.topology.dim} in {msh.geometry.dim}; expected a plane "
            "mesh of triangles or quadrilaterals."
        )


def _evaluate(u: Function, points: FloatArray) -> tuple[LongArray, FloatArray]:
    """Which points lie in this rank's own cells, and the values there. Not collective.

    Args:
        u: Function.
        points: Shape ``(num_points, 3)``.

    Returns:
        Numbers of the points, shape ``(n,)``, and values, shape ``(n, components)``.
    """
    msh, bs = u.function_space.mesh, u.function_space.dofmap.index_map_bs
    owned = np.arange(msh.topology.index_map(3).size_local, dtype=np.int32)
    nothing = np.zeros(0, np.int64), np.zeros((0, bs))
    if len(owned) == 0:
        return nothing
    tree = geometry.bb_tree(msh, 3, entities=owned)
    candidates = geometry.compute_collisions_points(tree, points)
    cells = geometry.compute_colliding_cells(msh, candidates, points)
    hit = np.flatnonzero(np.diff(cells.offsets))
    if len(hit) == 0:
        return nothing
    chosen: IntArray = cells.array[cells.offsets[hit]]
    values = np.asarray(u.eval(points[hit], chosen)).reshape(len(hit), bs)
    return hit, values
