# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""How many eigenvalues of a local pencil lie below a number, counted exactly."""

from __future__ import annotations

from mpi4py import MPI
from petsc4py import PETSc

from dolfinx_msnn._petsc import readable_errors, temporary_options
from dolfinx_msnn.local import LocalProblem

_PREFIX = "msnn_inertia_"


def count_below(problem: LocalProblem, threshold: float) -> int:
    """The number of eigenvalues λ < threshold of A φ = λ S φ.

    By Sylvester's law of inertia it is the number of negative pivots of A - threshold S; one sparse
    factorisation by MUMPS.

    Args:
        problem: The local problem.
        threshold: Not an eigenvalue itself.

    Raises:
        RuntimeError: If PETSc has no MUMPS, or the factorisation fails.

    Note:
        Not collective.
    """
    if not PETSc.Sys.hasExternalPackage("mumps"):
        raise RuntimeError(
            "Counting eigenvalues needs a symmetric indefinite factorisation; expected a PETSc "
            "with MUMPS."
        )
    shifted = (problem.A - threshold * problem.S).tocsr()
    shifted.sort_indices()
    arrays = shifted.indptr.astype(PETSc.IntType), shifted.indices.astype(PETSc.IntType)
    mat = PETSc.Mat().createAIJWithArrays(
        shifted.shape, (*arrays, shifted.data), comm=MPI.COMM_SELF
    )
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
            readable_errors(f"The inertia of {problem.name} could not be computed"),
            temporary_options(_PREFIX, {}, {"mat_mumps_icntl_24": 1}),
        ):
            pc.setFromOptions()
            pc.setUp()
            negative, _, _ = pc.getFactorMatrix().getInertia()
        return int(negative)
    finally:
        pc.destroy()
        mat.destroy()
