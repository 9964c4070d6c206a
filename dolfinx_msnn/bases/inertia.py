# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Eigenvalues counted exactly: Sylvester's law of inertia, by a sparse factorisation."""

from __future__ import annotations

from mpi4py import MPI
from petsc4py import PETSc

import scipy.sparse as sp

from dolfinx_msnn._utils.petsc import readable_errors, temporary_options
from dolfinx_msnn.local.problem import LocalProblem

_PREFIX = "msnn_inertia_"


def can_count() -> bool:
    """Whether PETSc has what counting needs: MUMPS."""
    return bool(PETSc.Sys.hasExternalPackage("mumps"))


def inertia(matrix: sp.spmatrix, name: str) -> tuple[int, int, int]:
    """Numbers of negative, zero and positive eigenvalues of a symmetric matrix.

    Args:
        matrix: Sparse, shape ``(n, n)``.
        name: How messages call it.

    Raises:
        RuntimeError: If PETSc has no MUMPS, or the factorisation fails.

    Note:
        Not collective.
    """
    if not can_count():
        raise RuntimeError(
            "Counting eigenvalues needs a symmetric indefinite factorisation; expected a PETSc "
            "with MUMPS."
        )
    matrix = sp.csr_matrix(matrix)
    matrix.sort_indices()
    arrays = matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType)
    mat = PETSc.Mat().createAIJWithArrays(matrix.shape, (*arrays, matrix.data), comm=MPI.COMM_SELF)
    pc = PETSc.PC().create(MPI.COMM_SELF)
    try:
        mat.assemble()
        mat.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        mat.setOption(PETSc.Mat.Option.SPD, False)
        pc.setOperators(mat)
        pc.setType(PETSc.PC.Type.CHOLESKY)
        pc.setFactorSolverType("mumps")
        pc.setOptionsPrefix(_PREFIX)
        # PETSc asks for null-pivot detection before it tells the inertia.
        with (
            readable_errors(f"The inertia of {name} could not be computed"),
            temporary_options(_PREFIX, {}, {"mat_mumps_icntl_24": 1}),
        ):
            pc.setFromOptions()
            pc.setUp()
            negative, zero, positive = pc.getFactorMatrix().getInertia()
        return int(negative), int(zero), int(positive)
    finally:
        pc.destroy()
        mat.destroy()


def count_below(problem: LocalProblem, threshold: float) -> int:
    """The number of eigenvalues λ < threshold of A φ = λ S φ, the negative ones of A - threshold S.

    Args:
        problem: The local problem.
        threshold: Not an eigenvalue itself.

    Raises:
        RuntimeError: As :func:`inertia`.

    Note:
        Not collective.
    """
    return inertia(problem.A - threshold * problem.S, problem.name)[0]
