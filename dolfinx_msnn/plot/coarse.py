# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse grids and neighbourhoods, drawn over the domain."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np

from dolfinx_msnn._utils.checks import is_integer, require
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, FunctionSpace
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.neighbourhoods import cell_membership
from dolfinx_msnn.plot.axes import on_root, show_all
from dolfinx_msnn.plot.gather import CellValues, gather_cells


@checked
def draw_coarse_grid(
    axes: Any,
    coarse: CoarseGrid,
    *,
    plane_axes: tuple[int, int] = (0, 1),
    colour: str = "0.6",
    linewidth: float = 0.8,
) -> Any:
    """Draw the lines of a coarse grid. Collective.

    Args:
        axes: Matplotlib axes; matter on rank 0 only.
        coarse: Coarse grid: of boxes, or in 2D of another mesh.
        plane_axes: In 3D, the coordinate axes of the picture.
        colour: Colour of the lines.
        linewidth: Width of the lines, in points.

    Returns:
        The artist on rank 0, elsewhere ``None``.

    Raises:
        ValueError: If the grid is one of a three-dimensional mesh.
    """
    comm, msh = coarse.fine.comm, getattr(coarse, "coarse", None)
    with collective_errors(comm):
        pairs = permutations(range(coarse.fine.geometry.dim), 2)
        require(plane_axes in pairs, "plane_axes", plane_axes, "two axes of the mesh")
    lines: FloatArray | None = None
    if msh is not None:
        # Every edge is drawn from both sides.
        cells = gather_cells(msh, np.zeros(msh.topology.index_map(msh.topology.dim).size_local))
        if cells is not None:
            lines = np.concatenate([cells.corners, cells.corners[:, :1]], axis=1)
    elif comm.rank == 0:
        lines = _box_lines(coarse, plane_axes)

    def draw(axes: Any, lines: FloatArray) -> Any:
        from matplotlib.collections import LineCollection

        artist = LineCollection(list(lines), colors=colour, linewidths=linewidth, zorder=3)
        axes.add_collection(artist)
        show_all(axes, lines.reshape(-1, 2))
        return artist

    return on_root(comm, axes, lines, draw)


@checked
def draw_neighbourhood(
    axes: Any,
    V: FunctionSpace,
    coarse: CoarseGrid,
    vertex: int,
    *,
    colour: str = "#ee6677",
    alpha: float = 0.4,
) -> Any:
    """Draw the cells of a neighbourhood ω_i (without oversampling) over a 2D mesh. Collective.

    Args:
        axes: Matplotlib axes; matter on rank 0 only.
        V: Fine space; a cell belongs to ω_i if χ_i is positive at one of its dofs.
        coarse: Coarse grid.
        vertex: Coarse vertex i.
        colour: Colour of the cells.
        alpha: Opacity.

    Returns:
        The artist on rank 0, elsewhere ``None``.

    Raises:
        ValueError: If there is no such vertex, or the neighbourhood holds no cell.
    """
    comm = V.mesh.comm
    with collective_errors(comm) as checks:
        ok = is_integer(vertex) and vertex < coarse.num_vertices
        require(ok, "vertex", vertex, f"from 0 to {coarse.num_vertices - 1}")
        checks.agree(vertex=int(vertex))
    hats = coarse.hats(V.tabulate_dof_coordinates())
    member = cell_membership(V, coarse, hats)[:, [int(vertex)]].toarray()[:, 0]

    def draw(axes: Any, cells: CellValues) -> Any:
        from matplotlib.collections import PolyCollection

        corners = cells.corners[cells.values > 0]
        if len(corners) == 0:
            raise ValueError(f"The neighbourhood of coarse vertex {vertex} holds no cell.")
        artist = PolyCollection(
            list(corners), facecolors=colour, edgecolors="none", alpha=alpha, zorder=2
        )
        axes.add_collection(artist)
        show_all(axes, corners.reshape(-1, 2))
        return artist

    return on_root(comm, axes, gather_cells(V.mesh, member), draw)


def _box_lines(coarse: CoarseGrid, plane_axes: tuple[int, int]) -> FloatArray:
    """Ends of the lines of a grid of boxes, shape ``(num_lines, 2, 2)``."""
    lines = []
    for own, other in (plane_axes, plane_axes[::-1]):
        at = coarse.lower[own] + coarse.box_size[own] * np.arange(coarse.n[own] + 1)
        ends = np.empty((len(at), 2, 2))
        ends[:, :, plane_axes.index(own)] = at[:, None]
        ends[:, :, plane_axes.index(other)] = coarse.lower[other], coarse.upper[other]
        lines.append(ends)
    return np.concatenate(lines)
