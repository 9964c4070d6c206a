# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What training tells while it runs: learning curves and a progress bar."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dolfinx_msnn._utils.files import write_file
from dolfinx_msnn.nn.checkpoint import UNKNOWN, State


def write_curves(folder: str, history: Sequence[Mapping[str, float]], title: str) -> None:
    """Write ``curves.csv`` and, if matplotlib is installed, ``curves.png``."""
    names = list(dict.fromkeys(key for row in history for key in row))
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, names)
    writer.writeheader()
    writer.writerows(history)
    write_file(os.path.join(folder, "curves.csv"), table.getvalue().encode())
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in names[4:]:
        # A logarithmic axis has no place for zeros, nor for what is not finite.
        points = [(row["step"], row[name]) for row in history if row.get(name, 0) > 0]
        if not points:
            continue
        label = {"loss": "training loss", "all": "validation"}.get(name, f"validation, {name}")
        axes.semilogy(*zip(*points, strict=True), label=label, lw=2 if name == "all" else 1)
    axes.set(xlabel="step", ylabel="loss, energy defect", title=title)
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3, which="both")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_file(os.path.join(folder, "curves.png"), picture.getvalue())


def show(bar: Any, state: State) -> None:
    """Show steps and the figures of the last validation."""
    if state.total < UNKNOWN:
        bar.total = state.total
    last = state.history[-1] if state.history else {}
    names = (("loss", "loss"), ("val", "all"))
    bar.set_postfix({k: f"{last[n]:.3g}" for k, n in names if n in last}, refresh=False)
    bar.update(state.step - bar.n)
