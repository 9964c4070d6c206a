# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Guaranteed bound of the energy error against the exact solution, by an equilibrated flux."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import ufl
from dolfinx import fem
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.checks import is_integer, is_number, require
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, Function, Mesh
from dolfinx_msnn.estimate.equilibration import balance, eliminate, equilibrate
from dolfinx_msnn.estimate.patches import Data, Patches
from dolfinx_msnn.local.coefficient import check_coefficient
from dolfinx_msnn.local.grid import CoarseGrid

#: Largest lack of equilibrium, relative to the flows, that counts as rounding errors.
EQUILIBRIUM = 1e-8


@dataclass(frozen=True)
class ErrorBound:
    """A guaranteed bound of ‖κ^½ ∇(u − u_H)‖, u the exact solution of the boundary value problem.

    Attributes:
        upper: The bound; √(Σ cells² + correction²).
        cells: Contributions of this rank's cells, shape ``(num_owned_cells,)``.
        oscillation: Norm of the part of ``cells`` that stems from data which are not piecewise
            constant; included in ``upper``.
        correction: Energy norm of the correction by hat functions that was needed; rounding errors
            if the space holds all hat functions and the coarse solve was exact.
    """

    upper: float
    cells: FloatArray
    oscillation: float
    correction: float


@checked
def bound_error(
    u: Function,
    kappa: Function | fem.Constant[np.float64] | float,
    f: Data,
    coarse: CoarseGrid | None,
    *,
    bcs: Sequence[DirichletBC] = (),
    g: Data = 0.0,
    sweeps: int = 0,
) -> ErrorBound:
    """Bound the energy error of u_H against the exact solution of −div(κ ∇u) = f.

    u = u_H on the boundary facets all of whose dofs are in ``bcs``, κ ∂u/∂n = g on the others. A
    flux σ with div σ = f cell by cell and σ·n = −g facet by facet gives ‖κ^½ ∇(u − u_H)‖ ≤
    ‖κ^-½ (σ + κ ∇u_H)‖ (Prager, Synge, 1947), plus h_K/π κ^-½ ‖f − f_K‖ and a like term for g
    where these are not piecewise constant. σ is the sum over the coarse neighbourhoods of fluxes in
    RT0 that come closest to −χ_i κ ∇u_H (Braess, Schöberl, Math. Comp. 77, 2008; Ern, Vohralík,
    SIAM J. Numer. Anal. 53, 2015, there on the patches of fine vertices). It exists if u_H is
    orthogonal to the hat functions χ_i, which a multiscale space holds: its first mode is the
    constant. Where it does not, or the coarse solve was not exact, hat functions are first added
    to u_H, and their energy to the bound (the two are orthogonal). Where a neighbourhood falls into
    parts (on two sides of a slit) that are not in equilibrium each, the flux is computed as with
    ``coarse=None``.

    Guaranteed up to rounding errors if κ is piecewise constant, f and g are integrated exactly (by
    quadrature of degree 2k + 2, k the degree of V), and the boundary values are those of the exact
    solution.

    Args:
        u: Approximation u_H, in a scalar Lagrange space of any degree.
        kappa: Piecewise constant coefficient, a number, constant or function in DG0; positive.
        f: Right-hand side; scalar UFL expression or number.
        coarse: Coarse grid of the space that u_H is the solution in. With ``None`` one mixed
            problem on the whole mesh is solved, on one rank: the sharpest flux of this kind, for
            any function u_H.
        bcs: Dirichlet conditions.
        g: Neumann data on the rest of the boundary.
        sweeps: Further passes over the patches that bring σ closer to the global minimiser; each
            costs as much as the first. Worth it where the fine mesh does not resolve κ.

    Returns:
        The bound.

    Raises:
        ValueError: If an argument is not as expected, the cells are not affine (triangles,
            parallelograms, tetrahedra, parallelepipeds), or nothing is fixed by ``bcs`` and f and g
            are not in equilibrium.

    Note:
        Collective. Neighbourhoods may cross ranks; each one's cells are sent to one rank.
    """
    V = u.function_space
    with collective_errors(V.mesh.comm) as checks:
        forms.check_space(V)
        if V.dofmap.index_map_bs != 1:
            raise ValueError("u is not scalar; the bound is one for diffusion.")
        forms.check_bcs(bcs, V)
        _check_kappa(kappa, V.mesh)
        for data in (f, g):
            scalar = isinstance(data, ufl.core.expr.Expr) and data.ufl_shape == ()
            ok = scalar or is_number(data)
            require(ok, "f and g", data, "scalar UFL expressions or numbers")
        require(is_integer(sweeps), "sweeps", sweeps, "a non-negative integer")
        given = [data if is_number(data) else "an expression" for data in (f, g)]
        checks.agree(f=given[0], g=given[1], coarse=coarse is None, sweeps=sweeps)
    for grid in [None] if coarse is None else [coarse, None]:
        patches = Patches(u, kappa, f, g, grid, bcs)
        correction = balance(patches)
        flux = _flux(patches, sweeps if grid is coarse else 0)
        if flux is not None:
            return _bound(patches, flux, correction)
    raise ValueError(
        "A part of the mesh that no condition in bcs touches is not in equilibrium; expected "
        "one connected mesh."
    )


def _check_kappa(kappa: object, msh: Mesh) -> None:
    check_coefficient(kappa, msh)
    if isinstance(kappa, fem.Function):
        element = kappa.function_space.ufl_element()
        if getattr(element, "degree", -1) != 0:
            raise ValueError(f"kappa is in {element}; expected a piecewise constant one, in DG0.")
    elif not isinstance(kappa, numbers.Real | fem.Constant):
        raise ValueError(
            f"kappa is a {type(kappa).__name__}; expected a number, a Constant or a function in "
            "DG0: it must be piecewise constant."
        )


def _flux(patches: Patches, sweeps: int = 0) -> FloatArray | None:
    """The equilibrated flux, or ``None`` if a part of a patch is not in equilibrium. Collective.

    Args:
        patches: Patches in equilibrium (:func:`balance`).
        sweeps: Further passes: conjugate gradients for the closest flux of all, preconditioned by
            the patches. The steps are free of sources: every flux on the way is equilibrated.

    Returns:
        Shape ``(num_cells, nf)``.
    """
    cell, kappa, weights, psi = patches.cell, patches.kappa, patches.weights, patches.psi
    M = np.einsum("cq,cqfi,cqgi->cfg", weights / kappa[:, None], psi, psi)
    S, z = eliminate(M)
    slope = np.einsum("cqfi,cqi->cqf", psi, patches.gradient_of_u())
    m = np.einsum("cq,cqf->cf", weights[cell] * (patches.chi @ patches.values.T), slope[cell])
    source, flows = patches.flows()
    h = z[cell] * source[:, None] - np.einsum("cfg,cg->cf", S[cell], m)
    q, lack = equilibrate(patches, S, h, flows)
    if not lack <= EQUILIBRIUM:
        return None
    slope = np.einsum("cq,cqf->cf", weights, slope)
    direction, before = np.zeros_like(q), 0.0
    for _ in range(sweeps):
        m = np.einsum("cfg,cg->cf", M, q) + slope
        h = -np.einsum("cfg,cg->cf", S, m)[cell]
        step, _ = equilibrate(patches, S, h, np.zeros_like(h))
        lack = _total(patches, np.abs(step.sum(axis=1)))
        if not lack <= EQUILIBRIUM * _total(patches, np.abs(step)):
            # The step is rounding errors; adding it would destroy the equilibrium.
            break
        now = -_total(patches, step * m)
        direction = step + (now / before if before > 0 else 0.0) * direction
        drop = -_total(patches, direction * m)
        size = _total(patches, np.einsum("cf,cfg,cg->c", direction, M, direction))
        if not (now > 0 and drop > 0 and size > 0):
            break
        q = q + drop / size * direction
        before = now
    return q


def _total(patches: Patches, values: FloatArray) -> float:
    """The sum over this rank's values and over all ranks, the same on each. Collective."""
    return float(np.sum(patches.comm.allgather(float(np.sum(values)))))


def _bound(patches: Patches, flux: FloatArray, correction: float) -> ErrorBound:
    """The bound by an equilibrated flux, shape ``(num_cells, nf)``. Collective."""
    kappa, weights, f = patches.kappa, patches.weights, patches.f
    defect = np.einsum("cqfi,cf->cqi", patches.psi, flux)
    defect += kappa[:, None, None] * patches.gradient_of_u()
    squares = np.einsum("cq,cqi,cqi->c", weights / kappa[:, None], defect, defect)
    mean = (weights * f).sum(axis=1) / weights.sum(axis=1)
    rest = np.sqrt((weights * (f - mean[:, None]) ** 2).sum(axis=1))
    oscillation = patches.cells.diameter / np.pi / np.sqrt(kappa) * rest + patches.g_oscillation
    cells = np.sqrt(squares) + oscillation
    return ErrorBound(
        float(np.sqrt(_total(patches, cells**2) + correction)),
        cells,
        float(np.sqrt(_total(patches, oscillation**2))),
        float(np.sqrt(correction)),
    )
