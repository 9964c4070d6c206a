# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Pictures: what is drawn where."""

from __future__ import annotations

import numpy as np
import pytest
from problems import pose
from sample import is_sentence
from utils import COMM, HEX

from dolfinx_msnn import FilteredBasis, GuardedBasis, multiscale_functionspace
from dolfinx_msnn.plot import draw_guard, gather_reports

figure = pytest.importorskip("matplotlib.figure")


def reports(**options):
    V, grid, a, s, _, bcs = pose(COMM, **options)
    basis = GuardedBasis(FilteredBasis(4, degree=2, max_rounds=1))
    multiscale_functionspace(V, grid, basis, a, s, bcs).destroy()
    return gather_reports(COMM, basis.reports)


def test_rectangles_cover_the_square_once(tmp_path):
    found = reports()
    assert [r.vertex for r in found] == list(range(16))
    axes = figure.Figure().subplots()
    draw_guard(axes, found)
    boxes = [patch.get_bbox() for patch in axes.patches]
    assert sum(box.width * box.height for box in boxes) == pytest.approx(1.0)
    for report, box in zip(found, boxes, strict=True):
        assert box.x0 - 1e-9 <= report.place[0] <= box.x1 + 1e-9
        assert box.y0 - 1e-9 <= report.place[1] <= box.y1 + 1e-9
    assert len(axes.texts) == 16
    axes.figure.savefig(tmp_path / f"guard{COMM.rank}.png")


def test_dots_in_3d(tmp_path):
    found = reports(cell=HEX, n=6, coarse=2)
    axes = figure.Figure().add_subplot(projection="3d")
    draw_guard(axes, found)
    assert len(axes.collections[0].get_offsets()) == 27
    axes.figure.savefig(tmp_path / f"guard{COMM.rank}.png")


def test_bad_arguments():
    found = reports()
    for axes, given in (
        (figure.Figure().subplots(), []),
        (figure.Figure().add_subplot(projection="3d"), found),
    ):
        with pytest.raises(ValueError, match="expected") as caught:
            draw_guard(axes, given)
        is_sentence(str(caught.value))
    assert np.all([len(r.place) == 2 for r in found])
