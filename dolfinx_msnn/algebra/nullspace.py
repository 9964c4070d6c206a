# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Null spaces: rigid motions that neither a form nor its Dirichlet conditions resist."""

from __future__ import annotations

from collections.abc import Callable

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx_msnn._utils.linalg import motion_tolerances, null_combinations, rigid_motions
from dolfinx_msnn._utils.mesh import bounding_box
from dolfinx_msnn._utils.typing import FloatArray, Form, Function, FunctionSpace
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Relative difference up to which a rigid motion counts as a member of the multiscale space.
MEMBER_TOLERANCE = 1e-6


def candidates(V: FunctionSpace) -> FloatArray:
    """Rigid motions of a space, at the dofs of this rank, shape ``(num, num_dofs)``. Collective."""
    x = V.tabulate_dof_coordinates()[:, : V.mesh.geometry.dim]
    index_map = V.dofmap.index_map
    total = V.mesh.comm.allreduce(x[: index_map.size_local].sum(axis=0))
    return rigid_motions(x - total / index_map.size_global, V.dofmap.index_map_bs)


def attach_near_null_space(A0: PETSc.Mat, W: MultiscaleFunctionSpace, motions: FloatArray) -> None:
    """Tell algebraic multigrid which coefficients are those of rigid motions. Collective."""
    _attach(W, motions, A0.setNearNullSpace, np.inf)


def _attach(
    W: MultiscaleFunctionSpace,
    motions: FloatArray,
    attach: Callable[[PETSc.NullSpace], None],
    tolerance: float = MEMBER_TOLERANCE,
) -> None:
    """Hand on the coefficients of motions, of those that the space holds. Collective.

    Args:
        W: Multiscale space; one of very few modes may not hold all of them.
        motions: Values at the dofs of this rank, shape ``(num, num_dofs)``.
        attach: Gets them as a null space.
        tolerance: Largest difference from a member, as a fraction of the motion.
    """
    z: Function = fem.Function(W.V)
    basis: list[PETSc.Vec] = []
    for values in motions:
        z.x.array[:] = values
        c = W.coefficients(z)
        both = [W.prolong(c).x.array - values, values]
        size = np.abs(both).max(axis=1, initial=0.0)
        W.comm.Allreduce(MPI.IN_PLACE, size, op=MPI.MAX)
        if size[0] > tolerance * size[1]:
            c.destroy()
            continue
        for q in basis:
            c.axpy(-c.dot(q), q)
        c.normalize()
        basis.append(c)
    nullspace = PETSc.NullSpace().create(vectors=basis, comm=W.comm)
    attach(nullspace)
    for item in (nullspace, *basis):
        item.destroy()


class NullSpace:
    """The rigid motions z of a fine space with A z = 0; there may be none.

    Rotations are turned about the centre of the nodes, so that rounding errors stay small.

    Args:
        W: Multiscale space.
        motions: All of them, from :func:`candidates`.
        action: A times each, and diag(A), from :meth:`FineOperator.act`.
        compile_form: Turns UFL forms into DOLFINx forms.

    Note:
        Creation is collective.
    """

    def __init__(
        self,
        W: MultiscaleFunctionSpace,
        motions: FloatArray,
        action: tuple[FloatArray, FloatArray],
        compile_form: Callable[[ufl.Form], Form],
    ) -> None:
        V = W.V
        self._W = W
        self._size = size = len(W.dirichlet)
        tolerances = motion_tolerances(bounding_box(V.mesh), V.dofmap.index_map_bs)
        null = null_combinations(motions[:, :size], *action, tolerances, W.comm)
        # Local values with ghosts, and the products with the mass matrix at the owned dofs.
        self._motions = null @ motions
        self._weights = np.empty((len(null), size))
        if len(null):
            u: Function = fem.Function(V)
            load = compile_form(ufl.inner(u, ufl.TestFunction(V)) * ufl.dx)
        for values, weights in zip(self._motions, self._weights, strict=True):
            u.x.array[:] = values
            # It is zero there already, but for rounding errors.
            u.x.array[:size][W.dirichlet] = 0.0
            u.x.scatter_forward()
            values[:] = u.x.array
            weight = fem.assemble_vector(load)
            weight.scatter_reverse(la.InsertMode.add)
            weights[:] = weight.array[:size]
        self._gram = self._products(self._weights, self._motions[:, :size].T)

    def attach(self, A0: PETSc.Mat) -> None:
        """Attach to A_0 its null space: the coefficients of the motions. Collective."""
        if len(self._motions) or A0.getNullSpace():
            _attach(self._W, self._motions, A0.setNullSpace)

    def remove(self, u: Function) -> None:
        """Subtract the L2 projection of ``u`` onto the null space. Collective."""
        products = self._products(self._weights, u.x.array[: self._size])
        u.x.array[:] -= np.linalg.solve(self._gram, products) @ self._motions

    def make_compatible(self, b: PETSc.Vec) -> None:
        """Take the L2 projection of a load onto the null space out of its vector. Collective.

        ∫ f v becomes ∫ (f − z) v with the rigid motion z closest to f: the load does no work on the
        null space any more.
        """
        work = self._products(self._motions[:, : self._size], b.array_r)
        b.array_w[:] -= np.linalg.solve(self._gram, work) @ self._weights

    def _products(self, rows: FloatArray, values: FloatArray) -> FloatArray:
        """``rows @ values``, summed over the ranks. Collective."""
        products = np.ascontiguousarray(rows @ values)
        self._W.comm.Allreduce(MPI.IN_PLACE, products, op=MPI.SUM)
        return products
