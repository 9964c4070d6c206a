# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Figures of the growth benchmark, from its records alone."""

from __future__ import annotations

from collections.abc import Callable

from growth.cost_model import Cluster
from growth.tables import BASES, DOFS, forecast, runs, size_of
from harness.bases import COLOURS
from harness.results import Records

from matplotlib.figure import Figure


def figures(records: Records, cluster: Cluster) -> dict[str, Callable[[Figure], None]]:
    """All figures."""

    def lines(figure: Figure, part: str) -> None:
        axes = figure.subplots(1, 2)
        figure.set_size_inches(7.6, 3.6)
        for axis, dim in zip(axes, (2, 3), strict=True):
            mine = runs(records, part=part, dim=dim)
            for b in BASES:
                this = mine.select(basis=b)
                if part == "number":
                    x = [size_of(r).vertices for r in this]
                    whole = [1e3 * r["s all"] / size_of(r).full for r in this]
                    basis = [1e3 * r["s basis"] / size_of(r).full for r in this]
                    axis.plot(x, whole, "o-", color=COLOURS[b], label=f"{b}: all")
                    axis.plot(x, basis, "o:", color=COLOURS[b], label=f"{b}: basis", mfc="none")
                else:
                    x = [2 * r["cells"] for r in this]
                    y = [1e3 * r["s basis"] / size_of(r).vertices for r in this]
                    axis.plot(x, y, "o-", color=COLOURS[b], label=b)
            axis.set(xscale="log", yscale="log", title=f"{dim}D")
            axis.grid(visible=True, color="0.9", which="both")
            if mine:
                ticks = sorted(
                    {2 * r["cells"] if part == "width" else size_of(r).vertices for r in mine}
                )
                axis.set_xticks(ticks, [f"{tick}" for tick in ticks])
                axis.set_xticks([], minor=True)
            axis.set_xlabel(
                "neighbourhoods" if part == "number" else "cells across a neighbourhood"
            )
        axes[0].set_ylabel("ms, one neighbourhood")
        handles, labels = axes[0].get_legend_handles_labels()
        shown = [(h, t) for h, t in zip(handles, labels, strict=True) if len(h.get_xdata())]
        figure.legend(
            *zip(*shown, strict=True), fontsize="small", loc="outside lower center", ncols=4
        )

    def model(figure: Figure) -> None:
        figure.set_size_inches(7.2, 4.2)
        axis = figure.subplots()
        colours = iter(("tab:blue", "tab:cyan", "tab:red", "tab:orange"))
        found = forecast(records, cluster)
        for size in dict.fromkeys(size for size, _, _ in found):
            mine = [(ranks, p) for s, ranks, p in found if s == size]
            colour, x = next(colours), [ranks for ranks, _ in mine]
            name = f"{size.dim}D, boxes of {size.cells} cells, N_c = {size.num_coarse:.1e}"
            for coarse, style in (("amg", "o-"), ("direct", "o:")):
                y = [p["local"] + p["product"] + p["exchange"] + p[coarse] for _, p in mine]
                label = name if coarse == "amg" else None
                axis.plot(x, y, style, color=colour, label=label, mfc="none")
        axis.set(xscale="log", yscale="log", xlabel="ranks", ylabel="s, predicted")
        axis.set_title(f"{DOFS:.0e} dofs; A_0 by multigrid (solid) or directly (dotted)")
        axis.grid(visible=True, color="0.9")
        axis.legend(fontsize="small")

    there = {p for p in ("number", "width") if records.select(part=p)}
    found: dict[str, Callable[[Figure], None]] = {
        part: lambda figure, part=part: lines(figure, part) for part in sorted(there)
    }
    if forecast(records, cluster):
        found["model"] = model
    return found
