# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The multiscale space against SciPy: P, A_0, what it spans, and how well it approximates."""

from mpi4py import MPI

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
from utils import (
    COMM,
    Reference,
    box,
    box_vertices,
    cell_field,
    clamp,
    diffusion,
    dof_points,
    elasticity,
    gather_function,
    gather_matrix,
    gather_rows,
    gather_vector,
    hat_values,
    holed_square,
    jiggle,
    l_shape,
    mass,
    match,
    norm_in,
    on_root,
    rough,
    sine,
)

import ufl
from dolfinx import fem, la, mesh
from dolfinx.fem.petsc import assemble_matrix
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid, SpectralBasis, fields, multiscale_functionspace
from dolfinx_msnn._utils.linalg import orthonormalise
from dolfinx_msnn.bases import LocalModes
from dolfinx_msnn.local.element_matrices import ElementMatrices
from dolfinx_msnn.petsc import (
    LinearProblem,
    assemble_coarse_matrix,
    assemble_coarse_vector,
    create_coarse_matrix,
)


def left(x):
    return np.isclose(x[0], 0.0)


def rim(x):
    return np.isclose(x[:2] * (1 - x[:2]), 0.0).any(axis=0)


class Case:
    """A problem that can be set up on any communicator."""

    def __init__(self, make, n, num_modes, *, a=diffusion, s=mass, element=1, layers=0, **more):
        self.make, self.n, self.num_modes, self.a, self.s = make, n, num_modes, a, s
        self.element = ("Lagrange", *np.atleast_1d(np.array(element, dtype=object)))
        self.layers, self.contrast = layers, more.pop("contrast", 1e3)
        self.where = more.pop("where", left)
        assert not more

    def set_up(self, comm):
        V = fem.functionspace(self.make(comm), self.element)
        kappa = cell_field(V.mesh, rough(self.contrast))
        a, s = self.a(V, kappa), None if self.s is None else self.s(V, kappa)
        return V, kappa, a, s, [clamp(V, self.where)]

    def space(self):
        V, _, a, s, bcs = self.set_up(COMM)
        coarse = CoarseGrid(V.mesh, self.n, oversampling=self.layers)
        return multiscale_functionspace(V, coarse, SpectralBasis(self.num_modes), a, s, bcs), a

    def reference(self):
        """Serial: rows of each neighbourhood, all eigenvalues, fine matrix, positions of dofs."""
        V, kappa, a, s, bcs = self.set_up(MPI.COMM_SELF)
        vertices, h = box_vertices(self.n)
        chi = hat_values(V.tabulate_dof_coordinates()[:, : len(h)], vertices, h)
        constrained = np.concatenate([bc.dof_indices()[0] for bc in bcs])
        oracle = Reference(kappa, chi, a, s, constrained, self.layers)
        return oracle.basis(self.num_modes), oracle.assemble(oracle.forms[0]), dof_points(V)


def tetrahedra(comm):
    return jiggle(box(comm, CellType.tetrahedron, 4), 0.05)


def quadrilaterals(comm):
    return jiggle(box(comm, CellType.quadrilateral, 9), 0.02)


CASES = {
    "triangles": Case(lambda comm: box(comm, CellType.triangle, 13), (3, 3), 5),
    "triangles-DAD": Case(lambda comm: box(comm, CellType.triangle, 13), (3, 3), 5, s=None),
    "P3": Case(lambda comm: box(comm, CellType.triangle, 7), (2, 3), 7, element=3, where=rim),
    "quadrilaterals": Case(quadrilaterals, (2, 3), 4, layers=1),
    "hole": Case(holed_square, (5, 5), 4, contrast=1e6),
    "l-shape-3D": Case(lambda comm: l_shape(comm, 6, 3), (3, 3, 2), 4),
    "P2-tetrahedra": Case(tetrahedra, (2, 2, 2), 6, element=2),
    "elasticity-2D": Case(quadrilaterals, (2, 2), 7, a=elasticity, element=(1, (2,)), s=None),
    "elasticity-3D": Case(
        lambda comm: box(comm, CellType.hexahedron, 4),
        (1, 1, 2),
        9,
        a=elasticity,
        element=(1, (3,)),
        contrast=1e4,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_prolongation_and_coarse_matrix(name):
    """The space is the oracle's, neighbourhood by neighbourhood, and A_0 is SciPy's PᵀAP."""
    case = CASES[name]
    W, a = case.space()
    expected, A_expected, points = on_root(case.reference)
    A = assemble_matrix(fem.form(a))
    A.assemble()
    A0 = create_coarse_matrix(A, W)
    P, A_here, A0_here = gather_matrix(W.P), gather_matrix(A), gather_matrix(A0)
    vertex, mode = gather_rows(COMM, W.vertex), gather_rows(COMM, W.mode)

    order = match(dof_points(W.V), points)
    A_expected = A_expected[order][:, order]
    assert abs(A_here - A_expected).max() < 1e-12 * abs(A_expected).max()

    # Each neighbourhood's functions, in an inner product in which all dofs count alike.
    weight = np.sqrt(A_expected.diagonal())
    assert set(vertex.tolist()) == set(expected)
    compared = 0
    for v, (rows, values) in expected.items():
        mine = P[:, vertex == v].toarray().T
        # Functions are dropped only where the Dirichlet mask makes them dependent.
        rank = np.linalg.matrix_rank(
            rows[:, order] * weight, tol=1e-8 * abs(rows[:, order] * weight).max()
        )
        assert len(mine) == rank
        assert np.all(np.diff(mode[vertex == v]) > 0)
        if rank == case.num_modes and values[-1] - values[-2] > 1e-2 * values[-1]:
            assert sine(mine * weight, rows[:, order] * weight) < 1e-6
            compared += 1
    assert compared >= len(expected) / 2

    triple = (P.T @ A_here @ P).toarray()
    np.testing.assert_allclose(A0_here.toarray(), triple, rtol=0, atol=1e-12 * abs(triple).max())
    # No function lives on constrained dofs.
    assert abs(P[gather_rows(COMM, W.dirichlet)]).sum() == 0
    for item in (W, A, A0):
        item.destroy()


def test_bookkeeping():
    case = CASES["triangles"]
    W, _ = case.space()
    N_f, N_c = W.P.getSize()
    assert W.num_dofs == N_c == COMM.allreduce(W.num_local_dofs)
    assert N_f == W.V.dofmap.index_map.size_global
    assert W.num_neighbourhoods == 16 and N_c == 16 * 5 - W.num_dropped
    said = f"<MultiscaleFunctionSpace: {N_c} dofs of 16 neighbourhoods, in a space of {N_f} dofs>"
    assert repr(W) == said
    first, last = W.dof_range
    assert last - first == W.num_local_dofs
    assert COMM.allgather(W.dof_range) == [
        (int(a), int(b)) for a, b in zip(*_ranges(COMM.allgather(W.num_local_dofs)), strict=True)
    ]
    # R = Pᵀ; the dofs of a neighbourhood are the columns supported on it.
    P, R = gather_matrix(W.P), gather_matrix(W.R)
    assert (abs(R - P.T)).max() == 0
    vertices, h = box_vertices(case.n)
    x = dof_points(W.V)[:, :2]
    seen = []
    for v in range(16):
        dofs = W.neighbourhood_dofs(v)
        assert np.all((dofs >= first) & (dofs < last))
        assert (v in W.eigenvalues) == (len(dofs) > 0)
        for column in dofs:
            support = P[:, [column]].nonzero()[0]
            assert len(support) and np.all(np.abs(x[support] - vertices[v]) < h)
        if len(dofs):
            assert len(W.eigenvalues[v]) == 5
            assert len(dofs) <= 5
        seen += dofs.tolist()
    assert sorted(gather_rows(COMM, np.array(seen, dtype=int)).tolist()) == list(range(N_c))
    # The first basis function of a free neighbourhood is χ: its first mode is the constant.
    for v in (5, 6, 9, 10):
        for column in W.neighbourhood_dofs(v)[:1]:
            chi = hat_values(x, vertices[[v]], h)[:, 0]
            psi = P[:, [column]].toarray()[:, 0]
            np.testing.assert_allclose(psi * (chi @ chi) / (psi @ chi), chi, atol=1e-9)
    W.destroy()
    with pytest.raises(RuntimeError, match="destroyed"):
        W.P  # noqa: B018
    W.destroy()


def _ranges(counts):
    ends = np.cumsum(counts)
    return ends - counts, ends


def fine_solution(A, b, free):
    """SciPy's solution on the free dofs."""
    u = np.zeros(len(b))
    u[free] = scipy.sparse.linalg.spsolve(A[free][:, free].tocsc(), b[free])
    return u


def assembled(form):
    matrix = assemble_matrix(fem.form(form))
    matrix.assemble()
    gathered = gather_matrix(matrix)
    matrix.destroy()
    return gathered


def load(V):
    v = ufl.TestFunction(V)
    x = ufl.SpatialCoordinate(V.mesh)
    f = 1 + ufl.sin(5 * x[0]) * x[1]
    if V.value_size > 1:
        f = ufl.as_vector([f, x[0]] + [1.0] * (V.value_size - 2))
    return ufl.inner(f, v) * ufl.dx


def coarse_solution(W, a, bcs, prefix="test_"):
    """The Galerkin solution by LinearProblem, gathered; and A, b, free dofs."""
    with LinearProblem(a, load(W.V), W, bcs=bcs, petsc_options_prefix=prefix) as problem:
        u = gather_function(problem.solve())
        b = gather_vector(problem.b)
    free = ~gather_rows(COMM, W.dirichlet)
    return u, assembled(a), b, free


WHOLE = {
    "triangles": Case(lambda c: box(c, CellType.triangle, 8), (3, 3), 1, where=rim),
    "triangles-DAD": Case(lambda c: box(c, CellType.triangle, 8), (3, 3), 1, s=None, where=rim),
    "elasticity-2D": Case(quadrilaterals, (3, 3), 1, a=elasticity, element=(1, (2,))),
    "P2-tetrahedra": Case(lambda c: box(c, CellType.tetrahedron, 2), (1, 1, 1), 1, element=2),
}


@pytest.mark.parametrize("name", WHOLE)
def test_with_all_modes_the_fine_solution_comes_back(name):
    """As many functions as dofs in each neighbourhood: the whole fine space, many times over."""
    case = WHOLE[name]
    V, _, a, s, bcs = case.set_up(COMM)
    # A threshold above the largest eigenvalue keeps all there are.
    basis = SpectralBasis(threshold=1e14, max_modes=10**6)
    W = multiscale_functionspace(V, CoarseGrid(V.mesh, case.n), basis, a, s, bcs)
    u, A, b, free = coarse_solution(W, a, bcs)
    assert W.num_dofs > free.sum()
    fine = fine_solution(A, b, free)
    assert norm_in(A, u - fine) < 1e-8 * norm_in(A, fine)
    assert np.abs(u - fine).max() < 1e-8 * np.abs(fine).max()
    W.destroy()


# ---- approximation ----


def everywhere_robin(V, kappa):
    """Diffusion with κ u v on ∂Ω: coercive without Dirichlet conditions."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return diffusion(V, kappa) + kappa * u * v * ufl.ds


#: a, where Dirichlet conditions hold, right-hand side
CONDITIONS = {
    "Dirichlet": (diffusion, rim, load),
    "mixed": (diffusion, left, load),
    "Robin": (everywhere_robin, None, load),
    "Neumann": (
        diffusion,
        None,
        lambda V: (
            ufl.cos(3 * ufl.pi * ufl.SpatialCoordinate(V.mesh)[0]) * ufl.TestFunction(V) * ufl.dx
        ),
    ),
}


@pytest.mark.parametrize("name", ["P3", "hole", "elasticity-3D"])
def test_a_basis_that_looks_at_no_matrix_is_given_none(name, monkeypatch):
    """Linear functions, whose span with χ SciPy knows; no element matrix is computed for them."""

    class Linear:
        matrices = False

        def modes(self, problems):
            assert all((problem.A is None) != self.matrices for problem in problems)
            return [self.of(problem) for problem in problems]

        def of(self, problem):
            x = (problem.x - problem.place) / np.ptp(problem.x, axis=0)
            scalar = np.column_stack([np.ones(len(x)), x])
            bs = problem.block_size
            component = np.arange(len(x)) % bs
            parts = [np.where(component == k, f, 0.0) for f in scalar.T for k in range(bs)]
            return LocalModes(np.zeros(len(parts)), np.array(parts))

    case, basis = CASES[name], Linear()
    V, _, a, s, bcs = case.set_up(COMM)
    coarse = CoarseGrid(V.mesh, case.n)
    found = []
    for basis.matrices in (True, False):
        if not basis.matrices:
            monkeypatch.delattr(ElementMatrices, "tabulate")
        W = multiscale_functionspace(V, coarse, basis, a, s, bcs)
        found.append((W.vertex.copy(), gather_matrix(W.P)))
        W.destroy()
    np.testing.assert_array_equal(found[0][0], found[1][0])
    vertex = gather_rows(COMM, found[0][0])

    def compare():
        for v in np.unique(vertex):
            one, two = (P[:, vertex == v].toarray() for _, P in found)
            assert np.sin(scipy.linalg.subspace_angles(one, two)).max(initial=0.0) < 1e-10

    on_root(compare)


@pytest.mark.parametrize("updatable", [False, True])
def test_what_wraps_looks_at_matrices_if_any_of_its_own_does(updatable):
    """Nor does a space that is to be updated do without them."""

    class Wrapper:
        def __init__(self, *wrapped):
            self.wrapped, self.seen = wrapped, []

        def modes(self, problems):
            self.seen += [problem.A is not None for problem in problems]
            return [LocalModes(np.zeros(1), np.ones((1, p.num_dofs))) for p in problems]

    blind, looking = Wrapper(), Wrapper()
    blind.matrices = False
    V, _, a, s, bcs = CASES["triangles"].set_up(COMM)
    coarse = CoarseGrid(V.mesh, (3, 3))
    for basis, expected in (
        (Wrapper(blind), updatable),
        (Wrapper(Wrapper(blind, blind)), updatable),
        (Wrapper(blind, looking), True),
        (looking, True),
    ):
        W = multiscale_functionspace(V, coarse, basis, a, s, bcs, updatable=updatable)
        W.destroy()
        assert basis.seen == len(basis.seen) * [expected]
        assert COMM.allreduce(len(basis.seen)) >= 16


class Sweep:
    """One large space on a generated field; its subspaces are solved densely on rank 0."""

    def __init__(self, field, conditions, basis):
        msh = box(COMM, CellType.quadrilateral, 48)
        V = fem.functionspace(msh, ("Lagrange", 1))
        kappa = field(msh, contrast=1e3, seed=0)
        form, where, right = CONDITIONS[conditions]
        a, bcs = form(V, kappa), [] if where is None else [clamp(V, where)]
        W = multiscale_functionspace(V, CoarseGrid(msh, (4, 4)), basis, a, mass(V, kappa), bcs)
        eigenvalues = {v: e for part in COMM.allgather(W.eigenvalues) for v, e in part.items()}
        self.vertex, self.mode = gather_rows(COMM, W.vertex), gather_rows(COMM, W.mode)
        self.values = eigenvalues
        self.value = np.array(
            [eigenvalues[v][m] for v, m in zip(self.vertex, self.mode, strict=True)]
        )
        self.P, self.A = gather_matrix(W.P), assembled(a)
        free = ~gather_rows(COMM, W.dirichlet)
        b = fem.assemble_vector(fem.form(right(V)))
        b.scatter_reverse(la.InsertMode.add)
        owned = V.dofmap.index_map.size_local
        self.b = gather_rows(COMM, b.array[:owned]) * free
        if where is None and form is diffusion:
            # Fix one value; the energy does not see it.
            self.b -= self.b.mean()
            free[0] = False
        self.free = free
        W.destroy()

    def errors(self, choices):
        """Relative energy errors of the subspaces of chosen coarse dofs."""

        def compute():
            fine = fine_solution(self.A, self.b, self.free)
            found = []
            for chosen in choices:
                P = self.P[:, chosen].toarray()
                A0 = P.T @ (self.A @ P)
                c = scipy.linalg.lstsq(A0, P.T @ self.b, cond=1e-13)[0]
                found.append(norm_in(self.A, P @ c - fine) / norm_in(self.A, fine))
            return np.array(found)

        return on_root(compute)


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


@pytest.mark.parametrize("conditions", CONDITIONS)
def test_energy_error_against_the_smallest_left_out_eigenvalue(conditions):
    """Error ~ Λ^(-1/2) (Efendiev, Galvis, Wu, J. Comput. Phys. 230, 2011, Sect. 3), N_bf = 4..16.

    Log-normal field of contrast 1e3. With fewer modes the errors are of order one and say nothing.
    Measured slopes: -0.53 to -0.58.
    """
    counts = [1, 2, 3, 4, 6, 8, 12, 16]
    sweep = Sweep(fields.log_normal, conditions, SpectralBasis(counts[-1] + 1))
    found = sweep.errors([sweep.mode < count for count in counts])
    left_out = np.array([min(e[count] for e in sweep.values.values()) for count in counts])
    assert np.all(np.diff(found) < 0)
    assert -0.7 < slope(left_out[3:], found[3:]) < -0.45


@pytest.mark.parametrize(
    "field,conditions", [(fields.channels, "Dirichlet"), (fields.two_phase, "Neumann")]
)
def test_energy_error_against_the_threshold(field, conditions):
    """The same where neighbourhoods differ much: keep all modes with λ < Λ, Λ = 64..1024.

    Two-valued fields of contrast 1e3 have many small eigenvalues, more in some neighbourhoods than
    in others, so that a fixed number of modes wastes them. Below Λ = 64 = 4/H² there is a plateau.
    The bound is one-sided, and the solutions are smoother than it assumes. Measured slopes: -0.54
    to -0.86.
    """
    levels = 8.0 * 2.0 ** np.arange(8)
    sweep = Sweep(field, conditions, SpectralBasis(threshold=levels[-1], max_modes=200))
    found = sweep.errors([sweep.value < level for level in levels])
    assert np.all(np.diff(found) < 1e-12)
    assert -1.0 < slope(levels[3:], found[3:]) < -0.5


@pytest.mark.parametrize(
    "name,counts", [("P3", (1, 4, 14)), ("elasticity-3D", (1, 4, 14)), ("hole", (1, 4, 8, 14))]
)
def test_energy_error_of_the_problem_falls(name, counts):
    """The same through LinearProblem: higher degree, elasticity with contrast 1e4, a hole.

    In the last one most functions depend on others in the end, and the error is a rounding error.
    """
    case, found, energies = CASES[name], [], []
    V, _, a, s, bcs = case.set_up(COMM)
    coarse = CoarseGrid(V.mesh, case.n)
    for count in counts:
        W = multiscale_functionspace(V, coarse, SpectralBasis(count), a, s, bcs)
        u, A, b, free = coarse_solution(W, a, bcs)
        W.destroy()
        if not found:
            fine = fine_solution(A, b, free)
        found.append(norm_in(A, u - fine) / norm_in(A, fine))
        energies.append(norm_in(A, u) ** 2)
        # Galerkin: the error is orthogonal to the solution.
        assert energies[-1] == pytest.approx(norm_in(A, fine) ** 2 * (1 - found[-1] ** 2), rel=1e-8)
    assert np.all(np.diff(found) < 1e-9)
    assert found[-1] < 0.6 * found[0]


# ---- functions of the space ----


@pytest.mark.parametrize("name", ["triangles", "elasticity-2D"])
def test_interpolate_and_project(name):
    """Least squares at the nodes, and in the inner product of a form, as SciPy does them."""
    W, a = CASES[name].space()
    V, P = W.V, gather_matrix(W.P).toarray()
    f = fem.Function(V)
    bs = V.dofmap.index_map_bs
    x = V.tabulate_dof_coordinates()
    for k in range(bs):
        f.x.array[k::bs] = np.sin(3 * x[:, 0] + k) + x[:, 1] ** 2
    values = gather_function(f)
    for form, found in (
        (None, W.interpolate(f)),
        (mass(V, 1.0), W.project(f)),
        (a, W.project(f, a)),
    ):
        M = np.eye(len(values)) if form is None else assembled(form).toarray()
        expected = P @ scipy.linalg.lstsq(P.T @ M @ P, P.T @ (M @ values), cond=1e-13)[0]
        np.testing.assert_allclose(
            gather_function(found), expected, atol=1e-8 * np.abs(expected).max()
        )
        # Members come back, ghosts included.
        again = W.interpolate(found) if form is None else W.project(found, form)
        np.testing.assert_allclose(again.x.array, found.x.array, atol=1e-8 * np.abs(values).max())
    # Prolongation and restriction.
    c = W.P.createVecRight()
    c.setValues(range(*W.dof_range), np.cos(np.arange(*W.dof_range)))
    c.assemble()
    u = W.prolong(c)
    np.testing.assert_allclose(gather_function(u), P @ np.cos(np.arange(W.num_dofs)), atol=1e-10)
    fine = W.P.createVecLeft()
    fine.array_w[:] = values[slice(*fine.getOwnershipRange())]
    restricted = assemble_coarse_vector(fine, W)
    np.testing.assert_allclose(gather_vector(restricted), P.T @ values, atol=1e-10)
    assert assemble_coarse_vector(fine, W, restricted) is restricted
    for item in (c, fine, restricted, W):
        item.destroy()


def test_coarse_matrix_is_refilled():
    """Numeric products only: the same object and pattern with new values."""
    case = CASES["triangles"]
    V, kappa, a, s, bcs = case.set_up(COMM)
    W = multiscale_functionspace(V, CoarseGrid(V.mesh, case.n), SpectralBasis(4), a, s, bcs)
    form = fem.form(a)
    A = assemble_matrix(form)
    A.assemble()
    A0 = create_coarse_matrix(A, W)
    handle, before = A0.handle, gather_matrix(A0)
    P = gather_matrix(W.P)
    for factor in (2.0, 5.0):
        kappa.x.array[:] = factor * kappa.x.array**1.1
        A.zeroEntries()
        assemble_matrix(A, form)
        A.assemble()
        assert assemble_coarse_matrix(A0, A, W).handle == handle
        triple = P.T @ gather_matrix(A) @ P
        assert abs(gather_matrix(A0) - triple).max() < 1e-12 * abs(triple).max()
    assert abs(gather_matrix(A0) - before).max() > 1e-3 * abs(before).max()
    for item in (A0, A, W):
        item.destroy()


@pytest.mark.parametrize("independent", [1.0, 1e-3, 1e-6, 1e-9, 1e-13])
def test_orthonormalise(independent):
    """Rows with that share of their own: kept down to rounding, in order, spans nested."""
    rng = np.random.default_rng(0)
    weight = 10.0 ** rng.uniform(-3, 3, 50)
    q = np.linalg.qr(rng.standard_normal((50, 6)))[0].T / weight
    # Rows 2 and 4 are almost in the span of the first two; row 3 is zero.
    rows = np.array(
        [
            q[0],
            1e5 * (q[1] + q[0]),
            1e-8 * (q[0] - 2 * q[1] + independent * q[2]),
            0 * q[0],
            q[0] + q[1] + independent * q[3],
            q[4],
        ]
    )
    ((found, kept),) = orthonormalise(rows[None], weight[None])
    few = independent < 1e-10
    assert kept.tolist() == ([0, 1, 5] if few else [0, 1, 2, 4, 5])
    np.testing.assert_allclose((found * weight) @ (found * weight).T, np.eye(len(kept)), atol=1e-12)
    directions = q[[0, 1, 4]] if few else q[:5]
    for k in range(1, len(kept) + 1):
        error = sine(found[:k] * weight, directions[:k] * weight)
        assert error < (1e-12 if few else 1e-14 / independent)


def test_dependent_functions_are_dropped():
    """Between two Dirichlet sides two cells apart hardly anything is left of the modes."""
    msh = box(COMM, CellType.quadrilateral, (12, 2))
    V = fem.functionspace(msh, ("Lagrange", 1))
    a = diffusion(V, 1.0)
    sides = clamp(V, lambda x: np.isclose(x[1] * (1 - x[1]), 0.0))
    basis = SpectralBasis(threshold=1e14, max_modes=1000)
    W = multiscale_functionspace(V, CoarseGrid(msh, (3, 1)), basis, a, mass(V, 1.0), [sides])
    P = gather_matrix(W.P).toarray()
    # Free dofs: 13 on the middle line; each neighbourhood sees 4 or 7 of them (χ > 0).
    assert W.num_dofs == 2 * (4 + 7 + 7 + 4)
    assert W.num_dropped == 2 * 3 * (5 + 9 + 9 + 5) - W.num_dofs
    for v in range(8):
        columns = P[:, gather_rows(COMM, W.vertex) == v]
        assert np.linalg.matrix_rank(columns, tol=1e-8) == columns.shape[1]
    # And the coarse solve survives what is dependent between neighbourhoods.
    u, A, b, free = coarse_solution(W, a, [sides])
    fine = fine_solution(A, b, free)
    assert norm_in(A, u - fine) < 1e-9 * norm_in(A, fine)
    W.destroy()


def test_fewer_cells_than_ranks():
    """Two cells: some rank may own neither cells nor dofs nor neighbourhoods."""
    msh = mesh.create_unit_square(COMM, 1, 1, CellType.triangle)
    V = fem.functionspace(msh, ("Lagrange", 2))
    a = diffusion(V, 1.0) + mass(V, 1.0)
    W = multiscale_functionspace(V, CoarseGrid(msh, (1, 1)), SpectralBasis(6), a, mass(V, 1.0))
    u, A, b, free = coarse_solution(W, a, [])
    fine = fine_solution(A, b, free)
    np.testing.assert_allclose(u, fine, atol=1e-9)
    W.destroy()
