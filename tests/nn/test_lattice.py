# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What a network sees of a neighbourhood, against arrays of cell values and formulas."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from typing import ClassVar

from mpi4py import MPI

import numpy as np
import pytest
from sample import HERE, Sample, expect_error, is_sentence, local_problems
from utils import (
    COMM,
    HEX,
    QUAD,
    TRI,
    box,
    cell_field,
    diffusion,
    gather_rows,
    holed_square,
    jiggle,
    l_shape,
    mass,
    rough,
)

import basix.ufl
import ufl
from dolfinx import fem, mesh
from dolfinx.mesh import CellType
from dolfinx_msnn.bases.filtered import FilteredBasis
from dolfinx_msnn.local.coefficient import cell_values
from dolfinx_msnn.nn.lattice import CLASSES, Pose, interpolation, network_input, num_channels

serial = pytest.mark.serial


def problems(msh, n, coefficient, degree=1):
    """Local problems with a coefficient, by coarse vertex; -Δ: the matrices do not matter here."""
    V = fem.functionspace(msh, ("Lagrange", degree))
    found = local_problems(n, diffusion(V, 1.0), mass(V, 1.0), coefficient)
    return {p.vertex: p for p in found}


def field(msh, values):
    """A DG0 function from an array of cell values, shape ``(n, ..., n)``, first axis x."""
    n = np.array(values.shape)

    def value(x):
        return values[tuple(np.floor(x * n[:, None]).astype(int))]

    return cell_field(msh, value)


def random_cells(shape, seed=0):
    return np.exp(np.random.default_rng(seed).normal(size=shape))


def vertex_number(index, n):
    """Of a coarse vertex, x fastest."""
    return int(np.ravel_multi_index(tuple(index[::-1]), tuple(k + 1 for k in n[::-1])))


def posed(p, n):
    """Dof positions in the pose, by formula, for a grid of n boxes of the unit box."""
    ends = [min(abs(v), abs(v - 1)) < 1e-9 for v in p.place]
    order = sorted(range(len(n)), key=lambda k: not ends[k])
    t = [
        np.abs(p.x[:, k] - p.place[k]) * n[k]
        if ends[k]
        else (p.x[:, k] - p.place[k]) * n[k] / 2 + 0.5
        for k in order
    ]
    return np.stack(t, axis=1)


# ---- poses ----


@serial
@pytest.mark.parametrize("dim", [2, 3])
def test_poses_of_all_neighbourhoods(dim):
    """Class, axes and reflections follow from which coordinates of the vertex are 0 or 1."""
    cell, n = (QUAD, (3, 3)) if dim == 2 else (HEX, (3, 2, 2))
    cells = 12 if dim == 2 else (6, 4, 4)
    found = problems(box(MPI.COMM_SELF, cell, cells), n, 1.0)
    names = []
    for p in found.values():
        ends = np.isclose(p.place * (1 - p.place), 0.0)
        pose = Pose.of(p)
        names.append(pose.name)
        assert pose.one_sided == ends.sum()
        assert pose.name == CLASSES[dim][ends.sum()]
        assert sorted(pose.axes) == list(range(dim))
        assert ends[list(pose.axes)].tolist() == sorted(ends.tolist(), reverse=True)
        expected = [bool(ends[k]) and p.place[k] > 0.5 for k in pose.axes]
        assert list(pose.reflected) == expected
        sides = [(1 if ends[k] else 2) / n[k] for k in pose.axes]
        np.testing.assert_allclose(pose.sides, sides)
        # The vertex: in a corner of the box, or halfway.
        at = pose.positions(p, p.place[None])[0]
        np.testing.assert_allclose(at, [0.0] * ends.sum() + [0.5] * (dim - ends.sum()), atol=1e-12)
        t = pose.positions(p, p.x)
        assert t.min() == pytest.approx(0.0) and t.max() == pytest.approx(1.0)
    count = {name: names.count(name) for name in CLASSES[dim]}
    # Of 4 x 4, or 4 x 3 x 3 vertices.
    assert count == (
        {"full": 4, "half": 8, "corner": 4}
        if dim == 2
        else {"full": 2, "half": 10, "quarter": 16, "corner": 8}
    )


@serial
def test_shorter_axes_come_first():
    """Among one-sided axes, and among the others."""
    msh = box(MPI.COMM_SELF, HEX, 4, (3.0, 1.0, 2.0))
    found = problems(msh, (2, 2, 2), 1.0)
    middle, corner = Pose.of(found[13]), Pose.of(found[26])
    assert middle.axes == corner.axes == (1, 2, 0)
    np.testing.assert_allclose(middle.sides, (1.0, 2.0, 3.0))
    np.testing.assert_allclose(corner.sides, (0.5, 1.0, 1.5))
    assert corner.reflected == (True, True, True)
    # The long axis is one-sided.
    assert Pose.of(found[12]).axes == (0, 1, 2)


@serial
def test_poses_of_neighbourhoods_that_are_cut():
    """Every neighbourhood of a domain with a hole or a corner has a pose of its class."""
    for msh in (holed_square(MPI.COMM_SELF, 16), l_shape(MPI.COMM_SELF, 16)):
        for p in problems(msh, (4, 4), 1.0).values():
            pose = Pose.of(p)
            assert pose.name in CLASSES[2]
            t = pose.positions(p, p.sample.midpoints)
            assert t.min() > 0 and t.max() < 1
            assert np.isfinite(network_input(p, pose, 5, 2)).all()


def reflections(dim):
    return itertools.product([1, -1], repeat=dim)


@serial
@pytest.mark.parametrize("dim,p", [(2, 5), (2, 4), (3, 3), (3, 4)])
def test_reflected_neighbourhoods_look_the_same(dim, p):
    """κ reflected with its neighbourhood: the same input, or reflected along two-sided axes.

    With 4 nodes some sub-boxes have two cells equally near, of which only one-sided axes tell which
    comes first: there, corners are compared.
    """
    n = (3,) * dim
    cell, cells = (QUAD, 12) if dim == 2 else (HEX, 6)
    msh = box(MPI.COMM_SELF, cell, cells)
    values = random_cells((cells,) * dim)
    q = 2
    base = problems(msh, n, field(msh, values))
    seen = set()
    for signs in reflections(dim):
        flip = tuple(slice(None, None, s) for s in signs)
        found = problems(msh, n, field(msh, values[flip]))
        for index in itertools.product(range(4), repeat=dim):
            mirrored = [i if s > 0 else 3 - i for i, s in zip(index, signs, strict=True)]
            one, two = base[vertex_number(index, n)], found[vertex_number(mirrored, n)]
            pose, other = Pose.of(one), Pose.of(two)
            if p == 4 and pose.name != "corner":
                continue
            seen.add(pose.name)
            assert other.name == pose.name and other.axes == pose.axes
            a, b = (network_input(*pair, p, q) for pair in ((one, pose), (two, other)))
            free = [
                k for k, axis in enumerate(pose.axes) if signs[axis] < 0 and k >= pose.one_sided
            ]
            # Sub-boxes and nodes are reflected together.
            b = b[: q**dim].reshape((q,) * dim + (p,) * dim)
            b = np.flip(b, axis=[*free] + [dim + k for k in free])
            np.testing.assert_allclose(b.reshape(-1, *(p,) * dim), a[: q**dim], atol=1e-6)
    assert seen == (set(CLASSES[dim]) if p != 4 else {"corner"})


@serial
@pytest.mark.parametrize("dim", [2, 3])
def test_turned_neighbourhoods_look_the_same(dim):
    """A one-sided axis comes first, whichever it is."""
    n, (cell, cells) = (3,) * dim, (QUAD, 12) if dim == 2 else (HEX, 6)
    msh = box(MPI.COMM_SELF, cell, cells)
    values = random_cells((cells,) * dim)
    # A neighbourhood on the face x = 0, and what it looks like on the others.
    index = [0, 1, 2][:dim]
    for axis in range(dim):
        for end in (0, 3):
            turned = np.moveaxis(values, 0, axis)
            where = index[1:]
            where.insert(axis, end)
            if end:
                turned = np.flip(turned, axis)
            p = problems(msh, n, field(msh, turned))[vertex_number(where, n)]
            seen = network_input(p, Pose.of(p), 5, 2)
            if (axis, end) == (0, 0):
                first = seen
            np.testing.assert_allclose(seen, first, atol=1e-6)


# ---- inputs ----


def expected_input(logs, p, q, sides):
    """The input by its definition, from log κ in (q (p - 1))**d sub-boxes in the pose."""
    dim, num = logs.ndim, q * (p - 1)
    assert logs.shape == (num,) * dim
    out = np.zeros((q**dim + 2 * dim, *(p,) * dim))
    for node in itertools.product(range(p), repeat=dim):
        for c, offset in enumerate(itertools.product(range(q), repeat=dim)):
            at = np.clip(np.array(node) * q + offset - q // 2, 0, num - 1)
            out[(c, *node)] = 0.25 * (logs[tuple(at)] - logs.mean())
        for k in range(dim):
            out[(q**dim + k, *node)] = node[k] / (p - 1)
            out[(q**dim + dim + k, *node)] = np.log2(sides[k] / max(sides))
    return out


class TestSampling:
    """The neighbourhood of the middle of a 2 x 2 grid: the whole square, in its own pose."""

    CASES: ClassVar = [
        # cells, p, q
        pytest.param(8, 5, 2, id="sub-boxes are cells"),
        pytest.param(8, 3, 4, id="sub-boxes are cells, 4 a node"),
        pytest.param(8, 3, 2, id="averages of 2 x 2"),
        pytest.param(12, 3, 2, id="averages of 3 x 3"),
        pytest.param(8, 9, 2, id="half as large as cells"),
        pytest.param(8, 13, 2, id="a third as large"),
    ]

    @serial
    @pytest.mark.parametrize("cells,p,q", CASES)
    def test_square(self, cells, p, q):
        msh = box(MPI.COMM_SELF, QUAD, cells)
        values = random_cells((cells, cells))
        found = problems(msh, (2, 2), field(msh, values))[4]
        self.check(found, np.log(values), cells, p, q, (1.0, 1.0))

    @serial
    @pytest.mark.parametrize("cells,p,q", [(4, 3, 2), (8, 3, 2), (4, 5, 2)])
    def test_cube(self, cells, p, q):
        msh = box(MPI.COMM_SELF, HEX, cells, (1.0, 2.0, 4.0))
        values = random_cells((cells,) * 3)
        kappa = cell_field(msh, lambda x: values[tuple((x.T / [1, 2, 4] * cells).astype(int).T)])
        found = problems(msh, (2, 2, 2), kappa)[13]
        self.check(found, np.log(values), cells, p, q, (1.0, 2.0, 4.0))

    def check(self, found, logs, cells, p, q, sides):
        num = q * (p - 1)
        if num <= cells:
            for axis in range(logs.ndim):
                shape = [*logs.shape[:axis], num, cells // num, *logs.shape[axis + 1 :]]
                logs = logs.reshape(shape).mean(axis=axis + 1)
        else:
            for axis in range(logs.ndim):
                logs = np.repeat(logs, num // cells, axis=axis)
        seen = network_input(found, Pose.of(found), p, q)
        assert seen.dtype == np.float32
        assert seen.shape == (num_channels(logs.ndim, q), *(p,) * logs.ndim)
        np.testing.assert_allclose(seen, expected_input(logs, p, q, sides), atol=2e-6)


@serial
@pytest.mark.parametrize("make", [holed_square, l_shape])
def test_unstructured(make):
    """Averages: between the extremes, constants stay constant."""
    msh = make(MPI.COMM_SELF, 16)
    uneven = problems(msh, (3, 3), cell_field(msh, rough(1e4)))
    even = problems(msh, (3, 3), fem.Constant(msh, 7.0))
    for vertex, p in uneven.items():
        pose = Pose.of(p)
        for lattice in (3, 9, 17):
            logs = np.log(p.sample.values)
            seen = network_input(p, pose, lattice, 2)[:4]
            assert 0 < np.ptp(seen) <= 0.25 * np.ptp(logs) * (1 + 1e-6)
            assert seen.min() < 0 < seen.max()
            constant = network_input(even[vertex], pose, lattice, 2)
            np.testing.assert_allclose(constant[:4], 0.0, atol=1e-6)


@serial
def test_units_of_kappa_do_not_matter():
    msh = holed_square(MPI.COMM_SELF, 16)
    kappa = cell_field(msh, rough(1e6))
    for vertex, p in problems(msh, (3, 3), kappa).items():
        for factor in (1e-9, 3.0, 1e12):
            scaled = replace(p, sample=p.sample._replace(values=factor * p.sample.values))
            one, two = (network_input(x, Pose.of(x), 7, 2) for x in (p, scaled))
            np.testing.assert_allclose(one, two, atol=2e-6, err_msg=str(vertex))


@serial
def test_problem_without_coefficient():
    p = problems(box(MPI.COMM_SELF, QUAD, 4), (2, 2), None)[4]
    assert p.sample is None
    with pytest.raises(ValueError, match=r"neighbourhood 4 at .* has no values of kappa") as error:
        network_input(p, Pose.of(p), 5, 2)
    is_sentence(str(error.value))


# ---- interpolation ----


@serial
@pytest.mark.parametrize(
    "cell,cells,n,degree",
    [
        (QUAD, 12, (3, 3), 1),
        (QUAD, 6, (3, 2), 2),
        (TRI, 12, (3, 3), 1),
        (TRI, 6, (2, 2), 2),
        (HEX, 6, (3, 2, 2), 1),
        (HEX, 4, (2, 2, 2), 2),
        (CellType.tetrahedron, 4, (2, 2, 2), 1),
    ],
    ids=str,
)
def test_multilinear_functions_are_exact(cell, cells, n, degree):
    """Whatever the lattice; their values on it are exact at every dof."""
    msh = box(MPI.COMM_SELF, cell, cells)
    rng = np.random.default_rng(0)
    dim = len(n)
    for found in problems(msh, n, 1.0, degree).values():
        t = posed(found, n)
        for p in (2, 4, 7):
            matrix = interpolation(found, Pose.of(found), p)
            assert matrix.shape == (found.num_dofs, p**dim)
            slopes = rng.normal(size=(dim, 2))
            line = np.linspace(0, 1, p)
            values = np.ones(())
            for a, b in slopes:
                values = np.multiply.outer(values, a + b * line)
            expected = np.prod([a + b * t[:, k] for k, (a, b) in enumerate(slopes)], axis=0)
            np.testing.assert_allclose(matrix @ values.reshape(-1), expected, atol=1e-12)
            # Not negative, and a partition of unity.
            assert matrix.data.min() > 0
            np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)


@serial
def test_lattice_on_the_dofs():
    """Any lattice function, where its nodes are the dofs; the pose's first axis comes first."""
    found = problems(box(MPI.COMM_SELF, QUAD, 12), (3, 3), 1.0)
    values = np.random.default_rng(0).normal(size=(9, 9))
    for p in found.values():
        t = posed(p, (3, 3))
        # Nodes of the lattice that lie on dofs: on one-sided axes every other one.
        k = np.rint(t * 8).astype(int)
        out = interpolation(p, Pose.of(p), 9) @ values.reshape(-1)
        np.testing.assert_allclose(out, values[k[:, 0], k[:, 1]], atol=1e-12)


@serial
def test_piecewise_bilinear_between_the_nodes():
    """Against SciPy, on triangles of no order."""
    from scipy.interpolate import RegularGridInterpolator

    values = np.random.default_rng(0).normal(size=(6, 6))
    line = np.linspace(0, 1, 6)
    exact = RegularGridInterpolator((line, line), values)
    for p in problems(holed_square(MPI.COMM_SELF, 16), (3, 3), 1.0, 2).values():
        pose = Pose.of(p)
        out = interpolation(p, pose, 6) @ values.reshape(-1)
        t = np.clip(pose.positions(p, p.x), 0, 1)
        np.testing.assert_allclose(out, exact(t), atol=1e-12)


@serial
def test_nothing_is_kept_of_meshes_that_look_alike():
    """The same cells with vertices a little elsewhere: no answer of the other mesh."""
    values = np.linspace(0, 1, 9)[:, None] * np.ones(9)
    for amount in (0.0, 2e-6, 1e-3):
        msh = box(MPI.COMM_SELF, QUAD, 8)
        # Along x only: the dofs keep their order.
        x = msh.geometry.x
        x[:, 0] += amount * np.sin(np.pi * x[:, 0]) * (1 + x[:, 1])
        p = problems(msh, (2, 2), 1.0)[4]
        t = posed(p, (2, 2))
        out = interpolation(p, Pose.of(p), 9) @ values.reshape(-1)
        np.testing.assert_allclose(out, t[:, 0], atol=1e-9)


# ---- the coefficient ----


class OnRanks:
    """A mesh on all ranks and coefficients on it, each with its formula at cell midpoints."""

    def __init__(self, cell=QUAD):
        # Cells keep their midpoints: the mean of the vertices.
        self.mesh = jiggle(box(COMM, cell, 8), 0.02)
        x = ufl.SpatialCoordinate(self.mesh)
        dg = cell_field(self.mesh, rough(1e3))
        P1 = fem.Function(fem.functionspace(self.mesh, ("Lagrange", 1)))
        P1.interpolate(lambda x: 1 + x[0] + 2 * x[1])
        vector = fem.Function(fem.functionspace(self.mesh, ("DG", 0, (2,))))
        vector.interpolate(lambda x: np.stack([1 + x[0], 3 + x[1]]))
        DG1 = fem.Function(fem.functionspace(self.mesh, ("DG", 1)))
        DG1.interpolate(lambda x: 2 + x[1])
        self.cases = {
            "DG0": (dg, rough(1e3)),
            "constant": (fem.Constant(self.mesh, 4.0), lambda x: 4.0 + 0 * x[0]),
            "expression": (1 + x[0] * x[1] ** 2, lambda x: 1 + x[0] * x[1] ** 2),
            "product": (2 * dg + x[0], lambda x: 2 * rough(1e3)(x) + x[0]),
            "conditional": (
                ufl.conditional(ufl.lt(x[0], 0.47), 1.0, 1e4),
                lambda x: np.where(x[0] < 0.47, 1.0, 1e4),
            ),
            "number": (3, lambda x: 3.0 + 0 * x[0]),
            "NumPy number": (np.float64(2.5), lambda x: 2.5 + 0 * x[0]),
            "P1": (P1, lambda x: 1 + x[0] + 2 * x[1]),
            "DG1": (DG1, lambda x: 2 + x[1]),
            "component": (vector[1], None),
            "part": (vector.sub(1), None),
        }
        self.vector = vector


NAMES = list(OnRanks().cases)
made_once = cache(OnRanks)


@pytest.mark.parametrize("cell", [QUAD, TRI], ids=lambda c: c.name)
@pytest.mark.parametrize("name", NAMES)
def test_values_at_the_midpoints(name, cell):
    """On every rank, ghosts and cells of other ranks included."""
    ranks = made_once(cell)
    kappa, value = ranks.cases[name]
    if value is None:
        # A vector whose second component is 3 + y, at the point it was interpolated at.
        own = cell_field(ranks.mesh, lambda x: 3 + x[1])
        reference = problems(ranks.mesh, (2, 2), own)
    found = problems(ranks.mesh, (2, 2), kappa)
    cells = np.arange(ranks.mesh.topology.index_map(2).size_local, dtype=np.int32)
    everywhere = gather_rows(COMM, mesh.compute_midpoints(ranks.mesh, 2, cells)[:, :2])
    assert sum(COMM.allgather(len(found))) == 9
    for vertex, p in found.items():
        values, midpoints = p.sample
        assert midpoints.shape == (len(values), 2)
        expected = reference[vertex].sample.values if value is None else value(midpoints.T)
        np.testing.assert_allclose(values, expected, rtol=1e-10)
        # Each cell once, and all that lie well inside the boxes around the vertex.
        inside = everywhere[np.abs(everywhere - p.place).max(axis=1) < 0.45]
        distance = np.linalg.norm(inside[:, None] - midpoints, axis=2)
        assert len(inside) >= 9 and np.all(np.count_nonzero(distance < 1e-9, axis=1) == 1)


class Looking(FilteredBasis):
    """A basis that asks for a coefficient."""

    def __init__(self, kappa):
        super().__init__(3)
        self.coefficient = kappa

    def modes(self, problems):
        assert all(p.sample is not None for p in problems)
        return super().modes(problems)


@pytest.fixture(scope="module")
def sample():
    return Sample()


@pytest.mark.parametrize("bad", [0.0, -2.0, np.nan, np.inf])
def test_a_bad_cell_on_one_rank(sample, bad):
    """Said on all ranks, with the place."""
    kappa = fem.Function(sample.kappa.function_space)
    kappa.x.array[:] = sample.kappa.x.array
    place = ""
    if HERE:
        kappa.x.array[0] = bad
        at = mesh.compute_midpoints(sample.mesh, 2, np.zeros(1, np.int32))[0]
        place = rf"\({at[0]:.4g}, {at[1]:.4g}\)"
    place = COMM.bcast(place, root=COMM.size - 1)
    number = f"{bad:.4g}"
    with expect_error(ValueError, rf"kappa is {number} in the cell at {place}; expected positive"):
        sample.space(basis=Looking(kappa))


@pytest.mark.parametrize("bad", [0, -1.5, float("nan"), float("inf")])
def test_a_bad_number(sample, bad):
    with expect_error(ValueError, r"kappa is .* in the cell at .*; expected positive and finite"):
        sample.space(basis=Looking(bad))
    with expect_error(ValueError, r"kappa is .* in the cell at .*; expected positive and finite"):
        sample.space(basis=Looking(fem.Constant(sample.mesh, float(bad))))


def test_quadrature_spaces(sample):
    """Their functions have values at points only: the mean over those of a cell counts."""
    msh = sample.mesh
    spaces = [
        fem.functionspace(msh, basix.ufl.quadrature_element("triangle", degree=k)) for k in (2, 3)
    ]
    kappa, other = (fem.Function(V) for V in spaces)
    x = ufl.SpatialCoordinate(msh)
    kappa.interpolate(fem.Expression(1 + x[0], spaces[0].element.interpolation_points))
    out = cell_values(2 * kappa, msh)
    # The points of the rule have the midpoint of the cell for their mean.
    np.testing.assert_allclose(out[:, 0], 2 + 2 * out[:, 1], rtol=1e-14)
    with expect_error(ValueError, "kappa has functions in quadrature spaces of several rules"):
        sample.space(basis=Looking(kappa + other))


def test_a_bad_expression(sample):
    x = ufl.SpatialCoordinate(sample.mesh)
    with expect_error(ValueError, r"kappa is -0\.\d+ in the cell at"):
        sample.space(basis=Looking(x[0] - 0.1))
    with sample.space(basis=Looking(x[0] + 0.1)) as W:
        assert W.P.getSize()[1] > 0


def other_meshes(sample):
    other = Sample()
    x = ufl.SpatialCoordinate(other.mesh)
    return {
        "function": other.kappa,
        "constant": fem.Constant(other.mesh, 1.0),
        "expression": 1 + x[0],
        "product": sample.kappa * other.kappa,
    }


@pytest.mark.parametrize("name", ["function", "constant", "expression", "product"])
def test_another_mesh(sample, name):
    with expect_error(ValueError, "kappa is defined on another mesh than V; expected the same"):
        sample.space(basis=Looking(other_meshes(sample)[name]))


def test_not_a_scalar_coefficient(sample):
    tensor = sample.kappa * ufl.Identity(2)
    with expect_error(ValueError, r"kappa must be scalar, got an expression of shape \(2, 2\)"):
        sample.space(basis=Looking(tensor))
    vector = fem.Function(fem.functionspace(sample.mesh, ("DG", 0, (2,))))
    with expect_error(ValueError, r"kappa must be scalar, got an expression of shape \(2,\)"):
        sample.space(basis=Looking(vector))
    for thing in ("kappa", np.ones(3), [1.0], lambda x: x[0], 1j):
        with expect_error(ValueError, r"kappa must be a Function, .* or a number, got \w+\.$"):
            sample.space(basis=Looking(thing))


def test_not_a_coefficient_at_all(sample):
    """An expression of a trial function has no values."""
    with expect_error(ValueError, "kappa contains a test or trial function"):
        sample.space(basis=Looking(sample.u))
