# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Assembly into PETSc matrices that are there already."""

from __future__ import annotations

from collections.abc import Sequence

from petsc4py import PETSc

from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import DirichletBC, Form


def fill_matrix(A: PETSc.Mat, form: Form, bcs: Sequence[DirichletBC] = ()) -> None:
    """Assemble a bilinear form with its present coefficients into a matrix made for it.

    Args:
        A: From ``dolfinx.fem.petsc.create_matrix(form)``; what is in it is overwritten.
        form: Compiled form.
        bcs: Dirichlet conditions: their rows and columns are zero, but for ones on the diagonal.

    Note:
        Collective.
    """
    A.zeroEntries()
    # What assemble_matrix does after it has values for the coefficients is collective.
    with collective_errors(A.comm.tompi4py()):
        constants, coeffs = fem.pack_constants(form), fem.pack_coefficients(form)
    # The registered overload for a given matrix is not in its annotations.
    assemble_matrix(A, form, bcs=bcs, constants=constants, coeffs=coeffs)  # type: ignore[misc, arg-type]
    A.assemble()
