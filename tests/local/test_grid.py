# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse grids against formulas, brute force and set arithmetic."""

import itertools

from mpi4py import MPI

import numpy as np
import pytest
from sample import expect_error
from utils import (
    CELLS,
    COMM,
    SIMPLICES,
    box,
    box_vertices,
    gather_rows,
    gdim,
    hat_values,
    holed_square,
    jiggle,
    l_shape,
    on_root,
)

from dolfinx import fem, mesh
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid
from dolfinx_msnn.local.neighbourhoods import cell_membership, find_neighbourhoods

SQUARE, CUBE = (3, 2), (2, 3, 2)


def fine_mesh(comm, kind):
    """The meshes that all tests of this file run on, by name."""
    name, _, cell = kind.partition("-")
    if name == "hole":
        return holed_square(comm)
    if name == "lshape":
        return l_shape(comm, n=8, dim=3) if cell == "3d" else l_shape(comm)
    cell = CellType[cell]
    n = 7 if gdim(cell) == 3 else 13
    msh = box(comm, cell, n)
    return jiggle(msh, 0.2 / n) if name == "jiggled" else msh


KINDS = [f"{name}-{cell.name}" for name in ("box", "jiggled") for cell in CELLS]
KINDS += ["hole", "lshape", "lshape-3d"]


def dense(hats, num_vertices):
    """Hats as a dense table, shape ``(num_points, num_vertices)``."""
    table = np.zeros((len(hats.values), num_vertices))
    np.add.at(table, (np.arange(len(table))[:, None], hats.vertices), hats.values)
    return table


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_hats_are_the_multilinear_partition_of_unity(kind, degree):
    msh = fine_mesh(COMM, kind)
    n = SQUARE if msh.geometry.dim == 2 else CUBE
    coarse = CoarseGrid(msh, n)
    x = fem.functionspace(msh, ("Lagrange", degree)).tabulate_dof_coordinates()
    chi = dense(coarse.hats(x), coarse.num_vertices)
    vertices, h = box_vertices(n)
    assert coarse.num_vertices == len(vertices)
    np.testing.assert_allclose(
        coarse.vertex_coordinates(np.arange(len(vertices))), vertices, atol=1e-14
    )
    x = x[:, : len(n)]
    assert chi.min() >= 0
    np.testing.assert_allclose(chi.sum(axis=1), 1, atol=4e-16 * 8)
    np.testing.assert_allclose(chi @ vertices, x, atol=1e-9)
    np.testing.assert_allclose(chi, hat_values(x, vertices, h), atol=1e-9)


@pytest.mark.parametrize("lower,upper", [((0.2, 0.3), (0.7, 0.8)), ((-1.0, -0.5), (2.0, 1.25))])
def test_given_box(lower, upper):
    """Hats inside the box by formula, continued by constants outside it."""
    msh = box(COMM, CellType.triangle, 12)
    coarse = CoarseGrid(msh, (3, 2), box=(lower, upper))
    x = fem.functionspace(msh, ("Lagrange", 1)).tabulate_dof_coordinates()
    chi = dense(coarse.hats(x), coarse.num_vertices)
    vertices, h = box_vertices((3, 2), lower, upper)
    inside = np.clip(x[:, :2], lower, upper)
    np.testing.assert_allclose(chi.sum(axis=1), 1, atol=4e-15)
    np.testing.assert_allclose(chi, hat_values(inside, vertices, h), atol=1e-9)


def test_hats_at_coarse_vertices_and_just_beside():
    """Rounding errors in a coordinate neither lose nor add a hat."""
    msh = box(COMM, CellType.quadrilateral, 12)
    coarse = CoarseGrid(msh, (3, 3))
    vertices, _ = box_vertices((3, 3))
    for shift in (0.0, 1e-14, -1e-14):
        x = np.column_stack([vertices + shift, np.zeros(len(vertices))])
        chi = dense(coarse.hats(x), coarse.num_vertices)
        np.testing.assert_array_equal(chi, np.eye(len(vertices)))


# ---- boxes that overlap ----


def trapezoids(x, edges, width):
    """Functions of intervals: one inside, linear across ``width`` on each side of an inner edge."""
    columns = []
    for k, (low, high) in enumerate(itertools.pairwise(edges)):
        rise = np.ones_like(x) if k == 0 else (x - low + width) / (2 * width)
        fall = np.ones_like(x) if k == len(edges) - 2 else (high + width - x) / (2 * width)
        columns.append(np.clip(np.minimum(rise, fall), 0, 1))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_overlapping_boxes_are_a_partition_of_unity(kind, degree):
    msh = fine_mesh(COMM, kind)
    n = SQUARE if msh.geometry.dim == 2 else (2, 1, 2)
    coarse = CoarseGrid(msh, n, overlap=1)
    V = fem.functionspace(msh, ("Lagrange", degree))
    x = V.tabulate_dof_coordinates()
    chi = dense(coarse.hats(x), coarse.num_vertices)
    assert coarse.num_vertices == coarse.num_cells == np.prod(n)
    num = msh.topology.index_map(len(n)).size_local
    corners = msh.geometry.x[msh.geometry.dofmaps[0][:num]][:, :, : len(n)]
    width = gather_rows(COMM, np.ptp(corners, axis=1)).mean(axis=0)
    axes = [np.linspace(0, 1, k + 1) for k in n]
    tables = [trapezoids(x[:, k], axes[k], width[k]) for k in range(len(n))]
    # The first direction is the fastest.
    expected = tables[0]
    for table in tables[1:]:
        expected = (table[:, :, None] * expected[:, None, :]).reshape(len(x), -1)
    np.testing.assert_allclose(chi, expected, atol=1e-9)
    np.testing.assert_allclose(chi.sum(axis=1), 1, atol=4e-15)
    middles = [(a[1:] + a[:-1]) / 2 for a in axes]
    grid = np.meshgrid(*middles[::-1], indexing="ij")
    places = np.stack([g.reshape(-1) for g in grid[::-1]], axis=1)
    found = coarse.vertex_coordinates(np.arange(coarse.num_vertices))
    np.testing.assert_allclose(found, places, atol=1e-14)


@pytest.mark.parametrize("cell", CELLS)
def test_neighbourhoods_are_boxes_with_layers_around(cell):
    """Cells with a corner inside of a box of 4 cells a side and two more where there are some."""
    d, n, k = gdim(cell), (3, 2, 2), 2
    msh = box(COMM, cell, [4 * b for b in n[:d]])
    coarse = CoarseGrid(msh, n[:d], overlap=k)
    V = fem.functionspace(msh, ("Lagrange", 1))
    hats = coarse.hats(V.tabulate_dof_coordinates())
    member = cell_membership(V, coarse, hats).toarray() > 0
    num = msh.topology.index_map(d).size_local
    corners = msh.geometry.x[msh.geometry.dofmaps[0][:num]][:, :, :d]
    cells = np.rint(corners * 4 * np.array(n[:d]))
    for vertex in range(coarse.num_vertices):
        index = np.array(np.unravel_index(vertex, n[:d][::-1])[::-1])
        last = index == np.array(n[:d]) - 1
        inside = (cells > 4 * index - k) | (index == 0)
        inside &= (cells < 4 * index + 4 + k) | last
        np.testing.assert_array_equal(member[:, vertex], inside.all(axis=2).any(axis=1))


@pytest.mark.parametrize(
    ("overlap", "match"),
    [
        (0, "overlap must be a number of cells >= 1, got 0"),
        (1.5, "overlap must be a number of cells >= 1, got 1.5"),
        (3, r"An overlap of 3 cells is more than half a box: boxes measure \(0.3333, 0.5\)"),
    ],
)
def test_overlaps_that_do_not_fit(overlap, match):
    msh = box(COMM, CellType.triangle, 12)
    with expect_error(ValueError, match):
        CoarseGrid(msh, (3, 2), overlap=overlap)


# ---- coarse meshes ----


def coarse_geometry(coarse):
    """Vertex coordinates by global vertex number and all cells, on every rank."""
    d = coarse.geometry.dim
    num_cells = coarse.topology.index_map(d).size_local
    numbers = coarse.geometry.input_global_indices
    cells = gather_rows(COMM, numbers[coarse.geometry.dofmaps[0][:num_cells]])
    pairs = gather_rows(COMM, np.column_stack([numbers, coarse.geometry.x[:, :d]]))
    x = np.zeros((int(pairs[:, 0].max()) + 1, d))
    x[pairs[:, 0].astype(int)] = pairs[:, 1:]
    return x, cells


def barycentric(x, vertices, cells):
    """Hat functions of a simplicial mesh by brute force over all cells; NaN outside."""
    chi = np.full((len(x), len(vertices)), np.nan)
    for cell in cells:
        T = (vertices[cell[1:]] - vertices[cell[0]]).T
        w = np.linalg.solve(T, (x - vertices[cell[0]]).T).T
        w = np.column_stack([1 - w.sum(axis=1), w])
        inside = np.flatnonzero(w.min(axis=1) > -1e-12)
        chi[inside] = 0.0
        chi[inside[:, None], cell] = w[inside]
    return chi


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("cell", SIMPLICES)
@pytest.mark.parametrize("fine_cell", ["same", "other"])
def test_from_simplicial_mesh(cell, nested, fine_cell):
    d = gdim(cell)
    other = {2: CellType.quadrilateral, 3: CellType.hexahedron}[d]
    fine = box(COMM, cell if fine_cell == "same" else other, 8 if d == 2 else 6)
    coarse_mesh = box(COMM, cell, 2)
    if not nested:
        jiggle(coarse_mesh, 0.15)
    coarse = CoarseGrid.from_mesh(fine, coarse_mesh)
    x = fem.functionspace(fine, ("Lagrange", 2)).tabulate_dof_coordinates()
    chi = dense(coarse.hats(x), coarse.num_vertices)
    vertices, cells = coarse_geometry(coarse_mesh)
    assert coarse.num_vertices == len(vertices) == 3**d
    np.testing.assert_allclose(chi, barycentric(x[:, :d], vertices, cells), atol=1e-9)
    np.testing.assert_allclose(chi.sum(axis=1), 1, atol=4e-15)


@pytest.mark.parametrize("cell", [CellType.quadrilateral, CellType.hexahedron])
def test_from_box_mesh_equals_boxes(cell):
    """The hats of a mesh of boxes are those of CoarseGrid with that many boxes."""
    d = gdim(cell)
    n = (3, 2, 2)[:d]
    fine = jiggle(box(COMM, SIMPLICES[d - 2], 6), 0.02)
    coarse_mesh = box(COMM, cell, n)
    x = fem.functionspace(fine, ("Lagrange", 1)).tabulate_dof_coordinates()
    coarse = CoarseGrid.from_mesh(fine, coarse_mesh)
    chi = dense(coarse.hats(x), coarse.num_vertices)
    vertices, _ = coarse_geometry(coarse_mesh)
    np.testing.assert_allclose(chi, hat_values(x[:, :d], vertices, 1 / np.array(n)), atol=1e-9)
    # vertex_coordinates: NaN where this rank has no part of the coarse mesh.
    found = coarse.vertex_coordinates(np.arange(len(vertices)))
    known = ~np.isnan(found).any(axis=1)
    np.testing.assert_allclose(found[known], vertices[known])
    known = COMM.allreduce(known.astype(int), op=MPI.SUM)
    assert known.min() >= 1


def test_from_bilinear_mesh():
    """General quadrilaterals: isoparametric, so the hats reproduce coordinates."""
    fine = box(COMM, CellType.triangle, 11)
    coarse_mesh = jiggle(box(COMM, CellType.quadrilateral, 3), 0.08)
    x = fem.functionspace(fine, ("Lagrange", 2)).tabulate_dof_coordinates()
    coarse = CoarseGrid.from_mesh(fine, coarse_mesh)
    chi = dense(coarse.hats(x), coarse.num_vertices)
    vertices, cells = coarse_geometry(coarse_mesh)
    assert chi.min() >= 0
    np.testing.assert_allclose(chi.sum(axis=1), 1, atol=4e-15)
    np.testing.assert_allclose(chi @ vertices, x[:, :2], atol=1e-9)
    # Support: the non-zero hats of each point are corners of one cell.
    corners = np.zeros((len(cells), len(vertices)), bool)
    corners[np.arange(len(cells))[:, None], cells] = True
    for row in chi > 0:
        assert (corners[:, row].all(axis=1)).any()


def test_from_mesh_not_covering():
    """Points outside the coarse mesh take hats of the nearest cell, clipped to it."""
    fine = box(COMM, CellType.triangle, 12)
    coarse_mesh = box(COMM, CellType.quadrilateral, 3)
    coarse_mesh.geometry.x[:, :2] = 0.1 + 0.8 * coarse_mesh.geometry.x[:, :2]
    x = fem.functionspace(fine, ("Lagrange", 1)).tabulate_dof_coordinates()
    coarse = CoarseGrid.from_mesh(fine, coarse_mesh)
    chi = dense(coarse.hats(x), coarse.num_vertices)
    vertices, _ = coarse_geometry(coarse_mesh)
    np.testing.assert_allclose(
        chi, hat_values(np.clip(x[:, :2], 0.1, 0.9), vertices, 0.8 / 3), atol=1e-9
    )
    # Too far away is refused, on every rank.
    coarse_mesh.geometry.x[:, :2] = 0.05 * coarse_mesh.geometry.x[:, :2]
    with pytest.raises(ValueError, match="does not cover"):
        CoarseGrid.from_mesh(fine, coarse_mesh).hats(x)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [CellType.triangle, CellType.quadrilateral, CellType.tetrahedron])
@pytest.mark.parametrize("size", [1e-9, 1e-6, 1.0, 1e9])
def test_from_mesh_at_any_size(cell, size):
    """The hats are those of the unit box, whatever the unit of length; flat boxes and an offset."""
    d = gdim(cell)
    x, chi = [], []
    for scale, shift in ((1.0, 0.0), (size * np.array([1, 0.01, 1]), 3 * size)):
        fine, coarse_mesh = box(COMM, cell, 8 if d == 2 else 5), box(COMM, cell, 3)
        jiggle(coarse_mesh, 0.05)
        for msh in (fine, coarse_mesh):
            msh.geometry.x[:, :d] = (msh.geometry.x * scale)[:, :d] + shift
        x.append(fem.functionspace(fine, ("Lagrange", 1)).tabulate_dof_coordinates())
        coarse = CoarseGrid.from_mesh(fine, coarse_mesh)
        chi.append(dense(coarse.hats(x[-1]), coarse.num_vertices))
    vertices, _ = coarse_geometry(coarse_mesh)
    np.testing.assert_allclose(chi[1], chi[0], atol=1e-9)
    np.testing.assert_allclose(chi[1] @ vertices, x[1][:, :d], atol=1e-11 * size)


# ---- neighbourhoods ----


def midpoints(msh, cells):
    return mesh.compute_midpoints(msh, msh.topology.dim, np.asarray(cells, np.int32))


def found_neighbourhoods(V, coarse):
    """Cells (midpoints as integers) of each neighbourhood, and which rank has it, on every rank."""
    hats = coarse.hats(V.tabulate_dof_coordinates())
    found = find_neighbourhoods(V, coarse, hats, coarse.layers())
    num_cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_local
    x = COMM.allgather(midpoints(V.mesh, np.arange(num_cells)))
    groups = COMM.allgather(found.group_of)
    mine = {}
    for k, vertex in enumerate(found.vertices):
        part = slice(found.offsets[k], found.offsets[k + 1])
        where = [
            tuple(np.rint(1e7 * x[r][c]).astype(int).tolist())
            for r, g in zip(found.rank[part], found.group[part], strict=True)
            for c in np.flatnonzero(groups[r] == g)
        ]
        assert len(set(where)) == len(where)
        mine[int(vertex)] = set(where)
    everyone = COMM.allgather(mine)
    merged = {v: cells for part in everyone for v, cells in part.items()}
    assert sum(map(len, everyone)) == len(merged)
    owner = {v: rank for rank, part in enumerate(everyone) for v in part}
    return merged, owner


def expected_neighbourhoods(make, degree, n, layers):
    """The same by the definition: hats by formula, cells as Python sets, serial."""
    msh = make(MPI.COMM_SELF)
    V = fem.functionspace(msh, ("Lagrange", degree))
    vertices, h = box_vertices(n)
    chi = hat_values(V.tabulate_dof_coordinates()[:, : len(n)], vertices, h)
    dofs = [set(row) for row in V.dofmap.list.tolist()]
    nodes = [set(row) for row in msh.geometry.dofmaps[0].tolist()]
    where = [tuple(row) for row in np.rint(1e7 * midpoints(msh, np.arange(len(dofs)))).astype(int)]
    expected = {}
    for vertex in range(len(vertices)):
        positive = set(np.flatnonzero(chi[:, vertex] > 1e-9).tolist())
        cells = {k for k, row in enumerate(dofs) if row & positive}
        for _ in range(layers):
            reached = set().union(*(nodes[k] for k in cells)) if cells else set()
            cells = {k for k, row in enumerate(nodes) if row & reached}
        if cells:
            expected[vertex] = {tuple(int(c) for c in where[k]) for k in cells}
    return expected


@pytest.mark.parametrize(
    "kind,degree,n,layers",
    [
        ("box-triangle", 1, (3, 3), 0),
        ("box-quadrilateral", 2, (4, 3), 1),
        ("box-tetrahedron", 1, (2, 2, 2), 2),
        ("box-hexahedron", 1, (3, 2, 1), 1),
        ("jiggled-triangle", 2, (4, 4), 0),
        ("jiggled-quadrilateral", 1, (2, 5), 3),
        ("jiggled-tetrahedron", 2, (2, 1, 2), 1),
        ("jiggled-hexahedron", 1, (2, 2, 2), 0),
        ("hole", 1, (6, 6), 0),
        ("hole", 1, (6, 6), 2),
        ("lshape", 1, (5, 5), 1),
        ("lshape-3d", 1, (4, 4, 2), 0),
    ],
)
def test_neighbourhoods_are_the_cells_where_the_hat_is_not_zero(kind, degree, n, layers):
    msh = fine_mesh(COMM, kind)
    coarse = CoarseGrid(msh, n, oversampling=layers)
    found, owner = found_neighbourhoods(fem.functionspace(msh, ("Lagrange", degree)), coarse)
    expected = on_root(
        expected_neighbourhoods, lambda comm: fine_mesh(comm, kind), degree, n, layers
    )
    assert found.keys() == expected.keys()
    for vertex, cells in expected.items():
        assert found[vertex] == cells
    if kind.startswith(("hole", "lshape")):
        assert len(found) < coarse.num_vertices
    if len(found) >= 4 * COMM.size:
        assert len(set(owner.values())) == COMM.size


def test_empty_neighbourhoods_in_the_hole():
    """The centre of the disc and its four neighbours see no cell."""
    msh = holed_square(COMM)
    coarse = CoarseGrid(msh, (10, 10))
    found, _ = found_neighbourhoods(fem.functionspace(msh, ("Lagrange", 1)), coarse)
    vertices, _ = box_vertices((10, 10))
    inner = np.flatnonzero(np.linalg.norm(vertices - 0.5, axis=1) < 0.11)
    assert len(inner) == 5
    assert not set(inner.tolist()) & found.keys()


@pytest.mark.parametrize("n", [(1, 1), (1, 2)])
def test_few_neighbourhoods(n):
    """With fewer neighbourhoods than ranks some ranks have none, and all agree on the rest."""
    msh = box(COMM, CellType.triangle, 12)
    V = fem.functionspace(msh, ("Lagrange", 1))
    found, owner = found_neighbourhoods(V, CoarseGrid(msh, n))
    assert len(found) == np.prod(np.array(n) + 1)
    assert set(owner.values()) <= set(range(COMM.size))


def test_box_that_covers_one_corner_only():
    """All cells see the hat of its nearest vertex, which is one beyond it; few see the others."""
    msh = box(COMM, CellType.triangle, 6)
    V = fem.functionspace(msh, ("Lagrange", 1))
    found, _ = found_neighbourhoods(V, CoarseGrid(msh, (2, 2), box=((0.9, 0.9), (4, 4))))
    assert sorted(found) == [0, 1, 3, 4]
    assert [len(found[v]) for v in (0, 1, 3, 4)] == [72, 12, 12, 2]


def test_fewer_cells_than_ranks():
    """A mesh of two cells: on three and more ranks some rank has neither cells nor dofs."""
    msh = mesh.create_unit_square(COMM, 1, 1, CellType.triangle)
    V = fem.functionspace(msh, ("Lagrange", 1))
    found, _ = found_neighbourhoods(V, CoarseGrid(msh, (1, 1)))
    assert [len(found[v]) for v in range(4)] == [2, 1, 1, 2]
