# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Forms and Dirichlet conditions of several fields, and the fine matrices of blocks of forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx.fem.petsc import create_matrix
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.assembly import fill_matrix
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, Form, FunctionSpace

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


class FineBlocks:
    """Matrices of the blocks of a bilinear form, without Dirichlet conditions.

    Args:
        blocks: Nested lists of forms, ``None`` for zero.
        mat_type: PETSc type of the matrices.
        compile_form: Turns UFL forms into DOLFINx forms.

    Attributes:
        matrices: By row and column; zero blocks are left out.

    Note:
        Creation is collective; it fills nothing. The caller destroys it.
    """

    def __init__(
        self, blocks: BilinearBlocks, mat_type: str, compile_form: Callable[[ufl.Form], Form]
    ) -> None:
        self._num = len(blocks)
        self._forms = {
            (i, j): compile_form(form)
            for i, row in enumerate(blocks)
            for j, form in enumerate(row)
            if form is not None
        }
        self.matrices: dict[tuple[int, int], PETSc.Mat] = {
            place: create_matrix(form, kind=mat_type) for place, form in self._forms.items()
        }

    def assemble(self) -> None:
        """Fill the matrices. Collective."""
        for place, A in self.matrices.items():
            fill_matrix(A, self._forms[place])

    def apply(self, fields: Sequence[FloatArray]) -> list[FloatArray]:
        """Products of the rows with the fields.

        Args:
            fields: Local values of each field, owned ones first.

        Returns:
            Owned values for each row, shape ``(0,)`` for a row of zero blocks.

        Note:
            Collective.
        """
        result = [np.zeros(0)] * self._num
        for (i, j), A in self.matrices.items():
            x, y = A.createVecs()
            x.array_w[:] = fields[j][: x.getLocalSize()]
            A.mult(x, y)
            result[i] = y.array_r + (result[i] if len(result[i]) else 0.0)
            x.destroy()
            y.destroy()
        return result

    def destroy(self) -> None:
        """Free the matrices. Collective."""
        for A in self.matrices.values():
            A.destroy()


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
