# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse systems of several fields, each with its coarse space.

The coarse system of fields u_1, ..., u_k has blocks P_iᵀ A_ij P_j. It is one matrix; on every rank
the dofs of the first field come first. One field is the case k = 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx.fem.petsc import assemble_matrix, create_matrix
from dolfinx_msnn._utils.solvers import create_coarse_solver
from dolfinx_msnn._utils.typing import FloatArray, Form, IntArray
from dolfinx_msnn.algebra.operators import create_coarse_matrix
from dolfinx_msnn.algebra.product import CoarseProduct
from dolfinx_msnn.problems.block_forms import BilinearBlocks
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Relative difference of K x and Kᵀ x up to which a coarse matrix counts as symmetric.
SYMMETRY_TOLERANCE = 1e-12


class FineBlocks:
    """Matrices of the blocks of a bilinear form, without Dirichlet conditions.

    Args:
        blocks: Nested lists of forms, ``None`` for zero.
        kind: PETSc type of the matrices.
        compile_form: Turns UFL forms into DOLFINx forms.

    Note:
        Creation is collective; it fills nothing. The caller destroys it.
    """

    def __init__(
        self, blocks: BilinearBlocks, kind: str, compile_form: Callable[[ufl.Form], Form]
    ) -> None:
        self._forms = [[None if f is None else compile_form(f) for f in row] for row in blocks]
        self.matrices: list[list[PETSc.Mat | None]] = [
            [None if f is None else create_matrix(f, kind=kind) for f in row] for row in self._forms
        ]

    def assemble(self) -> None:
        """Fill the matrices. Collective."""
        for matrices, forms in zip(self.matrices, self._forms, strict=True):
            for A, form in zip(matrices, forms, strict=True):
                if A is not None:
                    A.zeroEntries()
                    # The registered overload for a given matrix is not in its annotations.
                    assemble_matrix(A, form)  # type: ignore[arg-type]
                    A.assemble()

    def apply(self, fields: Sequence[FloatArray]) -> list[FloatArray]:
        """Products with one array of owned values for each field. Collective."""
        result = []
        for row in self.matrices:
            total: FloatArray | None = None
            for A, values in zip(row, fields, strict=True):
                if A is None:
                    continue
                x, y = A.createVecs()
                x.array_w[:] = values
                A.mult(x, y)
                total = y.array_r.copy() if total is None else total + y.array_r
                x.destroy()
                y.destroy()
            result.append(np.zeros(0) if total is None else total)
        return result

    def destroy(self) -> None:
        """Free the matrices. Collective."""
        for A in (A for row in self.matrices for A in row if A is not None):
            A.destroy()


def assemble_loads(forms: Sequence[Form | None]) -> list[FloatArray]:
    """Owned entries of the vectors of linear forms, empty for ``None``. Collective."""
    loads = []
    for form in forms:
        if form is None:
            loads.append(np.zeros(0))
            continue
        load = fem.assemble_vector(form)
        load.scatter_reverse(la.InsertMode.add)
        V = form.function_spaces[0]
        size = V.dofmap.index_map.size_local * V.dofmap.index_map_bs
        loads.append(load.array[:size].copy())
    return loads


class CoarseBlocks:
    """Between the fine fields and the coarse block system.

    Holds the prolongations it was made with, also when their spaces have other ones by now.

    Args:
        spaces: One coarse space for each field.

    Note:
        Creation is collective. The caller destroys it.
    """

    def __init__(self, spaces: Sequence[MultiscaleFunctionSpace]) -> None:
        self._spaces = list(spaces)
        # Handles of our own on the same matrices.
        self.P: list[PETSc.Mat] = [copy.copy(W.P) for W in spaces]
        self._states = [P.stateGet() for P in self.P]
        sizes = [P.getLocalSize()[1] for P in self.P]
        ends = np.cumsum([0, *sizes])
        self._parts = [slice(a, b) for a, b in pairwise(ends)]
        self._fine: list[PETSc.Vec] = [P.createVecLeft() for P in self.P]
        self._coarse: list[PETSc.Vec] = [P.createVecRight() for P in self.P]
        self._products: dict[int, tuple[IntArray, IntArray, CoarseProduct | None]] = {}

    @property
    def num_dofs(self) -> int:
        """Coarse dofs of all fields and ranks."""
        return sum(int(P.getSize()[1]) for P in self.P)

    def is_current(self) -> bool:
        """Whether the spaces still have these prolongations, unchanged. Not collective."""
        return self.is_intact() and all(W.P == P for W, P in zip(self._spaces, self.P, strict=True))

    def is_intact(self) -> bool:
        """Whether the prolongations hold the values that they had. Not collective."""
        return [P.stateGet() for P in self.P] == self._states

    def matrix(self, fine: FineBlocks) -> PETSc.Mat:
        """The coarse block matrix P_iᵀ A_ij P_j, as one. Collective; the caller destroys it."""
        num = len(self.P)
        blocks: list[list[PETSc.Mat | None]] = [[None] * num for _ in range(num)]
        for i, row in enumerate(fine.matrices):
            for j, A in enumerate(row):
                if A is not None and i == j:
                    blocks[i][j] = self._square(A, i)
                elif A is not None:
                    image = A.matMult(self.P[j])
                    blocks[i][j] = self.P[i].transposeMatMult(image)
                    image.destroy()
                elif i == j:
                    # So that every row and column of blocks has a size.
                    blocks[i][j] = self._zero(i)
        if num == 1:
            assert blocks[0][0] is not None
            return blocks[0][0]
        nest = PETSc.Mat().createNest(blocks, comm=self.P[0].comm)
        nest.assemble()
        whole = nest.convert(PETSc.Mat.Type.AIJ, PETSc.Mat())
        if whole.getType() != self.P[0].getType():
            whole.convert(self.P[0].getType())
        nest.destroy()
        for block in (block for row in blocks for block in row if block is not None):
            block.destroy()
        return whole

    def _square(self, A: PETSc.Mat, i: int) -> PETSc.Mat:
        """P_iᵀ A P_i. Collective; the caller destroys it."""
        W = self._spaces[i]
        indptr, indices, _ = A.getValuesCSR()
        if i not in self._products:
            self._products[i] = (indptr, indices, CoarseProduct.create(A, W))
        *known, product = self._products[i]
        same = all(map(np.array_equal, (indptr, indices), known))
        # Mass and stiffness nearly always have one pattern.
        if product is None or not W.comm.allreduce(same, op=MPI.LAND):
            return create_coarse_matrix(A, W)
        return product.assemble(A).copy()

    def _zero(self, i: int) -> PETSc.Mat:
        sizes = self.P[i].getSizes()[1]
        zero = PETSc.Mat().create(self.P[i].comm)
        zero.setSizes((sizes, sizes))
        zero.setType(self.P[i].getType())
        zero.setPreallocationNNZ(0)
        zero.assemble()
        return zero

    def restrict(self, fields: Sequence[FloatArray], out: PETSc.Vec) -> None:
        """Fill a coarse vector with P_iᵀ b_i; empty arrays stand for zero. Collective."""
        with out as array:
            for P, part, values, fine, coarse in zip(
                self.P, self._parts, fields, self._fine, self._coarse, strict=True
            ):
                # Which fields are left out is the same on every rank only if told by the form.
                with fine as into:
                    into[:] = values if len(values) else 0.0
                P.multTranspose(fine, coarse)
                array[part] = coarse.array_r

    def prolong(self, c: PETSc.Vec) -> list[FloatArray]:
        """Owned values of P_i c_i for each field. Collective."""
        result = []
        for P, part, fine, coarse in zip(
            self.P, self._parts, self._fine, self._coarse, strict=True
        ):
            coarse.array_w[:] = c.array_r[part]
            P.mult(coarse, fine)
            result.append(fine.array_r.copy())
        return result

    def destroy(self) -> None:
        """Free vectors and handles. Collective."""
        products = [product.A0 for *_, product in self._products.values() if product is not None]
        for item in (*self.P, *self._fine, *self._coarse, *products):
            item.destroy()
        self._products.clear()


def is_symmetric(K: PETSc.Mat) -> bool:
    """Whether K x = Kᵀ x for a vector without any structure. Collective."""
    x, y = K.createVecs()
    z = x.duplicate()
    first, last = x.getOwnershipRange()
    # The same on any number of ranks, but for the numbering of the dofs.
    x.array_w[:] = np.modf(1e4 * np.sin(1.0 + np.arange(first, last)))[0]
    K.mult(x, y)
    K.multTranspose(x, z)
    size = y.norm()
    y.axpy(-1.0, z)
    symmetric = y.norm() <= SYMMETRY_TOLERANCE * size
    for item in (x, y, z):
        item.destroy()
    return bool(symmetric)


def create_block_solver(K: PETSc.Mat, prefix: str, options: dict[str, object]) -> PETSc.KSP:
    """A direct solver, LU unless the matrix is symmetric. Collective; the caller destroys it."""
    symmetric = is_symmetric(K)
    database = PETSc.Options(prefix)
    if not symmetric and PETSc.Sys.hasExternalPackage("mumps") and not database.hasName("pc_type"):
        lu = {"pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
        options = lu | options if "pc_type" not in options else options
    solver = create_coarse_solver(K, prefix, options)
    K.setOption(PETSc.Mat.Option.SYMMETRIC, symmetric)
    return solver
