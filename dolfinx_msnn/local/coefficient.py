# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Cell values of a coefficient, for bases that look at it and not only at the local matrices."""

from __future__ import annotations

import numpy as np

import basix
import ufl
from dolfinx import fem, mesh
from dolfinx_msnn._utils.checks import is_number, point
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, Function, Mesh
from ufl.algorithms import extract_arguments, extract_coefficients
from ufl.domain import extract_domains


def check_coefficient(kappa: object, msh: Mesh) -> None:
    """Refuse what is not a scalar coefficient on ``msh``. Not collective.

    Raises:
        ValueError: With what was given and what was expected.
    """
    if is_number(kappa):
        return
    if not isinstance(kappa, ufl.core.expr.Expr):
        raise ValueError(
            "kappa must be a Function, a Constant, a UFL expression or a number, got "
            f"{type(kappa).__name__}."
        )
    if kappa.ufl_shape != ():
        raise ValueError(
            f"kappa must be scalar, got an expression of shape {kappa.ufl_shape}; a model sees "
            "one number a cell."
        )
    if extract_arguments(kappa):
        raise ValueError(
            "kappa contains a test or trial function; expected a coefficient that has values."
        )
    spaces = [c.ufl_function_space() for c in extract_coefficients(kappa)]
    domains = {V.ufl_domain() for V in spaces} | set(extract_domains(kappa))
    if any(domain is not None and domain != msh.ufl_domain() for domain in domains):
        raise ValueError("kappa is defined on another mesh than V; expected the same mesh.")
    _sample_points(kappa, msh)


def cell_values(kappa: object, msh: Mesh) -> FloatArray:
    """Evaluate a positive coefficient at the midpoints of the cells that this rank owns.

    Functions in quadrature spaces have no value there: the mean over their points is taken.

    Args:
        kappa: ``Function``, ``Constant``, UFL expression or number; scalar.
        msh: Mesh.

    Returns:
        The value and the midpoint of each cell, shape ``(num_cells, 1 + gdim)``.

    Raises:
        ValueError: If a value is not positive and finite; the same on every rank.

    Note:
        Collective (an expression may have to be compiled).
    """
    tdim, gdim = msh.topology.dim, msh.geometry.dim
    cells = np.arange(msh.topology.index_map(tdim).size_local, dtype=np.int32)
    out = np.empty((len(cells), 1 + gdim))
    out[:, 1:] = mesh.compute_midpoints(msh, tdim, cells)[:, :gdim]
    if is_number(kappa):
        out[:, 0] = float(kappa)
    elif isinstance(kappa, fem.Function) and _is_dg0(kappa):
        out[:, 0] = kappa.x.array[kappa.function_space.dofmap.list[cells, 0]]
    elif isinstance(kappa, ufl.core.expr.Expr):
        points, weights = _sample_points(kappa, msh)
        values = fem.Expression(kappa, points)
        if len(out):
            out[:, 0] = values.eval(msh, cells).reshape(len(out), -1) @ weights
    with collective_errors(msh.comm):
        bad = ~(np.isfinite(out[:, 0]) & (out[:, 0] > 0))
        if bad.any():
            k = int(np.argmax(bad))
            raise ValueError(
                f"kappa is {out[k, 0]:.4g} in the cell at {point(out[k, 1:])}; expected positive "
                "and finite values."
            )
    return out


def _is_dg0(kappa: Function) -> bool:
    element = kappa.function_space.ufl_element()
    return bool(getattr(element, "degree", -1) == 0 and element.block_size == 1)


def _sample_points(kappa: ufl.core.expr.Expr, msh: Mesh) -> tuple[FloatArray, FloatArray]:
    """Reference points at which a coefficient has values, and the weights of their mean."""
    elements = {c.ufl_function_space().ufl_element() for c in extract_coefficients(kappa)}
    rules = [e.custom_quadrature() for e in elements if getattr(e, "is_quadrature", False)]
    if not rules:
        # The barycentre of the reference cell is the midpoint of cells that are not curved.
        corners = basix.geometry(basix.CellType[msh.topology.cell_type.name])
        return np.asarray(corners.mean(axis=0, keepdims=True), dtype=np.float64), np.ones(1)
    points, weights = (np.asarray(part, dtype=np.float64) for part in rules[0])
    if any(other.shape != points.shape or np.any(other != points) for other, _ in rules):
        raise ValueError(
            "kappa has functions in quadrature spaces of several rules; expected one rule."
        )
    return points, weights / weights.sum()
