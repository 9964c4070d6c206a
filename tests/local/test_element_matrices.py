# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Element matrices: summed up they are the matrix that DOLFINx assembles."""

import numpy as np
import pytest
import scipy.sparse as sp
from utils import COMM, box, cell_field, elasticity, gather_matrix, gdim, jiggle, rough

import basix
import basix.ufl
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import assemble_matrix
from dolfinx.mesh import CellType
from dolfinx_msnn.local.element_matrices import GROUPS, ElementMatrices


def element_blocks(V, form):
    num_cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_local
    matrices = ElementMatrices(fem.form(form), V)
    return matrices.tabulate(matrices.values(), np.arange(num_cells, dtype=np.int32))


def unrolled(V):
    """Global unrolled dofs of this rank's cells, component fastest."""
    index_map, bs = V.dofmap.index_map, V.dofmap.index_map_bs
    num_cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_local
    blocks = index_map.local_to_global(V.dofmap.list[:num_cells].reshape(-1).astype(np.int32))
    return (bs * blocks[:, None] + np.arange(bs)).reshape(num_cells, -1)


def summed(V, form):
    """Sum of the element matrices of all ranks, dense."""
    blocks, dofs = element_blocks(V, form), unrolled(V)
    n = V.dofmap.index_map.size_global * V.dofmap.index_map_bs
    rows = np.repeat(dofs, dofs.shape[1], axis=1).reshape(-1)
    cols = np.tile(dofs, (1, dofs.shape[1])).reshape(-1)
    mine = sp.coo_matrix((blocks.reshape(-1), (rows, cols)), shape=(n, n)).tocsr()
    return sum(COMM.allgather(mine)).toarray()


def assembled(form):
    A = assemble_matrix(fem.form(form))
    A.assemble()
    dense = gather_matrix(A).toarray()
    A.destroy()
    return dense


def scalar_form(V):
    """DG0, Constant, tensor and P1 coefficients, and a Robin condition on a part of ∂Ω."""
    msh = V.mesh
    d = msh.geometry.dim
    u, v, x = ufl.TrialFunction(V), ufl.TestFunction(V), ufl.SpatialCoordinate(msh)
    kappa = cell_field(msh, rough(1e3))
    tensor = fem.Function(fem.functionspace(msh, ("DG", 0, (d, d))))
    tensor.x.array[:] = np.tile((np.eye(d) + 0.3).reshape(-1), len(tensor.x.array) // d**2)
    constant = fem.Constant(msh, 0.7)
    alpha = fem.Function(fem.functionspace(msh, ("Lagrange", 1)))
    alpha.interpolate(lambda y: 2 + y[0] + y[1])
    facets = mesh.locate_entities_boundary(msh, d - 1, lambda y: np.isclose(y[0], 0))
    tags = mesh.meshtags(msh, d - 1, np.sort(facets), np.full(len(facets), 3, np.int32))
    ds = ufl.Measure("ds", domain=msh, subdomain_data=tags)
    return (
        kappa * ufl.inner(tensor * ufl.grad(u), ufl.grad(v)) * ufl.dx
        + constant * (1 + x[0] ** 2) * u * v * ufl.dx
        + alpha * u * v * ds(3)
        + 0.1 * kappa * u * v * ufl.ds
    )


def vector_form(V):
    """Elasticity with DG0 modulus, and springs on ∂Ω."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    n = ufl.FacetNormal(V.mesh)
    springs = 3.0 * ufl.inner(u, n) * ufl.inner(v, n) * ufl.ds
    return elasticity(V, cell_field(V.mesh, rough(1e4))) + springs


@pytest.mark.parametrize(
    "cell,degree,shape",
    [
        (CellType.triangle, 3, "scalar"),
        (CellType.quadrilateral, 2, "vector"),
        (CellType.tetrahedron, 1, "vector"),
        (CellType.tetrahedron, 2, "scalar"),
        (CellType.hexahedron, 1, "scalar"),
    ],
)
def test_blocks_sum_to_the_assembled_matrix(cell, degree, shape):
    n = {2: 4, 3: 2}[gdim(cell)]
    msh = jiggle(box(COMM, cell, n), 0.2 / n)
    V = fem.functionspace(
        msh, ("Lagrange", degree) if shape == "scalar" else ("Lagrange", degree, (gdim(cell),))
    )
    form = scalar_form(V) if shape == "scalar" else vector_form(V)
    A = assembled(form)
    np.testing.assert_allclose(summed(V, form), A, rtol=0, atol=1e-13 * np.abs(A).max())


@pytest.mark.parametrize(
    "name,degree,variant,shape",
    [
        ("triangle", 3, basix.LagrangeVariant.equispaced, None),
        ("quadrilateral", 3, basix.LagrangeVariant.gll_isaac, (3,)),
        ("tetrahedron", 4, basix.LagrangeVariant.gll_warped, None),
    ],
)
def test_variants_and_shapes(name, degree, variant, shape):
    """Faces with several dofs, other nodes, and a vector of more components than dimensions."""
    cell = CellType[name]
    msh = box(COMM, cell, 2 if name == "tetrahedron" else 4)
    element = basix.ufl.element("Lagrange", name, degree, lagrange_variant=variant, shape=shape)
    V = fem.functionspace(msh, element)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    form = cell_field(msh, rough(10.0)) * ufl.inner(u, v) * ufl.dx
    A = assembled(form)
    np.testing.assert_allclose(summed(V, form), A, rtol=0, atol=1e-13 * np.abs(A).max())


@pytest.mark.parametrize("compiled", [True, False])
def test_cell_subdomains(compiled, monkeypatch):
    """dx(tag) restricts the blocks to the tagged cells, with and without the compiled loop."""
    if not compiled:
        monkeypatch.setattr(GROUPS, "module", None)
    msh = box(COMM, CellType.quadrilateral, 4)
    V = fem.functionspace(msh, ("Lagrange", 1))
    left = mesh.locate_entities(msh, 2, lambda x: x[0] < 0.5 + 1e-9)
    num = msh.topology.index_map(2).size_local + msh.topology.index_map(2).num_ghosts
    marks = np.full(num, 2, np.int32)
    marks[left] = 1
    tags = mesh.meshtags(msh, 2, np.arange(num, dtype=np.int32), marks)
    dx = ufl.Measure("dx", domain=msh, subdomain_data=tags)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    # Of the tag 0 there are no cells, and integrals of other degrees have kernels of their own.
    form = 5.0 * ufl.inner(ufl.grad(u), ufl.grad(v)) * dx(1) + u * v * dx(2)
    form += 7.0 * u * v * dx(0) + u * v * dx(2, degree=5)
    A = assembled(form)
    np.testing.assert_allclose(summed(V, form), A, rtol=0, atol=1e-14 * np.abs(A).max())


def test_blocks_are_in_the_order_of_the_dof_map():
    """On one bilinear square the stiffness matrix is known: 4, -1, -1, -2 sixths."""
    msh = box(COMM, CellType.quadrilateral, 6)
    V = fem.functionspace(msh, ("Lagrange", 1))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    blocks = element_blocks(V, ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx)
    known = np.array([[4, -1, -1, -2], [-1, 4, -2, -1], [-1, -2, 4, -1], [-2, -1, -1, 4]]) / 6
    np.testing.assert_allclose(blocks, np.broadcast_to(known, blocks.shape), atol=1e-14)
