# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The coarse system of several fields, each with its coarse space.

The coarse matrix of fields u_1, ..., u_k has blocks P_iᵀ A_ij P_j. It is one matrix; on every rank
the dofs of the first field come first. One field is the case k = 1.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from petsc4py import PETSc

import numpy as np

from dolfinx import fem
from dolfinx_msnn._utils.functions import set_to_product
from dolfinx_msnn._utils.petsc import Owner
from dolfinx_msnn._utils.solvers import create_coarse_solver, solve_coarse
from dolfinx_msnn._utils.typing import FloatArray, Function
from dolfinx_msnn.problems.blocks import FineBlocks
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Relative difference of K x and Kᵀ x up to which a coarse matrix counts as symmetric.
SYMMETRY_TOLERANCE = 1e-12

#: Factors kept for different shifts.
MAX_FACTORS = 3


class CoarseSystem(Owner):
    """All of a problem m(u', v) + a(u, v) = L(v) that belongs to the coarse spaces as they are.

    It keeps the prolongations that it was made with, also when the spaces have other ones by now.

    Args:
        spaces: Of each field.
        M: Blocks of m.
        A: Blocks of a.
        functions: Some u, local values of each field.
        petsc_options_prefix: Prefix of the solvers' options.
        petsc_options: Options of the solvers.

    Attributes:
        M0: Coarse block matrix of m.
        A0: Coarse block matrix of a.
        load: Room for R L.
        stiff_lift: Room for R A g.
        mass_lift: Room for R M g.
        momenta: R M u for each u, coarse vectors.

    Note:
        Creation is collective.
    """

    _title: ClassVar[str] = "coarse system"

    def __init__(
        self,
        spaces: Sequence[MultiscaleFunctionSpace],
        M: FineBlocks,
        A: FineBlocks,
        functions: Sequence[Sequence[FloatArray]],
        petsc_options_prefix: str,
        petsc_options: dict[str, object],
    ) -> None:
        super().__init__(spaces[0].comm)
        self._spaces = spaces
        self._prefix, self._options = petsc_options_prefix, petsc_options
        # Products may move P to another type.
        mass, images = M.project(functions)
        stiffness, _ = A.project()
        # Handles of our own on the same matrices.
        self._P: list[PETSc.Mat] = [self._own(copy.copy(W.P)) for W in self._spaces]
        self._states = [P.stateGet() for P in self._P]
        ends = np.cumsum([0, *(P.getLocalSize()[1] for P in self._P)])
        self._parts = [slice(a, b) for a, b in pairwise(ends)]
        self._fine = [self._own(P.createVecLeft()) for P in self._P]
        self._coarse = [self._own(P.createVecRight()) for P in self._P]
        self._solvers: dict[float, PETSc.KSP] = {}
        self.M0: PETSc.Mat = self._own(self._join(mass))
        self.A0: PETSc.Mat = self._own(self._join(stiffness))
        self.load, self.stiff_lift, self.mass_lift = (self.vector() for _ in range(3))
        self.momenta = [self.vector() for _ in images]
        for image, momentum in zip(images, self.momenta, strict=True):
            self.restrict(image, momentum)

    def _join(self, found: dict[tuple[int, int], PETSc.Mat]) -> PETSc.Mat:
        """The coarse block matrix, as one. Collective; the caller destroys it.

        Args:
            found: Blocks by row and column, destroyed here or returned.
        """
        num = len(self._P)
        # Zeros, so that every row and column of blocks has a size.
        found = {(i, i): self._zero(i) for i in range(num) if (i, i) not in found} | found
        if num == 1:
            return found[0, 0]
        blocks = [[found.get((i, j)) for j in range(num)] for i in range(num)]
        nest = PETSc.Mat().createNest(blocks, comm=self._P[0].comm)
        nest.assemble()
        whole = nest.convert(PETSc.Mat.Type.AIJ, PETSc.Mat())
        if whole.getType() != self._P[0].getType():
            whole.convert(self._P[0].getType())
        nest.destroy()
        for block in found.values():
            block.destroy()
        return whole

    def _zero(self, i: int) -> PETSc.Mat:
        sizes = self._P[i].getSizes()[1]
        zero = PETSc.Mat().create(self._P[i].comm)
        zero.setSizes((sizes, sizes))
        zero.setType(self._P[i].getType())
        zero.setPreallocationNNZ(0)
        zero.assemble()
        return zero

    def vector(self) -> PETSc.Vec:
        """A new coarse vector, owned by the system. Collective."""
        return self._own(self.A0.createVecLeft())

    def is_current(self) -> bool:
        """Whether the spaces still have these prolongations, unchanged. Not collective."""
        return self.is_intact() and all(
            W.P == P for W, P in zip(self._spaces, self._P, strict=True)
        )

    def is_intact(self) -> bool:
        """Whether the prolongations hold the values that they had. Not collective."""
        return [P.stateGet() for P in self._P] == self._states

    def restrict(self, fields: Sequence[FloatArray], out: PETSc.Vec) -> None:
        """Fill a coarse vector with P_iᵀ b_i.

        Args:
            fields: Owned entries b_i of each field, shape ``(0,)`` for zero.
            out: Coarse vector.

        Note:
            Collective.
        """
        with out as array:
            for P, part, values, fine, coarse in zip(
                self._P, self._parts, fields, self._fine, self._coarse, strict=True
            ):
                # Which fields are left out is the same on every rank only if told by the form.
                with fine as into:
                    into[:] = values if len(values) else 0.0
                P.multTranspose(fine, coarse)
                array[part] = coarse.array_r

    def prolong(self, c: PETSc.Vec) -> list[FloatArray]:
        """Local values of P_i c_i for each field, with ghosts. Collective."""
        result = []
        for W, P, part, coarse in zip(
            self._spaces, self._P, self._parts, self._coarse, strict=True
        ):
            coarse.array_w[:] = c.array_r[part]
            u: Function = fem.Function(W.V, name="u")
            set_to_product(u, P, coarse)
            result.append(u.x.array.copy())
        return result

    def solve(self, shift: float, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """Solve (shift M_0 + A_0) x = b; the factors of the last shifts are kept.

        Raises:
            RuntimeError: As :func:`~dolfinx_msnn._utils.solvers.solve_coarse`.

        Note:
            Collective.
        """
        # The last one used is the last to go.
        solver = self._solvers.pop(shift, None)
        if solver is None:
            while len(self._solvers) >= MAX_FACTORS:
                self._free(self._solvers.pop(next(iter(self._solvers))))
            solver = self._own(self._create_solver(shift))
        self._solvers[shift] = solver
        solve_coarse(solver, b, x)

    def _create_solver(self, shift: float) -> PETSc.KSP:
        """A direct solver, LU unless the matrix is symmetric. Collective."""
        K = self.A0.copy()
        try:
            if shift:
                K.axpy(shift, self.M0, structure=PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)
            # The solver keeps the matrix.
            return create_coarse_solver(K, self._prefix, self._options, symmetric=_is_symmetric(K))
        finally:
            K.destroy()

    def destroy(self) -> None:
        """Free all of it, and the handles of the prolongations. Collective."""
        super().destroy()
        self._solvers.clear()


def _is_symmetric(K: PETSc.Mat) -> bool:
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
