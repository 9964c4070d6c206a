# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Steady Richards' equation: -div(kappa k_r(p) grad p) = f with k_r = 1/(1 + |p|)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.problems import GAMG, Problem

import numpy as np

import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import NonlinearProblem as FineProblem
from dolfinx_msnn.petsc import NonlinearProblem, PicardProblem
from dolfinx_msnn.richards import Haverkamp

TOLERANCES = {"snes_rtol": 1e-8, "snes_stol": 0.0, "snes_atol": 1e-12}
#: Far enough for nodal values to have settled, whatever the norm of the residual.
PICARD = {"snes_rtol": 1e-10}
#: L2 errors in per cent of Rudikov et al. (ICLR 2026), their Richards' problems: GMsFEM, learned.
PAPER = {"2d-100": (2.03, 1.87), "2d-250": (1.79, 1.72), "3d-100": (2.54, 2.57)}
LAW = Haverkamp()
#: Two Gauss points in each direction. UFL's own choice for a rational k_r has many more.
DX = ufl.dx(metadata={"quadrature_degree": 3})


def fine_options(dim: int, symmetric: bool) -> dict[str, Any]:
    """A direct solver in 2D, multigrid in 3D."""
    if dim == 2:
        return {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    return GAMG | {"ksp_rtol": 1e-8, "ksp_type": "cg" if symmetric else "bcgs"}


class Richards(Problem):
    """Richards' equation with one of two sets of data; spaces see kappa alone.

    Args:
        kappa: Conductivity.
        boxes: Of the coarse grid, along each axis.
        data: "drop" (p = 0 at x = 0 and p = -5 at x = 1, f = 1, unit inflow at the upper end of the
            last axis, no flow through the other sides), or "source" (p = 0 on the whole boundary,
            f = 1).

    Attributes:
        p: Unknown.
        F: Residual.
        picard: Bilinear form of Picard's method.
    """

    def __init__(self, kappa: Any, boxes: Sequence[int] | int, data: str) -> None:
        msh = kappa.function_space.mesh
        V = fem.functionspace(msh, ("Lagrange", 1))
        self.p, q, v = fem.Function(V), ufl.TrialFunction(V), ufl.TestFunction(V)
        dim = msh.topology.dim
        L = fem.Constant(msh, 1.0) * v * ufl.dx
        if data == "source":
            msh.topology.create_connectivity(dim - 1, dim)
            facets = mesh.exterior_facet_indices(msh.topology)
            bcs = [fem.dirichletbc(0.0, fem.locate_dofs_topological(V, dim - 1, facets), V)]
        else:
            bcs = [
                fem.dirichletbc(
                    value, fem.locate_dofs_geometrical(V, lambda x, at=at: np.isclose(x[0], at)), V
                )
                for at, value in ((0.0, 0.0), (1.0, -5.0))
            ]
            height = ufl.SpatialCoordinate(msh)[dim - 1]
            L += ufl.conditional(ufl.gt(height, 1 - 1e-9), 1.0, 0.0) * v * ufl.ds
        flux = kappa * ufl.inner(ufl.grad(q), ufl.grad(v))
        super().__init__(kappa, flux * ufl.dx, L, bcs, boxes)
        self.picard = LAW.relative_permeability(self.p) * flux * DX
        self.F = ufl.action(self.picard, self.p) - L

    def start(self) -> None:
        """The start of all iterations: boundary values, zero inside."""
        self.p.x.array[:] = 0.0
        for bc in self.bcs:
            bc.set(self.p.x.array)

    def on_mesh(self, *, picard: bool = False) -> FineProblem:
        """The nonlinear problem on the mesh, by Newton or Picard."""
        options = TOLERANCES | fine_options(self.V.mesh.topology.dim, picard)
        if picard:
            options |= PICARD | {"snes_linesearch_type": "basic", "snes_max_it": 200}
        return FineProblem(
            self.F,
            self.p,
            bcs=self.bcs,
            J=self.picard if picard else None,
            petsc_options_prefix="fine_",
            petsc_options=options,
        )

    def in_space(
        self, W: Any, *, picard: bool = False, **options: Any
    ) -> NonlinearProblem | PicardProblem:
        """The nonlinear problem in a multiscale space, with more options of PETSc."""
        settings: dict[str, Any] = {"petsc_options_prefix": "coarse_", "bcs": self.bcs}
        if picard:
            options = TOLERANCES | PICARD | options
            return PicardProblem(self.picard, self.L, self.p, W, petsc_options=options, **settings)
        return NonlinearProblem(self.F, self.p, W, petsc_options=TOLERANCES | options, **settings)
