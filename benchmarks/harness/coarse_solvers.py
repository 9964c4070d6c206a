# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Linear systems of a problem for fine solvers, and coarse and two-level solvers of them."""

from __future__ import annotations

from collections.abc import Sequence
from time import process_time
from typing import Any

from harness.fine_solvers import BLOCK, PetscSolver, System, dense, timed, warm
from harness.problems import Problem
from harness.results import Record

from petsc4py import PETSc

import numpy as np

import dolfinx_msnn as msnn
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx_msnn.algebra.product import CoarseOperator
from dolfinx_msnn.petsc import create_coarse_solver


def unconstrained(problem: Problem) -> tuple[Any, Any, Any, np.ndarray]:
    """A and M without conditions, a vector of the boundary values, and the dofs that have them."""
    A, M = (assemble_matrix(fem.form(form)) for form in (problem.a, problem.m))
    A.assemble()
    M.assemble()
    g = A.createVecLeft()
    for bc in problem.bcs:
        bc.set(g.array_w)
    dofs = np.unique(np.concatenate([bc.dof_indices()[0] for bc in problem.bcs]))
    return A, M, g, dofs


def load(form: Any, A: Any, g: Any, dofs: np.ndarray) -> Any:
    """The vector of a linear form, less what the boundary values add, and zero where they are."""
    b = g.duplicate()
    A.mult(g, b)
    b.scale(-1.0)
    b.array_w[:] += fem.assemble_vector(fem.form(form)).array
    b.array_w[dofs] = 0.0
    return b


def assemble(
    problem: Problem, forms: Sequence[Any], options: dict[str, Any], *, spd: bool = False
) -> System:
    """The fine system of a problem, with solutions by PETSc's options for some linear forms.

    What the boundary values add is the same in every solution, exact ones and others; vectors are
    without it. PETSc is told that A is positive definite, or left to find out.
    """
    A = assemble_matrix(fem.form(problem.a), bcs=problem.bcs)
    A.assemble()
    A.setBlockSize(problem.V.dofmap.index_map_bs)
    if spd:
        A.setOption(PETSc.Mat.Option.SPD, True)
    whole, M, g, dofs = unconstrained(problem)
    solver, y = PetscSolver(A, options), g.duplicate()
    bs, exact, norms = [], [], []
    for form in forms:
        b = load(form, whole, g, dofs)
        solver.solve(b)
        bs.append(b)
        exact.append(solver.x.copy())
        u = solver.x.copy()
        u.axpy(1.0, g)
        norms.append([])
        for matrix in (M, whole):
            matrix.mult(u, y)
            norms[-1].append(float(np.sqrt(u.dot(y))))
        u.destroy()
    solver.destroy()
    for item in (whole, g, y):
        item.destroy()
    return System(A, M, bs, exact, norms)


class CoarseSolver:
    """Restrict, solve, prolong."""

    def __init__(self, A: Any, W: msnn.MultiscaleFunctionSpace) -> None:
        # As LinearProblem does it, from a fine matrix that is there.
        self.operator = CoarseOperator(W)
        self.operator.refresh(A)
        self.A0 = self.operator.A0
        self.ksp = create_coarse_solver(self.A0, "bench_coarse_")
        self.P = W.P
        self.b0, self.x0 = self.A0.createVecs()
        self.x = A.createVecLeft()

    def solve(self, b: Any) -> tuple[float, int]:
        """Seconds, and no iterations."""
        start = process_time()
        self.P.multTranspose(b, self.b0)
        self.ksp.solve(self.b0, self.x0)
        self.P.mult(self.x0, self.x)
        return process_time() - start, 0

    def block(self, bs: list[Any]) -> float:
        """Seconds for several right-hand sides at once."""
        B = dense(bs)
        start = process_time()
        B0 = self.P.transposeMatMult(B)
        X0 = B0.duplicate()
        self.ksp.matSolve(B0, X0)
        X = self.P.matMult(X0)
        seconds = process_time() - start
        for item in (B, B0, X0, X):
            item.destroy()
        return seconds


def solve_coarse(
    system: System, W: msnn.MultiscaleFunctionSpace, repeat: int
) -> tuple[Record, list[list[float]]]:
    """Times and errors of a coarse space's own solve, and its errors for each right-hand side."""
    start = process_time()
    solver = CoarseSolver(system.A, W)
    setup = process_time() - start
    setup += warm(solver, system.b[0])[0]
    found: Record = timed(solver, system, repeat)
    bs = [system.b[k % len(system.b)] for k in range(BLOCK)]
    solver.block(bs)
    found["block_s"] = min(solver.block(bs) for _ in range(3)) / BLOCK
    errors = []
    for k, b in enumerate(system.b):
        solver.solve(b)
        errors.append(system.errors(k, solver.x))
    return found | {"setup_s": setup}, errors


def solve_two_level(
    system: System, W: msnn.MultiscaleFunctionSpace, repeat: int, **settings: Any
) -> Record:
    """Times and errors of CG with the two-level preconditioner."""
    with msnn.TwoLevelPreconditioner(W, petsc_options_prefix="two_level_", **settings) as M:
        solver = PetscSolver(system.A, {}, M, strict=False)
        more, _ = warm(solver, system.b[0])
        found = timed(solver, system, repeat)
        record = found | {"setup_s": solver.setup + more, "solved": solver.solved}
        solver.destroy()
    return record
