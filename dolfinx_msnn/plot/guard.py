# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Draw the reports of a guarded basis over the domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mpi4py import MPI

import numpy as np

from dolfinx_msnn._utils.checks import require
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn.bases.guarded import OUTCOMES, GuardReport

#: Colour of each outcome; can be told apart by colour-blind people.
COLOURS = dict(zip(OUTCOMES, ("#4477aa", "#ccbb44", "#aa3377"), strict=True))


def gather_reports(comm: MPI.Comm, reports: Iterable[GuardReport]) -> list[GuardReport]:
    """The reports of all ranks, by vertex, on every rank. Collective.

    Args:
        comm: Communicator of the mesh.
        reports: Those of this rank.
    """
    with collective_errors(comm):
        mine = _checked(reports)
    parts = comm.allgather(mine)
    return sorted((report for part in parts for report in part), key=lambda report: report.vertex)


def _checked(reports: object) -> list[GuardReport]:
    """Reports as a list. Not collective."""
    found: list[Any] = list(reports) if isinstance(reports, Iterable) else [reports]
    wrong = [type(report).__name__ for report in found if not isinstance(report, GuardReport)]
    require(not wrong, "reports", wrong, "the reports of a GuardedBasis")
    return found


def draw_guard(axes: Any, reports: Sequence[GuardReport], *, labels: bool = True) -> None:
    """Draw where modes were accepted, repaired and recomputed.

    In 2D one rectangle a neighbourhood, half as long as it, around its vertex (neighbourhoods
    overlap); in 3D one dot a vertex.

    Args:
        axes: Matplotlib axes; for reports in 3D with ``projection="3d"``.
        reports: Reports of a :class:`~dolfinx_msnn.GuardedBasis`, of all ranks.
        labels: In 2D, write the power of ten of the deficiency into each rectangle.

    Raises:
        ValueError: If there are no reports, or the axes are for another dimension.
    """
    from matplotlib.patches import Patch, Rectangle

    reports = _checked(reports)
    if not reports:
        raise ValueError("There are no reports to draw; expected at least one neighbourhood.")
    dim = len(reports[0].place)
    if (dim == 3) != (getattr(axes, "name", "") == "3d"):
        raise ValueError(
            f"The reports are of {dim} dimensions, the axes are {getattr(axes, 'name', axes)!r}; "
            "expected projection='3d' in 3D only."
        )
    colours = [COLOURS[report.outcome] for report in reports]
    place, lower, upper = (
        np.array([getattr(report, name) for report in reports])
        for name in ("place", "lower", "upper")
    )
    if dim == 3:
        axes.scatter(*place.T, c=colours, s=40)
    else:
        size = 0.5 * (upper - lower)
        # Neighbourhoods at the boundary have their vertex on their edge.
        edges = [np.isclose(place, lower), np.isclose(place, upper)]
        corners = np.select(edges, [lower, 0.5 * (lower + upper)], place - 0.5 * size)
        for report, corner, sides, colour in zip(reports, corners, size, colours, strict=True):
            axes.add_patch(Rectangle(corner, *sides, facecolor=colour, edgecolor="white"))
            if labels:
                text = f"{report.deficiency:.0e}" if np.isfinite(report.deficiency) else "none"
                middle = {"ha": "center", "va": "center", "color": "white", "fontsize": 6}
                axes.annotate(text, corner + 0.5 * sides, **middle)
        lower, upper = lower.min(axis=0), upper.max(axis=0)
        axes.set_xlim(lower[0], upper[0])
        axes.set_ylim(lower[1], upper[1])
        axes.set_aspect("equal")
    counts = Counter(report.outcome for report in reports)
    axes.legend(
        handles=[Patch(color=COLOURS[k], label=f"{counts[k]} {k}") for k in OUTCOMES if counts[k]],
        fontsize=7,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=len(OUTCOMES),
    )
