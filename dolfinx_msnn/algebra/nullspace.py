# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Null spaces: rigid motions that neither a form nor its Dirichlet conditions resist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx_msnn._utils.linalg import null_combinations, rigid_motions
from dolfinx_msnn._utils.typing import FloatArray, Form, Function, FunctionSpace
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Relative difference up to which a rigid motion counts as a member of the multiscale space.
MEMBER_TOLERANCE = 1e-6


class NullSpace:
    """The rigid motions z of a fine space with A z = 0; there may be none.

    Args:
        motions: Functions that span it.
        V: The fine space.
        compile_form: Turns UFL forms into DOLFINx forms.

    Note:
        Creation is collective.
    """

    def __init__(
        self,
        motions: list[Function],
        V: FunctionSpace,
        compile_form: Callable[[ufl.Form], Form],
    ) -> None:
        self._motions = motions
        self._comm = V.mesh.comm
        size = V.dofmap.index_map_bs * V.dofmap.index_map.size_local
        v, weights = ufl.TestFunction(V), []
        for z in motions:
            weight = fem.assemble_vector(compile_form(ufl.inner(z, v) * ufl.dx))
            weight.scatter_reverse(la.InsertMode.add)
            weights.append(weight.array[:size].copy())
        shape = len(motions), size
        self._values = np.array([z.x.array[:size] for z in motions]).reshape(shape)
        # The mass matrix times the motions, and their Gram matrix in L2.
        self._weights = np.array(weights).reshape(shape)
        self._gram = self._products(self._weights, self._values.T)

    @classmethod
    def find(
        cls, A: PETSc.Mat, W: MultiscaleFunctionSpace, compile_form: Callable[[ufl.Form], Form]
    ) -> Self:
        """The rigid motions that A takes to zero. Collective.

        Rotations are turned about the centre of the nodes, so that rounding errors stay small.
        """
        V = W.V
        bs, gdim = V.dofmap.index_map_bs, V.mesh.geometry.dim
        x = V.tabulate_dof_coordinates()[:, :gdim]
        owned = V.dofmap.index_map.size_local
        centre = V.mesh.comm.allreduce(x[:owned].sum(axis=0)) / V.dofmap.index_map.size_global
        motions = rigid_motions(x - centre, bs)
        inside = motions[:, : bs * owned]
        images = np.empty_like(inside)
        z, image, diagonal = A.createVecRight(), A.createVecLeft(), A.getDiagonal()
        for row, out in zip(inside, images, strict=True):
            z.array_w[:] = row
            A.mult(z, image)
            out[:] = image.array_r
        found: list[Function] = []
        for coefficients in null_combinations(inside, images, diagonal.array_r, V.mesh.comm):
            function: Function = fem.Function(V)
            function.x.array[:] = coefficients @ motions
            # They are zero there already, but for rounding errors.
            function.x.array[: bs * owned][W.dirichlet] = 0.0
            function.x.scatter_forward()
            found.append(function)
        for item in (z, image, diagonal):
            item.destroy()
        return cls(found, V, compile_form)

    def attach(self, A0: PETSc.Mat, W: MultiscaleFunctionSpace) -> None:
        """Attach to A_0 its null space: the coefficients of the motions. Collective.

        A space of very few modes may not hold all of them.
        """
        if not self._motions and not A0.getNullSpace():
            return
        basis: list[PETSc.Vec] = []
        for z in self._motions:
            c = W.coefficients(z)
            size = np.abs([W.prolong(c).x.array - z.x.array, z.x.array]).max(axis=1, initial=0.0)
            self._comm.Allreduce(MPI.IN_PLACE, size, op=MPI.MAX)
            if size[0] > MEMBER_TOLERANCE * size[1]:
                c.destroy()
                continue
            for q in basis:
                c.axpy(-c.dot(q), q)
            c.normalize()
            basis.append(c)
        nullspace = PETSc.NullSpace().create(vectors=basis, comm=W.comm)
        A0.setNullSpace(nullspace)
        for item in (nullspace, *basis):
            item.destroy()

    def remove(self, u: Function) -> None:
        """Subtract the L2 projection of ``u`` onto the null space. Collective."""
        products = self._products(self._weights, u.x.array[: self._weights.shape[1]])
        for factor, z in zip(np.linalg.solve(self._gram, products), self._motions, strict=True):
            u.x.array[:] -= factor * z.x.array

    def make_compatible(self, b: PETSc.Vec) -> None:
        """Take the L2 projection of a load onto the null space out of its vector. Collective.

        ∫ f v becomes ∫ (f − z) v with the rigid motion z closest to f: the load does no work on the
        null space any more.
        """
        work = self._products(self._values, b.array_r)
        b.array_w[:] -= np.linalg.solve(self._gram, work) @ self._weights

    def _products(self, rows: FloatArray, values: FloatArray) -> FloatArray:
        """``rows @ values``, summed over the ranks. Collective."""
        products = np.ascontiguousarray(rows @ values)
        self._comm.Allreduce(MPI.IN_PLACE, products, op=MPI.SUM)
        return products
