# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The fine operator of a problem: element matrices, and the matrix where something needs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from petsc4py import PETSc

import numpy as np

from dolfinx.fem import IntegralType
from dolfinx.fem.petsc import create_matrix
from dolfinx_msnn._utils.assembly import fill_matrix
from dolfinx_msnn._utils.petsc import Owner
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, Form
from dolfinx_msnn.local.element_matrices import ElementMatrices
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


class FineOperator(Owner):
    """A bilinear form on the fine space, with Dirichlet conditions.

    Args:
        form: Compiled form.
        W: Multiscale space.
        bcs: Dirichlet conditions: their rows and columns are zero, but for ones on the diagonal.
        mat_type: PETSc type of the matrix; default that of ``W.P``.
        prefix: Options prefix of the matrix.

    Note:
        Creation is not collective.
    """

    _title: ClassVar[str] = "fine operator"

    def __init__(
        self,
        form: Form,
        W: MultiscaleFunctionSpace,
        bcs: Sequence[DirichletBC],
        mat_type: str | None,
        prefix: str,
    ) -> None:
        super().__init__(W.comm)
        self.form, self.W, self.bcs = form, W, bcs
        self._kind, self._prefix = mat_type, prefix
        self._matrix: PETSc.Mat | None = None

    @property
    def mat_type(self) -> str:
        """PETSc type of the matrix."""
        return self._kind or str(self.W.P.getType())

    @cached_property
    def elements(self) -> ElementMatrices:
        """The element matrices of the form."""
        return ElementMatrices(self.form, self.W.V)

    def assemble(self) -> None:
        """Fill the matrix with the present coefficients, if it has been asked for. Collective."""
        if self._matrix is not None:
            fill_matrix(self._matrix, self.form, self.bcs)

    @property
    def matrix(self) -> PETSc.Mat:
        """The matrix, made when it is first asked for (collective then). Owned by this object."""
        self._check_alive()
        if self._matrix is None:
            A = self._own(create_matrix(self.form, kind=self.mat_type))
            A.setOptionsPrefix(self._prefix)
            fill_matrix(A, self.form, self.bcs)
            self._matrix = A
        return self._matrix

    @property
    def by_cells(self) -> bool:
        """Whether the form is a sum of element matrices: over cells and exterior facets of V."""
        kinds = {IntegralType.cell, IntegralType.exterior_facet}
        return (
            set(self.form.integral_types) <= kinds and self.form.mesh is self.W.V.mesh._cpp_object
        )

    def multiply(self, functions: Sequence[FloatArray]) -> list[FloatArray]:
        """A z for some functions, by the matrix. Collective.

        Args:
            functions: Values at the dofs of this rank, owned first, each of shape ``(n,)``.

        Returns:
            At the owned dofs.
        """
        z, image = self.matrix.createVecs()
        images = []
        for values in functions:
            z.array_w[:] = values[: z.getLocalSize()]
            self.matrix.mult(z, image)
            images.append(image.array_r.copy())
        z.destroy()
        image.destroy()
        return images

    def act(self, functions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """A z for some functions, and the diagonal of A, by the matrix. Collective.

        Args:
            functions: Values at the dofs of this rank, owned first, shape ``(num, n)``.

        Returns:
            At the owned dofs, shapes ``(num, num_owned)`` and ``(num_owned,)``.
        """
        diagonal = self.matrix.getDiagonal()
        values = diagonal.array_r.copy()
        diagonal.destroy()
        images = np.array(self.multiply(list(functions)))
        return images.reshape(len(functions), len(values)), values
