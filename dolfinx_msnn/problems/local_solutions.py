# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Local solutions for any right-hand side: Σ χ_i A_i⁻¹ b, on oversampled neighbourhoods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from petsc4py import PETSc

import numpy as np
import scipy.sparse as sp

import ufl
from dolfinx_msnn._utils.petsc import Owner
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, Form, LongArray
from dolfinx_msnn.algebra.local_solvers import LocalSolvers
from dolfinx_msnn.bases.harmonic import HarmonicBasis
from dolfinx_msnn.bases.nullspace import null_motions
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Fraction of its diagonal that is added to a local matrix that holds a body by nothing.
SHIFT = 1e-10


class LocalSolutions(Owner):
    """The part of a solution that data nearby make: z = Σ χ_i u_i, with A u_i = L on ω_i*.

    The u_i have the given values on Dirichlet dofs, and their mean on the boundary of ω_i* inside
    the domain: what is left for the space to hold is A-harmonic there, and small. Where the coarse
    grid leaves the width of the ring around neighbourhoods open, it is that of
    :class:`HarmonicBasis`.

    Args:
        a: Symmetric coercive bilinear form.
        W: Multiscale space.
        coarse: Coarse grid.
        bcs: Dirichlet conditions.
        compile_form: Turns UFL forms into DOLFINx forms.

    Note:
        Collective. Memory: one factor a neighbourhood.
    """

    def __init__(
        self,
        a: ufl.Form,
        W: MultiscaleFunctionSpace,
        coarse: CoarseGrid,
        bcs: Sequence[DirichletBC],
        *,
        compile_form: Callable[[Any], Form],
    ) -> None:
        super().__init__(W.comm)
        self._W = W
        self._arguments = (W.V, coarse, a, None, bcs)
        self._compile = compile_form
        self._solvers: LocalSolvers | None = None
        self._blends: list[_Blend] = []
        self._data: PETSc.Vec = self._own(W.P.createVecLeft())
        self._sum: PETSc.Vec = self._own(self._data.duplicate())

    def refresh(self) -> None:
        """Factor the local matrices with the present coefficients. Collective."""
        self._free(self._solvers)
        self._solvers, self._blends = None, []
        problems = LocalProblems(
            *self._arguments,
            oversampling=HarmonicBasis.oversampling,
            compile_form=self._compile,
        )
        parts = self._parts(problems)
        self._solvers = self._own(LocalSolvers(self._W.comm, self._data, parts))
        for factor, blend in zip(self._solvers.factors, self._blends, strict=True):
            blend.transfer = blend.weight[:, None] * factor.solve(blend.transfer)

    def _parts(self, problems: LocalProblems) -> Iterator[tuple[str, LongArray, sp.csr_matrix]]:
        """Names, dofs and matrices, with ones on the diagonal at Dirichlet dofs. Not collective."""
        for problem in problems:
            inside = np.flatnonzero(~problem.interface)
            fixed = problem.dirichlet[inside]
            free = sp.diags(1.0 - fixed)
            rows = free @ problem.A[inside]
            A = rows[:, inside] @ free + sp.diags(1.0 * fixed)
            if len(null_motions(problem, A, inside)):
                # What it does to z is a motion near a multiple of χ_i, and the space knows those.
                A = A + SHIFT * sp.diags(A.diagonal())
            each = np.tile(np.eye(problem.block_size), (problem.num_dofs // problem.block_size, 1))
            edge = each * (problem.interface & ~problem.dirichlet)[:, None]
            mean = each[inside] * fixed[:, None]
            mean /= np.maximum(mean.sum(axis=0), 1.0)
            self._blends.append(_Blend(problem.chi[inside] * ~fixed, mean, -(rows @ edge)))
            yield problem.name, problem.dofs[inside], A

    def solve(self, b: PETSc.Vec, lift: FloatArray) -> PETSc.Vec:
        """The sum without Dirichlet values, the same vector every time.

        Args:
            b: Right-hand side b − A g, zero on Dirichlet dofs.
            lift: The Dirichlet values g on owned dofs, zero elsewhere.

        Note:
            Collective.
        """
        assert self._solvers is not None
        with self._data as array:
            array[:] = b.array_r + lift
        parts = self._solvers.restrict(self._data)
        u, _ = self._solvers.solve(self._data)
        z = [blend(*pair) for blend, *pair in zip(self._blends, parts, u, strict=True)]
        self._solvers.extend(z, self._sum)
        return self._sum


@dataclass
class _Blend:
    """What becomes of the solution on one neighbourhood.

    Attributes:
        weight: χ_i, zero on Dirichlet dofs, shape ``(n,)``.
        mean: Weights of the means of Dirichlet values, one component a column, shape ``(n, bs)``.
        transfer: χ_i times the response to ones on the boundary inside the domain, shape
            ``(n, bs)``; before the factorisation its right-hand side.
    """

    weight: FloatArray
    mean: FloatArray
    transfer: FloatArray

    def __call__(self, data: FloatArray, u: FloatArray) -> FloatArray:
        """Its share of the sum, shape ``(n,)``."""
        return self.weight * u + self.transfer @ (self.mean.T @ data)
