# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""PᵀAP by dense blocks: against SciPy, for all kinds of supports, and again for new values."""

from __future__ import annotations

import numpy as np
import pytest
from utils import (
    COMM,
    HEX,
    QUAD,
    TRI,
    box,
    cell_field,
    clamp,
    diffusion,
    elasticity,
    gather_matrix,
    holed_square,
    mass,
    rough,
)

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx_msnn import CoarseGrid, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.algebra import product
from dolfinx_msnn.algebra.product import CoarseProduct, GalerkinProduct

CASES = {
    # Boxes that cut cells, and those that do not; a hole; coarse hats; vectors; 3D; oversampling.
    "aligned": lambda: (box(COMM, QUAD, 12), (3, 3), 1),
    "cut": lambda: (box(COMM, TRI, 11), (3, 2), 1),
    "hole": lambda: (holed_square(COMM, 10), (3, 3), 1),
    "vector": lambda: (box(COMM, QUAD, 10), (2, 2), 2),
    "3d": lambda: (box(COMM, HEX, 6), (2, 2, 2), 1),
    "hats": lambda: (box(COMM, TRI, 12), None, 1),
}


@pytest.mark.parametrize("small", [0, 64, 10**9], ids=["all kept", "some joined", "all joined"])
@pytest.mark.parametrize("name", CASES)
def test_against_scipy(name, small, monkeypatch):
    monkeypatch.setattr(product, "SMALL_GROUP", small)
    monkeypatch.setattr(product, "LEAST_AVERAGE", 0)
    msh, boxes, width = CASES[name]()
    V = fem.functionspace(msh, ("Lagrange", 1) if width == 1 else ("Lagrange", 1, (width,)))
    kappa = cell_field(msh, rough(100.0))
    linear = elasticity(V, kappa) if width > 1 else diffusion(V, kappa)
    bcs = [clamp(V, lambda x: np.isclose(x[0], 0.0))]
    if boxes is None:
        grid = CoarseGrid.from_mesh(msh, box(msh.comm, TRI, 3))
    else:
        grid = CoarseGrid(msh, boxes)
    # Not symmetric, and its diagonal at Dirichlet dofs must not be seen.
    wind = ufl.TrialFunction(V).dx(0) if width == 1 else ufl.grad(ufl.TrialFunction(V))[:, 0]
    form = fem.form(linear + 30 * ufl.inner(wind, ufl.TestFunction(V)) * ufl.dx)
    with multiscale_functionspace(V, grid, SpectralBasis(3), linear, mass(V, kappa), bcs) as W:
        A = assemble_matrix(form, bcs=bcs, diag=1e10)
        A.assemble()
        dense = CoarseProduct.create(A, W)
        try:
            for _ in range(2):
                P, fine = gather_matrix(W.P), gather_matrix(A)
                expected = (P.T @ fine @ P).toarray()
                A0 = dense.assemble(A)
                assert A0 is dense.A0
                found = gather_matrix(A0).toarray()
                np.testing.assert_allclose(found, expected, atol=1e-13 * np.abs(expected).max())
                assert np.abs(expected - expected.T).max() > 1e-3
                kappa.x.array[:] *= 1 + 0.5 * np.sin(kappa.x.array)
                A.zeroEntries()
                assemble_matrix(A, form, bcs=bcs, diag=1e10)
                A.assemble()
        finally:
            dense.A0.destroy()
            A.destroy()


def test_where_it_would_be_slow():
    """A coarse grid as fine as the mesh: left to PETSc, on every rank."""
    msh = box(COMM, QUAD, 10)
    V = fem.functionspace(msh, ("Lagrange", 1))
    a = diffusion(V, cell_field(msh, rough(100.0)))
    A = assemble_matrix(fem.form(a))
    A.assemble()
    with multiscale_functionspace(V, CoarseGrid(msh, (10, 10)), SpectralBasis(1), a) as W:
        assert COMM.allgather(CoarseProduct.create(A, W)) == [None] * COMM.size
    A.destroy()


@pytest.mark.parametrize("least", [0, 10**9], ids=["blocks", "PETSc"])
def test_new_values_of_the_prolongation(least, monkeypatch):
    """After an update of the space, and of A: the same as anew."""
    monkeypatch.setattr(product, "LEAST_AVERAGE", least)
    msh = box(COMM, QUAD, 12)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, rough(100.0))
    a = diffusion(V, kappa)
    form = fem.form(a)
    A = assemble_matrix(form)
    A.assemble()
    with multiscale_functionspace(
        V, CoarseGrid(msh, (3, 3)), SpectralBasis(3), a, mass(V, kappa), updatable=True
    ) as W:
        dense = GalerkinProduct(A, W)
        before = gather_matrix(W.P)
        kappa.x.array[:] **= 2
        A.zeroEntries()
        assemble_matrix(A, form)
        A.assemble()
        layout = W.layout
        W.update()
        assert layout == W.layout
        assert abs(gather_matrix(W.P) - before).max() > 1e-3
        A0 = dense.assemble(A)
        assert A0 is dense.A0
        P, fine = gather_matrix(W.P), gather_matrix(A)
        expected = (P.T @ fine @ P).toarray()
        np.testing.assert_allclose(
            gather_matrix(A0).toarray(), expected, atol=1e-13 * np.abs(expected).max()
        )
        A0.destroy()
    A.destroy()


def test_a_matrix_that_does_not_fit():
    msh = box(COMM, QUAD, 8)
    V, other = (fem.functionspace(msh, ("Lagrange", degree)) for degree in (1, 2))
    A = assemble_matrix(fem.form(diffusion(other, cell_field(msh, rough(10.0)))))
    A.assemble()
    a = diffusion(V, cell_field(msh, rough(10.0)))
    with (
        multiscale_functionspace(V, CoarseGrid(msh, (2, 2)), SpectralBasis(1), a) as W,
        pytest.raises(ValueError, match="expected a matrix on the fine space"),
    ):
        GalerkinProduct(A, W)
    A.destroy()
