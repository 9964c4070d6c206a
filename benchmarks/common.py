# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What the benchmarks of bases share: fields, the problem, errors, and processor time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mpi4py import MPI

import numpy as np

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import fields
from dolfinx_msnn.local.problem import LocalProblem
from dolfinx_msnn.petsc import LinearProblem

NUM_MODES = 8
FIRST_SEED = 10**6
#: Log-normal: SLEPc's errors come near the paper's 1.15 % (L2) and 11.7 % (H1) in the case 2d-100.
FAMILIES: dict[str, Callable[[Any, int], Any]] = {
    "log-normal": lambda m, s: fields.log_normal(m, seed=s, variance=4.0, correlation_length=0.06),
    "two-phase 1e3": lambda m, s: fields.two_phase(m, 1e3, seed=s),
    "two-phase 1e6": lambda m, s: fields.two_phase(m, 1e6, seed=s),
    "channels 1e3": lambda m, s: fields.channels(m, 1e3, seed=s),
}


class Clock:
    """A basis whose processor time is taken."""

    def __init__(self, basis: Any) -> None:
        self.basis, self.seconds, self.count = basis, 0.0, 0
        self.wrapped = (basis,)
        self.num_modes = NUM_MODES

    def modes(self, problems: Sequence[LocalProblem]) -> list[msnn.LocalModes]:
        """The modes of the basis, with the clock running."""
        start = time.process_time()
        found: list[msnn.LocalModes] = self.basis.modes(problems)
        self.seconds += time.process_time() - start
        self.count += len(problems)
        return found


def clock(action: Callable[[], Any], repeats: int = 3) -> float:
    """Least processor time of some runs."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        action()
        times.append(time.process_time() - begin)
    return min(times)


def box(dim: int, cells: int) -> Any:
    """The unit square or cube in quadrilaterals or hexahedra."""
    if dim == 2:
        return mesh.create_unit_square(MPI.COMM_SELF, cells, cells, mesh.CellType.quadrilateral)
    return mesh.create_unit_cube(MPI.COMM_SELF, cells, cells, cells, mesh.CellType.hexahedron)


class Problem(NamedTuple):
    """-div(kappa grad u) = f with its fine solution."""

    a: Any
    s: Any
    L: Any
    bcs: list[Any]
    kappa: Any
    fine: Any


def pose(msh: Any, kappa: Any, axis: int, *, direct_up_to: int = 0) -> Problem:
    """U = 1 and 0 on the ends of an axis; f = 1, or 0 for a pressure drop along y.

    The fine solution in 3D is iterative, direct for up to so many dofs.
    """
    V = fem.functionspace(msh, ("Lagrange", 1))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    s = kappa * u * v * ufl.dx
    L = fem.Constant(msh, 1.0 if axis == 0 else 0.0) * v * ufl.dx
    x = msh.geometry.x[:, axis]
    ends = x.min(), x.max()
    bcs = [
        fem.dirichletbc(
            1.0 - k,
            fem.locate_dofs_geometrical(V, lambda y, at=at: np.isclose(y[axis], at)),
            V,
        )
        for k, at in enumerate(ends)
    ]
    options: dict[str, Any] = {"ksp_type": "preonly", "pc_type": "cholesky"}
    options["pc_factor_mat_solver_type"] = "mumps"
    if msh.topology.dim == 3 and V.dofmap.index_map.size_global > direct_up_to:
        options = {"ksp_type": "cg", "pc_type": "gamg", "ksp_rtol": 1e-10}
        options["pc_gamg_threshold"] = 0.02
    fine = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=options)
    return Problem(a, s, L, bcs, kappa, fine.solve())


def norms(f: Any, weight: Any) -> tuple[float, float, float]:
    """L2, energy and H1 (semi-)norm."""
    g = ufl.inner(ufl.grad(f), ufl.grad(f))
    forms = (f * f * ufl.dx, weight * g * ufl.dx, g * ufl.dx)
    return tuple(float(np.sqrt(fem.assemble_scalar(fem.form(form)))) for form in forms)  # type: ignore[return-value]


def multiscale_error(problem: Problem, coarse: Any, basis: Any) -> tuple[float, float, float]:
    """Relative errors of the multiscale solution against the fine one."""
    fine = problem.fine
    with (
        msnn.multiscale_functionspace(
            fine.function_space, coarse, basis, problem.a, problem.s, problem.bcs
        ) as W,
        LinearProblem(
            problem.a, problem.L, W, bcs=problem.bcs, petsc_options_prefix="bench_"
        ) as coarse_problem,
    ):
        error = coarse_problem.solve()
        error.x.array[:] -= fine.x.array
        found = norms(error, problem.kappa)
    whole = norms(fine, problem.kappa)
    return found[0] / whole[0], found[1] / whole[1], found[2] / whole[2]
