# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Forms and Dirichlet conditions of several fields, and blocks of bilinear forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.petsc import Owner
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, Form, FunctionSpace
from dolfinx_msnn.algebra.fine import FineOperator
from dolfinx_msnn.algebra.product import CoarseOperator

type BilinearBlocks = list[list[ufl.Form | None]]
type LinearBlocks = list[ufl.Form | None]


def is_list(item: object) -> bool:
    """Whether something is meant as a list of blocks. Not collective."""
    return isinstance(item, Sequence) and not isinstance(item, str)


def bilinear_blocks(form: Any, spaces: Sequence[FunctionSpace], name: str) -> BilinearBlocks:
    """A form, or nested lists of forms and ``None``, as nested lists. Not collective.

    Args:
        form: What the user gave.
        spaces: Fine space of each field.
        name: What the user calls it.

    Raises:
        ValueError: If there is not one row and one column for each field, or an entry is neither
            ``None`` nor a bilinear form on the spaces of its fields.
    """
    num = len(spaces)
    if form is None:
        return [[None] * num for _ in range(num)]
    if not is_list(form):
        form = [[form]]
    rows = [list(row) if is_list(row) else row for row in form]
    if len(rows) != num or any(not isinstance(row, list) or len(row) != num for row in rows):
        shape = [len(row) if isinstance(row, list) else type(row).__name__ for row in rows]
        raise ValueError(
            f"{name} must be {num} lists of {num} forms (None for a zero block), one row and one "
            f"column for each field, got rows {shape}."
        )
    expected = "the test function of the row's field and the trial function of the column's"
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            place = name if num == 1 else f"{name}[{i}][{j}]"
            if entry is not None:
                forms.check_arguments(entry, (spaces[i], spaces[j]), place, expected)
    return rows


def linear_blocks(form: Any, spaces: Sequence[FunctionSpace], name: str) -> LinearBlocks:
    """A form, or a list of forms and ``None``, as a list. As :func:`bilinear_blocks`."""
    blocks = list(form) if is_list(form) else [form]
    if len(blocks) != len(spaces):
        raise ValueError(
            f"{name} must have one form (or None) for each of the {len(spaces)} fields, got "
            f"{len(blocks)}."
        )
    for i, (entry, V) in enumerate(zip(blocks, spaces, strict=True)):
        place = name if len(spaces) == 1 else f"{name}[{i}]"
        if entry is not None:
            forms.check_arguments(entry, (V,), place, "the test function of the field")
    return blocks


def bcs_of_fields(
    bcs: Sequence[DirichletBC], spaces: Sequence[FunctionSpace]
) -> list[list[DirichletBC]]:
    """Which conditions belong to which field. Not collective.

    Raises:
        ValueError: If one belongs to none, or to several (fields on one and the same space).
    """
    if not is_list(bcs):
        raise ValueError(
            "bcs must be a sequence of dolfinx.fem.DirichletBC (may be empty), got "
            f"{type(bcs).__name__}."
        )
    found: list[list[DirichletBC]] = [[] for _ in spaces]
    for k, bc in enumerate(bcs):
        if not isinstance(bc, fem.DirichletBC):
            raise ValueError(
                f"bcs[{k}] must be a dolfinx.fem.DirichletBC, got {type(bc).__name__}."
            )
        owners = [i for i, V in enumerate(spaces) if V._cpp_object.contains(bc.function_space)]
        if len(owners) != 1:
            raise ValueError(
                f"bcs[{k}] is on the function space of {len(owners)} fields; expected one "
                "(V.clone() gives every field a space of its own)."
            )
        found[owners[0]].append(bc)
    return found


class FineBlocks(Owner):
    """The blocks of a bilinear form, without Dirichlet conditions.

    Blocks on the diagonal are summed up over groups of cells where :class:`CoarseOperator` does
    that. Fine matrices are made of the others, which have two coarse spaces, and of integrals that
    are no sum of element matrices.

    Args:
        blocks: Nested lists of forms, ``None`` for zero.
        operators: The coarse operator of each field.
        mat_type: PETSc type of the matrices; default that of P.
        prefix: Options prefix of the matrices.
        compile_form: Turns UFL forms into DOLFINx forms.

    Note:
        Creation is collective; it fills nothing.
    """

    _title: ClassVar[str] = "block form"

    def __init__(
        self,
        blocks: BilinearBlocks,
        operators: Sequence[CoarseOperator],
        mat_type: str | None,
        prefix: str,
        compile_form: Callable[[ufl.Form], Form],
    ) -> None:
        super().__init__(operators[0].W.comm)
        self._operators = operators
        self._blocks: dict[tuple[int, int], FineOperator] = {
            (i, j): self._own(
                FineOperator(compile_form(form), operators[i].W, (), mat_type, prefix)
            )
            for i, row in enumerate(blocks)
            for j, form in enumerate(row)
            if form is not None
        }

    def project(
        self, functions: Sequence[Sequence[FloatArray]] = ()
    ) -> tuple[dict[tuple[int, int], PETSc.Mat], list[list[FloatArray]]]:
        """Coarse blocks P_iᵀ A_ij P_j for the present coefficients, and products A u.

        Args:
            functions: Some u: local values of each field, owned ones first.

        Returns:
            The blocks by row and column, zero blocks left out, which the caller destroys; and for
            each u the owned values of each row, shape ``(0,)`` for a row of zero blocks.

        Note:
            Collective.
        """
        found: dict[tuple[int, int], PETSc.Mat] = {}
        images = [[np.zeros(0)] * len(self._operators) for _ in functions]
        for (i, j), A in self._blocks.items():
            row, column, given = self._operators[i], self._operators[j].W, [u[j] for u in functions]
            A.assemble()
            if i == j and A.by_cells:
                _, (acted, _) = row.assemble(A, np.array(given) if given else None)
                products = list(acted)
                # A copy: mass and stiffness share the coarse operator.
                found[i, i] = row.A0.copy()
            else:
                for W in (row.W, column):
                    W.match_type(A.matrix)
                image = A.matrix.matMult(column.P)
                found[i, j] = row.W.P.transposeMatMult(image)
                image.destroy()
                products = A.multiply(given)
            for rows, product in zip(images, products, strict=True):
                rows[i] = product + rows[i] if len(rows[i]) else product
        return found, images

    def lift(self, bcs: Sequence[Sequence[DirichletBC]]) -> list[FloatArray]:
        """A g for the values g of the Dirichlet conditions of each field, zero at other dofs.

        Returns:
            Owned values for each row, shape ``(0,)`` for a row of zero blocks.

        Note:
            Collective. Cells without such dofs are passed over.
        """
        result = [np.zeros(0)] * len(self._operators)
        for (i, j), A in self._blocks.items():
            dofmap = self._operators[i].W.V.dofmap
            b = la.vector(dofmap.index_map, dofmap.index_map_bs)
            fem.apply_lifting(b.array, [A.form], bcs=[bcs[j]], alpha=-1.0)
            b.scatter_reverse(la.InsertMode.add)
            owned = b.array[: dofmap.index_map.size_local * dofmap.index_map_bs]
            result[i] = owned + result[i] if len(result[i]) else owned
        return result


def assemble_loads(loads: Sequence[Form | None]) -> list[FloatArray]:
    """Owned entries of the vectors of linear forms, shape ``(0,)`` for ``None``. Collective."""
    result = []
    for form in loads:
        if form is None:
            result.append(np.zeros(0))
            continue
        load = fem.assemble_vector(form)
        load.scatter_reverse(la.InsertMode.add)
        V = form.function_spaces[0]
        size = V.dofmap.index_map.size_local * V.dofmap.index_map_bs
        result.append(load.array[:size].copy())
    return result
