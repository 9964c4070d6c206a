# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficients of the member of a coarse space that is closest to a fine function."""

from __future__ import annotations

from petsc4py import PETSc

from dolfinx_msnn._utils.solvers import create_coarse_solver, solve_coarse
from dolfinx_msnn._utils.typing import Function


def create_projection_solver(P: PETSc.Mat, M: PETSc.Mat | None = None) -> PETSc.KSP:
    """A solver with PᵀMP for :func:`least_squares`. Collective; the caller destroys it."""
    gram = P.transposeMatMult(P) if M is None else M.ptap(P)
    try:
        return create_coarse_solver(gram, "msnn_projection_")
    finally:
        # The solver keeps it.
        gram.destroy()


def least_squares(
    P: PETSc.Mat, solver: PETSc.KSP, f: Function, M: PETSc.Mat | None = None
) -> PETSc.Vec:
    """Coefficients c of the minimum of (f − P c)ᵀ M (f − P c).

    Args:
        P: Prolongation.
        solver: From :func:`create_projection_solver`, for the same P and M.
        f: A function in the fine space.
        M: Fine symmetric matrix; default the identity.

    Returns:
        Coarse vector. The caller destroys it.

    Note:
        Collective.
    """
    fine, image = P.createVecLeft(), P.createVecLeft()
    right, c = P.createVecRight(), P.createVecRight()
    try:
        fine.array_w[:] = f.x.array[: fine.getLocalSize()]
        if M is not None:
            M.mult(fine, image)
        P.multTranspose(fine if M is None else image, right)
        solve_coarse(solver, right, c)
    except BaseException:
        c.destroy()
        raise
    finally:
        for item in (fine, image, right):
            item.destroy()
    return c
