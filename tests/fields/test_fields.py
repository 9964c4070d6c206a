# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficient fields: geometry, statistics, readers and errors, at any number of ranks."""

import math
import os
import pickle
import sys

from mpi4py import MPI

import numpy as np
import pytest
from scipy import ndimage

from dolfinx import mesh
from dolfinx.mesh import CellType
from dolfinx_msnn import fields
from dolfinx_msnn.fields import readers

COMM = MPI.COMM_WORLD
FAMILIES = [fields.Channels, fields.Inclusions, fields.TwoPhase, fields.LogNormal]
ON_MESH = [fields.channels, fields.inclusions, fields.two_phase, fields.log_normal]
CELLS = [CellType.triangle, CellType.quadrilateral, CellType.tetrahedron, CellType.hexahedron]
FLAT = (CellType.triangle, CellType.quadrilateral)


def box_mesh(comm, cell, n, lower=(0, 0, 0), upper=(1, 1, 1), **kwargs):
    d = 2 if cell in FLAT else 3
    create = mesh.create_rectangle if d == 2 else mesh.create_box
    return create(comm, [lower[:d], upper[:d]], [n] * d, cell, **kwargs)


def gathered(kappa):
    """Owned midpoints and values of all ranks in an order that no partition changes."""
    msh = kappa.function_space.mesh
    tdim = msh.topology.dim
    cells = np.arange(msh.topology.index_map(tdim).size_local, dtype=np.int32)
    x = mesh.compute_midpoints(msh, tdim, cells)
    values = kappa.x.array[kappa.function_space.dofmap.list[cells, 0]]
    x, values = (np.concatenate(msh.comm.allgather(a)) for a in (x, values))
    order = np.lexsort(np.round(x, 6).T)
    return x[order], values[order]


def lattice(n, dim):
    """Midpoints of n^dim cells of the unit box, in C order."""
    g = (np.arange(n) + 0.5) / n
    return np.stack(np.meshgrid(*[g] * dim, indexing="ij"), axis=-1).reshape(-1, dim)


def raised(call):
    """Type and message of the exception of ``call``, which must be the same on every rank."""
    try:
        call()
    except Exception as exc:
        mine = (type(exc), str(exc))
    else:
        mine = (None, "")
    theirs = COMM.allgather(mine)
    assert theirs == [mine] * COMM.size
    return mine


def ensemble(statistic, num_seeds):
    """Mean over seeds and its standard error."""
    samples = np.array([statistic(seed) for seed in range(num_seeds)])
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / math.sqrt(num_seeds)


# --- Generators ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("family", "on_mesh"), list(zip(FAMILIES, ON_MESH, strict=True)))
def test_same_field_at_any_rank_count(family, on_mesh, cell):
    n = 24 if cell in FLAT else 8
    kappa = on_mesh(box_mesh(COMM, cell, n), 1e4, 3)
    assert kappa.name == "kappa"
    x, values = gathered(kappa)
    x_serial, serial = gathered(on_mesh(box_mesh(MPI.COMM_SELF, cell, n), 1e4, 3))
    np.testing.assert_allclose(x, x_serial, atol=1e-12)
    np.testing.assert_allclose(values, serial, rtol=1e-8)
    np.testing.assert_allclose(values, family(x.shape[1] - (cell in FLAT), 1e4, 3)(x), rtol=1e-8)
    ghosted = kappa.x.array.copy()  # ghosts are set without communication
    kappa.x.scatter_forward()
    np.testing.assert_allclose(ghosted, kappa.x.array, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "ratio"),
    # Ratios at which each coarse midpoint is the midpoint of a fine cell.
    [(CellType.quadrilateral, 3), (CellType.triangle, 2), (CellType.hexahedron, 3)],
)
@pytest.mark.parametrize("on_mesh", ON_MESH)
def test_same_field_at_any_mesh_size(on_mesh, cell, ratio):
    n = 20 if cell in FLAT else 6
    coarse = gathered(on_mesh(box_mesh(COMM, cell, n), 1e3, 1))
    fine = gathered(on_mesh(box_mesh(COMM, cell, ratio * n), 1e3, 1))
    table = {tuple(p): v for p, v in zip(np.round(fine[0], 6).tolist(), fine[1], strict=True)}
    found = [table[tuple(p)] for p in np.round(coarse[0], 6).tolist()]
    np.testing.assert_allclose(found, coarse[1], rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_box_maps_the_unit_box(family):
    field = family(2, 100.0, 5)
    lower, upper = np.array([2.0, -1.0]), np.array([5.0, 0.0])
    whole = box_mesh(COMM, CellType.triangle, 12, lower, upper)
    x, values = gathered(field.interpolate(whole))
    unit = (x[:, :2] - lower) / (upper - lower)
    np.testing.assert_allclose(values, field(unit), rtol=1e-5)
    part = box_mesh(COMM, CellType.triangle, 6, lower, (lower + upper) / 2)
    x, values = gathered(field.interpolate(part, box=(lower, upper)))
    np.testing.assert_allclose(values, field((x[:, :2] - lower) / (upper - lower)), rtol=1e-5)


@pytest.mark.serial
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [2, 3])
def test_seed_and_contrast(family, dim):
    x = lattice(40 if dim == 2 else 20, dim)
    field = family(dim, 1e5, 7)
    values = field(x)
    assert np.array_equal(values, family(dim, 1e5, 7)(np.pad(x, [(0, 0), (0, 3 - dim)])))
    assert np.array_equal(values, pickle.loads(pickle.dumps(field))(x))
    assert not np.array_equal(values, family(dim, 1e5, 8)(x))
    if family is fields.LogNormal:
        clipped = family(dim, 4.0, 7)(x)
        assert clipped.min() == pytest.approx(0.5) and clipped.max() == pytest.approx(2.0)
        np.testing.assert_allclose(clipped, np.clip(values, 0.5, 2.0))
    else:
        assert set(values) == {1.0, 1e5}
        assert np.array_equal(values > 1, family(dim, 2.0, 7)(x) > 1)
        assert np.all(family(dim, 1, 7)(x) == 1.0)


def test_float32_mesh():
    kappa = fields.channels(box_mesh(COMM, CellType.quadrilateral, 8, dtype=np.float32))
    assert kappa.x.array.dtype == np.float32
    assert set(gathered(kappa)[1]) == {1.0, 1e3}


@pytest.mark.serial
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_channels_cross_the_box(dim, axis):
    n = 100 if dim == 2 else 40
    for seed in range(8 if dim == 2 else 2):
        high = fields.Channels(dim, seed=seed, axis=axis)(lattice(n, dim)).reshape([n] * dim) > 1
        assert (0.15 < high.mean() < 0.35) if dim == 2 else (0.06 < high.mean() < 0.2)
        labels = ndimage.label(high)[0]
        first, last = (set(np.unique(labels.take(i, axis))) - {0} for i in (0, -1))
        crossing = first & last
        assert crossing
        assert np.isin(labels, list(crossing)).sum() > 0.5 * high.sum()


@pytest.mark.serial
def test_channel_options():
    x = lattice(60, 2)
    assert np.all(fields.Channels(2, num_channels=0, num_inclusions=0)(x) == 1.0)
    few, more = (fields.Channels(2, num_channels=1, num_inclusions=n) for n in (0, 10))
    assert np.all(more(x) >= few(x)) and np.any(more(x) > few(x))
    thin, thick = (fields.Channels(2, num_inclusions=0, thickness=t)(x) for t in (0.02, 0.08))
    assert np.all(thick >= thin) and thick.mean() > 2 * thin.mean()
    turned = fields.Channels(2, axis=1)(x[:, ::-1])
    assert np.array_equal(turned, fields.Channels(2)(x))


@pytest.mark.serial
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda dim, seed: fields.TwoPhase(dim, seed=seed, fraction=0.3),
        lambda dim, seed: fields.TwoPhase(dim, seed=seed, fraction=0.05),
        lambda dim, seed: fields.Inclusions(dim, seed=seed, fraction=0.3),
        lambda dim, seed: fields.Inclusions(dim, seed=seed, fraction=0.3, radius=(0.06, 0.06)),
        lambda dim, seed: fields.Inclusions(dim, seed=seed, fraction=0.3, shape="box"),
    ],
)
def test_volume_fraction(make, dim):
    x = lattice(20 if dim == 2 else 10, dim)
    mean, error = ensemble(lambda seed: np.mean(make(dim, seed)(x) > 1), 60)
    assert error < 0.012
    assert abs(mean - make(dim, 0).fraction) < 4 * error


@pytest.mark.serial
@pytest.mark.parametrize("shape", ["ball", "box"])
def test_one_inclusion_has_the_size_asked(shape):
    x = lattice(400, 2)
    for seed in range(20):
        field = fields.Inclusions(2, seed=seed, count=1, radius=(0.1, 0.1), shape=shape)
        inside = x[field(x) > 1]
        width = inside.max(axis=0) - inside.min(axis=0) + 1 / 400
        if not ((inside < 0.01) | (inside > 0.99)).any():  # not cut by the box
            np.testing.assert_allclose(width, 0.2, atol=2 / 400)
            area = math.pi * 0.01 if shape == "ball" else 0.04
            assert len(inside) / 400**2 == pytest.approx(area, rel=0.05)
            break
    else:
        pytest.fail("every inclusion was cut by the box")


@pytest.mark.serial
@pytest.mark.parametrize("length", [0.06, (0.05, 0.1), (0.1, 0.05, 0.08)])
def test_gaussian_moments(length):
    dim = len(length) if isinstance(length, tuple) else 2
    ell = np.broadcast_to(length, dim)
    # Points and lags such that values at different points are all but independent.
    x = lattice(4, dim)
    lags = np.array([0.5, 1.0, 2.0])

    def statistic(seed):
        field = fields.LogNormal(dim, seed=seed, variance=2.0, correlation_length=length)
        z = np.log(field(x)) / math.sqrt(2.0)
        moments = [np.mean(z), np.mean(z**2), np.mean(z**4)]
        for axis in range(dim):
            for lag in lags:
                shift = np.zeros(dim)
                shift[axis] = lag * ell[axis]
                moments.append(np.mean(z * np.log(field(x + shift)) / math.sqrt(2.0)))
        return moments

    mean, error = ensemble(statistic, 400)
    expected = [0.0, 1.0, 3.0, *np.tile(np.exp(-0.5 * lags**2), dim)]
    assert np.all(error < [0.02, 0.03, 0.2] + [0.03] * (3 * dim))
    assert np.all(abs(mean - expected) < 4 * error)


# --- Errors, on all ranks or on none -----------------------------------------------------------


@pytest.mark.parametrize(
    ("on_mesh", "wrong", "sentence"),
    [
        *((f, {"contrast": c}, "contrast must be") for f in ON_MESH for c in (0.5, math.inf, "1")),
        (fields.channels, {"contrast": None}, "contrast must be"),
        *((f, {"seed": s}, "seed must be") for f in ON_MESH for s in (-1, 1.5)),
        *((fields.channels, {"thickness": t}, "thickness must be") for t in (0, 1, math.nan)),
        (fields.channels, {"num_channels": -1}, "num_channels must be"),
        (fields.channels, {"num_inclusions": 2.5}, "num_inclusions must be"),
        (fields.channels, {"axis": 2}, "axis must be from 0 to 1"),
        *((fields.inclusions, {"fraction": f}, "fraction must be") for f in (0, 1, -0.1)),
        *((fields.two_phase, {"fraction": f}, "fraction must be") for f in (0, 1.0, None)),
        *((fields.inclusions, {"radius": r}, "radius must be") for r in (0.1, (0.2, 0.1), (0, 1))),
        (fields.inclusions, {"count": -3}, "count must be"),
        (fields.inclusions, {"shape": "star"}, "shape must be"),
        *(
            (f, {"correlation_length": c}, "correlation_length must be")
            for f in (fields.two_phase, fields.log_normal)
            for c in (0, -1.0, (0.1, 0.1, 0.1), (0.1, 0), math.inf)
        ),
        (fields.log_normal, {"variance": 0.0}, "variance must be"),
    ],
)
def test_wrong_argument(on_mesh, wrong, sentence):
    msh = box_mesh(COMM, CellType.triangle, 4)
    kind, message = raised(lambda: on_mesh(msh, **wrong))
    assert kind is ValueError and message.startswith(sentence) and message.count("\n") == 0
    here = wrong if COMM.rank == COMM.size - 1 else {}  # and on one rank only
    assert raised(lambda: on_mesh(msh, **here)) == (kind, message)


def test_ranks_that_disagree():
    msh = box_mesh(COMM, CellType.triangle, 4)
    kind, message = raised(lambda: fields.channels(msh, seed=COMM.rank))
    differs = message.startswith("field differs between the ranks: Channels(")
    assert (kind is ValueError and differs) == (COMM.size > 1)
    here = {"sneed": 1} if COMM.rank == COMM.size - 1 else {}
    kind, message = raised(lambda: fields.channels(msh, **here))
    assert kind is TypeError and "sneed" in message
    box = [[0, 0], [1 + COMM.rank, 1]]
    kind, _ = raised(lambda: fields.Channels(2).interpolate(msh, box=box))
    assert kind is (ValueError if COMM.size > 1 else None)


def test_wrong_mesh_or_box():
    line = mesh.create_unit_interval(COMM, 8)
    for on_mesh in ON_MESH:
        assert raised(lambda f=on_mesh: f(line))[1].startswith("The dimension of a field or its m")
    square = box_mesh(COMM, CellType.quadrilateral, 4)
    kind, message = raised(lambda: fields.Channels(3).interpolate(square))
    assert kind is ValueError and message.startswith("The dimension of the mesh must be 3")
    for box in ([[0, 0], [1, 0]], [[0, 0, 0], [1, 1, 1]], [[0, 0], [math.nan, 1]], 3):
        here = box if COMM.rank == 0 else None
        kind, message = raised(lambda b=here: fields.Channels(2).interpolate(square, box=b))
        assert kind is ValueError and message.startswith("box must be")
    with pytest.raises(ValueError, match="shape of the points"):
        fields.Channels(3)(np.zeros((4, 2)))


# --- Lattices ----------------------------------------------------------------------------------


def spread(n, low=1.0):
    return low + np.arange(math.prod(n), dtype=np.float64).reshape(n)


@pytest.mark.parametrize("cell", CELLS)
def test_lattice_on_its_own_mesh(cell):
    shape = (5, 7) if cell in FLAT else (3, 4, 2)
    size = np.array((6.0, 3.0, 0.5)[: len(shape)])
    field = fields.LatticeField(spread(shape), size, origin=(10.0, -4.0, 1.0)[: len(shape)])
    msh = field.create_mesh(COMM, cell)
    x, values = gathered(field.interpolate(msh))
    per_cell = {CellType.triangle: 2, CellType.tetrahedron: 6}.get(cell, 1)
    assert len(values) == per_cell * math.prod(shape)
    index = ((x[:, : len(shape)] - field.origin) // size).astype(int)
    assert np.array_equal(values, field.values[tuple(index.T)])
    assert field.extent == tuple(size * shape) and field.contrast == math.prod(shape)
    default = field.create_mesh(COMM)
    assert default.topology.cell_type in (CellType.quadrilateral, CellType.hexahedron)


@pytest.mark.serial
def test_lattice_crop():
    v = spread((6, 5, 4))
    field = fields.LatticeField(v, (2.0, 1.0, 0.5), (0.0, 10.0, 20.0))
    part = field[1:4, ..., -2:]
    assert np.array_equal(part.values, v[1:4, :, -2:]) and part.shape == (3, 5, 2)
    assert part.origin == (2.0, 10.0, 21.0) and part.cell_size == field.cell_size
    layer = field[:, 2:, 3]
    assert np.array_equal(layer.values, v[:, 2:, 3]) and layer.origin == (0.0, 12.0)
    x = np.array([[3.0, 11.0, 21.3], [-5.0, 99.0, 20.1]])  # the second is outside: nearest
    assert field(x).tolist() == [v[1, 1, 2], v[0, 4, 0]]
    for key in (np.s_[::2], np.s_[0, 0, 0], np.s_[0, 0], np.s_[4:4], np.s_[:, :, :, :], 1.5):
        with pytest.raises(ValueError, match="must be"):
            field[key]
    with pytest.raises(ValueError, match="read-only"):
        field.values[0, 0, 0] = 1.0


def test_lattice_on_other_meshes():
    field = fields.LatticeField(spread((8, 4)))  # sides 1 and 1/2
    assert field.extent == (1.0, 0.5)
    # Midpoints on lattice vertices belong to the upper cell, whatever the round-off.
    tenths = fields.LatticeField(spread((12, 6)), (0.1, 0.1))
    msh = mesh.create_rectangle(COMM, [(0, 0), (1.2, 0.6)], [6, 3], CellType.quadrilateral)
    x, values = gathered(tenths.interpolate(msh))
    index = np.rint(x[:, :2] * 10).astype(int)
    assert np.array_equal(values, tenths.values[tuple(index.T)])
    square = box_mesh(COMM, CellType.quadrilateral, 8)
    kind, message = raised(lambda: field.interpolate(square))
    assert kind is ValueError and message.startswith("The mesh without fit=True")
    x, values = gathered(field.interpolate(square, fit=True))
    index = (x[:, :2] * (8, 4)).astype(int)
    assert np.array_equal(values, field.values[tuple(index.T)])
    kind, _ = raised(lambda: (field if COMM.rank else field[:, :2]).interpolate(square, fit=True))
    assert kind is (ValueError if COMM.size > 1 else None)
    cube = box_mesh(COMM, CellType.hexahedron, 2)
    assert raised(lambda: field.interpolate(cube))[1].startswith("The dimension of the mesh must")
    assert raised(lambda: field.create_mesh(COMM, CellType.hexahedron))[0] is ValueError


@pytest.mark.serial
@pytest.mark.parametrize(
    ("values", "options", "sentence"),
    [
        ([1.0, 2.0], {}, "The shape of the lattice"),
        (np.ones((0, 3)), {}, "The shape of the lattice"),
        ([[1.0, 0.0]], {}, "Every value"),
        ([[1.0, -2.0]], {}, "Every value"),
        ([[1.0, np.nan]], {}, "Every value"),
        ([[1.0, np.inf]], {}, "Every value"),
        ([[1.0]], {"cell_size": (1.0, 0.0)}, "cell_size"),
        ([[1.0]], {"cell_size": (1.0,)}, "cell_size"),
        ([[1.0]], {"origin": (0.0, np.nan)}, "origin"),
        ([[1.0, 2.0]], {"low": 1.0}, r"\(low, high, phases\)"),
        ([[1.0, 2.0]], {"low": 1.0, "high": 2.0, "phases": {}}, r"\(low, high, phases\)"),
        ([[3.0, 3.0]], {"low": 1.0, "high": 2.0}, "The grey values"),
        ([[0.0, 3.0]], {"phases": {0: 1.0}}, "Grey values"),
    ],
)
def test_wrong_array(values, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fields.from_array(values, **options)


# --- Readers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all ranks: rank 0's."""
    return COMM.bcast(tmp_path_factory.mktemp("fields") if COMM.rank == 0 else None)


@pytest.fixture(scope="module")
def spe10(folder):
    """kx, ky, kz, shape (3, 60, 220, 85), and a text file of them in the official order."""
    rng = np.random.default_rng(0)
    k = np.round(rng.uniform(1.0, 1000.0, (3, 60, 220, 85)), 3)
    path = folder / "text" / "spe_perm.dat"
    if COMM.rank == 0:
        path.parent.mkdir()
        with path.open("w", newline="") as file:
            # The official line breaking, and two others, with other white space.
            for part, columns, sep, end in zip(
                k, (6, 8, 60), (" ", "\t", "\n"), "\n \n", strict=True
            ):
                flat = part.transpose(2, 1, 0).ravel().reshape(-1, columns)
                np.savetxt(file, flat, fmt="%.3f", delimiter=sep, newline=end + "\r\n")
    COMM.barrier()
    return k, path


def save(path, **arrays):
    if COMM.rank == 0:
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)
    COMM.barrier()
    return path


@pytest.mark.slow
def test_spe10_text(spe10):
    k, path = spe10
    layer = fields.read_spe10(path, 36)
    assert np.array_equal(layer.values, k[0, :, :, 35])
    assert layer.cell_size == (6.096, 3.048) and layer.origin == (0.0, 0.0)
    assert layer.extent == pytest.approx((365.76, 670.56))  # 1200 ft x 2200 ft
    block = fields.read_spe10(str(path.parent), (84, 85), component="z")
    assert np.array_equal(block.values, k[2, :, :, 83:])
    assert block.cell_size == (6.096, 3.048, 0.6096)
    assert block.origin == (0.0, 0.0, pytest.approx(83 * 0.6096))
    # The order of the file, spelt out: x fastest, then y, then layer, then component.
    tokens = path.read_text().split() if COMM.rank == 0 else []
    middle = fields.read_spe10(path, 36, component="y").values
    for i, j in ((0, 0), (59, 0), (7, 130), (59, 219)) if tokens else ():
        assert float(tokens[60 * 220 * 85 + i + 60 * (j + 220 * 35)]) == middle[i, j]


def test_spe10_npz_agrees_with_text(spe10, folder):
    k, path = spe10
    upper = save(folder / "npz" / "b.npz", k=k[0, ..., :35], source="layers 1-35")
    lower = save(folder / "npz" / "a.npz", k=k[0, ..., 35:50], source="x:y layers 36-85")
    text = fields.read_spe10(path, (34, 38))
    assert np.array_equal(fields.read_spe10(folder / "npz", (34, 38)).values, text.values)
    assert np.array_equal(fields.read_spe10(upper, 34).values, text.values[:, :, 0])
    assert np.array_equal(fields.read_spe10(lower, 38).values, text.values[:, :, 4])
    bare = save(folder / "bare.npz", k=k[0, ..., 35:37].astype(np.float32))
    single = fields.read_spe10(bare, (36, 37), first_layer=36)
    np.testing.assert_allclose(single.values, text.values[:, :, 2:4], rtol=1e-7)
    assert single.values.dtype == np.float64
    assert "first_layer must be given" in raised(lambda: fields.read_spe10(bare, 36))[1]
    whole = save(folder / "whole.npz", k=k[0])
    assert np.array_equal(fields.read_spe10(whole, 38).values, text.values[:, :, 4])
    cases = [
        (lambda: fields.read_spe10(lower, 51), "lacks layer [51]"),
        (lambda: fields.read_spe10(folder / "npz", (50, 52)), "lacks layer [51]"),
        (lambda: fields.read_spe10(folder / "npz", 1, first_layer=2), "first_layer must be"),
        (lambda: fields.read_spe10(lower, 36, component="z"), "component must be"),
    ]
    for call, sentence in cases:
        kind, message = raised(call)
        assert kind is ValueError and sentence in message


def test_spe10_faults(folder):
    bad = folder / "bad"
    if COMM.rank == 0:
        bad.mkdir()
        (bad / "truncated.dat").write_text("1.0 2.0 3.0\n4.0")
        (bad / "words.dat").write_text("1.0 2.0 kx 3.0\n")
        (bad / "empty.dat").write_text("")
        (bad / "broken.npz").write_text("not a zip file")
        (bad / "empty").mkdir()
    COMM.barrier()
    zero, nan = np.ones((2, 60, 220, 2))
    zero[3, 4, 1], nan[3, 4, 1] = 0.0, np.nan
    save(bad / "zero.npz", k=zero, source="layers 1-2")
    save(bad / "nan.npz", k=nan, source="layers 1-2")
    save(bad / "other.npz", perm=zero)
    save(bad / "flat.npz", k=zero[0])
    for name, sentence in {
        "truncated.dat": "The number of values must be 3 x 60 x 220 x 85 = 3366000, got 4.",
        "words.dat": "",
        "empty.dat": "The number of values must be",
        "broken.npz": "",
        "zero.npz": "Every value must be positive and finite, got [0.0]",
        "nan.npz": "Every value must be positive and finite, got [nan]",
        "other.npz": "'k'",
        "flat.npz": "The shape of k",
        "empty": "lacks layer",
    }.items():
        kind, message = raised(lambda n=name: fields.read_spe10(bad / n, (1, 2)))
        assert kind is ValueError and sentence in message and str(bad / name) in message
    assert fields.read_spe10(bad / "zero.npz", 1).contrast == 1.0
    for layers in (0, 86, (2, 1), (0, 3), (1, 2, 3), 1.5, None, "1"):
        kind, message = raised(lambda k=layers: fields.read_spe10(bad / "zero.npz", k))
        assert kind is ValueError and str(bad / "zero.npz") in message
    kind, message = raised(lambda: fields.read_spe10(bad / "zero.npz", 1, component="w"))
    assert kind is ValueError and "component must be" in message
    # Rank 0 reads: a fault there reaches all ranks, one elsewhere none.
    there = bad / ("nothing.npz" if COMM.rank == 0 else "zero.npz")
    kind, message = raised(lambda: fields.read_spe10(there, 1))
    assert kind is FileNotFoundError and str(bad / "nothing.npz") in message
    there = bad / ("nothing.npz" if COMM.rank > 0 else "zero.npz")
    assert raised(lambda: fields.read_spe10(there, 1))[0] is None


@pytest.mark.skipif("SPE10" not in os.environ, reason="SPE10 does not name the data")
@pytest.mark.parametrize(
    ("layers", "contrast", "deviation", "lag"),
    # Tarbert and the top of Upper Ness: smooth, and channelled with a weaker correlation.
    [((1, 35), 2.8e7, 1.03, (0.93, 0.95)), ((36, 50), 2.1e7, 1.68, (0.72, 0.84))],
)
def test_spe10_real_file(layers, contrast, deviation, lag):
    field = fields.read_spe10(os.environ["SPE10"], layers)
    assert field.shape == (60, 220, layers[1] - layers[0] + 1)
    assert field.contrast == pytest.approx(contrast, rel=0.02)
    z = np.log10(field.values)
    assert z.std() == pytest.approx(deviation, abs=0.01)
    for one, next_one in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1])):
        correlation = np.corrcoef(one.ravel(), next_one.ravel())[0, 1]
        assert lag[0] - 0.01 < correlation < lag[1] + 0.01
    layer = fields.read_spe10(os.environ["SPE10"], layers[0])
    assert np.array_equal(layer.values, field.values[:, :, 0])
    x, values = gathered(layer.interpolate(layer.create_mesh(COMM)))
    index = (x[:, :2] // (6.096, 3.048)).astype(int)
    assert np.array_equal(values, layer.values[tuple(index.T)])


def test_arrays_and_their_files(folder):
    a = np.array([[0, 1, 2], [2, 1, 4]], dtype=np.uint8)
    if COMM.rank == 0:
        np.save(folder / "a.npy", a)
    path = save(folder / "a.npz", scan=np.stack([a, a + 1], axis=2))
    assert np.array_equal(fields.read_image_stack(folder / "a.npy"), a)
    stack = fields.read_image_stack([folder / "a.npy"] * 3)
    assert stack.shape == (2, 3, 3) and np.array_equal(stack[:, :, 2], a)
    affine = fields.from_array(fields.read_image_stack(path), low=1.0, high=6.0, origin=(0, 0, 1))
    np.testing.assert_allclose(affine.values[:, :, 0], 1.0 + a)
    table = fields.from_array(a, phases={0: 5.0, 1: 1e3, 2: 1.0, 4: 7.0}, cell_size=(1, 2))
    assert table.values.tolist() == [[5.0, 1e3, 1.0], [1.0, 1e3, 7.0]]
    assert table.extent == (2.0, 6.0) and fields.from_array(a + 1.0).extent == (2 / 3, 1.0)


def test_images(folder, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    rows = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)  # the first row is the top
    images = folder / "images"
    if COMM.rank == 0:
        images.mkdir()
        image.fromarray(rows).save(images / "1.png")
        image.fromarray(rows + np.uint8(100)).save(images / "2.png")
        image.fromarray(np.stack([rows] * 3, axis=2)).save(folder / "colour.png")
        image.fromarray(rows.astype(np.uint16) * 1000).save(folder / "deep.png")
        pages = [image.fromarray(rows + np.uint8(i)) for i in range(4)]
        pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
        image.fromarray(rows[:, :2]).save(folder / "small.png")
        (folder / "broken.png").write_text("not an image")
    COMM.barrier()
    expected = np.array([[40.0, 10.0], [50.0, 20.0], [60.0, 30.0]])  # (x, y), y upwards
    assert np.array_equal(fields.read_image_stack(images / "1.png"), expected)
    assert np.array_equal(fields.read_image_stack(folder / "colour.png"), expected)
    assert np.array_equal(fields.read_image_stack(folder / "deep.png"), 1000 * expected)
    stack = fields.read_image_stack(images)
    assert np.array_equal(stack, np.stack([expected, expected + 100], axis=2))
    pages = fields.read_image_stack(folder / "pages.tif")
    assert np.array_equal(pages, np.stack([expected + i for i in range(4)], axis=2))
    mixed = [images / "1.png", folder / "small.png"]
    for path, kind, sentence in (
        (mixed, ValueError, "shapes of the images"),
        (folder / "broken.png", ValueError, "Cannot read"),
        (folder / "none.png", FileNotFoundError, "none.png"),
        ([], ValueError, "shapes of the images"),
    ):
        found, message = raised(lambda p=path: fields.read_image_stack(p))
        assert found is kind and sentence in message
    monkeypatch.setitem(sys.modules, "PIL", None)
    kind, message = raised(lambda: fields.read_image_stack(images / "1.png"))
    assert kind is ImportError and "needs Pillow" in message


def test_pictures_are_bounded(tmp_path, monkeypatch):
    """A small file of very many equal pixels; pages count together."""
    image = pytest.importorskip("PIL.Image")
    pages = [image.fromarray(np.zeros((40, 50), np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    monkeypatch.setattr(readers, "MOST_PIXELS", 6000)
    assert fields.read_image_stack(tmp_path / "pages.tif").shape == (50, 40, 3)
    monkeypatch.setattr(readers, "MOST_PIXELS", 5999)
    with pytest.raises(ValueError, match="Pixels must be at most 5999 in a file, got 6000"):
        fields.read_image_stack(tmp_path / "pages.tif")
