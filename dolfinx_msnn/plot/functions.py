# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficients, functions and errors as coloured maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx import fem
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, Function, Mesh
from dolfinx_msnn.local.coefficient import cell_values, check_coefficient
from dolfinx_msnn.plot.gather import (
    CellValues,
    NodalValues,
    Slice,
    check_function,
    gather_cells,
    gather_nodes,
    gather_slice,
)


def draw_coefficient(
    axes: Any,
    kappa: object,
    msh: Mesh | None = None,
    *,
    log: bool = True,
    plane: tuple[int, float] | None = None,
    cmap: str = "cividis",
    bar: str | None = None,
) -> Any:
    """Draw a positive coefficient, cell by cell.

    Args:
        axes: Matplotlib axes; matter on rank 0 only.
        kappa: Scalar ``Function``, ``Constant``, UFL expression or number; its values at the
            midpoints of the cells are drawn.
        msh: Mesh; not needed for a ``Function``.
        log: Whether colours follow the logarithm.
        plane: In 3D, axis and place of the slice.
        cmap: Colour map.
        bar: Label of a colour bar; none without.

    Returns:
        The artist on rank 0, elsewhere ``None``.

    Raises:
        ValueError: If an argument is not as expected.

    Note:
        Collective.
    """
    if msh is None and isinstance(kappa, fem.Function):
        msh = kappa.function_space.mesh
    if msh is None:
        raise ValueError(
            f"kappa is a {type(kappa).__name__}; expected the mesh to draw it on as well."
        )
    with collective_errors(msh.comm):
        check_coefficient(kappa, msh)
    tdim = msh.topology.dim
    values = np.empty((msh.topology.index_map(tdim).size_local, 1 + msh.geometry.dim))
    cell_values(kappa, msh, values)
    return draw_cells(axes, msh, values[:, 0], log=log, plane=plane, cmap=cmap, bar=bar)


def draw_cells(
    axes: Any,
    msh: Mesh,
    values: npt.ArrayLike,
    *,
    log: bool = False,
    plane: tuple[int, float] | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
    bar: str | None = None,
) -> Any:
    """Draw one value a cell, such as local errors.

    Args:
        axes: As for :func:`draw_coefficient`.
        msh: Mesh.
        values: One value for each cell that this rank owns.
        log: Whether colours follow the logarithm (values must be positive, then).
        plane: In 3D, axis and place of the slice.
        limits: Values at the ends of the colour map; default the smallest and the largest.
        cmap: Colour map.
        bar: Label of a colour bar; none without.

    Returns:
        The artist on rank 0, elsewhere ``None``.

    Note:
        Collective.
    """
    check_axes(msh.comm, axes)
    if msh.topology.dim == 2:
        cells = gather_cells(msh, values)
        return on_root(msh.comm, lambda: _cells(axes, cells, log, limits, cmap, bar))
    f: Function = fem.Function(fem.functionspace(msh, ("DG", 0)))
    given = np.asarray(values, dtype=np.float64)
    num = msh.topology.index_map(msh.topology.dim).size_local
    with collective_errors(msh.comm):
        if given.ndim != 1 or len(given) < num:
            raise ValueError(
                f"Got cell values of shape {given.shape}; expected one for each of the {num} cells "
                "of this rank."
            )
    f.x.array[f.function_space.dofmap.list[:num, 0]] = given[:num]
    image = gather_slice(f, plane)
    return on_root(msh.comm, lambda: _slice(axes, image, log, limits, cmap, bar))


def draw_function(
    axes: Any,
    u: Function,
    *,
    component: int | None = None,
    plane: tuple[int, float] | None = None,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    contours: int = 0,
    cmap: str = "viridis",
    bar: str | None = None,
) -> Any:
    """Draw a function in a Lagrange space on any mesh, or a slice through it in 3D.

    Args:
        axes: As for :func:`draw_coefficient`.
        u: Function of any degree; interpolated linearly between the nodes of degree one or two.
        component: Of a vector, which component; by default its Euclidean length.
        plane: In 3D, axis and place of the slice; default the middle of the last axis.
        limits: Values at the ends of the colour map; default the smallest and the largest.
        log: Whether colours follow the logarithm.
        contours: Number of contour lines on top, equally spaced between the limits.
        cmap: Colour map.
        bar: Label of a colour bar; none without.

    Returns:
        The artist on rank 0, elsewhere ``None``.

    Raises:
        ValueError: If the function is not of this kind.

    Note:
        Collective.
    """
    V = check_function(u)
    comm = V.mesh.comm
    check_axes(comm, axes)
    if V.mesh.topology.dim == 3:
        image = gather_slice(u, plane, component=component)
        return on_root(comm, lambda: _slice(axes, image, log, limits, cmap, bar, contours))
    if V.ufl_element().degree == 0:
        num = V.mesh.topology.index_map(2).size_local
        bs = V.dofmap.index_map_bs
        values = u.x.array.reshape(-1, bs)[V.dofmap.list[:num, 0]]
        with collective_errors(comm):
            if bs > 1 and component is None:
                raise ValueError("The function is a vector on each cell; expected a component.")
        return draw_cells(
            axes, V.mesh, values[:, component or 0], log=log, limits=limits, cmap=cmap, bar=bar
        )
    nodes = gather_nodes(u, component=component)
    return on_root(comm, lambda: _nodes(axes, nodes, log, limits, cmap, bar, contours))


def draw_error(
    axes: Any,
    u: Function,
    reference: Function,
    *,
    plane: tuple[int, float] | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = "magma_r",
    bar: str | None = None,
) -> Any:
    """Draw the absolute value of the difference of two functions of one space.

    Args:
        axes: As for :func:`draw_coefficient`.
        u: Function.
        reference: Function in the same space.
        plane: In 3D, axis and place of the slice.
        limits: Values at the ends of the colour map; default zero and the largest.
        cmap: Colour map.
        bar: Label of a colour bar; none without.

    Returns:
        The artist on rank 0, elsewhere ``None``.

    Note:
        Collective.
    """
    V = check_function(u)
    comm = V.mesh.comm
    with collective_errors(comm):
        if not isinstance(reference, fem.Function) or reference.function_space != V:
            raise ValueError("reference is not a function in the space of u; expected one.")
    error: Function = fem.Function(V)
    error.x.array[:] = np.abs(u.x.array - reference.x.array)
    if limits is None:
        limits = 0.0, comm.allreduce(float(error.x.array.max(initial=0.0)), MPI.MAX)
    return draw_function(axes, error, plane=plane, limits=limits, cmap=cmap, bar=bar)


def on_root[T](comm: MPI.Comm, draw: Callable[[], T]) -> T | None:
    """Draw on rank 0; an error there is one on all ranks. Collective."""
    artist: T | None = None
    with collective_errors(comm):
        if comm.rank == 0:
            artist = draw()
    return artist


def check_axes(comm: MPI.Comm, axes: object) -> None:
    """Refuse, on all ranks, what is no pair of plane axes on rank 0. Collective."""
    with collective_errors(comm):
        if comm.rank == 0 and getattr(axes, "name", None) != "rectilinear":
            given = getattr(axes, "name", type(axes).__name__)
            raise ValueError(f"Expected plane matplotlib axes on rank 0, got {given!r}.")


def _norm(values: FloatArray, log: bool, limits: tuple[float, float] | None) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        raise ValueError("All values are NaN or infinite; expected some to draw.")
    low, high = (float(finite.min()), float(finite.max())) if limits is None else limits
    if log and not low > 0:
        raise ValueError(f"The least value is {low:.4g}; expected positive ones for log=True.")
    return (LogNorm if log else Normalize)(low, high)


def _bar(axes: Any, artist: Any, bar: str | None) -> None:
    if bar is not None:
        # As tall as axes of equal aspect, whatever the layout.
        axes.figure.colorbar(artist, ax=axes, label=bar, fraction=0.046, pad=0.04)


def _cells(axes: Any, cells: CellValues | None, log: Any, limits: Any, cmap: str, bar: Any) -> Any:
    from matplotlib.collections import PolyCollection

    assert cells is not None
    artist = PolyCollection(
        cells.corners,  # type: ignore[arg-type,unused-ignore]  # an array is a sequence of arrays
        array=cells.values,
        norm=_norm(cells.values, log, limits),
        cmap=cmap,
        # Without a line of their own colour, gaps show between the cells.
        edgecolors="face",
        linewidths=0.1,
        rasterized=True,
    )
    axes.add_collection(artist)
    _frame(axes, cells.corners.reshape(-1, 2))
    _bar(axes, artist, bar)
    return artist


def _nodes(
    axes: Any, nodes: NodalValues | None, log: Any, limits: Any, cmap: str, bar: Any, contours: int
) -> Any:
    from matplotlib.tri import Triangulation

    assert nodes is not None
    mesh = Triangulation(nodes.x[:, 0], nodes.x[:, 1], nodes.triangles)
    norm = _norm(nodes.values, log, limits)
    artist = axes.tripcolor(
        mesh, nodes.values, shading="gouraud", norm=norm, cmap=cmap, rasterized=True
    )
    if contours:
        levels = np.linspace(norm.vmin, norm.vmax, contours + 2)[1:-1]
        axes.tricontour(mesh, nodes.values, levels, colors="w", linewidths=0.6, alpha=0.8)
    _frame(axes, nodes.x)
    _bar(axes, artist, bar)
    return artist


def _slice(
    axes: Any,
    image: Slice | None,
    log: Any,
    limits: Any,
    cmap: str,
    bar: Any,
    contours: int = 0,
) -> Any:
    assert image is not None
    norm = _norm(image.values, log, limits)
    artist = axes.pcolormesh(
        image.x, image.y, image.values, shading="nearest", norm=norm, cmap=cmap, rasterized=True
    )
    if contours:
        levels = np.linspace(norm.vmin, norm.vmax, contours + 2)[1:-1]
        axes.contour(image.x, image.y, image.values, levels, colors="w", linewidths=0.6, alpha=0.8)
    names = "xyz"
    axes.set(aspect="equal", xlabel=names[image.axes[0]], ylabel=names[image.axes[1]])
    axes.set_title(f"{names[image.normal]} = {image.at:.4g}", fontsize="small")
    _bar(axes, artist, bar)
    return artist


def _frame(axes: Any, x: FloatArray) -> None:
    """Show all of the points, and what was drawn before."""
    axes.update_datalim(x)
    axes.margins(0)
    axes.autoscale_view()
    axes.set_aspect("equal")
