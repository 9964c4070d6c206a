# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Sets of samples: what is in them, growth, interruption, damage, splits."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings

from mpi4py import MPI

import h5py
import numpy as np
import pytest
import scipy.linalg
from sample import is_sentence

from dolfinx import fem, mesh
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid
from dolfinx_msnn._utils.files import LIBVER
from dolfinx_msnn.nn import dataset, lattice, sample_file, sampling
from dolfinx_msnn.nn.config import Family

COMM = MPI.COMM_WORLD
serial = pytest.mark.serial
FAMILIES = [
    Family("two_phase", 2.0, (("contrast", ("log10", 0.0, 3.0)), ("fraction", (0.2, 0.5)))),
    Family("log_normal", 1.0, (("variance", 1.0), ("correlation_length", (0.1, 0.2)))),
]


def grid(n=12, coarse=3, dim=2, cell=None):
    create = {2: mesh.create_unit_square, 3: mesh.create_unit_cube}[dim]
    cell = cell or {2: CellType.quadrilateral, 3: CellType.hexahedron}[dim]
    return CoarseGrid(create(MPI.COMM_SELF, *[n] * dim, cell), [coarse] * dim)


def generate(path, coarse=None, fields=FAMILIES, **changed):
    options = {"num_fields": 3, "num_modes": 3, "lattice": 5, "seed": 4, "comm": MPI.COMM_SELF}
    return dataset.generate(path, coarse or grid(), fields, **(options | changed))


def contents(path):
    """All tables and attributes of a file but the versions, by name."""
    found = {}
    with h5py.File(path) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                found[name] = item[()]
            found.update({f"{name}@{k}": np.array(v) for k, v in item.attrs.items()})

        file.visititems(visit)
    return found


def assert_same(one, two):
    one, two = contents(one), contents(two)
    assert set(one) == set(two)
    for name, value in one.items():
        if value.dtype.kind == "f":
            # The last digit of LAPACK and BLAS depends on where arrays lie in memory, and with it
            # the sign of a mode with two entries of largest magnitude, as where kappa is constant.
            other = two[name]
            if name.endswith("/modes"):
                other = other * np.sign((value * other).sum(axis=-1, keepdims=True))
            np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(value, two[name], err_msg=name)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A set of 2D samples and what its coefficients were."""
    coarse = grid()
    path = tmp_path_factory.mktemp("set") / "a.h5"
    generate(path, coarse)
    return path, coarse


# ---- what is in a set ----


@serial
@pytest.mark.parametrize("dim", [2, 3])
def test_pencils_hold_the_integrals_of_the_coefficient(tmp_path, dim):
    """x·A x = ∫ κ and 1·S 1 = ∫ κ over the neighbourhood, for linear elements exactly."""
    coarse = grid(6, 2, dim)
    path = tmp_path / "a.h5"
    generate(path, coarse, num_fields=2)
    found = dataset.load(path)
    assert len(found) == 2 * 3**dim
    assert found.dim == dim
    cells = np.arange(6**dim, dtype=np.int32)
    midpoints = mesh.compute_midpoints(coarse.fine, dim, cells)[:, :dim]
    for group in found.groups:
        with h5py.File(path) as file:
            x = file[f"geometry/{group.key}/x"][()].astype(float)
        for k in range(len(group)):
            kappa = sampling.draw_field(coarse, FAMILIES, 4, int(group.fields[k])).kappa.x.array
            vertex = coarse.vertex_coordinates(group.vertices[k : k + 1])[0]
            inside = np.all(np.abs(midpoints - vertex) < 0.5, axis=1)
            integral = kappa[inside].sum() / 6**dim
            A, S = group.pencil(k)
            assert A.dtype == np.float32
            ones = np.ones(A.shape[0])
            assert ones @ (S @ ones) == pytest.approx(integral, rel=1e-5)
            for j, side in enumerate(
                np.array(group.sides) * (0.5 if group.class_name == "corner" else 1.0)
            ):
                assert x[:, j] @ (A @ x[:, j]) * side**2 == pytest.approx(integral, rel=1e-4)


@serial
def test_modes_are_those_of_the_dense_pencil(small):
    for group in dataset.load(small[0]).groups:
        for k in range(len(group)):
            A, S = (m.toarray().astype(float) for m in group.pencil(k))
            values, vectors = scipy.linalg.eigh(A, S, subset_by_index=[0, 3])
            scale = values[-1]
            np.testing.assert_allclose(group.eigenvalues[k], values[:3], atol=1e-4 * scale)
            modes = group.modes[k].astype(float)
            np.testing.assert_allclose(modes @ S @ modes.T, np.eye(3), atol=1e-4)
            # Residuals: blind to the order and the signs of close pairs.
            residual = A @ modes.T - S @ modes.T * group.eigenvalues[k]
            assert np.abs(vectors.T @ residual).max() < 1e-3 * scale


@serial
@pytest.mark.parametrize("cell", [CellType.quadrilateral, CellType.triangle])
def test_interpolation_is_exact_for_linear_functions_of_the_pose(tmp_path, cell):
    generate(tmp_path / "a.h5", grid(cell=cell))
    for group in dataset.load(tmp_path / "a.h5").groups:
        with h5py.File(tmp_path / "a.h5") as file:
            x = file[f"geometry/{group.key}/x"][()]
        line = np.linspace(0, 1, 5)
        nodes = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        np.testing.assert_allclose(group.interpolation(5) @ nodes, x, atol=1e-6)
        assert group.inputs.shape[1:] == (8, 5, 5)
        assert group.inputs.dtype == np.float32


@serial
@pytest.mark.parametrize("dim", [2, 3])
def test_solutions_solve_their_problems(tmp_path, dim):
    """Neighbourhood by neighbourhood, where χ is not zero: there A_i u is the load."""
    kinds, n = ("drop", "one", "waves", "drop"), {2: 12, 3: 6}[dim]
    generate(tmp_path / "a.h5", grid(n, dim=dim), solutions=5, kinds=kinds, num_fields=4)
    found = dataset.load(tmp_path / "a.h5")
    assert found.provenance["kinds"] == list(kinds)
    fixed = 0
    for group in found.groups:
        hats = group.inputs[:, 2**dim].reshape(len(group), -1)
        held = group.inputs[:, 2**dim + 1].reshape(len(group), -1)
        back = group.interpolation(5).T.toarray() > 0.999
        for k, (A, u, weight) in enumerate(
            zip(group.A, group.solutions, group.weight, strict=True)
        ):
            size = len(group.indptr) - 1
            A = scipy.sparse.csr_matrix((A, group.indices, group.indptr), (size, size))
            force = (A @ u.T.astype(float)).T
            scale = abs(A) @ np.abs(u.T.astype(float))
            inside = weight > 0
            for drop in (0, 3):
                assert np.all(np.abs(force[drop, inside]) <= 1e-5 * scale[inside, drop] + 1e-7)
            # The load one: as much at each dof with cells all around.
            middle = inside & (np.abs(group.x - 0.5) < 0.499).all(axis=1)
            if group.class_name == "full":
                np.testing.assert_allclose(force[1, middle], force[1, middle].mean(), rtol=1e-3)
            # The kinds begin again: the fourth is another drop, the fifth a drop as well.
            assert abs(force[2, inside]).max() > 1e-4 * scale[inside, 2].max()
            node = back.any(axis=1)
            dofs = back[node].argmax(axis=1)
            np.testing.assert_array_equal(
                weight[dofs], np.where(held[k][node] > 0, 0.0, hats[k][node])
            )
            assert np.all(u[1, dofs[held[k][node] > 0]] == 0)
            fixed += np.count_nonzero(held[k])
    assert fixed


@serial
def test_classes_are_counted_right(small):
    """A 3 x 3 coarse grid has 4 interior vertices, 8 on edges, 4 corners."""
    count = {}
    for group in dataset.load(small[0]).groups:
        count[group.class_name] = count.get(group.class_name, 0) + len(group)
    assert count == {"full": 3 * 4, "half": 3 * 8, "corner": 3 * 4}


@serial
def test_drawn_neighbourhoods(tmp_path):
    assert generate(tmp_path / "a.h5", per_field=5, num_fields=4) == 4
    assert generate(tmp_path / "b.h5", num_fields=4) == 4
    some, every = dataset.load(tmp_path / "a.h5"), dataset.load(tmp_path / "b.h5")
    assert len(some) == 20
    drawn = {}
    for group in some.groups:
        for number, vertex in zip(group.fields, group.vertices, strict=True):
            drawn.setdefault(int(number), set()).add(int(vertex))
    assert all(len(v) == 5 for v in drawn.values())
    assert len({frozenset(v) for v in drawn.values()}) > 1
    # What is drawn is the same as in the full set.
    whole = {g.key: g for g in every.groups}
    for group in some.groups:
        same = whole[group.key]
        for k in range(len(group)):
            at = (same.fields == group.fields[k]) & (same.vertices == group.vertices[k])
            np.testing.assert_array_equal(same.A[at][0], group.A[k])
            np.testing.assert_array_equal(same.inputs[at][0], group.inputs[k])


# ---- symmetries ----


@serial
@pytest.mark.parametrize(("dim", "num"), [(2, 8), (3, 48)])
def test_symmetries_are_those_of_the_mirrored_problem(tmp_path, dim, num):
    """The one neighbourhood that is the whole mesh; lattice nodes are dofs."""
    n = 6 if dim == 2 else 4
    coarse = grid(n, 2, dim)
    rng = np.random.default_rng(0)
    values = np.exp(rng.standard_normal((n,) * dim))
    tables = lattice.symmetries("full", (1.0,) * dim, n + 1, 2)
    assert len(tables.nodes) == num
    transformations = itertools.product(itertools.permutations(range(dim)), np.ndindex((2,) * dim))
    # Some of the many in 3D; the identity is the first.
    transformations = list(transformations)[:: 1 if dim == 2 else 7]
    images = [np.flip(values.transpose(a), np.flatnonzero(f)) for a, f in transformations]

    def field(number):
        kappa = fem.Function(fem.functionspace(coarse.fine, ("DG", 0)))
        cells = np.arange(n**dim, dtype=np.int32)
        x = mesh.compute_midpoints(coarse.fine, dim, cells)[:, :dim]
        index = tuple(np.floor(x * n).astype(int).T)
        kappa.x.array[kappa.function_space.dofmap.list[:, 0]] = images[number][index]
        return kappa

    path = tmp_path / "a.h5"
    generate(path, coarse, field, num_fields=len(images), lattice=n + 1)
    group = next(g for g in dataset.load(path).groups if g.class_name == "full")
    order = np.argsort(group.fields)
    inputs = group.inputs[order].reshape(len(images), 2**dim + 2 * dim, -1)
    # Back from dofs to lattice nodes, one to one here.
    modes = np.stack([group.interpolation(n + 1).T @ m.T for m in group.modes[order]]).transpose(
        0, 2, 1
    )
    used = set()
    for k in range(len(images)):
        hits = [
            g
            for g in range(num)
            if np.allclose(
                inputs[0][tables.channels[g]][: 2**dim][:, tables.nodes[g]],
                inputs[k][: 2**dim],
                atol=1e-5,
            )
        ]
        assert len(hits) == 1, k
        used.add(hits[0])
        np.testing.assert_array_equal(inputs[0][2**dim :], inputs[k][2**dim :])
        back = modes[k][:, tables.inverse[hits[0]]]
        sign = np.sign((back * modes[0]).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(sign * back, modes[0], atol=1e-3)
    assert len(used) == len(images)


@serial
@pytest.mark.parametrize(
    ("name", "sides", "num"),
    [
        ("full", (1.0, 1.0), 8),
        ("full", (0.5, 1.0), 4),
        ("half", (0.5, 1.0), 2),
        ("corner", (1.0, 1.0), 2),
        ("corner", (0.5, 1.0), 1),
        ("full", (1.0, 1.0, 1.0), 48),
        ("half", (0.5, 1.0, 1.0), 8),
        ("quarter", (0.5, 0.5, 1.0), 4),
        ("corner", (1.0, 1.0, 1.0), 6),
    ],
)
def test_number_of_symmetries(name, sides, num):
    tables = lattice.symmetries(name, sides, 3, 2)
    assert len(np.unique(tables.nodes, axis=0)) == len(tables.nodes) == num
    rows = np.arange(num)[:, None]
    np.testing.assert_array_equal(
        tables.nodes[rows, tables.inverse], np.arange(3 ** len(sides))[None].repeat(num, 0)
    )


# ---- growth, interruption, parallelism ----


def test_same_set_at_any_number_of_ranks(tmp_path):
    path = COMM.bcast(str(tmp_path))
    assert generate(f"{path}/all.h5", comm=COMM, num_fields=5) == 5
    if COMM.rank == 0:
        generate(f"{path}/one.h5", num_fields=5)
        assert_same(f"{path}/all.h5", f"{path}/one.h5")
        assert not os.path.exists(f"{path}/all.h5.parts")
    COMM.barrier()


@serial
def test_a_set_grows(tmp_path):
    assert generate(tmp_path / "a.h5", num_fields=2) == 2
    assert generate(tmp_path / "a.h5", num_fields=2) == 0
    assert generate(tmp_path / "a.h5", num_fields=5) == 3
    generate(tmp_path / "b.h5", num_fields=5)
    assert_same(tmp_path / "a.h5", tmp_path / "b.h5")


CHILD = """
import sys
sys.path[:] = {modules!r}
import test_dataset
test_dataset.generate({path!r}, num_fields=1000)
"""


@serial
def test_killed_at_any_time(tmp_path):
    """Killed while fields are written: what is there opens, and sampling goes on."""
    path = str(tmp_path / "a.h5")
    code = CHILD.format(modules=sys.path, path=path)
    child = subprocess.Popen([sys.executable, "-c", code])
    folder, deadline = path + ".parts", time.monotonic() + 60
    try:
        while time.monotonic() < deadline and child.poll() is None:
            if os.path.isdir(folder) and len(sample_file.files_of(path)) >= 3:
                break
            time.sleep(0.003)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL
    parts = sample_file.files_of(path)
    assert len(parts) >= 3
    assert all(len(dataset.load(part)) == 16 for part in parts)
    with pytest.raises(FileNotFoundError, match="not finished"):
        dataset.load(path)
    num = len(parts) + 2
    assert generate(path, num_fields=num) == 2
    assert not os.path.exists(folder)
    generate(tmp_path / "b.h5", num_fields=num)
    assert_same(path, tmp_path / "b.h5")


@serial
def test_a_failing_field_leaves_the_others(tmp_path):
    coarse = grid()

    def field(number):
        kappa = fem.Function(fem.functionspace(coarse.fine, ("DG", 0)))
        kappa.x.array[:] = 1.0 + number if number != 2 else -1.0
        return kappa

    with pytest.raises(ValueError):
        generate(tmp_path / "a.h5", coarse, field, num_fields=4)
    assert len(sample_file.files_of(str(tmp_path / "a.h5"))) == 2


# ---- splits ----


@serial
def test_splits_are_by_field_and_do_not_move(tmp_path):
    options = {"validation": 0.3, "test": 0.3}
    names = [dataset.split_of(7, k, **options) for k in range(2000)]
    shares = [names.count(split) / 2000 for split in dataset.SPLITS]
    np.testing.assert_allclose(shares, [0.4, 0.3, 0.3], atol=0.04)
    assert names != [dataset.split_of(8, k, **options) for k in range(2000)]

    path = tmp_path / "a.h5"
    seen = {}
    for num in (8, 12):
        generate(path, num_fields=num, per_field=2)
        parts = {}
        for split in dataset.SPLITS:
            groups = dataset.load(path, split=split, **options).groups
            parts[split] = {int(f) for g in groups for f in g.fields}
        assert sum(map(len, parts.values())) == num
        assert set.union(*parts.values()) == set(range(num))
        where = {f: split for split, fields in parts.items() for f in fields}
        assert all(where[f] == split for f, split in seen.items())
        seen = where


@serial
def test_empty_split(small):
    with pytest.raises(ValueError, match="no field in the split test") as caught:
        dataset.load(small[0], split="test", test=0.0)
    is_sentence(str(caught.value))
    with pytest.raises(ValueError, match="split must be"):
        dataset.load(small[0], split="all")


# ---- damage and mistakes ----


def _cut(path):
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def _text(path):
    with open(path, "w") as file:
        file.write("no HDF5 at all\n" * 100)


def _foreign(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)


def _flip(path):
    """One byte in the middle of a table."""
    with h5py.File(path) as file:
        key = next(iter(file["fields/000001"]))
        offset = file[f"fields/000001/{key}/A"].id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as file:
        file.seek(offset + 20)
        byte = file.read(1)
        file.seek(offset + 20)
        file.write(bytes([byte[0] ^ 0xFF]))


def _no_table(path):
    with h5py.File(path, "r+") as file:
        key = next(iter(file["fields/000001"]))
        del file[f"fields/000001/{key}/S"]


def _not_finite(path):
    with h5py.File(path, "r+") as file:
        key = next(iter(file["fields/000001"]))
        file[f"fields/000001/{key}/modes"][0, 0, 0] = np.nan


def _newer(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99


def _first(file):
    """The name of the first table group of a field, and the geometry of that name."""
    key = next(iter(file["fields/000001"]))
    return f"fields/000001/{key}", f"geometry/{key}"


def _replace(file, name, **options):
    """Another table of that name, with checksums."""
    old = file[name]
    options = {"data": old[()], "chunks": old.chunks, "fletcher32": True} | options
    del file[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return file.create_dataset(name, **options)


def _external_raw_storage(file, field, geometry):
    shape = file[f"{field}/A"].shape
    del file[f"{field}/A"]
    place = [("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(f"{field}/A", shape, "f4", external=place)


def _virtual_table(file, field, geometry):
    layout = h5py.VirtualLayout(file[f"{field}/A"].shape, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "A", layout.shape)
    del file[f"{field}/A"]
    file.create_virtual_dataset(f"{field}/A", layout)


def _link(name, link):
    def change(file, field, geometry):
        where = {"table": f"{field}/S", "field": "fields/000001", "geometry": geometry}[name]
        if isinstance(link, h5py.SoftLink):
            file.move(where, "aside")
        else:
            del file[where]
        file[where] = link

    change.__name__ = f"{type(link).__name__} {name}"
    return change


def _table(name, function=None, **options):
    """A table of other values, or made in another way."""

    def change(file, field, geometry):
        where = f"{geometry if name in file[geometry] else field}/{name}"
        if function is None:
            _replace(file, where, **options)
        else:
            values = file[where][()]
            function(values)
            file[where][...] = values

    change.__name__ = f"{name} {options or function}"[:30]
    return change


def _dtype(name, kind):
    def change(file, field, geometry):
        where = f"{geometry if name in file[geometry] else field}/{name}"
        _replace(file, where, data=file[where][()].astype(kind))

    change.__name__ = f"{name} {kind}"
    return change


def _provenance(**changed):
    def change(file, field, geometry):
        file.attrs["provenance"] = np.bytes_(
            json.dumps(json.loads(file.attrs["provenance"]) | changed)
        )

    change.__name__ = f"provenance {changed}"
    return change


def _class(file, field, geometry):
    file[geometry].attrs["class"] = np.bytes_("octant")


def _text_of_any_length(file, field, geometry):
    """As older versions wrote it."""
    file.attrs["provenance"] = file.attrs["provenance"].decode()


def _claimed(**options):
    """Rows that are not there."""

    def change(file, field, geometry):
        for name in ("vertex", "A"):
            old = file[f"{field}/{name}"]
            shape, chunks = (2**36, *old.shape[1:]), (1, *old.shape[1:])
            _replace(
                file, f"{field}/{name}", data=None, shape=shape, dtype=old.dtype, chunks=chunks
            )

    return change


def _bomb(file, field, geometry):
    """Four kilobytes in the file for each of 128 MiB."""
    options = {"chunks": (2**20,), "compression": "gzip", "data": None, "dtype": "i8"}
    table = _replace(file, f"{field}/vertex", shape=(2**24,), **options)
    table[:] = np.zeros(2**24)


def _many_names(file, field, geometry):
    """One field that has a hundred names."""
    for number in range(10, 100):
        file[f"fields/{number:06d}"] = file["fields/000001"]


def _at(index, value):
    return lambda values: values.__setitem__(index, value)


@serial
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_external_raw_storage, "the table A is missing"),
        (_virtual_table, "the table A is missing"),
        (_link("table", h5py.ExternalLink("pipe", "/")), "the table S is missing"),
        (_link("table", h5py.SoftLink("/aside")), "the table S is missing"),
        (_link("field", h5py.ExternalLink("pipe", "/")), "it has no group 000001"),
        (_link("field", h5py.SoftLink("/aside")), "it has no group 000001"),
        (_link("geometry", h5py.ExternalLink("pipe", "/")), "it has no group "),
        (_dtype("A", "c8"), "the table A is missing, of another kind or too large"),
        (_dtype("A", "S9"), "the table A is missing, of another kind or too large"),
        (_dtype("modes", "f8"), "the table modes is missing, of another kind or too large"),
        (_dtype("indices", "u4"), "the table indices is missing, of another kind or too large"),
        (_table("A", fletcher32=False), "the table A is missing, of another kind or too large"),
        (_table("A", compression="lzf"), "the table A is missing, of another kind or too large"),
        (_table("indices", _at(3, 2**30)), "the table indices has entries out of range"),
        (_table("indices", _at(3, -1)), "the table indices has entries out of range"),
        (_table("indptr", _at(1, 2**30)), "the table indices has entries out of range"),
        (_table("indptr", _at(-1, 3)), "the table indices has entries out of range"),
        (_table("x", _at((0, 0), np.inf)), "the table x has a value not finite"),
        (_table("input", _at(0, np.nan)), "the table input has a value not finite"),
        (_table("vertex", data=np.zeros(3, "i8"), chunks=(3,)), "has the wrong shape"),
        (_provenance(lattice=7), "out of range|wrong shape"),
        (_provenance(samples=4), "the table input has the wrong shape"),
        (_provenance(num_modes=2), "the table modes has the wrong shape"),
        (_provenance(num_modes="2"), "num_modes must be an integer of at least 1, got '2'"),
        (_provenance(dim=4), "dim must be 2 or 3, got 4"),
        (_class, "has no class"),
        (_text_of_any_length, "its provenance is not kept as text of fixed length"),
        (_claimed(), "the table vertex is missing"),
        (_bomb, "the table vertex is missing, of another kind or too large"),
        (_many_names, "is missing, of another kind or too large"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_forged_sets_are_refused(small, tmp_path, monkeypatch, change, told):
    """With right checksums; neither other files are opened nor memory is taken for claims."""
    path = tmp_path / "a.h5"
    shutil.copy(small[0], path)
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(sample_file, "_SMALL", 2**20)
    monkeypatch.setattr(sample_file, "_EXPANSION", 4)
    dataset.load(path)
    with h5py.File(path, "r+", libver=LIBVER) as file:
        change(file, *_first(file))
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=rf"a\.h5 is not .* with samples: .*({told})"
        ) as caught:
            dataset.load(path)
        is_sentence(str(caught.value))
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


@serial
@pytest.mark.parametrize(
    "damage",
    [_cut, _text, _foreign, _flip, _no_table, _not_finite, _newer],
    ids=lambda f: f.__name__,
)
def test_damaged_files_are_refused(small, tmp_path, damage):
    path = tmp_path / "a.h5"
    shutil.copy(small[0], path)
    damage(path)
    with pytest.raises(
        ValueError, match=r"a\.h5 is not a readable HDF5 file with samples"
    ) as caught:
        dataset.load(path)
    is_sentence(str(caught.value))


@serial
def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        dataset.load(tmp_path / "a.h5")


@serial
@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"seed": 5}, "seed=4"),
        ({"lattice": 7}, "lattice=5"),
        ({"per_field": 2}, "per_field=0"),
        ({"fields": FAMILIES[:1]}, "other families"),
        ({"coarse": grid(14)}, "num_cells=144"),
        ({"num_fields": 0}, "num_fields must be"),
        ({"samples": 3}, "samples must be even"),
        ({"seed": -1}, "seed must be"),
        ({"num_modes": 2.5}, "num_modes must be"),
    ],
)
def test_other_settings_are_refused(small, tmp_path, changed, match):
    path = tmp_path / "a.h5"
    shutil.copy(small[0], path)
    with pytest.raises(ValueError, match=match) as caught:
        generate(path, **changed)
    is_sentence(str(caught.value))
    assert_same(path, small[0])


@pytest.mark.skipif(COMM.size == 1, reason="needs ranks")
def test_distributed_meshes_are_refused(tmp_path):
    coarse = CoarseGrid(mesh.create_unit_square(COMM, 8, 8), [2, 2])
    with pytest.raises(ValueError, match="COMM_SELF"):
        dataset.generate(
            COMM.bcast(str(tmp_path / "a.h5")), coarse, FAMILIES, num_fields=1, lattice=5
        )
