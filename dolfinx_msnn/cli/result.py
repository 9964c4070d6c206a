# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Errors and bounds of a solution, and output to files."""

import os
from pathlib import Path
from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, io
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import CoarseGrid, GuardedBasis, MultiscaleFunctionSpace, estimate, plot
from dolfinx_msnn._utils.mesh import bounding_box
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import Function
from dolfinx_msnn.cli.common import PICTURES
from dolfinx_msnn.cli.problem import Problem
from dolfinx_msnn.petsc import LinearProblem

NORMS = ("L2", "energy", "H1")


def solve_fine(problem: Problem) -> Function:
    """The solution in V: directly in 2D, by CG with algebraic multigrid in 3D. Collective.

    Args:
        problem: One with Dirichlet conditions.

    Raises:
        RuntimeError: If the solver did not converge.
    """
    options: dict[str, Any] = {"ksp_type": "cg", "pc_type": "gamg", "ksp_rtol": 1e-10}
    options |= {"pc_gamg_threshold": 0.02, "ksp_error_if_not_converged": False}
    if problem.V.mesh.topology.dim == 2 and PETSc.Sys.hasExternalPackage("mumps"):
        options = {"ksp_type": "preonly", "pc_type": "cholesky"}
        options["pc_factor_mat_solver_type"] = "mumps"
    fine = FineProblem(
        problem.a,
        problem.L,
        bcs=problem.bcs,
        petsc_options_prefix="msnn_fine_",
        petsc_options=options,
    )
    u: Any = fine.solve()
    reason = fine.solver.getConvergedReason()
    if reason < 0:
        raise RuntimeError(f"The solver of the fine problem did not converge (reason {reason}).")
    solution: Function = u
    return solution


def extrema(f: Function) -> tuple[float, float]:
    """Smallest and largest value of a function at its dofs. Collective."""
    comm, values = f.function_space.mesh.comm, f.x.array
    low = comm.allreduce(float(values.min(initial=np.inf)), MPI.MIN)
    return low, comm.allreduce(float(values.max(initial=-np.inf)), MPI.MAX)


def norms(problem: Problem, w: Function) -> tuple[float, ...]:
    """L2 norm, energy norm and H1 seminorm. Collective."""
    g = ufl.inner(ufl.grad(w), ufl.grad(w))
    forms = (w * w * ufl.dx, problem.kappa * g * ufl.dx, g * ufl.dx)
    squares = np.array([fem.assemble_scalar(fem.form(form)) for form in forms])
    problem.comm.Allreduce(MPI.IN_PLACE, squares)
    return tuple(np.sqrt(np.maximum(squares, 0.0)).tolist())


def errors(problem: Problem, u: Function, reference: Function) -> dict[str, float]:
    """Errors relative to a reference solution, by norm, and that in energy itself. Collective."""
    error: Function = fem.Function(problem.V)
    error.x.array[:] = u.x.array - reference.x.array
    found, whole = norms(problem, error), norms(problem, reference)
    relative = {name: e / w for name, e, w in zip(NORMS, found, whole, strict=True)}
    return relative | {"energy_absolute": found[1]}


def bounds(
    problem: Problem, coarse: CoarseGrid, W: MultiscaleFunctionSpace, solved: LinearProblem
) -> dict[str, Any]:
    """Guaranteed bounds of the energy error: against the fine and against the exact solution.

    Relative ones are in fractions of the energy norm of the multiscale solution. Where there is no
    bound, ``reason`` says why. Collective.
    """
    size = norms(problem, solved.u)[1]
    found: dict[str, Any] = {}
    try:
        tau = estimate.stability_constants(W, coarse, problem.a, problem.bcs)
        least = estimate.schwarz_lambda_min(W, coarse, tau)
        with estimate.SchwarzPreconditioner(solved) as preconditioner:
            fine = estimate.bound_fine_error(solved, preconditioner, least)
        found["fine"] = {"upper": fine.upper, "lower": fine.lower, "relative": fine.upper / size}
    except (ValueError, RuntimeError) as reason:
        found["fine"] = {"reason": str(reason)}
    try:
        exact = estimate.bound_error(
            solved.u, problem.kappa, problem.source, coarse, bcs=problem.bcs, g=problem.flux
        )
        found["exact"] = {"upper": exact.upper, "relative": exact.upper / size}
    except (ValueError, RuntimeError) as reason:
        found["exact"] = {"reason": str(reason)}
    return found


def write(
    name: str,
    problem: Problem,
    u: Function,
    *,
    coarse: CoarseGrid,
    reference: Function | None,
    guard: GuardedBasis | None = None,
) -> list[str]:
    """Write the solution, the coefficient and (if there is a reference) the error. Collective.

    Returns:
        The files that were written.
    """
    if Path(name).suffix in PICTURES:
        picture(name, problem, u, coarse=coarse, reference=reference, guard=guard)
        return [name]
    functions, u.name = [u], "u"
    if reference is not None:
        error: Function = fem.Function(problem.V, name="error")
        error.x.array[:] = np.abs(u.x.array - reference.x.array)
        reference.name = "fine"
        functions += [reference, error]
    if Path(name).suffix == ".bp":
        with io.VTXWriter(problem.comm, name, [*functions, problem.kappa]) as vtx:
            vtx.write(0.0)
        return [name]
    # XDMF takes nodal values at the nodes of the mesh only.
    msh = problem.V.mesh
    Q = fem.functionspace(msh, ("Lagrange", msh.geometry.cmaps[0].degree))
    with io.XDMFFile(problem.comm, name, "w") as xdmf:
        xdmf.write_mesh(msh)
        for f in functions:
            nodal: Function = fem.Function(Q, name=f.name)
            nodal.interpolate(f)
            xdmf.write_function(nodal)
        xdmf.write_function(problem.kappa)
    return [name, os.fspath(Path(name).with_suffix(".h5"))]


def picture(
    name: str,
    problem: Problem,
    u: Function,
    *,
    coarse: CoarseGrid,
    reference: Function | None,
    guard: GuardedBasis | None,
) -> None:
    """Draw coefficient with coarse grid, solution, error and guard; slices in 3D. Collective."""
    comm, dim = problem.comm, problem.V.mesh.topology.dim
    wanted = 2 + (reference is not None) + (guard is not None)
    figure: Any = None
    axes: list[Any] = [None] * wanted
    side = np.ptp(bounding_box(problem.V.mesh), axis=0)
    with collective_errors(comm):
        if comm.rank == 0:
            from matplotlib.figure import Figure

            height = float(np.clip(4.2 * side[1] / side[0], 3.0, 9.0))
            figure = Figure(figsize=(4.6 * wanted, height), layout="constrained", dpi=120)
            axes = list(figure.subplots(1, wanted, squeeze=False)[0])
            if guard is not None and dim == 3:
                axes[-1].remove()
                axes[-1] = figure.add_subplot(1, wanted, wanted, projection="3d")
    low, high = extrema(problem.kappa)
    plot.draw_coefficient(axes[0], problem.kappa, log=high > 10 * low, bar=r"$\kappa$")
    plot.draw_coarse_grid(axes[0], coarse)
    plot.draw_function(axes[1], u, contours=15, bar="u")
    if reference is not None:
        plot.draw_error(axes[2], u, reference, bar="|u - fine solution|")
    found = plot.gather_reports(comm, guard.reports) if guard is not None else []
    with collective_errors(comm):
        if figure is not None:
            if guard is not None:
                plot.draw_guard(axes[-1], found)
            figure.savefig(name)
