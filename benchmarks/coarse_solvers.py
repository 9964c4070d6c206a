# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The systems that ``bench_solvers.py`` solves, written to a file, and our solvers of them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
from common import FAMILIES, FIRST_SEED, NUM_MODES, box
from fine_solvers import BLOCK, PetscSolver, System, dense, peak_gib, timed
from tables import Record

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx_msnn.algebra.preconditioner import TwoLevelPreconditioner
from dolfinx_msnn.algebra.product import GalerkinProduct
from dolfinx_msnn.petsc import create_coarse_solver

#: name: dimension, cells, boxes, loads, repetitions of a solve
CASES = {
    "2d-250": (2, 250, 10, 3, 2),
    "2d-400": (2, 400, 16, 3, 2),
    "3d-50": (3, 50, 5, 3, 1),
    "3d-100": (3, 100, 8, 2, 1),
}
QUICK = {"2d-quick": (2, 40, 2, 3, 1), "3d-quick": (3, 12, 2, 3, 1)}
MUMPS = {"ksp_type": "preonly", "ksp_norm_type": "none", "pc_type": "cholesky"}
MUMPS |= {"pc_factor_mat_solver_type": "mumps"}
GAMG = {"pc_type": "gamg", "pc_gamg_threshold": 0.02}
FILTERED, SLEPC, LEARNED = "coarse, filtered", "coarse, SLEPc", "coarse, learned"
TWO_LEVEL = "two-level CG, filtered"
OURS = (FILTERED, LEARNED, SLEPC, TWO_LEVEL)


class Forms:
    """The problem on a mesh."""

    def __init__(self, case: str, family: str) -> None:
        self.dim, cells, boxes, self.num, self.repeat = {**CASES, **QUICK}[case]
        msh = box(self.dim, cells)
        self.V = V = fem.functionspace(msh, ("Lagrange", 1))
        self.kappa = kappa = FAMILIES[family](msh, FIRST_SEED)
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        self.a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        self.m, self.s = u * v * ufl.dx, kappa * u * v * ufl.dx
        self.bcs = [
            fem.dirichletbc(
                1.0 - at, fem.locate_dofs_geometrical(V, lambda x, at=at: np.isclose(x[0], at)), V
            )
            for at in (0.0, 1.0)
        ]
        self.coarse = msnn.CoarseGrid(msh, (boxes,) * self.dim)

    def loads(self) -> list[Any]:
        """One, a smooth function, and blocks of either sign."""
        x = ufl.SpatialCoordinate(self.V.mesh)
        smooth = 4 * ufl.sin(2 * ufl.pi * x[0]) * ufl.cos(ufl.pi * x[1])
        signs = np.random.default_rng(FIRST_SEED).choice([-4.0, 4.0], (5,) * self.dim)
        blocks = fem.Function(fem.functionspace(self.V.mesh, ("DG", 0)))
        blocks.interpolate(lambda y: signs[tuple(np.minimum(5 * y[: self.dim], 4).astype(int))])
        return [fem.Constant(self.V.mesh, 1.0), smooth, blocks][: self.num]


def prepare(case: str, family: str, folder: Path) -> list[Record]:
    """Write the system with its loads and their tight solutions; time the assembly of A."""
    forms = Forms(case, family)
    V, form = forms.V, fem.form(forms.a)
    assemble_matrix(form, bcs=forms.bcs).destroy()
    start = time.process_time()
    A = assemble_matrix(form, bcs=forms.bcs)
    A.assemble()
    seconds = time.process_time() - start
    whole, M = (assemble_matrix(fem.form(f)) for f in (forms.a, forms.m))
    whole.assemble()
    M.assemble()
    g = A.createVecLeft()
    for bc in forms.bcs:
        bc.set(g.array_w)
    dofs = np.concatenate([bc.dof_indices()[0] for bc in forms.bcs])
    A.setOption(PETSc.Mat.Option.SPD, True)
    options = MUMPS if forms.dim == 2 else GAMG | {"ksp_type": "cg", "ksp_rtol": 1e-12}
    system = type("Reference", (), {"A": A, "b": [g]})
    solver = PetscSolver(system, options)  # type: ignore[arg-type]
    viewer = PETSc.Viewer().createBinary(str(folder / "system"), "w", comm=MPI.COMM_SELF)
    A.view(viewer)
    M.view(viewer)
    norms = []
    lifted, y = g.duplicate(), g.duplicate()
    whole.mult(g, lifted)
    v = ufl.TestFunction(V)
    for f in forms.loads():
        b = g.duplicate()
        b.array_w[:] = fem.assemble_vector(fem.form(f * v * ufl.dx)).array
        b.axpy(-1.0, lifted)
        b.array_w[dofs] = 0.0
        solver.solve(b)
        # What the boundary values add is the same in every solution, exact ones and others.
        b.view(viewer)
        solver.x.view(viewer)
        u = solver.x.copy()
        u.axpy(1.0, g)
        found = []
        for matrix in (M, whole):
            matrix.mult(u, y)
            found.append(float(np.sqrt(u.dot(y))))
        norms.append(found)
    viewer.destroy()
    (folder / "system.json").write_text(json.dumps({"norms": norms}))
    return [{"method": "assembly", "setup_s": seconds, "N_f": A.getSize()[0], "gib": peak_gib()}]


class CoarseSolve:
    """Restrict, solve, prolong."""

    def __init__(self, A: Any, W: Any) -> None:
        # As LinearProblem does it, from a fine matrix that is there.
        self.A0 = GalerkinProduct(A, W).A0
        self.ksp = create_coarse_solver(self.A0, "bench_coarse_")
        self.P = W.P
        self.b0, self.x0 = self.A0.createVecs()
        self.x = A.createVecLeft()

    def solve(self, b: Any) -> tuple[float, int]:
        """Seconds, and no iterations."""
        start = time.process_time()
        self.P.multTranspose(b, self.b0)
        self.ksp.solve(self.b0, self.x0)
        self.P.mult(self.x0, self.x)
        return time.process_time() - start, 0

    def block(self, bs: list[Any]) -> float:
        """Seconds for several right-hand sides at once."""
        B = dense(bs)
        start = time.process_time()
        B0 = self.P.transposeMatMult(B)
        X0 = B0.duplicate()
        self.ksp.matSolve(B0, X0)
        X = self.P.matMult(X0)
        seconds = time.process_time() - start
        for item in (B, B0, X0, X):
            item.destroy()
        return seconds


def ours(case: str, family: str, folder: Path, names: Sequence[str]) -> list[Record]:
    """Records of a coarse space: its own solve and, if asked for, the two-level preconditioner."""
    forms, system = Forms(case, family), System(str(folder))
    A, records = system.A, []
    bases = {
        FILTERED: lambda: msnn.FilteredBasis(NUM_MODES),
        SLEPC: lambda: msnn.SpectralBasis(NUM_MODES),
        LEARNED: lambda: msnn.LearnedBasis.pretrained(
            f"diffusion-{forms.dim}d", forms.kappa, NUM_MODES
        ),
    }
    basis = bases[names[0]]()
    if A.getSize()[0] < 10**5:
        msnn.multiscale_functionspace(
            forms.V, forms.coarse, basis, forms.a, forms.s, forms.bcs
        ).destroy()
    start = time.process_time()
    W = msnn.multiscale_functionspace(forms.V, forms.coarse, basis, forms.a, forms.s, forms.bcs)
    space = time.process_time() - start
    record: Record = {"space_s": space, "N_c": W.num_dofs}
    start = time.process_time()
    solver = CoarseSolve(A, W)
    setup = time.process_time() - start
    first, again = solver.solve(system.b[0])[0], solver.solve(system.b[0])[0]
    setup += max(0.0, first - again)
    found = timed(solver, system, max(3, forms.repeat))
    bs = [system.b[k % len(system.b)] for k in range(BLOCK)]
    solver.block(bs)
    found["block_s"] = min(solver.block(bs) for _ in range(3)) / BLOCK
    targets = []
    for k, b in enumerate(system.b):
        solver.solve(b)
        targets.append(system.errors(k, solver.x))
    records.append(
        record
        | found
        | {"method": names[0], "goal": "space", "setup_s": space + setup}
        | {"targets": json.dumps(targets), "gib": peak_gib()}
    )
    if TWO_LEVEL in names:
        with TwoLevelPreconditioner(W, petsc_options_prefix="two_level_") as M:
            two = PetscSolver(system, {"pc_type": "none"})
            start = time.process_time()
            M.attach(two.ksp)
            setup = time.process_time() - start
            first, again = two.solve(system.b[0])[0], two.solve(system.b[0])[0]
            setup += max(0.0, first - again)
            found = timed(two, system, forms.repeat)
        records.append(
            record
            | found
            | {"method": TWO_LEVEL, "goal": "solver", "setup_s": space + setup}
            | {"gib": peak_gib()}
        )
    return records
