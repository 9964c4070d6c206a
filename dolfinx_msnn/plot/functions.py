# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficients, functions and errors as coloured maps."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx import fem
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import Function, Mesh
from dolfinx_msnn.local.coefficient import cell_values, check_coefficient
from dolfinx_msnn.plot.axes import Colours, on_root
from dolfinx_msnn.plot.gather import (
    check_component,
    check_function,
    gather_cells,
    gather_nodes,
    gather_slice,
    owned_values,
    scalar,
)


@checked
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
    """Draw a positive coefficient, cell by cell. Collective.

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
    """
    if msh is None and isinstance(kappa, fem.Function):
        msh = kappa.function_space.mesh
    if msh is None:
        raise ValueError(
            f"kappa is a {type(kappa).__name__}; expected the mesh to draw it on as well."
        )
    with collective_errors(msh.comm):
        check_coefficient(kappa, msh)
    values = cell_values(kappa, msh)
    return draw_cells(axes, msh, values[:, 0], log=log, plane=plane, cmap=cmap, bar=bar)


@checked
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
    """Draw one value a cell, such as local errors. Collective.

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
    """
    colours = Colours(cmap, bar, log, limits)
    if msh.topology.dim == 2:
        return on_root(msh.comm, axes, gather_cells(msh, values), colours.draw_cells)
    f: Function = fem.Function(fem.functionspace(msh, ("DG", 0)))
    with collective_errors(msh.comm):
        given = owned_values(msh, values)
    f.x.array[f.function_space.dofmap.list[: len(given), 0]] = given
    return on_root(msh.comm, axes, gather_slice(f, plane), colours.draw_slice)


@checked
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
    """Draw a function in a Lagrange space on any mesh, or a slice through it in 3D. Collective.

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
    """
    V = check_function(u)
    msh, comm = V.mesh, V.mesh.comm
    colours = Colours(cmap, bar, log, limits, contours)
    if msh.topology.dim == 3:
        image = gather_slice(u, plane, component=component)
        return on_root(comm, axes, image, colours.draw_slice)
    if V.ufl_element().degree > 0:
        return on_root(comm, axes, gather_nodes(u, component=component), colours.draw_nodes)
    bs, num = V.dofmap.index_map_bs, msh.topology.index_map(2).size_local
    with collective_errors(comm):
        check_component(component, bs)
    values = scalar(u.x.array.reshape(-1, bs)[V.dofmap.list[:num, 0]], component)
    return on_root(comm, axes, gather_cells(msh, values), colours.draw_cells)


@checked
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
    """Draw the absolute value of the difference of two functions of one space. Collective.

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
