# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Mistakes: each is answered by one sentence, the same on every rank, and nothing is lost.

Where only one rank can make the mistake, only the last one does. A rank that waits for another
shows as a timeout of the whole run.
"""

import importlib
import importlib.util

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import pytest
from sample import COMM, HERE, Sample, expect_error

import basix.ufl
import dolfinx_msnn
import ufl
from dolfinx import fem, mesh
from dolfinx_msnn import (
    CoarseGrid,
    LocalModes,
    MultiscaleFunctionSpace,
    SpectralBasis,
    multiscale_functionspace,
)
from dolfinx_msnn._utils import petsc
from dolfinx_msnn.petsc import LinearProblem, create_coarse_matrix

needs_ranks = pytest.mark.skipif(COMM.size == 1, reason="ranks that differ")


@pytest.fixture(scope="module")
def sample():
    return Sample()


@pytest.fixture(scope="module")
def solution(sample):
    return sample.solve()


@pytest.fixture(scope="module")
def other():
    """The same on another mesh."""
    return Sample()


@pytest.fixture(scope="module")
def space(sample):
    with sample.space() as W:
        yield W


@pytest.fixture(scope="module")
def quadratic(sample):
    """Another space on the same mesh."""
    return fem.functionspace(sample.mesh, ("Lagrange", 2))


@pytest.fixture(autouse=True)
def nothing_is_lost(request, sample, solution):
    """After every mistake the user's objects do as before, and PETSc's options are untouched.

    On several ranks, where this takes the time of many tests, only after every tenth.
    """
    before = PETSc.Options().getAll()
    yield
    assert PETSc.Options().getAll() == before
    number = request.session.items.index(request.node)
    if COMM.size == 1 or number % 10 == 0:
        assert np.abs(sample.solve() - solution).max(initial=0.0) < 1e-10


def laplace(V):
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx


def bad_if_here(bad, good):
    """On one rank: on all ranks, where there is only one."""
    return bad if HERE else good


# ---- forms --------------------------------------------------------------------------------------

FORMS = {
    "another mesh": (lambda p, o, Q: o.a, "{} is defined on another mesh than V"),
    "a coefficient on another mesh": (
        lambda p, o, Q: o.kappa * ufl.inner(p.u, p.v) * ufl.dx(domain=p.mesh),
        "{} is defined on another mesh than V",
    ),
    "coordinates of another mesh": (
        lambda p, o, Q: (1 + ufl.SpatialCoordinate(o.mesh)[0]) * p.u * p.v * ufl.dx(domain=p.mesh),
        "{} is defined on another mesh than V",
    ),
    "arguments on another space": (
        lambda p, o, Q: laplace(Q),
        "arguments of {} are on another function space",
    ),
    "one argument on another space": (
        lambda p, o, Q: ufl.TrialFunction(Q) * p.v * ufl.dx,
        "arguments of {} are on another function space",
    ),
    "interior facets": (
        lambda p, o, Q: p.a + ufl.jump(p.u) * ufl.jump(p.v) * ufl.dS,
        "{} contains interior_facet integrals",
    ),
    "vertices": (lambda p, o, Q: p.a + p.u * p.v * ufl.dP, "{} contains vertex integrals"),
    "linear": (lambda p, o, Q: p.L, "{} must be a bilinear form .* 1 argument"),
    "functional": (lambda p, o, Q: p.kappa * ufl.dx, "{} must be a bilinear form .* 0 argument"),
    "a linear term": (lambda p, o, Q: p.a + p.v * ufl.dx, "{} must be linear in each"),
    "quadratic": (lambda p, o, Q: p.u * p.u * p.v * ufl.dx, "{} must be linear in each"),
    "nonlinear": (lambda p, o, Q: ufl.exp(p.u) * p.v * ufl.dx, "{} must be linear in each .*Exp"),
    "compiled": (lambda p, o, Q: fem.form(p.a), "{} must be a UFL bilinear form, got Form"),
    "text": (lambda p, o, Q: "a", "{} must be a UFL bilinear form, got str"),
}


@pytest.mark.parametrize("name", ["a", "s"])
@pytest.mark.parametrize("mistake", FORMS)
def test_form(sample, other, quadratic, name, mistake):
    make, match = FORMS[mistake]
    bad = make(sample, other, quadratic)
    good = getattr(sample, name)
    with expect_error(ValueError, match.format(name)):
        sample.space(**{name: bad_if_here(bad, good)})


def test_no_form(sample):
    with expect_error(ValueError, "a must be a UFL bilinear form, got NoneType"):
        sample.space(a=None)


@needs_ranks
@pytest.mark.parametrize("name", ["a", "s"])
def test_forms_differ(sample, name):
    """Both are right, but not together: s on one rank only, a boundary term on one rank only."""
    robin = sample.a + sample.u * sample.v * ufl.ds
    changed = {"a": {"a": robin}, "s": {"s": sample.s}}[name] if HERE else {}
    with expect_error(ValueError, f"{name} differs between the ranks: '.*' on rank 0, 'form .*'"):
        sample.space(**changed)


@needs_ranks
def test_other_arguments_on_one_rank(sample, space):
    with sample.problem(space) as problem:
        for L in (sample.L, fem.form(sample.L)):
            with expect_error(ValueError, "L differs between the ranks"):
                problem.solve(L if HERE else None)
        problem.solve()

    class Looking(SpectralBasis):
        coefficient = sample.kappa

    with expect_error(ValueError, "coefficient differs between the ranks: False on rank 0, True"):
        sample.space(basis=Looking(3) if HERE else SpectralBasis(3))


class Starving:
    """NumPy without memory for one of its functions."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, name):
        if name != self.name:
            return getattr(np, name)

        def fail(*_, **__):
            raise MemoryError(f"Unable to allocate 1 PiB for {name}.")

        return fail


@pytest.mark.parametrize(
    "module,name",
    [
        ("_utils.mpi", "empty"),
        ("local.hats", "ones"),
        ("local.ghosts", "setdiff1d"),
        ("local.ghosts", "unique"),
        ("local.ghosts", "rint"),
        ("local.assembly", "empty"),
        ("space.prolongation", "where"),
        ("space.positions", "full"),
    ],
)
def test_no_memory_on_one_rank(sample, tmp_path, monkeypatch, module, name):
    path = COMM.bcast(str(tmp_path / "space.h5"))
    if module == "space.positions":
        with sample.space() as W:
            W.save(path, sample.a)
    if HERE:
        place = importlib.import_module(f"dolfinx_msnn.{module}")
        monkeypatch.setattr(place, "np", Starving(name))
    with expect_error(MemoryError, f"Unable to allocate 1 PiB for {name}"):
        if module == "space.positions":
            MultiscaleFunctionSpace.load(path, sample.V, sample.a, bcs=sample.bcs)
        else:
            sample.space()


@pytest.mark.parametrize("name", ["a", "s"])
def test_not_symmetric(sample, name):
    drift = 1e-3 * sample.v * ufl.grad(sample.u)[0] * ufl.dx
    with expect_error(ValueError, f"form {name} is not symmetric .*non-symmetric forms are not"):
        sample.space(**{"s": sample.s, name: getattr(sample, name) + drift})


def test_rounded_tensor(sample):
    """A tensor in single precision is nearly symmetric; the same made symmetric is accepted."""
    C = ufl.as_matrix([[2.0, 0.1], [float(np.float32(0.1)), 1.0]])

    def a(C):
        return ufl.inner(C * ufl.grad(sample.u), ufl.grad(sample.v)) * ufl.dx

    said = r"not symmetric \(relative asymmetry [1-9]\.\de-10\) .*0.5 \* \(C \+ transpose\(C\)\)"
    with expect_error(ValueError, said):
        sample.space(a=a(C))
    with sample.space(a=a(0.5 * (C + ufl.transpose(C)))) as W:
        assert W.num_dofs > 0


def test_cells_without_integral(sample):
    """Integrals over a part of the domain leave cells without an element matrix."""
    cells = np.arange(sample.mesh.topology.index_map(2).size_local, dtype=np.int32)
    tags = mesh.meshtags(sample.mesh, 2, cells, np.where(cells == 0, 7, 8).astype(np.int32))
    dx = ufl.Measure("dx", domain=sample.mesh, subdomain_data=tags)
    with expect_error(ValueError, r"not coercive: .* diagonal entry 0 in the cell at"):
        sample.space(a=ufl.inner(ufl.grad(sample.u), ufl.grad(sample.v)) * dx(8))
    # In s that is no mistake, nor where other integrals cover the rest.
    a = sum(ufl.inner(ufl.grad(sample.u), ufl.grad(sample.v)) * dx(k) for k in (7, 8))
    with sample.space(a=a, s=sample.u * sample.v * dx(8)) as W:
        assert W.num_dofs > 0


# ---- coefficients -------------------------------------------------------------------------------


@pytest.fixture
def spoil(sample):
    """Change the coefficient in one cell of the last rank; it comes back afterwards."""
    good = sample.kappa.x.array.copy()

    def change(value):
        if HERE:
            sample.kappa.x.array[0] = value
        sample.kappa.x.scatter_forward()

    yield change
    sample.kappa.x.array[:] = good


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (0.0, "The form a is not coercive: .* entry 0 in the cell at .* expected positive"),
        (-1.0, "The form a is not coercive: .* entry -.* in the cell at .* expected positive"),
        (np.nan, "The form a has a NaN or infinite element matrix in the cell at"),
        (np.inf, "The form a has a NaN or infinite element matrix in the cell at"),
    ],
)
def test_coefficient_in_one_cell(sample, spoil, value, match):
    spoil(value)
    cell = sample.mesh.geometry.x[sample.mesh.geometry.dofmaps[0][0], :2].mean(axis=0)
    x, y = COMM.bcast(cell, root=COMM.size - 1)
    with expect_error(ValueError, rf"{match}.*\({x:.4g}, {y:.4g}\) and 0 others|{match}") as _:
        sample.space()


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (-1.0, "The form s is not coercive: .* expected non-negative"),
        (np.nan, "The form s has a NaN or infinite"),
        (np.inf, "The form s has a NaN or infinite"),
    ],
)
def test_coefficient_of_s_in_one_cell(sample, spoil, value, match):
    spoil(value)
    with expect_error(ValueError, match):
        sample.space(a=laplace(sample.V), s=sample.s)


@pytest.mark.parametrize("value", [0.0, -2.0, np.nan])
def test_constant_coefficient(sample, value):
    kappa = fem.Constant(sample.mesh, value)
    with expect_error(ValueError, "The form a (is not coercive|has a NaN)"):
        sample.space(a=kappa * laplace(sample.V))


def test_indefinite_tensor(sample):
    K = ufl.as_matrix([[1.0, 0.0], [0.0, -2.0]])
    with expect_error(ValueError, "The form a is not coercive"):
        sample.space(a=ufl.inner(K * ufl.grad(sample.u), ufl.grad(sample.v)) * ufl.dx)


@pytest.mark.parametrize("with_s", [False, True])
@pytest.mark.parametrize("n", [6, 20])
def test_indefinite_form(with_s, n):
    """A negative reaction that no element matrix shows (small and large neighbourhoods)."""
    p = Sample(n=n)
    a = p.a - 3.0 * p.u * p.v * ufl.dx
    s = p.u * p.v * ufl.dx if with_s else None
    match = "a is not positive semi-definite on neighbourhood [0-9] .*expected a coercive form"
    with expect_error(ValueError, match):
        p.space(a=a, s=s)
    # Seen by no constant and no coordinate: SLEPc or LAPACK finds it.
    wave = 2000.0 * ufl.cos(6 * np.pi * ufl.SpatialCoordinate(p.mesh)[0])
    with expect_error((ValueError, RuntimeError), r"(neighbourhood [0-9]|not coercive: .*) at \("):
        p.space(a=laplace(p.V) + wave * p.u * p.v * ufl.dx, s=s)


def test_negative_eigenvalue():
    """Neither constants nor coordinates, element matrices nor factorisations show it."""
    p = Sample(n=24)
    strips = fem.Function(p.kappa.function_space)
    # In every neighbourhood the mean is zero or a little more.
    strips.interpolate(lambda x: np.where(np.floor(12 * x[0]) % 2 == 0, -200.0, 205.0))
    a, s = laplace(p.V) + strips * p.u * p.v * ufl.dx, p.u * p.v * ufl.dx
    with expect_error(
        ValueError,
        r"a is not positive semi-definite on neighbourhood [0-9] at \(.*\), where it has the "
        r"eigenvalue -[0-9.]+; expected a coercive form",
    ):
        p.space(a=a, s=s)


def test_s_vanishes_on_a_neighbourhood(sample):
    half = fem.Function(sample.kappa.function_space)
    half.interpolate(lambda x: 1.0 * (x[0] > 0.6))
    with expect_error(ValueError, r"form s vanishes on neighbourhood [036] at \(0, "):
        sample.space(s=half * sample.u * sample.v * ufl.dx)


# ---- spaces -------------------------------------------------------------------------------------

ELEMENTS = {
    "DG": ("DG", 1),
    "piecewise constant": ("DG", 0),
    "Crouzeix-Raviart": ("CR", 1),
    "Nedelec": ("N1curl", 1),
    "vector DG": ("DG", 1, (2,)),
    "mixed": basix.ufl.mixed_element([basix.ufl.element("P", "triangle", k) for k in (1, 2)]),
    "enriched": basix.ufl.enriched_element(
        [basix.ufl.element("P", "triangle", 1), basix.ufl.element("bubble", "triangle", 3)]
    ),
    "quadrature": basix.ufl.quadrature_element("triangle", degree=2),
}


@pytest.mark.parametrize("name", ELEMENTS)
def test_element(sample, name):
    V = fem.functionspace(sample.mesh, ELEMENTS[name])
    with expect_error(ValueError, "Expected a continuous Lagrange space of degree >= 1 .* got "):
        sample.space(V=V, bcs=[])


def test_component_of_a_space(sample):
    V = fem.functionspace(sample.mesh, ("Lagrange", 1, (2,))).sub(1)
    with expect_error(ValueError, r"Expected a whole function space, got component \[1\]"):
        sample.space(V=V, bcs=[])


def test_single_precision():
    msh = mesh.create_unit_square(COMM, 4, 4, dtype=np.float32)
    V = fem.functionspace(msh, ("Lagrange", 1))
    with expect_error(ValueError, "float64 coordinates, got float32"):
        multiscale_functionspace(V, CoarseGrid(msh, (2, 2)), SpectralBasis(2), laplace(V))


@pytest.mark.parametrize("bad", [None, "V", 3])
def test_not_a_space(sample, bad):
    with expect_error(ValueError, "Expected a dolfinx.fem.FunctionSpace, got"):
        sample.space(V=bad)


def test_mesh_instead_of_space(sample):
    with expect_error(ValueError, "Expected a dolfinx.fem.FunctionSpace, got Mesh"):
        sample.space(V=sample.mesh)


# ---- boundary conditions ------------------------------------------------------------------------


def test_bcs_on_another_space(sample, quadratic):
    bad = [sample.bcs[0], sample.bc(0.0, quadratic)]
    with expect_error(ValueError, r"bcs\[1\] is on another function space than V"):
        sample.space(bcs=bad_if_here(bad, sample.bcs))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (None, "bcs must be a sequence .* got NoneType"),
        ("bc", "bcs must be a sequence .* got str"),
        (["bc"], r"bcs\[0\] must be a dolfinx.fem.DirichletBC, got str"),
        (iter(()), "bcs must be a sequence .* got tuple_iterator"),
    ],
)
def test_bcs_of_wrong_type(sample, bad, match):
    with expect_error(ValueError, match):
        sample.space(bcs=bad_if_here(bad, sample.bcs))


def test_bc_without_list(sample):
    with expect_error(ValueError, "bcs must be a sequence .* got DirichletBC"):
        sample.space(bcs=sample.bcs[0])


def test_everything_constrained(sample):
    dofs = fem.locate_dofs_geometrical(sample.V, lambda x: np.full(x.shape[1], True))
    with expect_error(ValueError, "The multiscale space is empty: of 18 modes none is left"):
        sample.space(bcs=[fem.dirichletbc(fem.Function(sample.V), dofs)])


def test_some_neighbourhoods_constrained(sample):
    """No mistake: a neighbourhood without free dofs has no basis function."""
    dofs = fem.locate_dofs_geometrical(sample.V, lambda x: x[0] < 0.51)
    bcs = [fem.dirichletbc(fem.Function(sample.V), dofs)]
    with sample.space(bcs=bcs) as W, sample.problem(W, bcs=bcs) as problem:
        # Left of the middle all dofs are constrained.
        assert set(np.concatenate(COMM.allgather(W.vertex)) % 3) == {1, 2}
        assert W.num_neighbourhoods == 9
        assert np.all(np.isfinite(problem.solve().x.array))


# ---- coarse grids -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "n",
    [(2, 2, 2), (2,), 2, (2.0, 2.0), (2, 0), (2, -1), None, "22", [[1], [2, 3]], (True, True)],
    ids=str,
)
def test_n(sample, n):
    with expect_error(ValueError, "n must be 2 positive integers .* 2-dimensional mesh.*, got"):
        CoarseGrid(sample.mesh, bad_if_here(n, (2, 2)))


@pytest.mark.parametrize(
    "box",
    [
        [[0, 0], [0, 1]],
        [[0, 0], [-1, 1]],
        [0, 1],
        [[0, 0], [np.nan, 1]],
        [[0, 0], [np.inf, 1]],
        "box",
        [[0], [1, 2]],
    ],
    ids=str,
)
def test_box(sample, box):
    with expect_error(ValueError, r"box must be two corners, shape \(2, 2\), .* got"):
        CoarseGrid(sample.mesh, (2, 2), box=bad_if_here(box, None))


def test_box_beside_the_mesh(sample):
    with expect_error(ValueError, r"box spans \(2, 0\) to \(3, 1\), the mesh \(0, 0\) to \(1, 1\)"):
        CoarseGrid(sample.mesh, (2, 2), box=[[2, 0], [3, 1]])


@pytest.mark.parametrize("bad", [-1, 1.5, "1", [1], True])
def test_oversampling(sample, bad):
    with expect_error(ValueError, "oversampling must be a number of cell layers >= 0, got"):
        CoarseGrid(sample.mesh, (2, 2), oversampling=bad_if_here(bad, 1))


@needs_ranks
@pytest.mark.parametrize(
    ("name", "values"),
    [("n", ((2, 2), (3, 3))), ("oversampling", (0, 1)), ("box", (None, [[0, 0], [1, 2]]))],
)
def test_coarse_grid_differs(sample, name, values):
    arguments = {"n": (2, 2), name: values[HERE]}
    with expect_error(ValueError, f"{name} differs between the ranks: .* on rank 0, .* on rank"):
        CoarseGrid(sample.mesh, **arguments)


def test_coarse_grid_finer_than_the_mesh(sample):
    with expect_error(ValueError, r"coarse grid is finer than the mesh: .* \(got n=\(2, 7\)\)"):
        CoarseGrid(sample.mesh, (2, 7))
    with expect_error(ValueError, "coarse grid is finer than the mesh: it has 98 cells, .* 72"):
        CoarseGrid.from_mesh(sample.mesh, mesh.create_unit_square(COMM, 7, 7))


def test_coarse_grid_of_another_mesh(sample, other):
    with expect_error(ValueError, "coarse grid was made for another mesh than that of V"):
        sample.space(coarse=other.coarse)
    coarse = mesh.create_unit_square(COMM, 2, 2)
    with expect_error(ValueError, "coarse grid was made for another mesh than that of V"):
        sample.space(coarse=CoarseGrid.from_mesh(other.mesh, coarse))


@pytest.mark.parametrize("bad", [None, (2, 2), CoarseGrid])
def test_not_a_coarse_grid(sample, bad):
    with expect_error(ValueError, "Expected a CoarseGrid, got"):
        sample.space(coarse=bad_if_here(bad, sample.coarse))


@pytest.mark.parametrize("bad", [None, "mesh", 4])
def test_not_a_mesh(sample, bad):
    with expect_error(ValueError, "Expected a dolfinx.mesh.Mesh, got"):
        CoarseGrid(bad, (2, 2))
    with expect_error(ValueError, "Expected a coarse dolfinx.mesh.Mesh, got"):
        CoarseGrid.from_mesh(sample.mesh, bad_if_here(bad, sample.mesh))


def test_dimension(sample):
    with expect_error(ValueError, "Expected a mesh of dimension 2 or 3 .* got dimension 1 in 1"):
        CoarseGrid(mesh.create_unit_interval(COMM, 8), (2,))
    x, cells = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]]), np.array([[0, 1, 2]])
    domain = ufl.Mesh(basix.ufl.element("Lagrange", "triangle", 1, shape=(3,)))
    plane = mesh.create_mesh(MPI.COMM_SELF, cells, domain, x)
    with expect_error(ValueError, "got dimension 2 in 3; a plane mesh .* needs the first two only"):
        CoarseGrid(plane, (2, 2))
    with expect_error(ValueError, "coarse mesh has dimension 3, the fine one 2"):
        CoarseGrid.from_mesh(sample.mesh, mesh.create_unit_cube(COMM, 1, 1, 1))


@needs_ranks
def test_coarse_mesh_on_other_ranks(sample):
    with expect_error(ValueError, "coarse mesh lives on 1 ranks, the fine one on"):
        CoarseGrid.from_mesh(sample.mesh, mesh.create_unit_square(MPI.COMM_SELF, 2, 2))


def test_coarse_mesh_that_does_not_cover(sample):
    away = mesh.create_rectangle(COMM, [[4.0, 4.0], [5.0, 5.0]], [2, 2])
    with expect_error(ValueError, "coarse mesh does not cover the fine mesh: the point"):
        sample.space(coarse=CoarseGrid.from_mesh(sample.mesh, away))


# ---- SpectralBasis ------------------------------------------------------------------------------


@pytest.mark.serial
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_modes": 0}, "num_modes must be a positive integer, got 0"),
        ({"num_modes": -3}, "num_modes must be a positive integer, got -3"),
        ({"num_modes": 2.0}, "num_modes must be a positive integer, got 2.0"),
        ({"num_modes": "8"}, "num_modes must be a positive integer, got '8'"),
        ({"num_modes": True}, "num_modes must be a positive integer, got True"),
        ({"num_modes": 8, "threshold": 1.0}, "num_modes or threshold, not both .*=8, .*=1.0"),
        ({"max_modes": 8}, "max_modes=8 needs a threshold"),
        ({"threshold": 1.0, "max_modes": 0}, "max_modes must be a positive integer, got 0"),
        ({"threshold": 0.0}, "threshold must be a positive number, got 0.0"),
        ({"threshold": np.nan}, "threshold must be a positive number, got nan"),
        ({"threshold": np.inf}, "threshold must be a positive number, got inf"),
        ({"threshold": "1"}, "threshold must be a positive number, got '1'"),
        ({"tol": 0.0}, "tol must lie between 0 and 1, got 0.0"),
        ({"tol": np.nan}, "tol must lie between 0 and 1, got nan"),
        ({"tol": "1e-9"}, "tol must lie between 0 and 1, got '1e-9'"),
        ({"petsc_options": ["eps_tol"]}, "petsc_options must be a mapping .* got"),
        ({"petsc_options": {1: 2}}, "petsc_options must be a mapping .* got"),
        ({"petsc_options_prefix": None}, "petsc_options_prefix must be .* got None"),
        ({"petsc_options_prefix": "-a_"}, "petsc_options_prefix must be .* got '-a_'"),
    ],
)
def test_spectral_basis(arguments, match):
    with expect_error(ValueError, match):
        SpectralBasis(**arguments)


@pytest.mark.serial
def test_wrong_keyword(sample, space):
    with pytest.raises(TypeError, match="unexpected keyword argument 'modes'"):
        SpectralBasis(modes=8)
    with pytest.raises(TypeError, match="unexpected keyword argument 'kappa'"):
        sample.space(kappa=sample.kappa)
    with pytest.raises(TypeError, match="unexpected keyword argument 'layers'"):
        CoarseGrid(sample.mesh, (2, 2), layers=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'options'"):
        sample.problem(space, options={})


@pytest.mark.parametrize("how", ["argument", "database"])
def test_slepc_does_not_converge(how):
    p = Sample(n=24)
    options = {"eps_max_it": 1, "eps_tol": 1e-16}
    prefix = f"stubborn_{how}_"
    basis = SpectralBasis(
        6, petsc_options_prefix=prefix, petsc_options=options if how == "argument" else None
    )
    database = PETSc.Options(prefix)
    try:
        if how == "database":
            for name, value in options.items():
                database[name] = value
        with expect_error(
            RuntimeError, r"SLEPc converged [0-9] of [0-9] eigenpairs of neighbourhood [0-9] at \("
        ):
            p.space(basis=basis)
    finally:
        for name in options:
            del database[name]
    # The options are gone, and the basis works again.
    if how == "database":
        with p.space(basis=basis) as W:
            assert W.num_dofs == 54


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"st_pc_type": "nonsense"}, "SLEPc refused the options under msnn_spectral_: .*nonsense"),
        ({"eps_max_it": "many"}, "SLEPc refused the options under msnn_spectral_: .*many"),
    ],
)
def test_slepc_options(options, match):
    p = Sample(n=12)
    with expect_error(RuntimeError, match):
        p.space(basis=SpectralBasis(2, petsc_options=options))


# ---- other bases --------------------------------------------------------------------------------


class Handmade:
    """Constants and coordinates, spoiled by a function."""

    def __init__(self, spoil=None):
        self.spoil = spoil

    def modes(self, problems):
        results = [
            LocalModes(np.arange(3.0), np.stack([np.ones(p.num_dofs), *p.x.T])) for p in problems
        ]
        return results if self.spoil is None else self.spoil(results)


def each(function):
    return lambda results: [function(m) for m in results]


def throw(error):
    def fail(results):
        raise error

    return fail


def part(values=lambda x: x, vectors=lambda x: x):
    return each(lambda m: LocalModes(values(m.values), vectors(m.vectors)))


def nan_at_the_end(x):
    x = x.copy()
    x.flat[-1] = np.nan
    return x


BASES = {
    "no list": (lambda r: None, "The basis gave NoneType; expected a list of LocalModes"),
    "generator": (lambda r: (m for m in r), "The basis gave generator; expected a list"),
    "too few": (lambda r: r[:-1], "gave modes for [0-9] neighbourhoods, expected [0-9]"),
    "too many": (lambda r: [*r, r[0]], "gave modes for [0-9]+ neighbourhoods, expected [0-9]"),
    "arrays": (each(lambda m: m.vectors), "gave ndarray for neighbourhood .* LocalModes"),
    "tuples": (each(tuple), "gave tuple for neighbourhood .*; expected LocalModes"),
    "transposed": (
        part(vectors=np.transpose),
        r"gave modes of shape \([0-9]+, 3\) and .* for neigh",
    ),
    "one mode": (part(vectors=lambda x: x[0]), r"modes of shape \([0-9]+,\) .* for neighbourhood"),
    "few dofs": (part(vectors=lambda x: x[:, :-1]), r"shape \(3, [0-9]+\) .* for neighbourhood"),
    "few values": (part(values=lambda x: x[:-1]), r"and \(2,\) values for neighbourhood"),
    "lists": (part(vectors=np.ndarray.tolist), "modes of type list for neighbourhood"),
    "complex": (part(vectors=lambda x: x + 1j), "modes of type complex128 for neighbourhood"),
    "objects": (part(vectors=lambda x: x.astype(object)), "of type object for neighbourhood"),
    "NaN": (part(vectors=nan_at_the_end), "gave NaN or infinite modes for neighbourhood"),
    "NaN value": (part(values=nan_at_the_end), "gave NaN or infinite modes for neighbourhood"),
    "infinite": (part(vectors=lambda x: x / 0.0), "gave NaN or infinite modes for neighbourhood"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("mistake", BASES)
def test_basis(sample, mistake):
    spoil, match = BASES[mistake]
    with expect_error(ValueError, match):
        sample.space(basis=Handmade(bad_if_here(spoil, None)))


@pytest.mark.parametrize(
    ("error", "kind", "match"),
    [
        (ValueError("The model is broken."), ValueError, "^The model is broken.$"),
        (KeyError("weight."), RuntimeError, "^KeyError: "),
        (type("Hidden", (Exception,), {})("Nothing works."), RuntimeError, "^Hidden: Nothing"),
        (StopIteration("No more."), RuntimeError, "^StopIteration: No more.$"),
        (SystemExit("It left."), RuntimeError, "^SystemExit: It left.$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_basis_raises(sample, error, kind, match):
    basis = Handmade(bad_if_here(throw(error), None))
    told = None
    try:
        sample.space(basis=basis)
    except BaseException as exc:
        told = type(exc), str(exc)
    told = COMM.allgather(told)
    assert None not in told
    assert len(set(told)) == 1
    assert issubclass(told[0][0], kind)
    assert told[0][1].startswith(match.strip("^$").split(":")[0])


def test_basis_without_modes(sample):
    empty = part(lambda x: x[:0], lambda x: x[:0])
    with expect_error(ValueError, "The multiscale space is empty: of 0 modes none is left"):
        sample.space(basis=Handmade(empty))
    zero = part(vectors=np.zeros_like)
    with expect_error(ValueError, "The multiscale space is empty: of 27 modes none is left"):
        sample.space(basis=Handmade(zero))


@needs_ranks
def test_basis_without_modes_on_one_rank(sample):
    """No mistake: other ranks have some."""
    empty = part(lambda x: x[:0], lambda x: x[:0])
    with sample.space(basis=Handmade(bad_if_here(empty, None))) as W:
        assert (W.num_local_dofs == 0) == HERE


def test_basis_that_consumes_its_problems(sample):
    """No mistake: the list is the basis's own."""

    class Greedy(Handmade):
        def modes(self, problems):
            return [super(Greedy, self).modes([problems.pop(0)])[0] for _ in range(len(problems))]

    with sample.space(basis=Greedy()) as W, sample.space(basis=Handmade()) as reference:
        assert W.num_dofs == reference.num_dofs


@pytest.mark.parametrize("bad", [8, "spectral", SpectralBasis, Handmade])
def test_not_a_basis(sample, bad):
    with expect_error(ValueError, r"Expected a local basis such as SpectralBasis\(num_modes=8\)"):
        sample.space(basis=bad_if_here(bad, sample.basis))


# ---- matrix types -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["nonsense", "dense", "baij", "sbaij", "nest", 3])
def test_mat_type(sample, space, bad):
    match = f"mat_type={bad!r} is not a sparse matrix type"
    with expect_error(ValueError, match):
        sample.space(mat_type=bad_if_here(bad, None))
    with expect_error(ValueError, match):
        sample.problem(space, mat_type=bad_if_here(bad, None))


@needs_ranks
def test_mat_type_differs(sample):
    with expect_error(ValueError, "mat_type differs between the ranks: 'aij' on rank 0, None"):
        sample.space(mat_type=None if HERE else "aij")


def test_coarse_matrix(sample, space):
    A = PETSc.Mat().createAIJ((5, 5), comm=COMM)
    A.setUp()
    A.assemble()
    with expect_error(ValueError, "The fine matrix is 5 x 5, P has 49 rows"):
        create_coarse_matrix(A, space)
    A.destroy()
    sizes = space.P.getSizes()[0]
    A = PETSc.Mat().createDense((sizes, sizes), comm=COMM)
    A.assemble()
    with expect_error(
        ValueError, "The fine matrix is of PETSc type .*dense; expected one of the A"
    ):
        create_coarse_matrix(A, space)
    A.destroy()
    assert space.P.getType() in ("seqaij", "mpiaij")


# ---- functions ----------------------------------------------------------------------------------


def test_not_a_member(sample, space, quadratic):
    for bad in (fem.Function(quadratic), None, 1.0):
        f = bad_if_here(bad, sample.one)
        for method in (space.interpolate, space.project, space.coefficients):
            with expect_error(ValueError, r"Expected a dolfinx.fem.Function( in the|, got)"):
                method(f)
    c = space.P.createVecRight()
    with expect_error(ValueError, "Expected a dolfinx.fem.Function in the fine space V"):
        space.prolong(c, bad_if_here(fem.Function(quadratic), sample.one))
    c.destroy()


def test_vector_of_wrong_size(sample, space):
    fine = space.P.createVecLeft()
    with expect_error(ValueError, "vector has .* 49 in all, expected .* 18 coarse dofs"):
        space.prolong(fine)
    fine.destroy()


def test_inner_product(sample, space, other, quadratic):
    for m, match in (
        (other.s, "m is defined on another mesh"),
        (laplace(quadratic), "The arguments of m are on another function space"),
        (sample.L, "m must be a bilinear form"),
    ):
        with expect_error(ValueError, match):
            space.project(sample.one, bad_if_here(m, sample.s))


def test_function_that_is_not_finite(sample, space):
    f = fem.Function(sample.V)
    if HERE:
        f.x.array[0] = np.nan
    with expect_error(RuntimeError, "msnn_projection_.* right-hand side with NaN"):
        space.interpolate(f)


# ---- linear problems ----------------------------------------------------------------------------


def test_no_prefix(sample, space):
    with pytest.raises(TypeError, match="petsc_options_prefix"):
        LinearProblem(sample.a, sample.L, space, bcs=sample.bcs)


@pytest.mark.parametrize("bad", ["", None, 3, "-x_", "a b_"])
def test_prefix(sample, space, bad):
    with expect_error(ValueError, "petsc_options_prefix must be a non-empty string .* got"):
        sample.problem(space, petsc_options_prefix=bad_if_here(bad, "good_"))


@pytest.mark.parametrize("bad", [["ksp_type"], "ksp_type", {1: "cg"}])
def test_options(sample, space, bad):
    with expect_error(ValueError, "petsc_options must be a mapping from option names .* got"):
        sample.problem(space, petsc_options=bad_if_here(bad, {}))


@needs_ranks
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("petsc_options_prefix", ("one_", "two_")),
        ("petsc_options", (None, {"ksp_type": "cg"})),
        ("mat_type", (None, "aij")),
    ],
)
def test_problem_differs(sample, space, name, values):
    with expect_error(ValueError, f"{name} differs between the ranks: .* on rank 0, .* on rank"):
        sample.problem(space, **{name: values[HERE]})


@needs_ranks
def test_forms_of_problem_differ(sample, space):
    for name in ("a", "L"):
        form = getattr(sample, name)
        with expect_error(ValueError, f"{name} differs between the ranks"):
            sample.problem(space, **{name: 2 * form + form if HERE else form})


def test_not_a_multiscale_space(sample):
    for bad, name in ((None, "NoneType"), (sample.V, "FunctionSpace"), ("W", "str")):
        with expect_error(ValueError, f"Expected a MultiscaleFunctionSpace, got {name}"):
            sample.problem(bad)


@pytest.mark.parametrize("mistake", FORMS)
def test_form_of_problem(sample, space, other, quadratic, mistake):
    make, match = FORMS[mistake]
    bad = make(sample, other, quadratic)
    with expect_error(ValueError, match.format("a")):
        sample.problem(space, a=bad_if_here(bad, sample.a))


RIGHT_HAND_SIDES = {
    "none": (lambda p, Q: None, "L must be a UFL linear form, got NoneType"),
    "bilinear": (lambda p, Q: p.a, "L must be a linear form .* 2 arguments"),
    "functional": (lambda p, Q: p.kappa * ufl.dx, "L must be a linear form .* 0 arguments"),
    "number": (lambda p, Q: 1.0, "L must be a UFL linear form, got float"),
    "another space": (
        lambda p, Q: ufl.TestFunction(Q) * ufl.dx,
        "The arguments of L are on another function space; expected TestFunction",
    ),
    "quadratic": (lambda p, Q: p.v * p.v * ufl.dx, "L must be linear in each of its arguments"),
    "a constant term": (lambda p, Q: p.L + p.kappa * ufl.dx, "L must be linear in each of its"),
}


@pytest.mark.parametrize("mistake", RIGHT_HAND_SIDES)
def test_right_hand_side(sample, space, quadratic, mistake):
    make, match = RIGHT_HAND_SIDES[mistake]
    bad = bad_if_here(make(sample, quadratic), sample.L)
    with expect_error(ValueError, match):
        sample.problem(space, L=bad)
    if mistake == "none":
        return
    with sample.problem(space) as problem:
        before = problem.solve().x.array.copy()
        with expect_error(ValueError, match):
            problem.solve(bad)
        # The right-hand side before is still there.
        assert np.array_equal(problem.solve().x.array, before)


def test_compiled_right_hand_side(sample, space, quadratic):
    good = fem.form(sample.L)
    for form, match in (
        (sample.a, "L must be a linear form, got a compiled form of rank 2"),
        (ufl.TestFunction(quadratic) * ufl.dx, "arguments of L are on another function space"),
    ):
        with sample.problem(space) as problem, expect_error(ValueError, match):
            problem.solve(bad_if_here(fem.form(form), good))


def test_solution(sample, space, quadratic):
    for bad in ("u", fem.Function(quadratic)):
        with expect_error(ValueError, r"Expected a dolfinx.fem.Function( in the| or None, got)"):
            sample.problem(space, u=bad_if_here(bad, None))


@pytest.mark.parametrize("mistake", ["another face", "none", "one rank has none"])
def test_bcs_that_differ_from_those_of_the_space(sample, space, mistake):
    """On two ranks or more the faces at 0 and 1 are on different ranks, or dofs differ on each."""
    bcs = [sample.bc(1.0)] if mistake == "another face" else []
    if mistake == "one rank has none":
        holders = COMM.allgather(bool(space.dirichlet.any()))
        bcs = [] if COMM.rank == holders.index(True) else sample.bcs
    with expect_error(ValueError, "bcs constrain [0-9]+ dofs of this rank, .* built for [0-9]+"):
        sample.problem(space, bcs=bcs)


def test_bcs_of_problem_on_another_space(sample, space, quadratic):
    with expect_error(ValueError, r"bcs\[0\] is on another function space than V"):
        bad = [sample.bc(0.0, quadratic)]
        sample.problem(space, bcs=bad_if_here(bad, sample.bcs))


def test_bcs_only_where_they_have_dofs(sample, solution):
    """No mistake: ranks away from the boundary leave their condition out."""
    bcs = sample.bcs if len(sample.bcs[0].dof_indices()[0]) else []
    with sample.space(bcs=bcs) as W, sample.problem(W, bcs=bcs) as problem:
        assert np.abs(problem.solve().x.array - solution).max() < 1e-10


class Untouched:
    """A problem whose failing solve must leave the solution as it was."""

    def __init__(self, problem):
        self.problem = problem
        problem.u.x.array[:] = 7.0

    def fails(self, match):
        with expect_error(RuntimeError, match):
            self.problem.solve()
        assert np.all(self.problem.u.x.array == 7.0)


def test_singular_coarse_system(sample, space):
    """A = 0 away from the boundary: MUMPS steps over the null pivots, the residual tells."""
    kappa = fem.Constant(sample.mesh, 0.0)
    with sample.problem(space, a=kappa * laplace(sample.V)) as problem:
        Untouched(problem).fails("sample_.* singular or nearly so: the relative residual is 1;")
        # The same objects with another coefficient.
        kappa.value = 1.0
        problem.assemble()
        assert np.isfinite(problem.solve().x.array).all()
    options = {"pc_type": "redundant", "redundant_pc_type": "lu"}
    kappa.value = 0.0
    with sample.problem(space, a=kappa * laplace(sample.V), petsc_options=options) as problem:
        Untouched(problem).fails("sample_.* did not converge: PETSc reason -11")


@pytest.mark.parametrize("stop", [False, True])
def test_diverged_solver(sample, space, stop):
    options = {"ksp_type": "cg", "pc_type": "none", "ksp_max_it": 1, "ksp_rtol": 1e-12}
    if stop:
        options["ksp_error_if_not_converged"] = True
    with sample.problem(space, petsc_options=options) as problem:
        Untouched(problem).fails("sample_.* (failed: .*DIVERGED_ITS|reason -3 after 1 iterations)")


def test_solver_options(sample, space):
    with sample.problem(space, petsc_options={"ksp_type": "nonsense"}) as problem:
        for _ in range(2):
            Untouched(problem).fails("sample_.* could not be set up: .*nonsense")


def test_right_hand_side_that_is_not_finite(sample, space):
    f = fem.Function(sample.V)
    f.x.array[:] = np.nan if HERE else 1.0
    f.x.scatter_forward()
    with sample.problem(space, L=f * sample.v * ufl.dx) as problem:
        Untouched(problem).fails("sample_.* right-hand side with NaN")
        f.x.array[:] = 1.0
        assert np.isfinite(problem.solve().x.array).all()


def test_coefficient_of_problem_that_is_not_finite(sample, space, spoil):
    spoil(np.nan)
    with sample.problem(space) as problem:
        Untouched(problem).fails("sample_.* (NaN|did not converge|could not be set up)")


# ---- what has been destroyed --------------------------------------------------------------------


def test_destroyed_space(sample):
    W = sample.space()
    problem = sample.problem(W)
    assert W.R.getSize()[0] == W.num_dofs
    W.destroy()
    W.destroy()
    c = PETSc.Vec().createMPI(18, comm=COMM)
    calls = (
        lambda: W.P,
        lambda: W.R,
        lambda: W.num_dofs,
        lambda: W.dof_range,
        lambda: W.neighbourhood_dofs(0),
        lambda: W.prolong(c),
        lambda: W.coefficients(sample.one),
        lambda: W.interpolate(sample.one),
        lambda: W.project(sample.one),
        lambda: W.save("never.h5", sample.a),
        lambda: sample.problem(W),
        problem.solve,
        problem.assemble,
    )
    for call in calls:
        with expect_error(RuntimeError, "This multiscale space has been destroyed"):
            call()
    with pytest.raises(RuntimeError, match="has been destroyed"), W:
        pass
    c.destroy()
    problem.destroy()


def test_destroyed_problem(sample, space):
    problem = sample.problem(space)
    u = problem.solve()
    before = u.x.array.copy()
    problem.destroy()
    problem.destroy()
    calls = (
        problem.solve,
        problem.assemble,
        lambda: problem.solve(sample.L),
        lambda: problem.A,
        lambda: problem.A0,
        lambda: problem.b,
        lambda: problem.solver,
    )
    for call in calls:
        with expect_error(RuntimeError, "This linear problem has been destroyed"):
            call()
    with pytest.raises(RuntimeError, match="has been destroyed"), problem:
        pass
    # The solution and the space live on.
    assert np.array_equal(u.x.array, before) and problem.u is u
    assert space.num_dofs == 18


def test_body_that_raises_destroys(sample):
    with pytest.raises(ZeroDivisionError), sample.space() as W, sample.problem(W) as problem:
        problem.solve()
        _ = 1 / 0
    with expect_error(RuntimeError, "space has been destroyed"):
        _ = W.P
    with expect_error(RuntimeError, "problem has been destroyed"):
        problem.solve()


# ---- environment --------------------------------------------------------------------------------


def test_complex_build(sample, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(PETSc, "ScalarType", np.complex128)
        with expect_error(RuntimeError, "needs PETSc built for real numbers, .* complex128"):
            sample.space()
        with expect_error(RuntimeError, "needs PETSc built for real numbers, .* complex128"):
            dolfinx_msnn.MultiscaleFunctionSpace.load(tmp_path / "x.h5", sample.V, sample.a)


@pytest.mark.serial
def test_learned_features_without_torch(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch" else find(name, *rest),
    )
    with expect_error(ImportError, r"LearnedBasis needs torch, .*dolfinx-msnn\[nn\]"):
        _ = dolfinx_msnn.LearnedBasis


@pytest.mark.serial
def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'dolfinx_msnn' has no attribute 'Nothing'"):
        _ = dolfinx_msnn.Nothing


# ---- PETSc's options ----------------------------------------------------------------------------


def test_options_do_not_stay(sample, space):
    """Options given as a mapping are gone afterwards, and those of the user come back."""
    database = PETSc.Options("sample_")
    database["ksp_rtol"] = 0.25
    database["ksp_type"] = "gmres"
    try:
        before = PETSc.Options().getAll()
        options = {"ksp_rtol": 1e-3, "ksp_type": "cg", "pc_type": "jacobi"}
        with sample.problem(space, petsc_options=options) as problem:
            problem.solve()
            assert problem.solver.getTolerances()[0] == 1e-3
            assert problem.solver.getType() == "cg"
        assert PETSc.Options().getAll() == before
        with sample.problem(space) as problem:
            assert problem.solver.getTolerances()[0] == 0.25
            assert problem.solver.getType() == "gmres"
    finally:
        del database["ksp_rtol"]
        del database["ksp_type"]


def test_options_of_others_are_not_read(sample):
    """What has no prefix, or another one, is not ours."""
    database = PETSc.Options()
    strange = {"eps_max_it": 1, "eps_tol": 1e-16, "other_eps_max_it": 1}
    p = Sample(n=24)
    try:
        for name, value in strange.items():
            database[name] = value
        with p.space(basis=SpectralBasis(6)) as W:
            assert W.num_dofs == 54
    finally:
        for name in strange:
            del database[name]


@pytest.mark.serial
def test_temporary_options():
    database = PETSc.Options("tmp_")
    database["kept"] = "user"
    with pytest.raises(KeyError):
        with petsc.temporary_options("tmp_", {"new": 1, "flag": None}, {"kept": "default"}) as o:
            assert o.getInt("new") == 1 and o.hasName("flag")
            assert o.getString("kept") == "user"
            raise KeyError
    assert database.getAll() == {"kept": "user"}
    with petsc.temporary_options("tmp_", {"kept": "mine"}):
        assert database.getString("kept") == "mine"
    assert database.getString("kept") == "user"
    del database["kept"]
