# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Basis functions and local spectra of a multiscale space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mpi4py import MPI

import numpy as np

from dolfinx_msnn._utils.checks import is_integer, positive_integer
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import check_same, collective_errors
from dolfinx_msnn._utils.typing import FloatArray, Function
from dolfinx_msnn.plot.axes import on_root
from dolfinx_msnn.plot.functions import draw_function
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


@checked
def basis_function(W: MultiscaleFunctionSpace, vertex: int, number: int = 0) -> Function:
    """A basis function of a coarse vertex, scaled to a largest absolute value of one. Collective.

    The basis functions of a vertex are orthonormal, each from the modes up to its own; the sign is
    such that the value farthest from zero is positive.

    Args:
        W: Multiscale space.
        vertex: Coarse vertex.
        number: Which of its functions, from 0.

    Returns:
        A new function in ``W.V``.

    Raises:
        ValueError: If the vertex has no such function.
    """
    check_same(W.comm, vertex=vertex, number=number)
    dofs = W.neighbourhood_dofs(vertex)
    count = int(W.comm.allreduce(len(dofs)))
    if not (is_integer(number) and number < count):
        raise ValueError(
            f"Coarse vertex {vertex!r} has {count} basis functions, number {number!r} was asked "
            "for; expected one of them, counted from 0."
        )
    c = W.P.createVecRight()
    try:
        # The vertex's dofs are on one rank.
        if len(dofs):
            c[int(dofs[number])] = 1.0
        c.assemble()
        psi = W.prolong(c)
    finally:
        c.destroy()
    low = W.comm.allreduce(float(psi.x.array.min(initial=0.0)), MPI.MIN)
    high = W.comm.allreduce(float(psi.x.array.max(initial=0.0)), MPI.MAX)
    # Up to rounding, so that the sign does not depend on the number of ranks.
    psi.x.array[:] /= high if high >= -low * (1 - 1e-9) else low
    return psi


@checked
def draw_basis_functions(
    axes: Iterable[Any] | None,
    W: MultiscaleFunctionSpace,
    vertex: int,
    *,
    num: int = 3,
    plane: tuple[int, float] | None = None,
    cmap: str = "RdBu_r",
    bar: str | None = None,
) -> list[Any] | None:
    """Draw the first basis functions of a coarse vertex, each on its own axes. Collective.

    Args:
        axes: As many matplotlib axes as functions (more are left alone); matter on rank 0 only.
        W: Multiscale space.
        vertex: Coarse vertex.
        num: Number of functions.
        plane: In 3D, axis and place of the slice.
        cmap: Colour map, from -1 to 1.
        bar: Label of a colour bar beside each; none without.

    Returns:
        The artists on rank 0, elsewhere ``None``.

    Raises:
        ValueError: If the vertex has fewer functions, or there are fewer axes.
    """
    given: list[Any] = []
    with collective_errors(W.comm) as checks:
        given = [None] * positive_integer("num", num)
        if W.comm.rank == 0:
            given = list(np.ravel(np.asarray(axes, dtype=object)))
            if len(given) < num:
                raise ValueError(f"Got {len(given)} axes for {num} basis functions.")
        checks.agree(num=num)
    look: dict[str, Any] = {"plane": plane, "limits": (-1.0, 1.0), "cmap": cmap, "bar": bar}
    artists = [draw_function(given[k], basis_function(W, vertex, k), **look) for k in range(num)]
    return artists if W.comm.rank == 0 else None


@checked
def gather_spectra(W: MultiscaleFunctionSpace) -> dict[int, FloatArray]:
    """The eigenvalues by coarse vertex, of all neighbourhoods, on every rank. Collective."""
    found: dict[int, FloatArray] = {}
    for part in W.comm.allgather(W.eigenvalues):
        found |= part
    return dict(sorted(found.items()))


@checked
def draw_spectra(
    axes: Any,
    W: MultiscaleFunctionSpace,
    *,
    highlight: int | None = None,
    threshold: float | None = None,
) -> Any:
    """Draw the local eigenvalues: a line for each neighbourhood, and their median. Collective.

    Eigenvalues of (nearly) zero, as that of the constant, are left out: the axis is logarithmic.

    Args:
        axes: Matplotlib axes; matter on rank 0 only.
        W: Multiscale space.
        highlight: Coarse vertex whose line stands out.
        threshold: Draw a line at this value.

    Returns:
        The lines of the neighbourhoods on rank 0, elsewhere ``None``.

    Raises:
        ValueError: If the vertex to highlight has no neighbourhood.
    """

    def draw(axes: Any, spectra: dict[int, FloatArray]) -> Any:
        from matplotlib.collections import LineCollection
        from matplotlib.ticker import MaxNLocator

        if highlight is not None and highlight not in spectra:
            raise ValueError(f"There is no neighbourhood of coarse vertex {highlight!r}.")
        largest = max(values[-1] for values in spectra.values())
        modes = max(map(len, spectra.values()))
        table = np.full((len(spectra), modes), np.nan)
        for row, values in zip(table, spectra.values(), strict=True):
            row[: len(values)] = np.where(values > 1e-12 * largest, values, np.nan)
        number = np.arange(1, modes + 1)
        lines = [np.column_stack([number, row])[np.isfinite(row)] for row in table]
        artist = LineCollection(lines, colors="0.75", linewidths=0.7)
        axes.add_collection(artist)
        axes.set_yscale("log")
        shown = np.isfinite(table).sum(axis=0) > len(table) / 2
        axes.plot(number[shown], np.nanmedian(table[:, shown], axis=0), color="#00224e", lw=2)
        if highlight is not None:
            line = lines[list(spectra).index(highlight)]
            axes.plot(line[:, 0], line[:, 1], color="#ee6677", lw=1.5)
        if threshold is not None:
            axes.axhline(threshold, color="#b63679", linestyle="--")
        axes.autoscale_view()
        axes.set(xlabel="mode $j$", ylabel=r"$\lambda_{ij}$")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return artist

    spectra = gather_spectra(W)
    return on_root(W.comm, axes, spectra if W.comm.rank == 0 else None, draw)
