# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Local pencils against DOLFINx's own assembly on the cells of a neighbourhood."""

from mpi4py import MPI

import numpy as np
import pytest
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
    hat_values,
    jiggle,
    l_shape,
    mass,
    match,
    on_root,
    rough,
)

import ufl
from dolfinx import fem, mesh
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid
from dolfinx_msnn.local.assembly import LocalProblems


def robin(V, kappa):
    """Diffusion with a Robin condition, linear in κ."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return diffusion(V, kappa) + 2 * kappa * u * v * ufl.ds


#: mesh, element, n, oversampling, a, s
CASES = {
    "triangles": (lambda comm: box(comm, CellType.triangle, 9), 1, (3, 2), 0, diffusion, mass),
    "robin": (lambda comm: box(comm, CellType.triangle, 9), 1, (3, 2), 0, robin, None),
    "l-shape": (l_shape, 2, (3, 3), 0, diffusion, mass),
    "quadrilaterals": (
        lambda comm: jiggle(box(comm, CellType.quadrilateral, 9), 0.02),
        (2, 2),
        (2, 2),
        1,
        elasticity,
        None,
    ),
    "tetrahedra": (
        lambda comm: jiggle(box(comm, CellType.tetrahedron, 4), 0.05),
        2,
        (2, 1, 2),
        0,
        diffusion,
        mass,
    ),
    "hexahedra": (
        lambda comm: box(comm, CellType.hexahedron, 5),
        (1, 3),
        (2, 2, 2),
        0,
        elasticity,
        None,
    ),
}


def set_up(comm, make, element):
    msh = make(comm)
    element = element if np.isscalar(element) else (element[0], (element[1],))
    return fem.functionspace(msh, ("Lagrange", *np.atleast_1d(np.array(element, dtype=object))))


def local_problems(V, n, layers, a, s, kappa, bcs=()):
    coarse = CoarseGrid(V.mesh, n, oversampling=layers)
    return LocalProblems(V, coarse, a(V, kappa), None if s is None else s(V, kappa), bcs)


def as_sorted(points, *arrays):
    """Sort dofs by position and component; matrices both ways."""
    order = np.lexsort(np.rint(1e8 * points).T)
    return [points[order]] + [a[order][:, order] if a.ndim == 2 else a[order] for a in arrays]


@pytest.mark.parametrize("case", CASES)
def test_pencils_equal_assembly_on_the_neighbourhood(case):
    """A_i, S_i, χ_i and dofs of every neighbourhood, on any number of ranks."""
    make, element, n, layers, a, s = CASES[case]
    V = set_up(COMM, make, element)
    kappa = cell_field(V.mesh, rough(1e3))
    bcs = [clamp(V, lambda x: np.isclose(x[0], 0.0))]
    problems = local_problems(V, n, layers, a, s, kappa, bcs)
    points = dof_points(V)

    def expected():
        V = set_up(MPI.COMM_SELF, make, element)
        kappa = cell_field(V.mesh, rough(1e3))
        vertices, h = box_vertices(n)
        chi = hat_values(V.tabulate_dof_coordinates()[:, : len(n)], vertices, h)
        reference = Reference(kappa, chi, a(V, kappa), s and s(V, kappa), layers=layers)
        points, answers = dof_points(V), {}
        for vertex in range(len(vertices)):
            local = reference.local(vertex)
            if len(local.cells):
                answers[vertex] = as_sorted(points[local.dofs], local.A, local.S, local.chi)
        return answers

    answers = on_root(expected)
    assert COMM.allreduce(len(problems), op=MPI.SUM) == len(answers)
    for problem in problems:
        x, A, S, chi = answers[problem.vertex]
        bs = problem.block_size
        mine = np.column_stack([problem.x, np.arange(problem.num_dofs) % bs])
        # The global numbers are those of V, and the mask is that of the boundary condition.
        np.testing.assert_allclose(points[problem.dofs], mine, atol=1e-12)
        np.testing.assert_array_equal(problem.dirichlet, np.isclose(problem.x[:, 0], 0))
        found = as_sorted(mine, problem.A.toarray(), problem.S.toarray(), problem.chi)
        np.testing.assert_allclose(found[0], x, atol=1e-12)
        np.testing.assert_allclose(found[1], A, rtol=0, atol=1e-12 * np.abs(A).max())
        np.testing.assert_allclose(found[2], S, rtol=0, atol=1e-9 * np.abs(S).max())
        np.testing.assert_allclose(found[3], chi, atol=1e-9)
        assert problem.pattern and problem.A.has_canonical_format


@pytest.mark.serial
@pytest.mark.parametrize("case", ["triangles", "quadrilaterals", "tetrahedra"])
def test_pencils_equal_assembly_on_a_submesh(case):
    """A_i is DOLFINx's matrix on a mesh of the neighbourhood's cells alone."""
    make, element, n, layers, a, _ = CASES[case]
    V = set_up(MPI.COMM_SELF, make, element)
    d = V.mesh.topology.dim
    kappa = cell_field(V.mesh, rough(1e3))
    vertices, h = box_vertices(n)
    chi = hat_values(V.tabulate_dof_coordinates()[:, :d], vertices, h)
    for problem in local_problems(V, n, layers, a, None, kappa):
        cells = Reference(kappa, chi, a(V, kappa), layers=layers).cells(problem.vertex)
        part, to_parent, *_ = mesh.create_submesh(V.mesh, d, cells.astype(np.int32))
        V_part = set_up(MPI.COMM_SELF, lambda comm, part=part: part, element)
        kappa_part = fem.Function(fem.functionspace(part, ("DG", 0)))
        parents = to_parent.sub_topology_to_topology(np.arange(len(cells), dtype=np.int32), False)
        kappa_part.x.array[:] = kappa.x.array[parents]
        A = fem.assemble_matrix(fem.form(a(V_part, kappa_part))).to_scipy().toarray()
        mine = np.column_stack([problem.x, np.arange(problem.num_dofs) % problem.block_size])
        order = match(mine, dof_points(V_part))
        np.testing.assert_allclose(
            problem.A.toarray(), A[np.ix_(order, order)], rtol=0, atol=1e-12 * np.abs(A).max()
        )


@pytest.mark.parametrize("cell", [CellType.quadrilateral, CellType.hexahedron])
def test_row_sums_vanish_for_diffusion_and_equal_the_mass_with_s(cell):
    """A_i 1 = 0; the sum of all entries of S_i is the integral of κ over ω_i."""
    n = (3, 3) if cell == CellType.quadrilateral else (2, 2, 2)
    msh = box(COMM, cell, 12 if len(n) == 2 else 6)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, lambda x: 1.0 + 0 * x[0])
    h = 1 / np.array(n)
    for problem in local_problems(V, n, 0, diffusion, mass, kappa):
        sums = problem.A @ np.ones(problem.num_dofs)
        assert np.abs(sums).max() <= 1e-13 * np.abs(problem.A.data).max()
        low, high = np.maximum(problem.place - h, 0), np.minimum(problem.place + h, 1)
        assert problem.S.sum() == pytest.approx(np.prod(high - low), rel=1e-12)


def test_without_s_the_right_hand_matrix_is_DAD():
    msh = box(COMM, CellType.triangle, 9)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, rough(1e6))
    vertices, h = box_vertices((3, 3))
    for problem in local_problems(V, (3, 3), 0, diffusion, None, kappa):
        chi = hat_values(problem.x, vertices[[problem.vertex]], h)[:, 0]
        A = problem.A.toarray()
        np.testing.assert_allclose(
            problem.S.toarray(), np.diag(chi) @ A @ np.diag(chi), rtol=0, atol=1e-9 * A.max()
        )


def test_equal_neighbourhoods_share_numbering_and_pattern_at_any_number_of_ranks():
    """On a structured mesh the pencils come out identically ordered, whoever computes them."""

    def summary(comm):
        msh = box(comm, CellType.triangle, 12)
        V = fem.functionspace(msh, ("Lagrange", 2))
        kappa = cell_field(msh, rough(10.0))
        return {
            p.vertex: (p.pattern, p.x, p.A.indptr, p.A.indices, p.A.data)
            for p in local_problems(V, (4, 4), 0, diffusion, mass, kappa)
        }

    mine = summary(COMM)
    expected = on_root(summary, MPI.COMM_SELF)
    for vertex, (pattern, *arrays) in mine.items():
        assert pattern == expected[vertex][0]
        for found, wanted in zip(arrays, expected[vertex][1:], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-13)
    # The nine interior ones have one pattern, the corners each their own or equal by symmetry.
    inner = {expected[5 * j + i][0] for i in (1, 2, 3) for j in (1, 2, 3)}
    assert len(inner) == 1


def test_batches_keep_all_problems():
    msh = box(COMM, CellType.triangle, 12)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, rough(10.0))
    problems = local_problems(V, (4, 4), 0, diffusion, mass, kappa)
    batches = list(problems.batches(20000))
    assert [p.vertex for batch in batches for p in batch] == [p.vertex for p in problems]
    if COMM.size == 1:
        assert 1 < len(batches) < len(problems)
