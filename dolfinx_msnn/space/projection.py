# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficients of the member of a coarse space that is closest to a fine function."""

from __future__ import annotations

from petsc4py import PETSc

from dolfinx_msnn._utils.solvers import create_coarse_solver, solve_coarse
from dolfinx_msnn._utils.typing import Function


def least_squares(P: PETSc.Mat, f: Function, M: PETSc.Mat | None = None) -> PETSc.Vec:
    """Coefficients c of the minimum of (f − P c)ᵀ M (f − P c).

    Args:
        P: Prolongation.
        f: A function in the fine space.
        M: Fine symmetric matrix; default the identity.

    Returns:
        Coarse vector. The caller destroys it.

    Note:
        Collective.
    """
    gram = P.transposeMatMult(P) if M is None else M.ptap(P)
    fine, image = P.createVecLeft(), P.createVecLeft()
    right, c = P.createVecRight(), P.createVecRight()
    solver: PETSc.KSP = None
    try:
        solver = create_coarse_solver(gram, "msnn_projection_")
        fine.array_w[:] = f.x.array[: fine.getLocalSize()]
        if M is not None:
            M.mult(fine, image)
        P.multTranspose(fine if M is None else image, right)
        solve_coarse(solver, right, c)
    except BaseException:
        c.destroy()
        raise
    finally:
        for item in (solver, gram, fine, image, right):
            if item is not None:
                item.destroy()
    return c
