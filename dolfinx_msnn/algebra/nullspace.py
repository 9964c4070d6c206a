# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Rigid motions: the functions that a form without Dirichlet conditions may not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx_msnn._utils.linalg import rigid_motions
from dolfinx_msnn._utils.typing import FloatArray, Form, Function, FunctionSpace
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Relative size below which an entry of A z counts as zero.
KERNEL_TOLERANCE = 1e-10

#: Relative difference up to which a rigid motion counts as a member of the multiscale space.
MEMBER_TOLERANCE = 1e-6


class Kernel:
    """Rigid motions in the kernel of a fine matrix.

    Args:
        motions: Functions that span it.
        compile_form: Turns UFL forms into DOLFINx forms.

    Note:
        Creation is collective.
    """

    def __init__(self, motions: list[Function], compile_form: Callable[[ufl.Form], Form]) -> None:
        self.motions = motions
        V = motions[0].function_space
        self._size = V.dofmap.index_map_bs * V.dofmap.index_map.size_local
        self._comm = V.mesh.comm
        v, weights = ufl.TestFunction(V), []
        for z in motions:
            weight = fem.assemble_vector(compile_form(ufl.inner(z, v) * ufl.dx))
            weight.scatter_reverse(la.InsertMode.add)
            weights.append(weight.array[: self._size].copy())
        self._weights = np.array(weights)
        self._gram = self._moments(np.array([z.x.array[: self._size] for z in motions]).T)

    @classmethod
    def find(
        cls, A: PETSc.Mat, V: FunctionSpace, compile_form: Callable[[ufl.Form], Form]
    ) -> Self | None:
        """The rigid motions z with A z = 0 (to rounding); ``None`` if there are none. Collective.

        Rotations are turned about the centre of the nodes, so that rounding errors stay small.
        """
        bs, gdim = V.dofmap.index_map_bs, V.mesh.geometry.dim
        x = V.tabulate_dof_coordinates()[:, :gdim]
        owned = V.dofmap.index_map.size_local
        centre = V.mesh.comm.allreduce(x[:owned].sum(axis=0)) / V.dofmap.index_map.size_global
        z, image = A.createVecRight(), A.createVecLeft()
        found: list[Function] = []
        diagonal = A.getDiagonal()
        for motion in rigid_motions(x - centre, bs):
            z.array_w[:] = motion[: bs * owned]
            A.mult(z, image)
            image.pointwiseDivide(image, diagonal)
            scale = z.norm(PETSc.NormType.NORM_INFINITY)
            if image.norm(PETSc.NormType.NORM_INFINITY) <= KERNEL_TOLERANCE * scale:
                function: Function = fem.Function(V)
                function.x.array[:] = motion
                found.append(function)
        for item in (z, image, diagonal):
            item.destroy()
        return cls(found, compile_form) if found else None

    def coarse_nullspace(self, W: MultiscaleFunctionSpace) -> PETSc.NullSpace:
        """The null space of A_0: the coefficients of the motions. Collective; caller destroys.

        A space of very few modes may not hold all of them.
        """
        basis: list[PETSc.Vec] = []
        for z in self.motions:
            c = W.coefficients(z)
            if self._distance(z, W.prolong(c)) > MEMBER_TOLERANCE:
                c.destroy()
                continue
            for q in basis:
                c.axpy(-c.dot(q), q)
            c.normalize()
            basis.append(c)
        nullspace = PETSc.NullSpace().create(vectors=basis, comm=W.comm)
        for c in basis:
            c.destroy()
        return nullspace

    def _distance(self, z: Function, u: Function) -> float:
        """Largest difference at a node, relative to the largest value. Collective."""
        size = np.array(
            [np.abs(z.x.array - u.x.array).max(initial=0.0), np.abs(z.x.array).max(initial=0.0)]
        )
        self._comm.Allreduce(MPI.IN_PLACE, size, op=MPI.MAX)
        return float(size[0] / size[1])

    def remove(self, u: Function) -> None:
        """Subtract the L2 projection of ``u`` onto the kernel. Collective."""
        factors = np.linalg.solve(self._gram, self._moments(u.x.array[: self._size]))
        for factor, z in zip(factors, self.motions, strict=True):
            u.x.array[:] -= factor * z.x.array

    def make_compatible(self, b: PETSc.Vec) -> None:
        """Take the L2 projection of a load onto the kernel out of its fine vector. Collective.

        ∫ f v becomes ∫ (f − z) v with the rigid motion z closest to f: no work is done on the
        kernel any more.
        """
        work = np.array([z.x.array[: self._size] for z in self.motions]) @ b.array_r
        self._comm.Allreduce(MPI.IN_PLACE, work, op=MPI.SUM)
        b.array_w[:] -= np.linalg.solve(self._gram, work) @ self._weights

    def _moments(self, values: FloatArray) -> FloatArray:
        moments = np.ascontiguousarray(self._weights @ values)
        self._comm.Allreduce(MPI.IN_PLACE, moments, op=MPI.SUM)
        return moments
