# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Local residual indicators: how much error each neighbourhood of a multiscale solution holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, Function, LongArray
from dolfinx_msnn.algebra.local_solvers import SubdomainSolvers
from dolfinx_msnn.estimate.stability import check_constants
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.neighbourhoods import cell_membership
from dolfinx_msnn.problems.linear import LinearProblem


@dataclass(frozen=True)
class LocalIndicators:
    """Error indicators of the neighbourhoods of this rank.

    Attributes:
        vertex: Coarse vertices, shape ``(num,)``, int64.
        values: Indicators η_i, shape ``(num,)``, in the unit of the energy norm.
        total: √(Σ η_i²) over the neighbourhoods of all ranks. It is no bound: the error may be
            larger by a factor that :func:`stability_constants` gives, and smaller by √k, where k
            neighbourhoods share a cell.
    """

    vertex: LongArray
    values: FloatArray
    total: float


@checked
def residual(problem: LinearProblem, u: PETSc.Vec | None = None) -> PETSc.Vec:
    """The fine residual b − A u of a multiscale solution, zero on Dirichlet dofs. Collective.

    Args:
        problem: Solved problem.
        u: Fine vector to take instead of ``problem.u``; its entries on Dirichlet dofs are ignored.

    Returns:
        Fine vector. The caller destroys it.

    Raises:
        ValueError: If it is not finite.
    """
    A, b = problem.A, problem.b
    x, r = A.createVecRight(), A.createVecLeft()
    with x as array:
        array[:] = problem.u.x.array[: len(array)] if u is None else u.array_r
        # b contains the contribution of the boundary values.
        array[problem.W.dirichlet] = 0.0
    A.mult(x, r)
    r.aypx(-1.0, b)
    with r as array:
        array[problem.W.dirichlet] = 0.0
    x.destroy()
    if not np.isfinite(r.norm()):
        r.destroy()
        raise ValueError("The solution or the right-hand side has NaN or infinite entries.")
    return r


@checked
def local_indicators(
    problem: LinearProblem,
    *,
    solvers: SubdomainSolvers | None = None,
    constants: Mapping[int, float] | None = None,
) -> LocalIndicators:
    """Residual indicators η_i of a multiscale solution, one a neighbourhood. Collective.

    η_i² = ‖R‖² in the dual of the functions that vanish outside ω_i, with the energy norm: the
    energy of the local correction z_i, A_i z_i = b − A u_H on ω_i (Chung, Efendiev, Li, J. Comput.
    Phys. 273, 2014, section 4.2, the indicator of type H⁻¹). Needs matrices only, so any symmetric
    coercive form will do.

    Args:
        problem: Solved problem.
        solvers: Local solvers of ``problem.A`` on the neighbourhoods of ``problem.W``; made and
            destroyed again if not given.
        constants: Factors τ_i by coarse vertex, from :func:`stability_constants`, or the inverse
            of the first eigenvalue left out. With them values are √τ_i η_i, and the error against
            the fine solution is at most √k times ``total`` where k neighbourhoods share a cell.

    Returns:
        The indicators of this rank's neighbourhoods.

    Raises:
        ValueError: If a neighbourhood has no valid constant, or the solution is not finite.
    """
    comm = problem.W.comm
    mine = SubdomainSolvers(problem.A, problem.W) if solvers is None else solvers
    r = residual(problem)
    try:
        _, energy = mine.solve(r)
    finally:
        r.destroy()
        if solvers is None:
            mine.destroy()
    if constants is not None:
        with collective_errors(comm):
            check_constants(constants, mine.vertex)
        energy = energy * np.array([constants[int(v)] for v in mine.vertex])
    total = float(np.sqrt(comm.allreduce(float(energy.sum()))))
    return LocalIndicators(mine.vertex.copy(), np.sqrt(energy), total)


@checked
def local_energies(a: ufl.Form, w: Function, coarse: CoarseGrid) -> FloatArray:
    """Energy norms √a(w, w) of a function on every neighbourhood. Collective.

    With the error that :func:`bound_fine_error` finds these are indicators that follow the true
    local errors closely, also where a coarse space is so poor that its residual indicators do not.

    Args:
        a: Bilinear form.
        w: Function in its space.
        coarse: Coarse grid.

    Returns:
        Shape ``(coarse.num_vertices,)``, the same on every rank; zero without cells.
    """
    V = w.function_space
    msh = V.mesh
    with collective_errors(msh.comm):
        forms.check_form(a, V, "a")
        if not np.isfinite(w.x.array).all():
            raise ValueError("w has NaN or infinite entries; expected finite ones.")
    weight = ufl.TestFunction(fem.functionspace(msh, ("DG", 0)))
    value = ufl.replace(a, dict.fromkeys(a.arguments(), w))
    density = ufl.Form([i.reconstruct(integrand=i.integrand() * weight) for i in value.integrals()])
    energy = fem.assemble_vector(fem.form(density)).array
    member = cell_membership(V, coarse, coarse.hats(V.tabulate_dof_coordinates())) > 0
    sums = np.asarray(member.T @ energy[: member.shape[0]], dtype=np.float64)
    msh.comm.Allreduce(MPI.IN_PLACE, sums)
    return np.sqrt(np.maximum(sums, 0.0))
