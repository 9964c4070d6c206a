# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Pictures: what is drawn where."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np
import pytest
from pencils import pose
from sample import expect_error, is_sentence
from utils import COMM, HEX, QUAD, TRI, box, cell_field, gather_matrix, holed_square, l_shape

import ufl
from dolfinx import fem, mesh
from dolfinx_msnn import (
    CoarseGrid,
    FilteredBasis,
    GuardedBasis,
    SpectralBasis,
    multiscale_functionspace,
    plot,
)
from dolfinx_msnn.plot import draw_guard, gather_reports, perspective

figure = pytest.importorskip("matplotlib.figure")
backend = pytest.importorskip("matplotlib.backends.backend_agg")
TET = mesh.CellType.tetrahedron
ROOT = COMM.rank == 0


def new_axes(num=1):
    """Axes that fill their figure on rank 0; nothing elsewhere."""
    if not ROOT:
        return [None] * num if num > 1 else None
    found = [figure.Figure(figsize=(2, 2), dpi=100).add_axes((0, 0, 1, 1)) for _ in range(num)]
    return found if num > 1 else found[0]


def colours(axes, points):
    """What is seen at points of the axes' coordinates, RGB from 0 to 255."""
    axes.set_axis_off()
    canvas = backend.FigureCanvasAgg(axes.figure)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())
    at = axes.transData.transform(points)
    return image[image.shape[0] - 1 - at[:, 1].astype(int), at[:, 0].astype(int), :3].astype(int)


def data(artist):
    """The values drawn, none of them masked."""
    values = artist.get_array()
    assert not np.ma.is_masked(values)
    return np.asarray(values).reshape(-1)


def wanted(artist, values):
    return np.rint(255 * artist.cmap(artist.norm(values))[:, :3]).astype(int)


def area(corners):
    """Of polygons, shape (num, corners, 2)."""
    x, y = corners[..., 0], corners[..., 1]
    return 0.5 * np.abs((x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1))


def size_of(msh):
    """Area of the domain."""
    return COMM.allreduce(fem.assemble_scalar(fem.form(1.0 * ufl.dx(domain=msh))))


def inside(num):
    return np.random.default_rng(5).uniform(0.03, 0.97, (num, 2))


def linear(x):
    return 1 + 2 * x[0] - 3 * x[1]


def function(msh, degree, f=linear, shape=None):
    V = fem.functionspace(
        msh, ("Lagrange", degree) if shape is None else ("Lagrange", degree, shape)
    )
    u = fem.Function(V)
    u.interpolate(f)
    return u


MESHES = {
    "triangles": lambda: box(COMM, TRI, 9),
    "quadrilaterals": lambda: box(COMM, QUAD, 9),
    "holed": lambda: holed_square(COMM, 12),
}


# ---- what is gathered ----


@pytest.mark.parametrize("name", MESHES)
def test_cells_have_their_corners_and_values(name):
    msh = MESHES[name]()
    kappa = cell_field(msh, linear)
    cells = plot.gather_cells(msh, kappa.x.array)
    whole = COMM.allreduce(
        fem.assemble_scalar(fem.form(fem.Constant(msh, 1.0) * ufl.dx(domain=msh)))
    )
    assert (cells is not None) == ROOT
    if ROOT:
        assert len(cells.values) == msh.topology.index_map(2).size_global
        assert area(cells.corners).sum() == pytest.approx(whole)
        assert cells.values == pytest.approx(linear(cells.corners.mean(axis=1).T))


def test_order_of_cells_does_not_depend_on_ranks():
    cells = plot.gather_cells(m := box(COMM, QUAD, 7), np.zeros(m.topology.index_map(2).size_local))
    alone = box(MPI.COMM_SELF, QUAD, 7)
    serial = plot.gather_cells(alone, np.zeros(49))
    if ROOT:
        assert np.sort(cells.corners, axis=1) == pytest.approx(np.sort(serial.corners, axis=1))


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("name", MESHES)
def test_triangles_between_the_nodes_cover_the_mesh(name, degree):
    msh = MESHES[name]()
    u = function(msh, degree, lambda x: x[0] ** degree - x[1])
    nodes = plot.gather_nodes(u)
    whole = COMM.allreduce(
        fem.assemble_scalar(fem.form(fem.Constant(msh, 1.0) * ufl.dx(domain=msh)))
    )
    assert (nodes is not None) == ROOT
    if ROOT:
        assert len(nodes.x) == u.function_space.dofmap.index_map.size_global
        assert len(np.unique(nodes.triangles)) == len(nodes.x)
        sizes = area(nodes.x[nodes.triangles])
        assert sizes.sum() == pytest.approx(whole)
        assert sizes.min() > 0
        assert nodes.values == pytest.approx(nodes.x[:, 0] ** degree - nodes.x[:, 1])


def test_high_degrees_are_interpolated_and_discontinuous_ones_kept():
    msh = box(COMM, TRI, 4)
    nodes = plot.gather_nodes(function(msh, 4, lambda x: x[0] ** 2))
    if ROOT:
        assert nodes.values == pytest.approx(nodes.x[:, 0] ** 2)
    u = fem.Function(fem.functionspace(msh, ("DG", 1)))
    u.interpolate(linear)
    nodes = plot.gather_nodes(u)
    if ROOT:
        assert len(nodes.x) == 3 * 32
        assert nodes.values == pytest.approx(linear(nodes.x.T))


def test_components_of_vectors():
    u = function(box(COMM, QUAD, 4), 1, lambda x: np.stack([x[0], -2 * x[1]]), (2,))
    second, length = plot.gather_nodes(u, component=1), plot.gather_nodes(u)
    if ROOT:
        assert second.values == pytest.approx(-2 * second.x[:, 1])
        assert length.values == pytest.approx(np.hypot(length.x[:, 0], 2 * length.x[:, 1]))
    with expect_error(ValueError, "component must be from 0 to 1, got 2"):
        plot.gather_nodes(u, component=2)


@pytest.mark.parametrize("cell", [HEX, TET])
def test_slices_have_the_values_of_their_pixels(cell):
    msh = box(COMM, cell, 4, (1.0, 2.0, 1.0))
    u = function(msh, 1, lambda x: x[0] - 2 * x[1] + 4 * x[2])
    for normal, at in ((2, 0.5), (1, 2.0), (0, 0.3)):
        found = plot.gather_slice(u, (normal, at), pixels=40)
        if ROOT:
            assert found.values.shape == (len(found.y), len(found.x))
            assert max(found.values.shape) == 40
            x = np.empty((3, *found.values.shape))
            x[found.axes[0]], x[found.axes[1]] = np.meshgrid(found.x, found.y)
            x[normal] = at
            assert found.values == pytest.approx(x[0] - 2 * x[1] + 4 * x[2], abs=1e-5)


def test_slices_of_cell_values_and_holes():
    msh = box(COMM, HEX, 4)
    kappa = cell_field(msh, lambda x: np.floor(4 * x[0]) + 10 * np.floor(4 * x[2]))
    found = plot.gather_slice(kappa, (2, 0.5), pixels=8)
    if ROOT:
        # On the face between two layers, the upper one.
        assert found.values == pytest.approx(np.tile(np.repeat(np.arange(4.0), 2), (8, 1)) + 20)
    found = plot.gather_slice(function(l_shape(COMM, 4, 3), 1), pixels=21)
    if ROOT:
        x, y = np.meshgrid(found.x, found.y)
        outside = (x > 0.72) & (y > 0.72)
        assert np.isnan(found.values[outside]).all()
        assert np.isfinite(found.values[(x < 0.28) | (y < 0.28)]).all()


# ---- what is drawn ----


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("cell", [TRI, QUAD])
def test_functions_have_the_colours_of_their_values(cell, degree):
    u = function(box(COMM, cell, 8), degree)
    axes = new_axes()
    artist = plot.draw_function(axes, u, cmap="gray")
    if ROOT:
        points = inside(200)
        assert abs(colours(axes, points) - wanted(artist, linear(points.T))).max() <= 3
        assert axes.get_xlim() == pytest.approx((0, 1), abs=1e-9)
    else:
        assert artist is None


@pytest.mark.parametrize("name", MESHES)
def test_coefficients_have_the_colours_of_their_cells(name):
    msh = MESHES[name]()
    kappa = cell_field(msh, lambda x: 10.0 ** (4 * (x[0] > 0.4)))
    axes = new_axes()
    artist = plot.draw_coefficient(axes, kappa, bar=None)
    cells = plot.gather_cells(msh, kappa.x.array)
    if ROOT:
        assert artist.norm(100.0) == pytest.approx(0.5)
        middle = cells.corners.mean(axis=1)
        big = area(cells.corners) > 2e-3
        assert abs(colours(axes, middle[big]) - wanted(artist, cells.values[big])).max() <= 1


def test_coefficients_of_all_kinds():
    msh = box(COMM, QUAD, 6)
    x = ufl.SpatialCoordinate(msh)
    axes = new_axes(2)
    drawn = [plot.draw_coefficient(a, k, msh) for a, k in zip(axes, (2 + x[0], 3.0), strict=True)]
    if ROOT:
        assert np.sort(data(drawn[0])) == pytest.approx(np.repeat(2 + (np.arange(6) + 0.5) / 6, 6))
        assert data(drawn[1]) == pytest.approx(np.full(36, 3.0))


def test_errors_are_absolute_values():
    msh = box(COMM, QUAD, 6)
    u = function(msh, 1)
    v = fem.Function(u.function_space)
    artist = plot.draw_error(new_axes(), u, v)
    nodes = plot.gather_nodes(u)
    if ROOT:
        assert data(artist) == pytest.approx(np.abs(linear(nodes.x.T)))
        assert artist.get_clim() == (0.0, pytest.approx(3.0))
    with expect_error(ValueError, "not a function in the space of u"):
        plot.draw_error(new_axes(), u, function(msh, 2))


def test_slices_are_drawn():
    msh = box(COMM, HEX, 4)
    axes = new_axes(2)
    first = plot.draw_coefficient(axes[0], cell_field(msh, lambda x: 1 + (x[2] > 0.5)), bar="k")
    second = plot.draw_function(axes[1], function(msh, 1), plane=(1, 0.25), contours=3)
    if ROOT:
        # The plane z = 0.5 belongs to the upper layer.
        assert np.unique(data(first)) == pytest.approx([2.0])
        image = data(second).reshape(200, 200)
        x = (np.arange(200) + 0.5) / 200
        assert image == pytest.approx(np.tile(linear([x, 0.25]), (200, 1)), abs=1e-5)
        assert axes[1].get_title() == "y = 0.25"


# ---- coarse grids and spaces ----


def test_lines_of_coarse_grids():
    msh = box(COMM, TRI, 12)
    artist = plot.draw_coarse_grid(new_axes(), CoarseGrid(msh, (3, 2)))
    if ROOT:
        lines = np.array(artist.get_segments())
        upright = lines[lines[:, 0, 0] == lines[:, 1, 0]]
        assert upright[:, 0, 0] == pytest.approx(np.arange(4) / 3)
        assert upright[:, :, 1] == pytest.approx(np.tile([0.0, 1.0], (4, 1)))
        flat = lines[lines[:, 0, 1] == lines[:, 1, 1]]
        assert flat[:, 0, 1] == pytest.approx(np.arange(3) / 2)
        assert len(upright) + len(flat) == len(lines)
    coarse = mesh.create_unit_square(COMM, 3, 3)
    artist = plot.draw_coarse_grid(new_axes(), CoarseGrid.from_mesh(msh, coarse))
    if ROOT:
        corners = np.array(artist.get_segments())[:, :3]
        assert len(corners) == 18
        assert area(corners) == pytest.approx(np.full(18, 1 / 18))


def test_neighbourhoods_are_the_cells_under_the_hat():
    V, grid, *_ = pose(COMM, n=12)
    for vertex, size in ((0, 1), (5, 4)):
        artist = plot.draw_neighbourhood(new_axes(), V, grid, vertex)
        if ROOT:
            corners = np.array([path.vertices[:4] for path in artist.get_paths()])
            assert area(corners).sum() == pytest.approx(size / 9)
            assert corners.reshape(-1, 2).max() == pytest.approx(2 / 3 if vertex else 1 / 3)
    overlapping = CoarseGrid(V.mesh, (3, 3), overlap=2)
    artist = plot.draw_neighbourhood(new_axes(), V, overlapping, 4)
    if ROOT:
        # A box of 4 by 4 cells and two more on each side.
        corners = np.array([path.vertices[:4] for path in artist.get_paths()])
        assert area(corners).sum() == pytest.approx(64 / 144)
    with expect_error(ValueError, "vertex must be from 0 to 15, got 16"):
        plot.draw_neighbourhood(new_axes(), V, grid, 16)


def test_basis_functions_are_columns():
    V, grid, a, s, _, bcs = pose(COMM, n=12)
    with multiscale_functionspace(V, grid, SpectralBasis(3), a, s, bcs) as W:
        artists = plot.draw_basis_functions(new_axes(2), W, 6, num=2)
        P = gather_matrix(W.P).toarray()
        columns = COMM.allgather(W.neighbourhood_dofs(6))
        with expect_error(ValueError, "has 3 basis functions, number 3 was asked for"):
            plot.basis_function(W, 6, 3)
        if ROOT:
            for artist, j in zip(artists, np.concatenate(columns), strict=False):
                values = data(artist)
                assert np.abs(values).max() == pytest.approx(1.0) == values.max()
                column = P[:, j]
                assert abs(values @ column) == pytest.approx(
                    np.linalg.norm(values) * np.linalg.norm(column)
                )


def test_spectra_are_all_there():
    V, grid, a, s, _, bcs = pose(COMM, n=12)
    with multiscale_functionspace(V, grid, SpectralBasis(4), a, s, bcs) as W:
        axes = new_axes()
        artist = plot.draw_spectra(axes, W, highlight=5, threshold=2.0)
        spectra = plot.gather_spectra(W)
        assert list(spectra) == list(range(16))
        for vertex, values in W.eigenvalues.items():
            assert np.array_equal(spectra[vertex], values)
        if ROOT:
            for line, values in zip(artist.get_segments(), spectra.values(), strict=True):
                # The constant has none that a logarithmic axis could show.
                assert line[:, 0] == pytest.approx([2, 3, 4])
                assert line[:, 1] == pytest.approx(values[1:])
            median, highlight, threshold = axes.get_lines()
            assert median.get_ydata() == pytest.approx(
                np.median(np.array(list(spectra.values()))[:, 1:], axis=0)
            )
            assert highlight.get_ydata() == pytest.approx(spectra[5][1:])
            assert threshold.get_ydata() == pytest.approx([2.0, 2.0])
        with expect_error(ValueError, "no neighbourhood of coarse vertex 99"):
            plot.draw_spectra(new_axes(), W, highlight=99)


# ---- mistakes ----


def test_mistakes_are_found_on_all_ranks():
    square, cube = box(COMM, QUAD, 4), box(COMM, HEX, 3)
    u, w = function(square, 1), function(cube, 1)
    wrong = "axes" if ROOT else None
    many = np.ones(100)
    for match, draw in (
        (
            "Expected plane matplotlib axes on rank 0, got 'str'",
            lambda: plot.draw_function(wrong, u),
        ),
        ("Expected a dolfinx.fem.Function, got int", lambda: check_type(3)),
        ("expected 3 for a slice", lambda: plot.gather_slice(u)),
        ("expected a plane mesh", lambda: plot.gather_nodes(w)),
        ("expected a plane through the mesh", lambda: plot.gather_slice(w, (0, 1.5))),
        (r"plane must be \(axis, where\)", lambda: plot.gather_slice(w, "middle")),
        ("pixels must be an integer", lambda: plot.gather_slice(w, pixels=1)),
        ("expected one for each of the", lambda: plot.gather_cells(square, np.ones(1))),
        ("expected one for each of the", lambda: plot.draw_cells(new_axes(), cube, many[:0])),
        ("expected positive ones for log", lambda: plot.draw_function(new_axes(), u, log=True)),
        ("is not a valid value for cmap", lambda: plot.draw_function(new_axes(), u, cmap="none")),
        ("expected the mesh to draw it on", lambda: plot.draw_coefficient(new_axes(), 1.0)),
        ("expected positive and finite", lambda: plot.draw_coefficient(new_axes(), -1.0, square)),
    ):
        if "cmap" in match:
            with pytest.raises(ValueError):
                draw()
            continue
        with expect_error(ValueError, match):
            draw()
    edges = fem.Function(fem.functionspace(square, ("RTCF", 1)))
    with expect_error(ValueError, "expected a Lagrange space"):
        plot.draw_function(new_axes(), edges)


def check_type(u):
    from dolfinx_msnn.plot.gather import check_function

    check_function(u)


# ---- pyvista ----


@pytest.fixture
def fake_pyvista(tmp_path, monkeypatch):
    """Put a module of this name and text first on the path."""

    def make(text):
        (tmp_path / "pyvista.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        perspective._trial.cache_clear()

    yield make
    perspective._trial.cache_clear()


WORKING = """
import numpy as np
class Plotter:
    def __init__(self, off_screen, window_size): pass
    def add_mesh(self, mesh): pass
    def screenshot(self, return_img): return np.arange(32 * 32).reshape(32, 32)
def Sphere(): pass
"""


@pytest.mark.slow
def test_pyvista_is_tried_in_another_process(fake_pyvista):
    """What kills the process, as VTK does without OpenGL, kills the trial only."""
    fake_pyvista("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert not plot.pyvista_works()
    fake_pyvista("raise ImportError\n")
    assert not plot.pyvista_works()
    fake_pyvista(WORKING)
    assert plot.pyvista_works()
    fake_pyvista("import time\ntime.sleep(60)\n")
    assert not plot.pyvista_works(timeout=2.0)


def test_without_pyvista_there_is_a_sentence(fake_pyvista, tmp_path):
    fake_pyvista("raise OSError('No screen.')\n")
    w = function(box(COMM, HEX, 2), 1)
    with expect_error(RuntimeError, r"cannot draw off screen here \(OSError: No screen\)"):
        plot.render(w, "never.png")
    with expect_error(ValueError, "expected a scalar one in 3D"):
        plot.render(function(box(COMM, QUAD, 2), 1), "never.png")


# ---- the guard ----


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
    for report, rectangle in zip(found, boxes, strict=True):
        assert rectangle.x0 - 1e-9 <= report.place[0] <= rectangle.x1 + 1e-9
        assert rectangle.y0 - 1e-9 <= report.place[1] <= rectangle.y1 + 1e-9
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
