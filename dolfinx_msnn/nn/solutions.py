# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Fine solutions of random problems with a given coefficient, for the loss ``solutions``.

All solutions of a field share their Dirichlet sides: two opposite ones at least, drawn at random;
the others are natural. The kinds, by what is not zero:

=========  =====================================================================================
drop       values on the Dirichlet sides, linear, half of them along the axis of two such sides
values     values on the Dirichlet sides, smooth
one        load one
smooth     load, smooth
waves      load, a product of 2 to 6 half waves along each axis
wells      load, a narrow source and a narrow sink
noise      load, another random number at each dof
=========  =====================================================================================

Smooth means a Gaussian field (by random waves) of correlation length 0.22, the domain's sides
being one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import ufl
from dolfinx import fem
from dolfinx_msnn._utils.solvers import solve_definite
from dolfinx_msnn._utils.typing import BoolArray, DirichletBC, FloatArray, Function, FunctionSpace

LENGTH, WIDTHS = 0.22, (0.02, 0.05)


def draw_solutions(
    V: FunctionSpace, kappa: Function, kinds: tuple[str, ...], num: int, rng: np.random.Generator
) -> tuple[list[DirichletBC], FloatArray]:
    """Dirichlet conditions and solutions of energy one; of -div(κ grad u) = f on COMM_SELF.

    Args:
        V: Fine space.
        kappa: The coefficient.
        kinds: Kinds, one after the other and from the first again.
        num: Number of solutions.
        rng: Draws sides, loads and values.

    Returns:
        The conditions (zero; only their dofs matter) and solutions, shape ``(num, n)``.
    """
    x = V.tabulate_dof_coordinates()[:, : V.mesh.geometry.dim]
    low, high = x.min(axis=0), x.max(axis=0)
    t = (x - low) / (high - low)
    axis, sides = _draw_sides(t.shape[1], rng)
    fixed = ((t < 1e-9) & sides[:, 0] | (t > 1 - 1e-9) & sides[:, 1]).any(axis=1)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = fem.form(kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx)
    A, M = (fem.assemble_matrix(form).to_scipy() for form in (a, fem.form(u * v * ufl.dx)))
    found, loads = np.zeros((num, len(t))), np.empty((num, len(t)))
    for k in range(num):
        f, g = draw_load(kinds[k % len(kinds)], t, axis, rng)
        found[k] = np.where(fixed, g, 0.0)
        loads[k] = M @ f - A @ found[k]
    free = ~fixed
    found[:, free] = solve_definite(A[free][:, free].tocsr(), loads[:, free], "The fine matrix")
    energy = np.einsum("ij,ij->i", found, (A @ found.T).T)
    found /= np.sqrt(np.maximum(energy, np.finfo(float).tiny))[:, None]
    return [fem.dirichletbc(0.0, np.flatnonzero(fixed).astype(np.int32), V)], found


def _draw_sides(dim: int, rng: np.random.Generator) -> tuple[int, BoolArray]:
    """An axis and the Dirichlet sides, shape ``(dim, 2)``; both sides of the axis are among them.

    Half of the time there are no others, a quarter of the time it is all.
    """
    axis, case = int(rng.integers(dim)), rng.random()
    sides = rng.random((dim, 2)) < 0.5 if case < 0.25 else np.full((dim, 2), case < 0.5)
    sides[axis] = True
    return axis, sides


def draw_load(kind: str, t: FloatArray, axis: int, rng: np.random.Generator) -> Any:
    """Load and Dirichlet values of a kind at places in the unit box, shape ``(n, d)``, or zero."""
    dim = t.shape[1]
    if kind == "drop":
        direction = np.eye(dim)[axis] if rng.random() < 0.5 else rng.standard_normal(dim)
        return 0.0 * t[:, 0], t @ direction
    if kind == "values":
        return 0.0 * t[:, 0], _smooth(t, rng)
    if kind == "smooth":
        return _smooth(t, rng), 0.0
    if kind == "waves":
        return np.prod(np.sin(np.pi * rng.integers(2, 7, dim) * t), axis=1), 0.0
    if kind == "wells":
        parts = [
            sign * np.exp(-((t - p) ** 2).sum(axis=1) / (2 * width**2))
            for sign, p, width in zip(
                (1, -1), rng.random((2, dim)), rng.uniform(*WIDTHS, 2), strict=True
            )
        ]
        return sum(parts), 0.0
    return (np.ones(len(t)) if kind == "one" else rng.standard_normal(len(t))), 0.0


def _smooth(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A smooth random function."""
    waves = rng.standard_normal((t.shape[1], 32)) / LENGTH
    return np.cos(t @ waves + rng.uniform(0, 2 * np.pi, 32)).sum(axis=1) / 4.0
