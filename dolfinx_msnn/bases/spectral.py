# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Modes computed by SLEPc: the eigenvectors of smallest eigenvalue of each local pencil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from mpi4py import MPI
from petsc4py import PETSc
from slepc4py import SLEPc

import numpy as np
import scipy.sparse as sp

from dolfinx_msnn._utils.checks import is_number
from dolfinx_msnn._utils.linalg import fix_signs
from dolfinx_msnn._utils.petsc import (
    check_options,
    check_prefix,
    readable_errors,
    temporary_options,
)
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.bases.checks import check_signs, check_threshold, count_or_limit
from dolfinx_msnn.bases.dense import dense_modes
from dolfinx_msnn.bases.nullspace import null_space
from dolfinx_msnn.bases.pencil import Pencil
from dolfinx_msnn.bases.protocol import LocalModes, modes_below
from dolfinx_msnn.local.problem import LocalProblem

#: Degrees of freedom up to which LAPACK computes all modes.
DENSE_UP_TO = 64


class SpectralBasis:
    """The modes of smallest λ of A_i φ = λ S_i φ, by Krylov-Schur with shift-and-invert.

    The generalised eigenproblem of GMsFEM (Efendiev, Galvis, Hou, J. Comput. Phys. 251, 2013,
    Sect. 3) or, without a form ``s``, of GenEO (Spillane et al., Numer. Math. 126, 2014). A_i is
    singular, so the shift is negative: a small fraction of the Rayleigh quotient of the
    coordinate functions.

    Args:
        num_modes: Number of modes in each neighbourhood; all of them where it has fewer dofs.
            Default 8, unless ``threshold`` is given.
        threshold: Keep the modes with λ < ``threshold`` (at least one) instead of a fixed number.
        max_modes: With ``threshold``: keep at most this many. Default 32.
        tol: Relative residual at which an eigenpair counts as converged.
        petsc_options_prefix: Prefix of the SLEPc and PETSc options of the local solves, e.g.
            ``-msnn_spectral_eps_ncv 40``, ``-msnn_spectral_st_pc_factor_mat_solver_type mumps``.
        petsc_options: Options under that prefix, as a mapping.

    Example:
        >>> few = msnn.SpectralBasis(threshold=20.0, max_modes=8)
        >>> with msnn.multiscale_functionspace(V, coarse, few, a, s=s, bcs=bcs) as W:
        ...     bool(max(values[0] for values in W.eigenvalues.values()) < 1e-8)
        True

    Raises:
        ValueError: If the arguments contradict each other or are out of range.
    """

    def __init__(
        self,
        num_modes: int | None = None,
        *,
        threshold: float | None = None,
        max_modes: int | None = None,
        tol: float = 1e-9,
        petsc_options_prefix: str = "msnn_spectral_",
        petsc_options: Mapping[str, object] | None = None,
    ) -> None:
        self.num_modes = count_or_limit(num_modes, "threshold", threshold, max_modes, (8, 32))
        check_threshold(threshold)
        if not is_number(tol) or not 0 < tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {tol!r}.")
        check_prefix(petsc_options_prefix)
        check_options(petsc_options)
        self.threshold = threshold
        self.tol = tol
        self.petsc_options_prefix = petsc_options_prefix
        self.petsc_options = dict(petsc_options or {})

    def modes(self, problems: Sequence[LocalProblem]) -> list[LocalModes]:
        """The eigenpairs of smallest eigenvalue of each problem.

        Not collective.

        Raises:
            ValueError: If A_i is not positive semi-definite, or if S_i is zero.
            RuntimeError: If SLEPc converged fewer eigenpairs than asked for.
        """
        results: list[LocalModes | None] = [None] * len(problems)
        small = [k for k, problem in enumerate(problems) if self._is_small(problem)]
        found = dense_modes([problems[k] for k in small], self.num_modes, self.threshold)
        for k, modes in zip(small, found, strict=True):
            results[k] = modes
        large = [k for k in range(len(problems)) if results[k] is None]
        solver: _Eigensolver | None = None
        try:
            # Equal sparsity patterns share PETSc's and SLEPc's objects.
            for k in sorted(large, key=lambda k: problems[k].pattern):
                problem, unit, size = _in_own_units(problems[k])
                pencil = Pencil.create(problem, "double")
                if solver is None or solver.pattern != problem.pattern:
                    if solver is not None:
                        solver.destroy()
                    solver = _Eigensolver(pencil, self)
                try:
                    modes = self._solve(solver, pencil, unit)
                except np.linalg.LinAlgError:
                    raise ValueError(
                        f"The form a is not positive semi-definite on {problem.name}; expected a "
                        "coercive form."
                    ) from None
                check_signs(problem, modes.values, pencil.shift)
                results[k] = LocalModes(unit * modes.values, modes.vectors / np.sqrt(size))
        finally:
            if solver is not None:
                solver.destroy()
        return [result for result in results if result is not None]

    def _is_small(self, problem: LocalProblem) -> bool:
        """Whether a Krylov space would be the whole space, or take longer than all modes."""
        return problem.num_dofs <= max(DENSE_UP_TO, 2 * self.num_modes + 15)

    def _solve(self, solver: _Eigensolver, pencil: Pencil, unit: float) -> LocalModes:
        # Where S_i is zero, as D_i A_i D_i is on the rim, eigenvalues are infinite.
        top = min(self.num_modes, int(np.count_nonzero(pencil.problem.S.diagonal())))
        if self.threshold is None:
            return solver.solve(pencil, top)
        return modes_below(self.threshold / unit, top, partial(solver.solve, pencil))


def _in_own_units(problem: LocalProblem) -> tuple[LocalProblem, float, float]:
    """The problem with matrices of size one, for the absolute tolerances of PETSc and SLEPc.

    Returns:
        The problem, the unit of its eigenvalues, and that of S.
    """
    unit = float(problem.A.diagonal().max())
    if problem.s is None:
        return replace(problem, A=problem.A / unit), 1.0, unit
    size = float(problem.s.diagonal().max()) or 1.0
    return replace(problem, A=problem.A / unit, s=problem.s / size), unit / size, size


class _Eigensolver:
    """SLEPc and PETSc objects for problems of one sparsity pattern."""

    def __init__(self, pencil: Pencil, basis: SpectralBasis) -> None:
        problem = pencil.problem
        self.pattern = problem.pattern
        self._A, self._a = _shared_matrix(problem.A)
        self._S, self._s = _shared_matrix(problem.S)
        self._fresh = True
        self._eps = eps = SLEPc.EPS().create(MPI.COMM_SELF)
        eps.setOptionsPrefix(basis.petsc_options_prefix)
        eps.setOperators(self._A, self._S)
        eps.setProblemType(SLEPc.EPS.ProblemType.GHEP)
        eps.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
        st = eps.getST()
        st.setType(SLEPc.ST.Type.SINVERT)
        # SLEPc would make a new matrix A - shift S, and with it a new symbolic factorisation, for
        # every problem. Ours is filled again and keeps its pattern.
        self._T, self._t = _shared_matrix(problem.A)
        st.setMatMode(SLEPc.ST.MatMode.SHELL)
        st.setPreconditionerMat(self._T)
        # Purification is for eigenvectors that a singular S leaves undetermined.
        eps.setPurify(problem.s is None)
        ksp = st.getKSP()
        ksp.setType(PETSc.KSP.Type.PREONLY)
        pc = ksp.getPC()
        pc.setType(PETSc.PC.Type.CHOLESKY)
        # Measured: PETSc's own factorisation is faster in 2D, MUMPS (if built in) in 3D.
        mumps = problem.gdim == 3 and PETSc.Sys.hasExternalPackage("mumps")
        pc.setFactorSolverType("mumps" if mumps else "petsc")
        prefix = basis.petsc_options_prefix
        with (
            readable_errors(f"SLEPc refused the options under {prefix}"),
            # Measured in 3D: half the time of the ordering that MUMPS chooses by itself.
            temporary_options(
                prefix, basis.petsc_options, {"st_mat_mumps_icntl_7": 5} if mumps else {}
            ) as options,
        ):
            eps.setFromOptions()
            self._ncv = options.getInt("eps_ncv", 0)
            self._tol = options.getReal("eps_tol", basis.tol)
            self._max_it = options.getInt("eps_max_it", 200)
            # The factor's options are read when it is first made.
            self._shift(problem, -1e-2 * pencil.shift)
            with readable_errors(f"SLEPc failed on {problem.name}"):
                eps.setUp()
        self._vector = self._A.createVecRight()
        self._taken = 0

    def solve(self, pencil: Pencil, num: int) -> LocalModes:
        """Eigenpairs of smallest eigenvalue, S-orthonormal vectors.

        A Krylov space started with one vector holds one copy of a multiple eigenvalue; rounding
        errors may or may not bring the others. So the motions without energy are taken out
        first, and afterwards a short run in the complement of what was found looks for missed
        copies, until there are none.
        """
        problem, scale = pencil.problem, pencil.shift
        if not self._fresh:
            self._a[:] = problem.A.data
            self._s[:] = problem.S.data
            self._A.assemble()
            self._S.assemble()
            self._shift(problem, -1e-2 * scale)
        self._fresh = False
        vectors = null_space(problem)
        values = np.zeros(len(vectors))
        missing = num - len(values)
        if missing <= 0:
            return LocalModes(values[:num], fix_signs(vectors[:num]))
        found = self._run(problem, vectors, missing, self._ncv or max(2 * missing, missing + 15))
        values, vectors = _merge(values, vectors, found)
        for k in range(1, num + 1):
            # Another start each time: what is left of one that was used before is orthogonal to
            # the copies that it missed.
            probe = self._run(problem, vectors, 1, 8, tol=1e-2, seed=k)
            if probe.values[0] >= values[num - 1] - 1e-6 * (abs(values[num - 1]) + 1e-2 * scale):
                break
            found = self._run(problem, vectors, 1, 16, seed=k)
            values, vectors = _merge(values, vectors, found)
        return LocalModes(values[:num], fix_signs(vectors[:num]))

    def _shift(self, problem: LocalProblem, shift: float) -> None:
        """Set the target and the matrix to factor, A - shift S."""
        self._t[:] = problem.A.data - shift * problem.S.data
        self._T.assemble()
        self._eps.setTarget(shift)

    def _run(
        self,
        problem: LocalProblem,
        deflate: FloatArray,
        num: int,
        ncv: int,
        tol: float | None = None,
        seed: int = 0,
    ) -> LocalModes:
        """The ``num`` smallest eigenpairs S-orthogonal to the rows of ``deflate``."""
        eps, n = self._eps, problem.num_dofs
        eps.setTolerances(self._tol if tol is None else tol, self._max_it)
        top = n - len(deflate)
        ncv = min(ncv, top)
        # SLEPc (3.25) counts the columns of the last deflation space as space for eigenvalues: of
        # that very size it would write beyond its arrays.
        if ncv == self._taken:
            ncv += 1 if ncv < top else -1
        self._taken = ncv + len(deflate)
        # mpd anew each time: SLEPc would keep what it chose for the first ncv.
        eps.setDimensions(num, ncv, PETSc.DETERMINE)
        # The same start for every neighbourhood of this size, whatever was solved before it.
        start = np.random.default_rng([n, seed]).standard_normal(n)
        space = [
            PETSc.Vec().createWithArray(row, comm=MPI.COMM_SELF) for row in [start, *deflate.copy()]
        ]
        try:
            with readable_errors(f"SLEPc failed on {problem.name}"):
                eps.setInitialSpace(space[:1])
                eps.setDeflationSpace(space[1:])
                eps.solve()
        finally:
            for item in space:
                item.destroy()
        converged = eps.getConverged()
        if converged < num:
            raise RuntimeError(
                f"SLEPc converged {converged} of {num} eigenpairs of {problem.name} in "
                f"{eps.getIterationNumber()} iterations (reason {eps.getConvergedReason()}); "
                "raise tol or eps_max_it, or check the coefficient."
            )
        values, vectors = np.empty(num), np.empty((num, n))
        for k in range(num):
            values[k] = eps.getEigenpair(k, self._vector).real
            vectors[k] = self._vector.array_r
        return LocalModes(values, vectors)

    def destroy(self) -> None:
        """Free the SLEPc and PETSc objects."""
        for item in (self._eps, self._A, self._S, self._T, self._vector):
            # After an error in the middle of a solve SLEPc cannot take all of its parts down.
            with suppress(PETSc.Error, SystemError):
                item.destroy()


def _shared_matrix(matrix: sp.csr_matrix) -> tuple[PETSc.Mat, FloatArray]:
    """A sequential AIJ matrix and the array that holds its values."""
    data = matrix.data.copy()
    indptr = matrix.indptr.astype(PETSc.IntType, copy=False)
    indices = matrix.indices.astype(PETSc.IntType, copy=False)
    mat = PETSc.Mat().createAIJWithArrays(matrix.shape, (indptr, indices, data), comm=MPI.COMM_SELF)
    mat.assemble()
    mat.setOption(PETSc.Mat.Option.SYMMETRIC, True)
    mat.setOption(PETSc.Mat.Option.SPD, False)
    return mat, data


def _merge(
    values: FloatArray, vectors: FloatArray, new: LocalModes
) -> tuple[FloatArray, FloatArray]:
    """Add eigenpairs and sort by eigenvalue."""
    values = np.concatenate([values, new.values])
    order = np.argsort(values, kind="stable")
    return values[order], np.concatenate([vectors, new.vectors])[order]
