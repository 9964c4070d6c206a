# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""PᵀAP: against SciPy, for all kinds of supports, and again for new values and patterns."""

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
    hang_spring,
    holed_square,
    mass,
    rough,
)

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx_msnn import CoarseGrid, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.algebra import dense_blocks
from dolfinx_msnn.algebra.dense_blocks import DenseBlocks
from dolfinx_msnn.algebra.product import CoarseOperator

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
    monkeypatch.setattr(dense_blocks, "SMALL_GROUP", small)
    monkeypatch.setattr(dense_blocks, "LEAST_AVERAGE", 0)
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
        dense = DenseBlocks.create(A, W)
        try:
            for _ in range(2):
                P, fine = gather_matrix(W.P), gather_matrix(A)
                expected = (P.T @ fine @ P).toarray()
                dense.assemble(A)
                found = gather_matrix(dense.A0).toarray()
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
        assert COMM.allgather(DenseBlocks.create(A, W)) == [None] * COMM.size
    A.destroy()


def triple_product(W, A):
    """PᵀAP by SciPy, dense."""
    P = gather_matrix(W.P)
    return (P.T @ gather_matrix(A) @ P).toarray()


def check(operator, A):
    """A_0 is what SciPy makes of the present A and P."""
    expected = triple_product(operator.W, A)
    found = gather_matrix(operator.A0).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("least", [0, 10**9], ids=["blocks", "PETSc"])
def test_new_values_of_the_prolongation(least, monkeypatch):
    """After an update of the space, and of A: the same as anew, in the same matrix."""
    monkeypatch.setattr(dense_blocks, "LEAST_AVERAGE", least)
    msh = box(COMM, QUAD, 12)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, rough(100.0))
    a = diffusion(V, kappa)
    form = fem.form(a)
    A = assemble_matrix(form)
    A.assemble()
    with (
        multiscale_functionspace(
            V, CoarseGrid(msh, (3, 3)), SpectralBasis(3), a, mass(V, kappa), updatable=True
        ) as W,
        CoarseOperator(W) as operator,
    ):
        assert operator.refresh(A)
        check(operator, A)
        before, A0, layout = gather_matrix(W.P), operator.A0, W.layout
        kappa.x.array[:] **= 2
        A.zeroEntries()
        assemble_matrix(A, form)
        A.assemble()
        W.update()
        assert layout == W.layout
        assert abs(gather_matrix(W.P) - before).max() > 1e-3
        assert not operator.refresh(A)
        assert operator.A0 is A0
        check(operator, A)
        # By anybody, not only by an update.
        W.P.scale(2.0)
        assert not operator.refresh(A)
        check(operator, A)
    A.destroy()


@pytest.mark.parametrize("least", [0, 10**9], ids=["blocks", "PETSc"])
def test_another_pattern_with_as_many_entries(least, monkeypatch):
    """In the same PETSc matrix: a spring between two nodes is hung elsewhere."""
    monkeypatch.setattr(dense_blocks, "LEAST_AVERAGE", least)
    msh = box(COMM, QUAD, 10)
    V = fem.functionspace(msh, ("Lagrange", 1))
    a = diffusion(V, cell_field(msh, rough(100.0)))
    A = assemble_matrix(fem.form(a))
    A.assemble()
    plain = gather_matrix(A)
    # All ends on one rank, so that its entries are as many as before, too.
    last = COMM.bcast(A.getLocalSize()[0] - 1)
    with (
        multiscale_functionspace(V, CoarseGrid(msh, (2, 2)), SpectralBasis(3), a) as W,
        CoarseOperator(W) as operator,
    ):
        entries = set()
        for end in (last // 2, last):
            hang_spring(A, plain, 0, end)
            assert operator.refresh(A)
            check(operator, A)
            entries.add(A.getInfo()["nz_used"])
            # The same pattern in another matrix.
            other = A.copy()
            other.scale(3.0)
            assert not operator.refresh(other)
            check(operator, other)
            other.destroy()
        assert len(entries) == 1
    A.destroy()


def test_a_new_layout_of_the_space():
    """Other numbers of modes: A_0 is formed anew."""
    msh = box(COMM, QUAD, 12)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = cell_field(msh, rough(1.0))
    a = diffusion(V, kappa)
    form = fem.form(a)
    A = assemble_matrix(form)
    A.assemble()
    with (
        multiscale_functionspace(
            V, CoarseGrid(msh, (3, 3)), SpectralBasis(threshold=60.0), a, updatable=True
        ) as W,
        CoarseOperator(W, "anew_") as operator,
    ):
        operator.refresh(A)
        kappa.x.array[:] = cell_field(msh, rough(1e4)).x.array
        W.update()
        assert W.layout == 1
        A.zeroEntries()
        assemble_matrix(A, form)
        A.assemble()
        assert operator.refresh(A)
        assert operator.A0.getOptionsPrefix() == "anew_"
        check(operator, A)
    A.destroy()


def test_a_matrix_that_does_not_fit():
    msh = box(COMM, QUAD, 8)
    V, other = (fem.functionspace(msh, ("Lagrange", degree)) for degree in (1, 2))
    A = assemble_matrix(fem.form(diffusion(other, cell_field(msh, rough(10.0)))))
    A.assemble()
    a = diffusion(V, cell_field(msh, rough(10.0)))
    with (
        multiscale_functionspace(V, CoarseGrid(msh, (2, 2)), SpectralBasis(1), a) as W,
        CoarseOperator(W) as operator,
        pytest.raises(ValueError, match="expected a matrix on the fine space"),
    ):
        operator.refresh(A)
    A.destroy()
