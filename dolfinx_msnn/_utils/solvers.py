# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Direct solvers that survive dependent unknowns, and a check that a system was solved."""

from __future__ import annotations

from collections.abc import Mapping

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import scipy.sparse as sp

from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.petsc import readable_errors, temporary_options, unused, warn_unused
from dolfinx_msnn._utils.typing import FloatArray

#: Relative residual above which a direct coarse solve counts as failed; and above which it does
#: even if rounding explains it, as where a body is hardly held.
SINGULAR_TOLERANCE, ROUNDING_TOLERANCE = 1e-5, 1e-3

#: Steps of iterative refinement that may bring it below. Ill-conditioned systems need one or two,
#: singular ones do not get there.
MAX_REFINEMENTS = 3

#: For MUMPS: null-pivot detection, as distinct neighbourhoods may hold dependent functions. Pivots
#: that are put off until they turn out to be null need more room (in per cent) than usual.
NULL_PIVOTS: dict[str, object] = {"mat_mumps_icntl_24": 1, "mat_mumps_icntl_14": 100}


#: Unknowns up to which coarse systems are solved directly by default. Measured: 55,000 in 3D take
#: MUMPS 24 s to factor and 0.6 s a solve, CG with GAMG 26 s a solve; 97,000 in 2D less than 40,
#: 0.24 and 85 s. What ends it is memory.
DIRECT_UP_TO = 200_000

#: For systems beyond: faster than the smoother that GAMG takes by itself. Chebyshev's method keeps
#: it positive definite on several ranks, which a sweep alone is not.
MULTIGRID: dict[str, object] = {"mg_levels_pc_type": "sor"}


def choose_direct(pc: PETSc.PC, *, symmetric: bool = True) -> None:
    """Make a PC a direct solver for coarse matrices. Collective.

    MUMPS, where PETSc has it: then :data:`NULL_PIVOTS` should be its options. For symmetric
    matrices the PC must have its operators.
    """
    if PETSc.Sys.hasExternalPackage("mumps"):
        if symmetric:
            pc.getOperators()[0].setOption(PETSc.Mat.Option.SYMMETRIC, True)
        pc.setType(PETSc.PC.Type.CHOLESKY if symmetric else PETSc.PC.Type.LU)
        pc.setFactorSolverType("mumps")
    else:
        pc.setType(PETSc.PC.Type.REDUNDANT)


@checked
def create_coarse_solver(
    A0: PETSc.Mat,
    petsc_options_prefix: str,
    petsc_options: Mapping[str, object] | None = None,
    *,
    symmetric: bool = True,
) -> PETSc.KSP:
    """A solver for coarse systems that survives dependent basis functions.

    By default a direct solve, by MUMPS with null-pivot detection where PETSc has it; symmetric
    systems of more than 200,000 unknowns are solved by CG with algebraic multigrid (GAMG) to 1e-8,
    which sees the near null space of A_0. Any option under the prefix overrides this.

    Args:
        A0: Coarse matrix.
        petsc_options_prefix: Prefix of the options.
        petsc_options: Options under that prefix; they are removed from the global database again.
        symmetric: Whether A_0 is: Cholesky is the default then, LU otherwise.

    Note:
        Collective. The caller destroys the solver.
    """
    solver = PETSc.KSP().create(A0.comm)
    solver.setOptionsPrefix(petsc_options_prefix)
    solver.setOperators(A0)
    defaults = NULL_PIVOTS
    if symmetric and A0.getSize()[0] > DIRECT_UP_TO:
        defaults = MULTIGRID
        A0.setOption(PETSc.Mat.Option.SPD, True)
        solver.setType(PETSc.KSP.Type.CG)
        solver.setTolerances(rtol=1e-8, max_it=1000)
        solver.getPC().setType(PETSc.PC.Type.GAMG)
    else:
        solver.setType(PETSc.KSP.Type.PREONLY)
        choose_direct(solver.getPC(), symmetric=symmetric)
    try:
        with (
            readable_errors(f"The coarse solver ({petsc_options_prefix}) could not be set up"),
            temporary_options(petsc_options_prefix, petsc_options or {}, defaults),
        ):
            solver.setFromOptions()
            # Factor options are read when the factor is made.
            solver.setUp()
            left = unused(petsc_options_prefix, petsc_options or {})
            warn_unused(A0.comm, petsc_options_prefix, left)
    except Exception:
        # Not for Ctrl-C, perhaps on one rank alone: that takes all of them.
        solver.destroy()
        raise
    return solver


def solve_coarse(solver: PETSc.KSP, b0: PETSc.Vec, x0: PETSc.Vec) -> None:
    """Solve a coarse system, and see that it was solved.

    A direct solver that steps over null pivots returns a vector for any right-hand side; only the
    residual tells whether it solves the system.

    Args:
        solver: From :func:`create_coarse_solver`.
        b0: Right-hand side.
        x0: Filled with the solution.

    Raises:
        RuntimeError: If the right-hand side is not finite, the solver diverged, or, for a direct
            solver, the system is singular.

    Note:
        Collective.
    """
    name = f"The coarse solver ({solver.getOptionsPrefix()})"
    size = b0.norm()
    if not np.isfinite(size):
        raise RuntimeError(f"{name} was given a right-hand side with NaN or infinite entries.")
    with readable_errors(f"{name} failed"):
        solver.solve(b0, x0)
    reason = solver.getConvergedReason()
    if reason < 0 or not np.isfinite(x0.norm()):
        raise RuntimeError(
            f"{name} did not converge: PETSc reason {reason} after {solver.getIterationNumber()} "
            "iterations."
        )
    if solver.getType() == PETSc.KSP.Type.PREONLY:
        _refine(solver, b0, x0, name)


def _refine(solver: PETSc.KSP, b0: PETSc.Vec, x0: PETSc.Vec, name: str) -> None:
    """See that a direct solver has solved a system, and help it. Collective."""
    A0, size = solver.getOperators()[0], b0.norm()
    residual, correction = b0.duplicate(), x0.duplicate()
    try:
        for step in range(MAX_REFINEMENTS + 1):
            A0.mult(x0, residual)
            residual.aypx(-1.0, b0)
            left = residual.norm()
            if left <= SINGULAR_TOLERANCE * size:
                return
            if step < MAX_REFINEMENTS:
                solver.solve(residual, correction)
                x0.axpy(1.0, correction)
        rounding = 10 * np.finfo(float).eps * A0.norm() * x0.norm()
        if left <= min(ROUNDING_TOLERANCE * size, rounding):
            return
    finally:
        residual.destroy()
        correction.destroy()
    raise RuntimeError(
        f"{name} found no solution, the coarse matrix is singular or nearly so: "
        f"the relative residual is {left / size:.3g}; expected a coercive form, and a condition on "
        "each part of the domain that carries a load."
    )


class DefiniteSolver:
    """Cholesky factors, MUMPS' where PETSc has it, of matrices of one pattern, on this rank only.

    Args:
        A: A matrix of the pattern, SciPy.
        ordering: MUMPS' number of an ordering; default its own choice.
    """

    def __init__(self, A: sp.csr_matrix, ordering: int | None = None) -> None:
        self._values = np.zeros(len(A.data))
        arrays = A.indptr.astype(PETSc.IntType), A.indices.astype(PETSc.IntType), self._values
        self._mat = PETSc.Mat().createAIJWithArrays(A.shape, arrays, comm=MPI.COMM_SELF)
        self._mat.setOption(PETSc.Mat.Option.SPD, True)
        self._ksp = PETSc.KSP().create(MPI.COMM_SELF)
        self._ksp.setOperators(self._mat)
        self._ksp.setType(PETSc.KSP.Type.PREONLY)
        pc = self._ksp.getPC()
        pc.setType(PETSc.PC.Type.CHOLESKY)
        if PETSc.Sys.hasExternalPackage("mumps"):
            pc.setFactorSolverType("mumps")
            if ordering is not None:
                pc.setFactorSetUpSolverType()
                pc.getFactorMatrix().setMumpsIcntl(7, ordering)
        else:
            pc.setFactorOrdering("nd")

    def solve(self, data: FloatArray, rhs: FloatArray, name: str) -> FloatArray:
        """Factor the matrix of these entries and give rows A⁻¹ b for rows b.

        Args:
            data: Entries, shape ``(nnz,)``.
            rhs: Shape ``(num, n)``.
            name: How errors call the matrix.

        Raises:
            RuntimeError: If it cannot be factored.
        """
        self._values[:] = data
        self._mat.assemble()
        B, X = (
            PETSc.Mat().createDense(rhs.shape[::-1], comm=MPI.COMM_SELF).setUp() for _ in range(2)
        )
        try:
            B.getDenseArray()[:] = rhs.T
            B.assemble()
            with readable_errors(f"{name} could not be factored"):
                self._ksp.matSolve(B, X)
            return np.array(X.getDenseArray().T)
        finally:
            B.destroy()
            X.destroy()

    def destroy(self) -> None:
        """Free the PETSc objects."""
        self._ksp.destroy()
        self._mat.destroy()


def solve_definite(A: sp.csr_matrix, rhs: FloatArray, name: str) -> FloatArray:
    """Rows A⁻¹ b for rows b; see :class:`DefiniteSolver`. Not collective."""
    A.sort_indices()
    solver = DefiniteSolver(A)
    try:
        return solver.solve(A.data, rhs, name)
    finally:
        solver.destroy()
