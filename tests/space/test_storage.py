# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Spaces in files: what is saved comes back on any number of ranks, or is refused with a reason."""

import os
import shutil
import tracemalloc

from mpi4py import MPI

import h5py
import numpy as np
import pytest
from sample import COMM, HERE, Sample, expect_error, is_sentence

import basix.ufl
import ufl
from dolfinx import fem, mesh
from dolfinx_msnn import (
    CoarseGrid,
    LocalModes,
    MultiscaleFunctionSpace,
    SpectralBasis,
    multiscale_functionspace,
)
from dolfinx_msnn._utils.files import LIBVER
from dolfinx_msnn.space.file_tables import DTYPES


@pytest.fixture
def folder(tmp_path):
    """A folder that all ranks share."""
    return COMM.bcast(str(tmp_path), root=0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder of the whole module that all ranks share."""
    return COMM.bcast(str(tmp_path_factory.mktemp("storage")), root=0)


def listing(folder):
    """What is in a folder, once all ranks are here."""
    COMM.barrier()
    return COMM.bcast(sorted(os.listdir(folder)), root=0)


# ---- everything a space holds, in an order that does not depend on ranks -------------------------


def gather(comm, *arrays):
    """Rows of all ranks, one after the other."""
    return [np.concatenate(parts) for parts in zip(*comm.allgather(arrays), strict=True)]


def content(W):
    """P by coordinates and all bookkeeping, the same on every rank and at any number of ranks."""
    comm, V = W.comm, W.V
    bs, owned = V.dofmap.index_map_bs, V.dofmap.index_map.size_local
    indptr, indices, values = W.P.getValuesCSR()
    dense = np.zeros((bs * owned, W.num_dofs))
    rows = np.repeat(np.arange(bs * owned), np.diff(indptr))
    dense[rows, indices] = values
    x = np.repeat(V.tabulate_dof_coordinates()[:owned], bs, axis=0)
    component = np.tile(np.arange(bs), owned)
    x, component, dense, dirichlet = gather(comm, x, component, dense, W.dirichlet)
    order = np.lexsort((component, *np.round(x, 9).T))
    vertex, mode = gather(comm, W.vertex, W.mode)
    spectra = {}
    for part in comm.allgather(W.eigenvalues):
        assert not set(part) & set(spectra)
        spectra |= part
    return {
        "x": np.round(x[order], 9),
        "P": dense[order],
        "dirichlet": dirichlet[order],
        "vertex": vertex,
        "mode": mode,
        "spectra": spectra,
        "counts": (W.num_dofs, W.num_dropped, W.num_neighbourhoods),
    }


def assert_same(one, two):
    """Equal to the last bit."""
    assert one.keys() == two.keys()
    for key, value in one.items():
        if key == "spectra":
            assert value.keys() == two[key].keys()
            for vertex, spectrum in value.items():
                assert np.array_equal(spectrum, two[key][vertex])
        else:
            assert np.array_equal(value, two[key]), key


def assert_whole_neighbourhoods(W):
    """Each neighbourhood's dofs and eigenvalues are on one rank, and every rank has its share."""
    assert set(W.vertex) <= set(W.eigenvalues)
    for vertex in W.eigenvalues:
        dofs = W.neighbourhood_dofs(vertex)
        assert np.array_equal(dofs, np.arange(len(dofs)) + dofs[0] if len(dofs) else dofs)
    everywhere = W.comm.allgather(set(W.vertex))
    assert sum(map(len, everywhere)) == len(set().union(*everywhere))
    assert all(everywhere) or len(set().union(*everywhere)) < W.comm.size


# ---- round trips --------------------------------------------------------------------------------


class Twice:
    """Constants, again constants, and a coordinate: one basis function of each three is dropped."""

    def modes(self, problems):
        return [
            LocalModes(np.arange(3.0), np.stack([np.ones(p.num_dofs)] * 2 + [p.x[:, 0]]))
            for p in problems
        ]


def unit_cell(comm, cell, n):
    if mesh.cell_dim(cell) == 3:
        return mesh.create_unit_cube(comm, n, n, n, cell)
    return mesh.create_unit_square(comm, n, n, cell)


class Case:
    """One kind of space, on any communicator."""

    cell = mesh.CellType.triangle
    element = ("Lagrange", 1)
    n = 6
    with_s = False
    basis = SpectralBasis(3)
    robin = False
    some_bcs = True
    overlap = None

    def __init__(self, comm):
        self.mesh = msh = unit_cell(comm, self.cell, self.n)
        self.V = V = fem.functionspace(msh, self.element)
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        kappa = fem.Function(fem.functionspace(msh, ("DG", 0)))
        kappa.interpolate(lambda x: 1.0 + 1e4 * (np.abs(x[0] - x[1]) < 0.2))
        self.a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        if self.robin:
            self.a += 0.5 * ufl.inner(u, v) * ufl.ds
        self.s = kappa * ufl.inner(u, v) * ufl.dx if self.with_s else None
        self.bcs = []
        if self.some_bcs:
            dofs = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0], 0))
            self.bcs = [fem.dirichletbc(fem.Function(V), dofs)]

    def space(self):
        coarse = CoarseGrid(self.mesh, [2] * self.mesh.geometry.dim, overlap=self.overlap)
        return multiscale_functionspace(self.V, coarse, self.basis, self.a, self.s, self.bcs)

    def load(self, path, **changed):
        arguments = {"V": self.V, "a": self.a, "s": self.s, "bcs": self.bcs} | changed
        return MultiscaleFunctionSpace.load(path, **arguments)


class WithS(Case):
    with_s = True


class QuadraticQuadrilaterals(Case):
    cell = mesh.CellType.quadrilateral
    element = ("Lagrange", 2)
    n = 4
    with_s = True
    robin = True
    some_bcs = False


class VectorsOnTetrahedra(Case):
    cell = mesh.CellType.tetrahedron
    element = ("Lagrange", 1, (3,))
    n = 3


class QuadraticVectorsOnHexahedra(Case):
    cell = mesh.CellType.hexahedron
    element = ("Lagrange", 2, (3,))
    n = 2
    basis = SpectralBasis(2)


class Overlapping(Case):
    overlap = 1
    with_s = True


class SymmetricTensors(Case):
    element = basix.ufl.element("P", "triangle", 1, shape=(2, 2), symmetry=True)
    n = 4


class Dropped(Case):
    basis = Twice()


class Adaptive(Case):
    """Another number of modes in each neighbourhood."""

    with_s = True
    basis = SpectralBasis(threshold=30.0, max_modes=5)


CASES = [
    Case,
    WithS,
    QuadraticQuadrilaterals,
    VectorsOnTetrahedra,
    QuadraticVectorsOnHexahedra,
    Overlapping,
    SymmetricTensors,
    Dropped,
    Adaptive,
]


@pytest.mark.parametrize("kind", CASES)
def test_round_trip(kind, folder):
    """Saved by all ranks; loaded by all, by one, and by each alone; and saved by one."""
    case, path = kind(COMM), f"{folder}/space.h5"
    with case.space() as W:
        saved = content(W)
        W.save(path, case.a, s=case.s)
        assert listing(folder) == ["space.h5"]
    if kind is Dropped:
        assert saved["counts"][1] >= 9
    if kind is Adaptive:
        assert len({len(x) for x in saved["spectra"].values()}) > 1
    with case.load(path) as loaded:
        assert_same(content(loaded), saved)
        assert_whole_neighbourhoods(loaded)
        assert loaded.timings == {}
        # And once more; the same tables.
        loaded.save(f"{folder}/again.h5", case.a, s=case.s)
    with h5py.File(path) as one, h5py.File(f"{folder}/again.h5") as two:
        for key in one:
            assert np.array_equal(one[key], two[key])
    alone = kind(MPI.COMM_SELF)
    with alone.load(path) as loaded:
        assert_same(content(loaded), saved)
    if COMM.rank == 0:
        with alone.space() as W:
            content_alone = content(W)
            W.save(f"{folder}/alone.h5", alone.a, s=alone.s)
    content_alone = COMM.bcast(content_alone if COMM.rank == 0 else None, root=0)
    with case.load(f"{folder}/alone.h5") as loaded:
        assert_same(content(loaded), content_alone)
        assert_whole_neighbourhoods(loaded)


@pytest.mark.skipif(COMM.size < 3, reason="three ranks or more")
def test_other_number_of_ranks(folder):
    """Saved by all ranks, loaded by all but one, saved by these, loaded by all."""
    case, path = WithS(COMM), f"{folder}/space.h5"
    with case.space() as W:
        saved = content(W)
        W.save(path, case.a, s=case.s)
    group = COMM.Split(int(HERE), COMM.rank)
    part = WithS(group)
    with part.load(path) as loaded:
        assert_same(content(loaded), saved)
        assert_whole_neighbourhoods(loaded)
        if not HERE:
            loaded.save(f"{folder}/part.h5", part.a, s=part.s)
    COMM.barrier()
    with case.load(f"{folder}/part.h5") as loaded:
        assert_same(content(loaded), saved)
    del part, loaded
    group.Free()


def test_ranks_without_nodes(folder):
    """A mesh of two cells: on three and more ranks some rank has neither cells nor dofs."""
    msh = mesh.create_unit_square(COMM, 1, 1)
    V = fem.functionspace(msh, ("Lagrange", 1))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx + u * v * ufl.dx
    with multiscale_functionspace(V, CoarseGrid(msh, (1, 1)), SpectralBasis(1), a) as W:
        saved = content(W)
        W.save(f"{folder}/space.h5", a)
    with MultiscaleFunctionSpace.load(f"{folder}/space.h5", V, a) as W:
        assert_same(content(W), saved)


def test_loaded_space_solves(folder):
    """The solution is that of the space that was saved."""
    p = Sample()
    with p.space(s=p.s) as W, p.problem(W) as problem:
        W.save(f"{folder}/space.h5", p.a, s=p.s)
        u = problem.solve().x.array.copy()
    with MultiscaleFunctionSpace.load(f"{folder}/space.h5", p.V, p.a, s=p.s, bcs=p.bcs) as W:
        with p.problem(W) as problem:
            assert np.abs(problem.solve().x.array - u).max() < 1e-12


def test_names(folder):
    """Files are replaced, links followed, and any path-like object taken."""
    p = Sample()
    real, link = f"{folder}/real.h5", f"{folder}/link.h5"
    if COMM.rank == 0:
        with open(real, "w") as file:
            file.write("old")
        os.symlink(real, link)
    COMM.barrier()

    class Path(os.PathLike):
        def __fspath__(self):
            return link

    with p.space() as W:
        W.save(Path(), p.a)
    assert listing(folder) == ["link.h5", "real.h5"]
    assert os.path.islink(link) and not os.path.islink(real)
    with MultiscaleFunctionSpace.load(Path(), p.V, p.a, bcs=p.bcs, mat_type="aij") as W:
        assert W.num_dofs == 18


# ---- files that do not fit ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def p():
    return Sample()


@pytest.fixture(scope="module")
def good(p, shared):
    """A file, and the content of the space that is in it."""
    path = f"{shared}/good.h5"
    with p.space(s=p.s) as W:
        W.save(path, p.a, s=p.s)
        saved = content(W)
    return path, saved


def load(p, path, **changed):
    arguments = {"V": p.V, "a": p.a, "s": p.s, "bcs": p.bcs} | changed
    return MultiscaleFunctionSpace.load(path, **arguments)


@pytest.fixture(autouse=True)
def the_good_file_still_loads(request, p, good):
    """After every test; on several ranks, where it takes the time of a test, after every tenth."""
    yield
    if COMM.size == 1 or request.session.items.index(request.node) % 10 == 0:
        with load(p, good[0]) as W:
            assert W.num_dofs == 18


def test_missing_file(p, folder):
    with expect_error(FileNotFoundError, "There is no file .*nothing.h5"):
        load(p, f"{folder}/nothing.h5")
    with expect_error(FileNotFoundError, "There is no file .*"):
        load(p, folder)


def test_file_that_one_rank_does_not_see(p, good, monkeypatch):
    isfile = os.path.isfile
    with monkeypatch.context() as patch:
        if HERE:
            patch.setattr(os.path, "isfile", lambda name: name != good[0] and isfile(name))
        with expect_error(FileNotFoundError, "There is no file .*good.h5"):
            load(p, good[0])


def test_file_that_one_rank_cannot_open(p, good, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        if HERE:
            patch.setattr(h5py, "File", refuse)
        with expect_error(ValueError, "good.h5 is not a readable HDF5 file .*Permission denied"):
            load(p, good[0])


def test_not_an_hdf5_file(p, folder):
    if COMM.rank == 0:
        for name, text in (("text", b"This is a text.\n" * 100), ("empty", b"")):
            with open(f"{folder}/{name}", "wb") as file:
                file.write(text)
    COMM.barrier()
    for name in ("text", "empty"):
        with expect_error(ValueError, f"{name} is not a readable HDF5 file with a multiscale"):
            load(p, f"{folder}/{name}")


@pytest.mark.parametrize("path", [None, 3, "", b"bytes"])
def test_path(p, path):
    with p.space() as W, expect_error(ValueError, "path must be the name of a file, got"):
        W.save(path if HERE else "never.h5", p.a)
    with expect_error(ValueError, "path must be the name of a file, got"):
        load(p, path if HERE else "never.h5")


@pytest.mark.skipif(COMM.size == 1, reason="ranks that differ")
def test_path_differs(p, good, folder):
    path = f"{folder}/other.h5" if HERE else good[0]
    with p.space() as W, expect_error(ValueError, "path differs between the ranks: .*good.h5"):
        W.save(path, p.a)
    with expect_error(ValueError, "path differs between the ranks: .*good.h5"):
        load(p, path)
    assert listing(folder) == []


@pytest.mark.skipif(COMM.size == 1, reason="ranks that differ")
def test_another_file_of_the_same_name(p, good, folder, monkeypatch):
    """As on machines that share no disks: each rank sees a whole file, but not the same."""
    with p.space(s=p.s) as W:
        W.save(f"{folder}/other.h5", p.a, s=p.s)
    with monkeypatch.context() as patch:
        if HERE:
            file = h5py.File
            patch.setattr(h5py, "File", lambda name, mode: file(f"{folder}/other.h5", mode))
        with expect_error(ValueError, "file differs between the ranks"):
            load(p, good[0])


def test_another_mesh(p, good):
    for other in (Sample(n=7), Sample(n=5)):
        with expect_error(ValueError, "good.h5 was saved on another mesh, of 72 cells"):
            load(other, good[0])


def test_another_mesh_of_the_same_size(good):
    moved = Sample()
    x = moved.mesh.geometry.x
    x[:, 0] += 1e-3 * np.sin(np.pi * x[:, 0])
    with expect_error(ValueError, "good.h5 was saved on another mesh: [0-9]+ of [0-9]+ nodes"):
        load(moved, good[0])


def test_another_mesh_on_the_same_nodes(p, good):
    turned = Sample.__new__(Sample)
    turned.mesh = mesh.create_unit_square(COMM, 6, 6, diagonal=mesh.DiagonalType.left)
    V = turned.V = fem.functionspace(turned.mesh, ("Lagrange", 1))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    with expect_error(ValueError, "was saved for another form a or coefficient: they differ at"):
        load(p, good[0], V=V, a=a, s=u * v * ufl.dx, bcs=[p.bc(0.0, V)])


@pytest.mark.parametrize(
    "element",
    [("Lagrange", 2), ("Lagrange", 1, (2,)), ("Lagrange", 1, (1,))],
)
def test_another_element(p, good, element):
    V = fem.functionspace(p.mesh, element)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a, s = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx, ufl.inner(u, v) * ufl.dx
    with expect_error(ValueError, "good.h5 holds a space of the element .*, expected that of V"):
        load(p, good[0], V=V, a=a, s=s, bcs=[])


@pytest.mark.parametrize("name", ["a", "s"])
def test_another_form(p, good, name):
    with expect_error(ValueError, f"was saved for another form {name} or coefficient"):
        load(p, good[0], **{name: getattr(p, name) + 1e-4 * p.u * p.v * ufl.ds})


@pytest.mark.parametrize("factor", [1 + 1e-6, 1e6, np.nan])
@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_another_coefficient_in_one_cell(p, good, factor, which):
    """In a single cell, be it of the smallest or of the largest value."""
    before = p.kappa.x.array.copy()
    try:
        if HERE:
            # On this rank's cells.
            num = p.mesh.topology.index_map(2).size_local
            values = p.kappa.x.array[:num]
            cell = np.argmin(values) if which == "smallest" else np.argmax(values)
            p.kappa.x.array[cell] *= factor
        p.kappa.x.scatter_forward()
        with expect_error(
            ValueError, "was saved for another form a or coefficient: .* at the node"
        ):
            load(p, good[0])
    finally:
        p.kappa.x.array[:] = before


def test_what_load_would_refuse_is_not_saved(p, folder):
    """A NaN on one rank."""
    with p.space() as W:
        before = p.kappa.x.array.copy()
        try:
            if HERE:
                p.kappa.x.array[0] = np.nan
            with expect_error(ValueError, "A form has NaN or infinite coefficients"):
                W.save(f"{folder}/hollow.h5", p.a)
        finally:
            p.kappa.x.array[:] = before
    assert listing(folder) == []


def test_negative_eigenvalues_are_not_saved(p, folder):
    """What a basis of one's own may give on one rank."""

    class Negative:
        def modes(self, problems):
            found = p.basis.modes(problems)
            return [LocalModes(m.values - (1.0 if HERE else 0.0), m.vectors) for m in found]

    with p.space(basis=Negative()) as W:
        with expect_error(ValueError, "The basis gave the eigenvalue -1, expected none below zero"):
            W.save(f"{folder}/negative.h5", p.a)
    assert listing(folder) == []


def test_rounding_errors_are_no_other_coefficient(p, good):
    before = p.kappa.x.array.copy()
    try:
        p.kappa.x.array[:] *= 1 + 1e-13 * np.sin(np.arange(len(before)))
        with load(p, good[0]) as W:
            assert_same(content(W), good[1])
    finally:
        p.kappa.x.array[:] = before


@pytest.mark.parametrize("which", ["none", "another face", "more"])
def test_other_bcs(p, good, which):
    bcs = {"none": [], "another face": [p.bc(1.0)], "more": [p.bc(0.0), p.bc(1.0)]}[which]
    with expect_error(ValueError, "good.h5 was saved with other Dirichlet dofs: .* same ones"):
        load(p, good[0], bcs=bcs)


def test_with_and_without_s(p, good, folder):
    with expect_error(ValueError, "saved with a form s, and load.. was called without one"):
        load(p, good[0], s=None)
    with p.space() as W:
        W.save(f"{folder}/plain.h5", p.a)
    with expect_error(ValueError, "saved without a form s, and load.. was called with one"):
        load(p, f"{folder}/plain.h5")


def test_arguments(p, good):
    """As when a space is built; on one rank."""
    Q = fem.functionspace(p.mesh, ("Lagrange", 2))
    for changed, match in (
        ({"a": None}, "a must be a UFL bilinear form, got NoneType"),
        ({"a": p.L}, "a must be a bilinear form"),
        ({"s": ufl.TrialFunction(Q) * ufl.TestFunction(Q) * ufl.dx}, "arguments of s are on anoth"),
        ({"bcs": [p.bc(0.0, Q)]}, r"bcs\[0\] is on another function space"),
        ({"bcs": None}, "bcs must be a sequence"),
        ({"mat_type": "nonsense"}, "mat_type='nonsense' is not a sparse matrix type"),
    ):
        with expect_error(ValueError, match):
            load(p, good[0], **(changed if HERE else {}))
    for V in (None, p.mesh):
        with expect_error(ValueError, "Expected a dolfinx.fem.FunctionSpace, got"):
            load(p, good[0], V=V)
    with expect_error(ValueError, "Expected a continuous Lagrange space"):
        load(p, good[0], V=fem.functionspace(p.mesh, ("DG", 1)))


def test_arguments_of_save(p, folder):
    Q = fem.functionspace(p.mesh, ("Lagrange", 2))
    with p.space() as W:
        for changed, match in (
            ({"a": p.L}, "a must be a bilinear form"),
            ({"s": ufl.TrialFunction(Q) * ufl.TestFunction(Q) * ufl.dx}, "arguments of s are on"),
        ):
            arguments = {"a": p.a} | (changed if HERE else {})
            with expect_error(ValueError, match):
                W.save(f"{folder}/never.h5", **arguments)
    assert listing(folder) == []


# ---- files that cannot be written ---------------------------------------------------------------


def test_unwritable(p, folder):
    """No folder, a file for a folder, a folder for a file, a file system that takes no files."""
    if COMM.rank == 0:
        os.mkdir(f"{folder}/dir")
        with open(f"{folder}/file", "w"):
            pass
    COMM.barrier()
    with p.space() as W:
        for path in ("nowhere/x.h5", "file/x.h5", "dir", "/proc/x.h5"):
            with expect_error(OSError, f"Cannot write .*{path}: .+"):
                W.save(os.path.join(folder, path), p.a)
        # The space is as it was.
        W.save(f"{folder}/x.h5", p.a)
    assert listing(folder) == ["dir", "file", "x.h5"]
    assert listing(f"{folder}/dir") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(p, folder):
    if COMM.rank == 0:
        os.chmod(folder, 0o555)
    COMM.barrier()
    with p.space() as W, expect_error(OSError, "Cannot write .*x.h5: .*"):
        W.save(f"{folder}/x.h5", p.a)
    COMM.barrier()
    if COMM.rank == 0:
        os.chmod(folder, 0o755)


@pytest.mark.parametrize("step", ["open", "write", "rename"])
@pytest.mark.parametrize("old", [False, True])
def test_failed_save_leaves_nothing_behind(p, folder, monkeypatch, step, old):
    """The last rank, which writes last, fails (root, where files are renamed)."""
    path = f"{folder}/space.h5"
    with p.space() as W:
        saved = content(W)
        if old:
            W.save(path, p.a)
        with monkeypatch.context() as patch:

            def fail(*args, **kwargs):
                raise OSError(28, "No space left on device")

            if step == "open" and HERE:
                patch.setattr(h5py, "File", fail)
            if step == "write" and HERE:
                patch.setattr(h5py.Dataset, "__setitem__", fail)
            if step == "rename":
                patch.setattr(os, "replace", fail)
            with expect_error(OSError, "Cannot write .*space.h5: .*No space left on device"):
                W.save(path, p.a)
        assert listing(folder) == (["space.h5"] if old else [])
    if old:
        with load(p, path, s=None) as W:
            assert_same(content(W), saved)


@pytest.mark.serial
@pytest.mark.parametrize("gap", [0.0, 1e-9])
def test_nodes_at_the_same_place(folder, gap):
    """A slit: two nodes that a file cannot tell apart by position, or only without rounding."""
    x = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1]], dtype=np.float64)
    if gap:
        # The sides of the slit meet in one place, at the edge of a bin of match_points.
        x[4, 1], x[[2, 5], 0] = 0.1, 9e6 / 0.7391e8 + gap * np.array([-0.5, 0.5])
    cells = np.array([[0, 1, 2], [3, 4, 5]], dtype=np.int64)
    domain = ufl.Mesh(basix.ufl.element("Lagrange", "triangle", 1, shape=(2,)))
    msh = mesh.create_mesh(COMM, cells, domain, x)
    V = fem.functionspace(msh, ("Lagrange", 2))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx + u * v * ufl.dx
    with multiscale_functionspace(V, CoarseGrid(msh, (1, 1)), SpectralBasis(1), a) as W:
        with expect_error(ValueError, "The fine space has nodes at the same place"):
            W.save(f"{folder}/slit.h5", a)
    assert listing(folder) == []


# ---- damaged and forged files -------------------------------------------------------------------


def refused(p, path, saved):
    """Whether a file is refused with a sentence; else what is loaded must be what was saved."""
    try:
        W = load(p, path)
    except ValueError as exc:
        is_sentence(str(exc))
        return True
    with W:
        assert_same(content(W), saved)
    return False


@pytest.mark.serial
def test_truncated(p, good, folder):
    path, saved = good
    size = os.path.getsize(path)
    copy = f"{folder}/copy.h5"
    lengths = [*range(0, size, size // 50), size - 1, size - 2, size - 8]
    for length in lengths:
        shutil.copyfile(path, copy)
        os.truncate(copy, length)
        assert refused(p, copy, saved), length
    assert len(lengths) > 50


@pytest.mark.skipif(COMM.size == 1, reason="the same as test_truncated")
def test_truncated_on_all_ranks(p, good, folder):
    if COMM.rank == 0:
        shutil.copyfile(good[0], f"{folder}/copy.h5")
        os.truncate(f"{folder}/copy.h5", os.path.getsize(good[0]) // 2)
    COMM.barrier()
    with expect_error(ValueError, "copy.h5 is not a readable HDF5 file .*"):
        load(p, f"{folder}/copy.h5")


def flip(path, copy, offset, bit):
    """A copy of a file with one bit changed."""
    data = bytearray(open(path, "rb").read())
    data[offset] ^= 1 << bit
    with open(copy, "wb") as file:
        file.write(data)


@pytest.mark.serial
def test_flipped_bits(p, good, folder):
    """Anywhere in the file: refused, or in a place that holds nothing."""
    path, saved = good
    rng = np.random.default_rng(0)
    size = os.path.getsize(path)
    outcomes = []
    for offset, bit in zip(rng.integers(0, size, 200), rng.integers(0, 8, 200), strict=True):
        flip(path, f"{folder}/copy.h5", offset, bit)
        outcomes.append(refused(p, f"{folder}/copy.h5", saved))
    # Most of a file are tables.
    assert np.mean(outcomes) > 0.5


@pytest.mark.serial
def test_flipped_bits_in_tables(p, good, folder):
    """In a table there is no such place."""
    path, saved = good
    rng = np.random.default_rng(1)
    with h5py.File(path) as file:
        assert set(file) == set(DTYPES)
        chunks = {
            key: [data.id.get_chunk_info(k) for k in range(data.id.get_num_chunks())]
            for key, data in file.items()
        }
    for key, stored in chunks.items():
        assert stored, key
        for _ in range(5):
            chunk = stored[rng.integers(len(stored))]
            offset = chunk.byte_offset + rng.integers(chunk.size)
            flip(path, f"{folder}/copy.h5", offset, rng.integers(8))
            assert refused(p, f"{folder}/copy.h5", saved), (key, offset)


@pytest.mark.skipif(COMM.size == 1, reason="the same as test_flipped_bits_in_tables")
def test_flipped_bit_that_only_one_rank_reads(p, good, folder):
    """Every rank reads its own part of the table of values; the damage is in the last one."""
    copy = f"{folder}/copy.h5"
    if COMM.rank == 0:
        shutil.copyfile(good[0], copy)
        with h5py.File(copy, "r+", libver=LIBVER) as file:
            values = file["values"][:]
            del file["values"]
            n = len(values)
            file.create_dataset("values", data=values, chunks=(max(1, n // 64),), fletcher32=True)
            # The last chunk may be filled up; take one that ends before.
            last = file["values"].id.get_chunk_info(file["values"].id.get_num_chunks() - 2)
        flip(copy, copy, last.byte_offset, 3)
    COMM.barrier()
    with expect_error(ValueError, "copy.h5 is not a readable HDF5 file .*"):
        load(p, copy)


def forge(p, good, folder, change, match):
    """Change a copy with h5py, which gives it right checksums."""
    copy = f"{folder}/copy.h5"
    if COMM.rank == 0:
        shutil.copyfile(good[0], copy)
        with h5py.File(copy, "r+", libver=LIBVER) as file:
            change(file)
    COMM.barrier()
    tracemalloc.start()
    try:
        with expect_error(ValueError, f"copy.h5 .*{match}"):
            load(p, copy)
        # Nothing of the size that a forged file claims.
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def set_attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.serial
@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("format", np.bytes_("something else"), "is not a file of the format .* 'something else'"),
        ("format", 7, "is not a file of the format"),
        ("format", np.zeros(3), "is not a file of the format"),
        ("format_version", 2, "is not a file of the format .*, version 1; .*, version 2"),
        ("format_version", np.bytes_("1"), "is not a file of the format"),
        ("format_version", np.bytes_(b"\xff\n. A"), r"is not a file of .*, version \?\?\.\?A"),
        ("element", np.bytes_(b"Q7. No\n"), "of the element Q7\\.\\?No\\?"),
        ("element", np.bytes_("Q7"), "holds a space of the element Q7"),
        ("cells", 71, "was saved on another mesh, of 71 cells"),
        ("cells", "many", "was saved on another mesh, of many cells"),
        ("num_dropped", "some", "is damaged: an attribute is missing"),
    ],
)
def test_forged_attributes(p, good, folder, name, value, match):
    forge(p, good, folder, set_attribute(name, value), match)


@pytest.mark.serial
def test_missing_attributes(p, good, folder):
    for name in ("format", "format_version", "element", "cells", "num_dropped", "id"):
        forge(
            p,
            good,
            folder,
            lambda file, name=name: file.attrs.__delitem__(name),
            "(is not a file of|holds a space|saved on another|is damaged)",
        )


def replace(key, shape=None, dtype=None, data=None, **options):
    """Put another table in the place of one."""

    def change(file):
        old = file[key]
        kind = old.dtype if dtype is None else dtype
        del file[key]
        if data is None:
            file.create_dataset(key, old.shape if shape is None else shape, kind, **options)
        else:
            file.create_dataset(key, data=data, **options)

    return change


HUGE = 2**36
CHECKED = {"fletcher32": True}


@pytest.mark.serial
@pytest.mark.parametrize("key", DTYPES)
def test_missing_table(p, good, folder, key):
    forge(p, good, folder, lambda file: file.__delitem__(key), f"damaged: the table '{key}'")


@pytest.mark.serial
@pytest.mark.parametrize("key", ["values", "points", "eigenvalues", "vertex"])
def test_oversized_tables(p, good, folder, key):
    """Claims that no file of this size can keep."""
    shape = (HUGE, 3) if key == "points" else (HUGE,)
    chunks = (1024, 3) if key == "points" else (1024,)
    match = f"is damaged: the table '{key}' is missing or incomplete"
    for options in (
        {},
        {"chunks": chunks, **CHECKED},
        {"chunks": chunks, "compression": "gzip", **CHECKED},
    ):
        forge(p, good, folder, replace(key, shape, **options), match)


@pytest.mark.serial
def test_bomb(p, good, folder):
    """A few bytes in the file that would become 16 MiB."""
    data = np.zeros(2**21)
    options = {"compression": "gzip", "chunks": (2**20,), **CHECKED}
    forge(p, good, folder, replace("values", data=data, **options), "the table 'values' is missing")


@pytest.mark.serial
def test_strange_tables(p, good, folder):
    def group(file):
        del file["values"]
        file.create_group("values")

    def link(file):
        del file["values"]
        file["values"] = h5py.ExternalLink("pipe", "/values")

    def soft_link(file):
        file.move("values", "aside")
        file["values"] = h5py.SoftLink("/aside")

    def outside(file):
        shape = file["values"].shape
        del file["values"]
        file.create_dataset("values", shape, "f8", external=[("/etc/hostname", 0, 8 * shape[0])])

    if COMM.rank == 0:
        os.mkfifo(f"{folder}/pipe")
    match = "(is damaged: the table 'values'|is not a readable)"
    for change in (
        group,
        link,
        soft_link,
        outside,
        replace("values", dtype="f4", chunks=(64,), **CHECKED),
        replace("values", dtype=h5py.string_dtype(), chunks=(64,)),
        replace("values", shape=(), dtype="f8"),
        replace("values", shape=(8, 8), chunks=(8, 8), **CHECKED),
        replace("values", data=np.ones(3), chunks=(3,), **CHECKED),
        # Without checksums.
        replace("values", data=np.ones(3), chunks=(3,)),
    ):
        forge(p, good, folder, change, f"{match}|is damaged: tables that belong together differ")


def edit(key, function):
    def change(file):
        data = file[key][:]
        function(data)
        file[key][:] = data

    return change


def put(index, value):
    return lambda data: data.__setitem__(index, value)


@pytest.mark.parametrize(
    ("key", "function", "match"),
    [
        ("rows", put(-1, 49), r"is damaged: 'rows' has entries outside 0..48"),
        ("rows", put(0, -1), r"is damaged: 'rows' has entries outside 0..48"),
        ("cols", put(-1, 18), r"is damaged: 'cols' has entries outside 0..17"),
        ("values", put(-1, np.nan), "is damaged: 'values' has NaN or infinite entries"),
        ("values", put(slice(None), 0), "is damaged: all entries of P are zero"),
        ("eigenvalues", put(-1, np.nan), "is damaged: 'eigenvalues' has negative or infinite"),
        ("eigenvalues", put(0, -1.0), "is damaged: 'eigenvalues' has negative or infinite"),
        ("points", put((-1, 0), np.inf), "is damaged: 'points' has NaN or infinite entries"),
        ("points", put((0, 0), 0.123), "was saved on another mesh: "),
        ("dirichlet", put(slice(None), 1), "was saved with other Dirichlet dofs"),
        ("reference", put((-1, 0), 1e9), "was saved for another form a or coefficient"),
        ("reference", put((-1, -1), np.nan), "was saved for another form s or coefficient"),
        ("dof_count", put(0, -1), "the table 'dof_count' does not fit the others"),
        ("dof_count", put(0, 2**62), "the table 'dof_count' does not fit the others"),
        ("eigen_count", put(-1, 7), "the table 'eigen_count' does not fit the others"),
        ("vertex", put(-1, 4), "the table 'vertex' does not fit the others"),
        ("eigen_vertex", put(-1, 0), "the table 'vertex' does not fit the others"),
    ],
    ids=str,
)
def test_forged_entries(p, good, folder, key, function, match):
    forge(p, good, folder, edit(key, function), match)
