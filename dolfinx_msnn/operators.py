# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse operators: A_0 = PᵀAP, b_0 = Pᵀb, and solvers for coarse systems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from petsc4py import PETSc

if TYPE_CHECKING:
    from dolfinx_msnn.functionspace import MultiscaleFunctionSpace


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


def create_coarse_solver(
    A0: PETSc.Mat,
    petsc_options_prefix: str,
    petsc_options: Mapping[str, object] | None = None,
) -> PETSc.KSP:
    """A solver for coarse systems that survives dependent basis functions.

    By default a direct solve, by MUMPS with null-pivot detection where PETSc has it. Any option
    under the prefix overrides this.

    Args:
        A0: Coarse matrix.
        petsc_options_prefix: Prefix of the options.
        petsc_options: Options under that prefix; they are removed from the global database again.

    Note:
        Collective. The caller destroys the solver.
    """
    solver = PETSc.KSP().create(A0.comm)
    solver.setOptionsPrefix(petsc_options_prefix)
    solver.setOperators(A0)
    solver.setType(PETSc.KSP.Type.PREONLY)
    pc = solver.getPC()
    defaults: dict[str, object] = {}
    if PETSc.Sys.hasExternalPackage("mumps"):
        A0.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        pc.setType(PETSc.PC.Type.CHOLESKY)
        pc.setFactorSolverType("mumps")
        # Null-pivot detection: distinct neighbourhoods may hold dependent functions.
        defaults["mat_mumps_icntl_24"] = 1
    else:
        pc.setType(PETSc.PC.Type.REDUNDANT)
    options = PETSc.Options()
    options.prefixPush(petsc_options_prefix)
    # What the user put under the prefix, in the database or here, wins over our defaults.
    chosen = {k: v for k, v in defaults.items() if not options.hasName(k)} | dict(
        petsc_options or {}
    )
    try:
        for name, value in chosen.items():
            options[name] = value
        solver.setFromOptions()
        # Factor options are read when the factor is made.
        solver.setUp()
    finally:
        for name in chosen:
            del options[name]
        options.prefixPop()
    return solver
