# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse operators A_0 = PᵀAP, kept up to date, and coarse vectors b_0 = Pᵀb."""

from __future__ import annotations

from typing import ClassVar

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.petsc import Owner
from dolfinx_msnn._utils.typing import FloatArray, IntArray
from dolfinx_msnn.algebra.cell_products import CellProducts
from dolfinx_msnn.algebra.dense_blocks import DenseBlocks
from dolfinx_msnn.algebra.fine import FineOperator
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


class CoarseOperator(Owner):
    """A_0 = PᵀAP of a multiscale space, kept up to date with A and P.

    The product is summed up over groups of cells, or that of matrices: of dense blocks, or PETSc's,
    whichever is the faster one.

    Args:
        W: Multiscale space.
        prefix: Options prefix of A_0.

    Attributes:
        A0: The coarse matrix, of the type of A; ``None`` before the first :meth:`refresh`. Owned by
            this object.

    Note:
        Creation is collective.
    """

    _title: ClassVar[str] = "coarse operator"

    def __init__(self, W: MultiscaleFunctionSpace, prefix: str | None = None) -> None:
        super().__init__(W.comm)
        self.W, self._prefix = W, prefix
        self.A0: PETSc.Mat = None
        self._blocks: DenseBlocks | None = None
        self._cells: CellProducts | None = None
        self._pattern: tuple[IntArray, IntArray] | None = None
        self._type = ""
        self._prolongation = (-1, -1)

    @property
    def is_current(self) -> bool:
        """Whether A_0 was filled with the P that the space has now. Not collective."""
        return self._prolongation == self._present_prolongation()

    def _present_prolongation(self) -> tuple[int, int]:
        """Numbers that change with the layout and with the values of P."""
        return self.W.layout, self.W.P.stateGet()

    def refresh(self, A: PETSc.Mat) -> bool:
        """Fill A_0 for the present values of A and P.

        The symbolic product, and with it ``A0``, stays as long as A keeps its type and its pattern
        of entries, and P its layout; neither needs to be the same PETSc object. All of that is
        compared here: a numeric product on another pattern would be wrong without a word.

        Args:
            A: Fine matrix, as for :func:`create_coarse_matrix`.

        Returns:
            Whether ``A0`` is a new matrix (the old one has been destroyed), the same on all ranks.

        Raises:
            ValueError: If A does not fit the space.

        Note:
            Collective.
        """
        self._check_alive()
        return self._refresh(A)

    def assemble(
        self, A: FineOperator, functions: FloatArray | None = None
    ) -> tuple[bool, tuple[FloatArray, FloatArray]]:
        """Fill A_0 for the present coefficients of a form, and multiply A with some functions.

        The fine matrix is assembled only where its product is the faster way.

        Args:
            A: The fine operator.
            functions: See :meth:`FineOperator.act`; default none.

        Returns:
            Whether ``A0`` is a new matrix, and as :meth:`FineOperator.act`.

        Note:
            Collective.
        """
        self._check_alive()
        layout, values = self._present_prolongation()
        changes = np.array(np.not_equal(self._prolongation, (layout, values)), dtype=np.int32)
        self.W.comm.Allreduce(MPI.IN_PLACE, changes, op=MPI.MAX)
        new, other_values = changes
        if new:
            self._cells = CellProducts.create(A)
        elif self._cells is not None and other_values:
            self._cells.take_prolongation()
        if self._cells is None:
            functions = np.zeros((0, 0)) if functions is None else functions
            return self._refresh(A.matrix), A.act(functions)
        if new:
            self._free(self.A0)
            self.A0 = self._own(self._cells.A0)
            self.A0.setOptionsPrefix(self._prefix)
        action = self._cells.assemble(A, functions)
        self._prolongation = layout, values
        return bool(new), action

    def _refresh(self, A: PETSc.Mat) -> bool:
        """See :meth:`refresh`."""
        W = self.W
        check_fine_matrix(A, W)
        W.match_type(A)
        pattern = A.getRowIJ()
        same = (
            self._pattern is not None
            and all(map(np.array_equal, pattern, self._pattern))
            and self._type == A.getType()
            and self._prolongation[0] == W.layout
        )
        changes = np.array([not same, not self.is_current], dtype=np.int32)
        W.comm.Allreduce(MPI.IN_PLACE, changes, op=MPI.MAX)
        new, other_values = changes
        if new:
            self._form(A)
            self._pattern, self._type = pattern, A.getType()
        elif self._blocks is None:
            assemble_coarse_matrix(self.A0, A, W)
        else:
            if other_values:
                self._blocks.take_prolongation()
            self._blocks.assemble(A)
        self._prolongation = self._present_prolongation()
        return bool(new)

    def _form(self, A: PETSc.Mat) -> None:
        """Symbolic and numeric product. Collective."""
        self._free(self.A0)
        self.A0 = self._pattern = None
        self._blocks = DenseBlocks.create(A, self.W)
        if self._blocks is None:
            self.A0 = self._own(create_coarse_matrix(A, self.W))
        else:
            self.A0 = self._own(self._blocks.A0)
            self._blocks.assemble(A)
        self.A0.setOptionsPrefix(self._prefix)

    def destroy(self) -> None:
        """Free A_0 (not P). Collective."""
        super().destroy()
        self.A0 = self._blocks = self._cells = self._pattern = None


def check_fine_matrix(A: PETSc.Mat, W: MultiscaleFunctionSpace) -> None:
    """Refuse a matrix that is not one on the fine space.

    Raises:
        ValueError: The same on every rank.
    """
    if A.getSize() != (W.P.getSize()[0],) * 2:
        raise ValueError(
            f"The fine matrix is {A.getSize()[0]} x {A.getSize()[1]}, P has {W.P.getSize()[0]} "
            "rows; expected a matrix on the fine space."
        )


@checked
def create_coarse_matrix(A: PETSc.Mat, W: MultiscaleFunctionSpace) -> PETSc.Mat:
    """Allocate and fill A_0 = PᵀAP (symbolic and numeric product).

    Args:
        A: Fine matrix, assembled, with Dirichlet rows and columns zeroed or not (the basis
            functions vanish there).
        W: Multiscale space. If its P is of a host type and A is not, P moves to A's type.

    Returns:
        N_c × N_c matrix of the type of A. The caller destroys it.

    Note:
        Collective.
    """
    check_fine_matrix(A, W)
    W.match_type(A)
    options = PETSc.Options()
    # Measured: on one rank R (A P) with an explicit R is faster than PETSc's default, once and
    # again with new values. A user's choice wins.
    tune = A.getType() == "seqaij" and not options.hasName("mat_product_algorithm")
    if tune:
        options["mat_product_algorithm"] = "rap"
    try:
        return A.ptap(W.P)
    finally:
        if tune:
            del options["mat_product_algorithm"]


@checked
def assemble_coarse_matrix(A0: PETSc.Mat, A: PETSc.Mat, W: MultiscaleFunctionSpace) -> PETSc.Mat:
    """Refill A_0 = PᵀAP for new values of A or P, in their old patterns (numeric product only).

    Args:
        A0: From :func:`create_coarse_matrix`.
        A: Fine matrix of the same pattern. That is not checked, and of another one PETSc writes
            beyond its arrays.
        W: Multiscale space.

    Returns:
        ``A0``.

    Note:
        Collective.
    """
    return A.ptap(W.P, result=A0)


@checked
def assemble_coarse_vector(
    b: PETSc.Vec, W: MultiscaleFunctionSpace, b0: PETSc.Vec | None = None
) -> PETSc.Vec:
    """Restrict a fine vector: b_0 = R b = Pᵀ b.

    Args:
        b: Fine vector, finalised (ghost contributions accumulated).
        W: Multiscale space.
        b0: Filled (not added to); created from P if not given.

    Returns:
        Coarse vector. The caller destroys it if it was created.

    Note:
        Collective.
    """
    b0 = W.P.createVecRight() if b0 is None else b0
    W.P.multTranspose(b, b0)
    return b0
