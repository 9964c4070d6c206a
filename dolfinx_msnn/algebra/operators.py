# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse operators: A_0 = PᵀAP, b_0 = Pᵀb, and solvers for coarse systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petsc4py import PETSc

if TYPE_CHECKING:
    from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


def check_fine_matrix(A: PETSc.Mat, W: MultiscaleFunctionSpace) -> None:
    """Refuse a matrix that is not one on the fine space.

    Raises:
        ValueError: The same on every rank.
    """
    if A.getSize() != (W.P.getSize()[0],) * 2:
        raise ValueError(
            f"The fine matrix is {A.getSize()[0]} x {A.getSize()[1]}, P has {W.P.getSize()[0]} "
            "rows; expected a matrix on the fine space."
        )


def create_coarse_matrix(A: PETSc.Mat, W: MultiscaleFunctionSpace) -> PETSc.Mat:
    """Allocate and fill A_0 = PᵀAP (symbolic and numeric product).

    Args:
        A: Fine matrix, assembled, with Dirichlet rows and columns zeroed or not (the basis
            functions vanish there).
        W: Multiscale space. If its P is of a host type and A is not, P moves to A's type.

    Returns:
        N_c × N_c matrix of the type of A. The caller destroys it.

    Note:
        Collective.
    """
    check_fine_matrix(A, W)
    W.match_type(A)
    options = PETSc.Options()
    # Measured: on one rank R (A P) with an explicit R is faster than PETSc's default, once and
    # again with new values. A user's choice wins.
    tune = A.getType() == "seqaij" and not options.hasName("mat_product_algorithm")
    if tune:
        options["mat_product_algorithm"] = "rap"
    try:
        return A.ptap(W.P)
    finally:
        if tune:
            del options["mat_product_algorithm"]


def assemble_coarse_matrix(A0: PETSc.Mat, A: PETSc.Mat, W: MultiscaleFunctionSpace) -> PETSc.Mat:
    """Refill A_0 = PᵀAP from :func:`create_coarse_matrix` for new values of A (numeric only).

    Note:
        Collective. Returns ``A0``.
    """
    return A.ptap(W.P, result=A0)


def assemble_coarse_vector(
    b: PETSc.Vec, W: MultiscaleFunctionSpace, b0: PETSc.Vec | None = None
) -> PETSc.Vec:
    """Restrict a fine vector: b_0 = R b = Pᵀ b.

    Args:
        b: Fine vector, finalised (ghost contributions accumulated).
        W: Multiscale space.
        b0: Filled (not added to); created from P if not given.

    Returns:
        Coarse vector. The caller destroys it if it was created.

    Note:
        Collective.
    """
    b0 = W.P.createVecRight() if b0 is None else b0
    W.P.multTranspose(b, b0)
    return b0
