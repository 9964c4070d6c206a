# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Draw gathered values on rank 0, with matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mpi4py import MPI

import numpy as np

from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.plot.gather import CellValues, NodalValues, Slice


def on_root[T, A](
    comm: MPI.Comm, axes: Any, gathered: T | None, draw: Callable[[Any, T], A]
) -> A | None:
    """Draw what was gathered on rank 0; an error there is one on all ranks. Collective.

    Args:
        comm: Communicator.
        axes: Matplotlib axes; on rank 0 they must be plane ones.
        gathered: What is drawn; ``None`` on all ranks but 0.
        draw: Takes the axes and what is drawn.

    Returns:
        The artist on rank 0, elsewhere ``None``.
    """
    artist: A | None = None
    with collective_errors(comm):
        if gathered is not None:
            if getattr(axes, "name", None) != "rectilinear":
                given = getattr(axes, "name", type(axes).__name__)
                raise ValueError(f"Expected plane matplotlib axes on rank 0, got {given!r}.")
            artist = draw(axes, gathered)
    return artist


class Colours(NamedTuple):
    """How values become colours; the attributes are arguments of :func:`draw_function`."""

    cmap: str
    bar: str | None
    log: bool = False
    limits: tuple[float, float] | None = None
    contours: int = 0

    def draw_cells(self, axes: Any, cells: CellValues) -> Any:
        """Draw one polygon a cell."""
        from matplotlib.collections import PolyCollection

        artist = PolyCollection(
            cells.corners,  # type: ignore[arg-type,unused-ignore]  # an array is a sequence
            array=cells.values,
            # Without a line of their own colour, gaps show between the cells.
            edgecolors="face",
            linewidths=0.1,
            **self._look(cells.values),
        )
        axes.add_collection(artist)
        show_all(axes, cells.corners.reshape(-1, 2), margin=0.0)
        self._add_bar(axes, artist)
        return artist

    def draw_nodes(self, axes: Any, nodes: NodalValues) -> Any:
        """Draw triangles between nodes, shaded."""
        from matplotlib.tri import Triangulation

        mesh = Triangulation(nodes.x[:, 0], nodes.x[:, 1], nodes.triangles)
        look = self._look(nodes.values)
        artist = axes.tripcolor(mesh, nodes.values, shading="gouraud", **look)
        if self.contours:
            axes.tricontour(mesh, nodes.values, **self._lines(look["norm"]))
        show_all(axes, nodes.x, margin=0.0)
        self._add_bar(axes, artist)
        return artist

    def draw_slice(self, axes: Any, image: Slice) -> Any:
        """Draw pixels, and name the axes."""
        look = self._look(image.values)
        artist = axes.pcolormesh(image.x, image.y, image.values, shading="nearest", **look)
        if self.contours:
            axes.contour(image.x, image.y, image.values, **self._lines(look["norm"]))
        names = "xyz"
        axes.set(aspect="equal", xlabel=names[image.axes[0]], ylabel=names[image.axes[1]])
        axes.set_title(f"{names[image.normal]} = {image.at:.4g}", fontsize="small")
        self._add_bar(axes, artist)
        return artist

    def _look(self, values: FloatArray) -> dict[str, Any]:
        from matplotlib.colors import LogNorm, Normalize

        finite = values[np.isfinite(values)]
        if len(finite) == 0:
            raise ValueError("All values are NaN or infinite; expected some to draw.")
        low, high = self.limits or (float(finite.min()), float(finite.max()))
        if self.log and not low > 0:
            raise ValueError(f"The least value is {low:.4g}; expected positive ones for log=True.")
        norm = (LogNorm if self.log else Normalize)(low, high)
        return {"norm": norm, "cmap": self.cmap, "rasterized": True}

    def _lines(self, norm: Any) -> dict[str, Any]:
        levels = np.linspace(norm.vmin, norm.vmax, self.contours + 2)[1:-1]
        return {"levels": levels, "colors": "w", "linewidths": 0.6, "alpha": 0.8}

    def _add_bar(self, axes: Any, artist: Any) -> None:
        if self.bar is not None:
            # As tall as axes of equal aspect, whatever the layout.
            axes.figure.colorbar(artist, ax=axes, label=self.bar, fraction=0.046, pad=0.04)


def show_all(axes: Any, x: FloatArray, *, margin: float | None = None) -> None:
    """Extend the view to points of shape ``(n, 2)``; equal scales on both axes."""
    axes.update_datalim(x)
    if margin is not None:
        axes.margins(margin)
    axes.autoscale_view()
    axes.set_aspect("equal")
