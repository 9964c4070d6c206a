# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficients, the linear problems that most programs solve, and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from mpi4py import MPI

import numpy as np

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import fields
from dolfinx_msnn.local.assembly import LocalProblems
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
MUMPS: dict[str, Any] = {
    "ksp_type": "preonly",
    "ksp_norm_type": "none",
    "pc_type": "cholesky",
    "pc_factor_mat_solver_type": "mumps",
}
#: Dofs up to which fine solutions in 3D are direct: multigrid is inaccurate at high contrast.
DIRECT_DOFS = 200_000
GAMG: dict[str, Any] = {"pc_type": "gamg", "pc_gamg_threshold": 0.02}
NORMS = ("L2", "energy", "H1")


def box(dim: int, cells: int, comm: MPI.Comm = MPI.COMM_SELF, *, simplices: bool = False) -> Any:
    """The unit square or cube in quadrilaterals or hexahedra, or cut into simplices."""
    if dim == 2:
        kind = mesh.CellType.triangle if simplices else mesh.CellType.quadrilateral
        return mesh.create_unit_square(comm, cells, cells, kind)
    kind = mesh.CellType.tetrahedron if simplices else mesh.CellType.hexahedron
    return mesh.create_unit_cube(comm, cells, cells, cells, kind)


class Problem:
    """A symmetric linear problem, and what a multiscale space for it is made of.

    Attributes:
        kappa: Coefficient.
        V: Fine space.
        a: Bilinear form; ``s`` and ``m`` weigh with the coefficient and with one.
        L: Right-hand side.
        bcs: Dirichlet conditions.
        grid: Coarse grid.
    """

    def __init__(
        self, kappa: Any, a: Any, L: Any, bcs: list[Any], boxes: Sequence[int] | int
    ) -> None:
        self.kappa, self.a, self.L, self.bcs = kappa, a, L, bcs
        v, u = a.arguments()
        self.V = u.ufl_function_space()
        self.m = ufl.inner(u, v) * ufl.dx
        self.s = kappa * ufl.inner(u, v) * ufl.dx
        msh = self.V.mesh
        boxes = (boxes,) * msh.topology.dim if isinstance(boxes, int) else boxes
        self.grid = msnn.CoarseGrid(msh, boxes)

    def overlapping(self) -> msnn.CoarseGrid:
        """As many boxes as the coarse grid has, overlapping by a fifth of their width."""
        msh, shape = self.V.mesh, np.array(self.grid.n)
        # Cells a box, the same in all directions but for rounding.
        cells = msh.topology.index_map(msh.topology.dim).size_global / shape.prod()
        overlap = max(1, round(float(cells ** (1 / len(shape))) / 5))
        return msnn.CoarseGrid(msh, shape, overlap=overlap)

    def space(self, basis: Any, **options: Any) -> msnn.MultiscaleFunctionSpace:
        """The space of a basis."""
        return msnn.multiscale_functionspace(
            self.V, self.grid, basis, self.a, self.s, self.bcs, **options
        )

    def coarse_problem(self, W: msnn.MultiscaleFunctionSpace) -> LinearProblem:
        """The problem in a multiscale space."""
        return LinearProblem(self.a, self.L, W, bcs=self.bcs, petsc_options_prefix="bench_coarse_")

    def fine_problem(self, options: dict[str, Any]) -> FineProblem:
        """The problem on the mesh."""
        return FineProblem(
            self.a,
            self.L,
            bcs=self.bcs,
            petsc_options_prefix=f"bench_fine_{options['pc_type']}_",
            petsc_options=options,
        )

    def local_problems(self, coefficient: Any = None) -> Iterator[msnn.LocalProblem]:
        """The local problems of this rank, as a basis is given them, large ones first."""
        return iter(
            LocalProblems(self.V, self.grid, self.a, self.s, self.bcs, coefficient=coefficient)
        )


class Diffusion(Problem):
    """-div(kappa grad u) = f, with given values on two opposite sides.

    Args:
        kappa: Coefficient.
        boxes: Of the coarse grid, along each axis.
        axis: On the ends of which u is given.
        f: Right-hand side; default 1, or 0 where the axis is not the first: a pressure drop.
        ends: Values of u.

    Attributes:
        exact: Gives the energy error of a function against the exact solution, if that is known.
    """

    exact: Callable[[Any], float] | None = None

    def __init__(
        self,
        kappa: Any,
        boxes: Sequence[int] | int,
        axis: int = 0,
        *,
        f: float | None = None,
        ends: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        msh = kappa.function_space.mesh
        V = fem.functionspace(msh, ("Lagrange", 1))
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        x = msh.geometry.x[:, axis]
        sides = msh.comm.allreduce(x.min(), MPI.MIN), msh.comm.allreduce(x.max(), MPI.MAX)
        bcs = [
            fem.dirichletbc(
                value,
                fem.locate_dofs_geometrical(V, lambda y, at=at: np.isclose(y[axis], at)),
                V,
            )
            for value, at in zip(ends, sides, strict=True)
        ]
        self.f = fem.Constant(msh, float(axis == 0 if f is None else f))
        a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        super().__init__(kappa, a, self.f * v * ufl.dx, bcs, boxes)

    @cached_property
    def fine(self) -> fem.Function:
        """The fine solution: direct in 2D, and in 3D up to :data:`DIRECT_DOFS`."""
        options = MUMPS
        dofs = self.V.dofmap.index_map.size_global
        if self.V.mesh.topology.dim == 3 and dofs > DIRECT_DOFS:
            options = GAMG | {"ksp_type": "cg", "ksp_rtol": 1e-12}
        return self.fine_problem(options).solve()

    def errors(self, basis: Any) -> dict[str, float]:
        """Relative errors of the solution in the space of a basis against the fine one."""
        with self.space(basis) as W, self.coarse_problem(W) as coarse:
            return relative_errors(coarse.solve(), self.fine, self.kappa)


def norms(f: Any, weight: Any) -> np.ndarray:
    """L2 norm, energy norm for a coefficient, and H1 seminorm of a scalar function."""
    g = ufl.inner(ufl.grad(f), ufl.grad(f))
    forms = (f * f * ufl.dx, weight * g * ufl.dx, g * ufl.dx)
    return np.sqrt([fem.assemble_scalar(fem.form(form)) for form in forms])


def relative_errors(u: fem.Function, exact: fem.Function, weight: Any) -> dict[str, float]:
    """Errors of a solution by the names of :data:`NORMS`."""
    error = fem.Function(exact.function_space)
    error.x.array[:] = u.x.array - exact.x.array
    found = norms(error, weight) / norms(exact, weight)
    return dict(zip(NORMS, found.tolist(), strict=True))
