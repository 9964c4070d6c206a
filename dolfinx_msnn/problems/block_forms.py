# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Forms and conditions of several fields: checks, and what has changed in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import ufl
from dolfinx import fem
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.mpi import check_same
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, FunctionSpace
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

type BilinearBlocks = list[list[ufl.Form | None]]
type LinearBlocks = list[ufl.Form | None]


def is_list(item: object) -> bool:
    """Whether something is meant as a list of blocks. Not collective."""
    return isinstance(item, Sequence) and not isinstance(item, str)


def as_bilinear_blocks(form: Any, num: int, name: str) -> BilinearBlocks:
    """A form, or nested lists of forms and ``None``, as nested lists. Not collective.

    Raises:
        ValueError: If there are not ``num`` rows of ``num`` entries.
    """
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
    return rows


def as_linear_blocks(form: Any, num: int, name: str) -> LinearBlocks:
    """A form, or a list of forms and ``None``, as a list. Not collective."""
    blocks = list(form) if is_list(form) else [form]
    if len(blocks) != num:
        raise ValueError(
            f"{name} must have one form (or None) for each of the {num} fields, got {len(blocks)}."
        )
    return blocks


def check_blocks(
    blocks: Sequence[ufl.Form | None], spaces: Sequence[tuple[FunctionSpace, ...]], name: str
) -> None:
    """Refuse what are not forms with test (and trial) function on the given spaces.

    Args:
        blocks: Forms; ``None`` passes.
        spaces: For each of them the space of the test function, and that of the trial function if
            it is to be bilinear.
        name: What the user calls the forms, with the place of each to be filled in.

    Raises:
        ValueError: Not collective.
    """
    for k, (form, wanted) in enumerate(zip(blocks, spaces, strict=True)):
        if form is None:
            continue
        place = name.format(k)
        kind = "bilinear" if len(wanted) == 2 else "linear"
        if not isinstance(form, ufl.Form):
            raise ValueError(
                f"{place} must be a UFL {kind} form or None, got {type(form).__name__}."
            )
        arguments = form.arguments()
        if len(arguments) != len(wanted):
            raise ValueError(
                f"{place} must be a {kind} form, got a form with {len(arguments)} arguments."
            )
        forms.check_arity(form, place)
        given = [argument.ufl_function_space() for argument in arguments]
        if any(space != V for space, V in zip(given, wanted, strict=True)):
            raise ValueError(
                f"The arguments of {place} are on other function spaces than those of the fields; "
                "expected the test function of the row's field"
                + (" and the trial function of the column's." if kind == "bilinear" else ".")
            )


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


class Watch:
    """Tells whether the values of coefficients and constants of forms have changed.

    Args:
        forms: UFL forms; ``None`` is passed over.
    """

    def __init__(self, forms: Sequence[ufl.Form | None]) -> None:
        self._forms = [form for form in forms if form is not None]
        self._seen: list[FloatArray] = []

    def changed(self) -> bool:
        """Whether values on this rank differ from those of the last call. Not collective."""
        now = [c.x.array for form in self._forms for c in form.coefficients()]
        now += [c.value for form in self._forms for c in form.constants()]
        same = len(now) == len(self._seen) and all(map(np.array_equal, now, self._seen))
        if not same:
            self._seen = [np.array(values) for values in now]
        return not same


def check_settings(spaces: Sequence[MultiscaleFunctionSpace], **settings: Any) -> None:
    """Refuse settings that differ between the ranks; forms are told by their signature."""

    def told(item: Any) -> Any:
        if isinstance(item, list):
            return [told(entry) for entry in item]
        return forms.identify(item) if item is None or isinstance(item, ufl.Form) else item

    check_same(spaces[0].comm, **{name: told(item) for name, item in settings.items()})
