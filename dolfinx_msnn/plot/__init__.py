# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Pictures, drawn by matplotlib on axes of your own.

Every ``draw_*`` that takes a DOLFINx object is collective: all ranks call it, what is drawn is
gathered on rank 0 (it is as large as the whole problem there), and ``axes`` matters on rank 0 only.
It returns what was drawn on rank 0 and ``None`` elsewhere. matplotlib is imported when a picture is
drawn, on rank 0.

    figure = Figure() if comm.rank == 0 else None
    axes = figure.subplots() if figure else None
    plot.draw_function(axes, uh, bar="pressure")
    if figure:
        figure.savefig("pressure.png")

Three-dimensional problems are drawn in slices. :func:`render` makes a perspective view with
pyvista, where that works.
"""

import dolfinx_msnn._utils.environment  # noqa: F401  # says what is missing
from dolfinx_msnn.plot.basis import (
    basis_function,
    draw_basis_functions,
    draw_spectra,
    gather_spectra,
)
from dolfinx_msnn.plot.coarse import draw_coarse_grid, draw_neighbourhood
from dolfinx_msnn.plot.functions import draw_cells, draw_coefficient, draw_error, draw_function
from dolfinx_msnn.plot.gather import (
    CellValues,
    NodalValues,
    Slice,
    gather_cells,
    gather_nodes,
    gather_slice,
)
from dolfinx_msnn.plot.guard import COLOURS, draw_guard, gather_reports
from dolfinx_msnn.plot.perspective import pyvista_works, render

__all__ = [
    "COLOURS",
    "CellValues",
    "NodalValues",
    "Slice",
    "basis_function",
    "draw_basis_functions",
    "draw_cells",
    "draw_coarse_grid",
    "draw_coefficient",
    "draw_error",
    "draw_function",
    "draw_guard",
    "draw_neighbourhood",
    "draw_spectra",
    "gather_cells",
    "gather_nodes",
    "gather_reports",
    "gather_slice",
    "gather_spectra",
    "pyvista_works",
    "render",
]
