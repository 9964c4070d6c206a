# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Values of finite element functions: from PETSc vectors and from Dirichlet conditions."""

from __future__ import annotations

from collections.abc import Sequence

from petsc4py import PETSc

from dolfinx import fem
from dolfinx_msnn._utils.typing import DirichletBC, Function, FunctionSpace


def set_function(u: Function, vector: PETSc.Vec) -> None:
    """Copy a fine PETSc vector (owned part) to a function and update its ghosts. Collective."""
    u.x.array[: vector.getLocalSize()] = vector.array_r
    u.x.scatter_forward()


def set_to_product(u: Function, P: PETSc.Mat, c: PETSc.Vec) -> None:
    """Set a function to P c. Collective."""
    # In a vector of the type that P wants.
    values = P.createVecLeft()
    try:
        P.mult(c, values)
        set_function(u, values)
    finally:
        values.destroy()


def dirichlet_lift(V: FunctionSpace, bcs: Sequence[DirichletBC]) -> Function:
    """The Dirichlet lift g: the boundary values, zero at all other dofs. Collective."""
    lift: Function = fem.Function(V)
    for bc in bcs:
        bc.set(lift.x.array)
    lift.x.scatter_forward()
    return lift
