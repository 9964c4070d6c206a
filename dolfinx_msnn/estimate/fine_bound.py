# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Bounds of the energy error against the fine solution by a few conjugate gradient steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol, runtime_checkable

from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._utils.checks import is_integer, is_number, require
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.functions import set_function
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import Owner
from dolfinx_msnn._utils.typing import FloatArray, Function
from dolfinx_msnn.algebra.local_solvers import SubdomainSolvers
from dolfinx_msnn.estimate.indicators import residual
from dolfinx_msnn.problems.linear import LinearProblem


@runtime_checkable
class Preconditioner(Protocol):
    """Anything that applies a symmetric positive definite M⁻¹; a ``PETSc.PC`` is wrapped."""

    def apply(self, pc: PETSc.PC, r: PETSc.Vec, z: PETSc.Vec) -> None:
        """Put M⁻¹ r into z. Collective."""


@dataclass(frozen=True)
class FineErrorBound:
    """Bounds of ‖u_h − u_H‖_A, u_h the fine and u_H the multiscale solution.

    Attributes:
        upper: Guaranteed upper bound.
        lower: Lower bound.
        steps: Conjugate gradient steps taken.
        history: Upper bounds of the error of u_H after 0, 1, ... steps, shape ``(steps + 1,)``;
            each is a bound, ``upper`` is the least of them.
    """

    upper: float
    lower: float
    steps: int
    history: FloatArray


class SchwarzPreconditioner(Owner):
    """Hybrid two-level Schwarz: coarse corrections before and after those on all ω_i at once.

    M⁻¹ = Q + (I − QA) (Σ R_iᵀ A_i⁻¹ R_i) (I − AQ), Q = P A_0⁻¹ Pᵀ. Its smallest eigenvalue
    λ_min(M⁻¹A) is bounded by :func:`schwarz_lambda_min`, with exact coarse and local solves.

    Args:
        problem: Problem, assembled or not; not kept alive by this.
        solvers: Local solvers; made and owned if not given.

    Note:
        Creation is collective. Context manager.
    """

    _title: ClassVar[str] = "Schwarz preconditioner"

    @checked
    def __init__(self, problem: LinearProblem, *, solvers: SubdomainSolvers | None = None) -> None:
        super().__init__(problem.W.comm)
        self._problem = problem
        self._coarse = problem.solver
        if solvers is None:
            solvers = self._own(SubdomainSolvers(problem.A, problem.W))
        self.solvers: SubdomainSolvers = solvers
        A0, A = problem.A0, problem.A
        self._b0, self._x0 = self._own(A0.createVecLeft()), self._own(A0.createVecRight())
        self._work = [self._own(A.createVecLeft()) for _ in range(2)]

    def apply(self, pc: PETSc.PC, r: PETSc.Vec, z: PETSc.Vec) -> None:
        """Put M⁻¹ r into z. Collective.

        Args:
            pc: Not used (PETSc passes its own).
            r: Fine vector.
            z: Filled; another vector than ``r``.
        """
        image, rest = self._work
        A = self._problem.A
        self._correct(r, z)
        A.mult(z, image)
        rest.waxpy(-1.0, image, r)
        parts, _ = self.solvers.solve(rest)
        self.solvers.extend(parts, rest)
        z.axpy(1.0, rest)
        A.mult(rest, image)
        self._correct(image, rest)
        z.axpy(-1.0, rest)

    def _correct(self, r: PETSc.Vec, z: PETSc.Vec) -> None:
        """Put the coarse correction Q r into z. Collective."""
        P = self._problem.W.P
        P.multTranspose(r, self._b0)
        null = self._problem.A0.getNullSpace()
        if null.handle:
            null.remove(self._b0)
        self._coarse.solve(self._b0, self._x0)
        P.mult(self._x0, z)


@checked
def bound_fine_error(
    problem: LinearProblem,
    preconditioner: Preconditioner | PETSc.PC,
    lambda_min: float,
    *,
    steps: int = 10,
    ratio: float = 1.05,
    error: Function | None = None,
) -> FineErrorBound:
    """Bound the energy error of a multiscale solution against the fine one. Collective.

    k steps of conjugate gradients for the fine system from u_H: ‖u_h − u_H‖_A² is
    Σ_{j<k} γ_j ‖r_j‖²_{M⁻¹} + ‖u_h − u_k‖_A² (Hestenes, Stiefel, 1952; it holds locally in finite
    precision: Strakoš, Tichý, ETNA 13, 2002). The last term is bounded by Gauss-Radau quadrature
    with a node at ``lambda_min`` (Golub, Meurant; recurrence of Meurant, Tichý, Numer. Algorithms
    62, 2013, section 4), never worse than ‖r_k‖²_{M⁻¹}/λ_min.

    Guaranteed if ``lambda_min`` is a lower bound of the smallest (on a singular A, the smallest
    non-zero) eigenvalue of M⁻¹A, M is symmetric positive definite and applied exactly, up to
    rounding errors. What is bounded is the distance to the solution of the *fine* system, with its
    quadrature and boundary values; :func:`bound_error` bounds the distance to that of the boundary
    value problem.

    Args:
        problem: Solved problem; left as it is.
        preconditioner: A :class:`SchwarzPreconditioner`, a ``PETSc.PC`` that is set up (a Jacobi
            one, say), or any object with ``apply(pc, r, z)``.
        lambda_min: From :func:`schwarz_lambda_min`, or known otherwise; positive.
        steps: Largest number of steps.
        ratio: Stop earlier when upper/lower is below this.
        error: Filled with the approximation of u_h − u_H that the steps have found, a function in
            V that is zero on Dirichlet dofs; :func:`local_energies` tells where it is large.

    Returns:
        The bounds, the same on every rank.

    Raises:
        ValueError: If an argument is out of range.
        RuntimeError: If the matrix or the preconditioner turns out not to be positive definite.
    """
    with collective_errors(problem.W.comm) as checks:
        positive = is_number(lambda_min) and 0 < lambda_min < np.inf
        expected = "a positive number (zero: a neighbourhood's functions lack its constant)"
        require(positive, "lambda_min", lambda_min, expected)
        require(is_integer(steps), "steps", steps, "a non-negative integer")
        require(is_number(ratio) and ratio > 0, "ratio", ratio, "a positive number")
        if error is not None:
            problem.W.check_member(error)
        checks.agree(lambda_min=lambda_min, steps=steps, ratio=ratio)
    A, apply = problem.A, partial(preconditioner.apply, None)
    if isinstance(preconditioner, PETSc.PC):
        apply = preconditioner.apply
    vectors = [residual(problem), *(A.createVecLeft() for _ in range(4))]
    try:
        found = _iterate(A, apply, vectors, lambda_min, steps, ratio)
        if error is not None:
            set_function(error, vectors[1])
        return found
    finally:
        for item in vectors:
            item.destroy()


def _iterate(
    A: PETSc.Mat,
    apply: Callable[[PETSc.Vec, PETSc.Vec], None],
    vectors: Sequence[PETSc.Vec],
    lambda_min: float,
    steps: int,
    ratio: float,
) -> FineErrorBound:
    """Conjugate gradients with the bounds of each step. Collective.

    Args:
        A: Fine matrix.
        apply: Takes r, and fills z with M⁻¹ r.
        vectors: The residual at the beginning (changed), the solution (filled), and three more.
        lambda_min: As for :func:`bound_fine_error`.
        steps: As there.
        ratio: As there.
    """
    r, x, z, d, image = vectors
    x.set(0.0)
    apply(r, z)
    rho = r.dot(z)
    z.copy(d)
    radau, found = 1.0 / lambda_min, 0.0
    history = [np.sqrt(max(rho, 0.0) * radau)]
    first, taken = rho, 0
    while taken < steps and rho > 1e-28 * first:
        A.mult(d, image)
        curvature = d.dot(image)
        if not (curvature > 0 and rho > 0):
            raise RuntimeError(
                f"Conjugate gradients met r·z = {rho:.3g} and d·Ad = {curvature:.3g}; expected a "
                "positive definite matrix and preconditioner."
            )
        gamma = rho / curvature
        found += gamma * rho
        x.axpy(gamma, d)
        r.axpy(-gamma, image)
        apply(r, z)
        rho, before = r.dot(z), rho
        delta = rho / before
        # 1/lambda_min is always a bound; the better one is lost where the gap is rounding errors.
        gap = radau - gamma
        radau = gap / (lambda_min * gap + delta) if gap > 1e-12 * radau else 1.0 / lambda_min
        history.append(np.sqrt(found + max(rho, 0.0) * radau))
        d.aypx(delta, z)
        taken += 1
        if min(history) <= ratio * np.sqrt(found):
            break
    upper = float(min(history))
    return FineErrorBound(upper, float(min(np.sqrt(found), upper)), taken, np.array(history))
