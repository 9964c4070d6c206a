# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Guaranteed bound of the energy error against the exact solution, by an equilibrated flux."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import ufl
from dolfinx import fem
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.mpi import check_same, collective_errors
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, Function, Mesh
from dolfinx_msnn.estimate.equilibration import eliminate, equilibrate
from dolfinx_msnn.estimate.patches import Patches
from dolfinx_msnn.local.coefficient import check_coefficient
from dolfinx_msnn.local.grid import CoarseGrid

#: Total flow that data may lack, relative to the flows there are, before they are incompatible.
COMPATIBLE = 1e-6

#: Lack of equilibrium of a patch, relative to its flows, that rounding errors may cause.
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


def bound_error(
    u: Function,
    kappa: Function | fem.Constant[np.float64] | float,
    f: ufl.core.expr.Expr | float,
    coarse: CoarseGrid | None,
    *,
    bcs: Sequence[DirichletBC] = (),
    g: ufl.core.expr.Expr | float = 0.0,
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
    to u_H, and Pythagoras accounts for them. Where a neighbourhood falls into parts (on two sides
    of a slit) that are not in equilibrium each, the flux is computed as with ``coarse=None``.

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
    comm = V.mesh.comm
    with collective_errors(comm):
        forms.check_space(V)
        if V.dofmap.index_map_bs != 1:
            raise ValueError("u is not scalar; the bound is one for diffusion.")
        if coarse is not None and not isinstance(coarse, CoarseGrid):
            raise ValueError(f"Expected a CoarseGrid or None, got {type(coarse).__name__}.")
        forms.check_bcs(bcs, V)
        _check_kappa(kappa, V.mesh)
        if not isinstance(sweeps, int) or sweeps < 0:
            raise ValueError(f"sweeps={sweeps!r}; expected a non-negative integer.")
    numbers_given = [repr(v) if isinstance(v, numbers.Real) else "an expression" for v in (f, g)]
    check_same(comm, f=numbers_given[0], g=numbers_given[1], coarse=coarse is None, sweeps=sweeps)
    found = _Majorant(u, kappa, f, g, coarse, bcs).bound(sweeps)
    if found is None and coarse is not None:
        found = _Majorant(u, kappa, f, g, None, bcs).bound()
    if found is None:
        raise ValueError(
            "A part of the mesh that no condition in bcs touches is not in equilibrium; expected "
            "one connected mesh."
        )
    return found


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


class _Majorant(Patches):
    """The bound from the integrals."""

    def _correct(self) -> float:
        """Add hat functions to u until its patches are in equilibrium; their energy squared."""
        source, flows = self.flows()
        lack = source - flows.sum(axis=1)
        num, d = self.num_patches, self.cells.J.shape[1]
        excess = np.bincount(self.patch, weights=lack, minlength=num)
        scale = np.bincount(self.patch, weights=np.abs(lack), minlength=num)
        fixed = np.bincount(
            self.patch, weights=self.dirichlet[self.cell].any(axis=1), minlength=num
        )
        slopes = self.gradient(self.chi, self.cell)
        slopes *= np.sqrt(self.weights[self.cell] * self.kappa[self.cell, None])[:, :, None]
        width = slopes.shape[1] * d
        rows = self.cell[:, None] * width + np.arange(width)
        X = sp.csr_matrix(
            (slopes.reshape(-1), (rows.reshape(-1), np.repeat(self.patch, width))),
            shape=(len(self.dofs) * width, num),
        )
        A = sum(self.comm.allgather((X.T @ X).tocsr()))
        excess, scale, fixed = np.sum(self.comm.allgather((excess, scale, fixed)), axis=0)
        free = np.flatnonzero((fixed == 0) & (scale > 0))
        singular = fixed.sum() == 0
        if singular and abs(excess.sum()) > COMPATIBLE * scale.sum():
            raise ValueError(
                "bcs fix no boundary facet, and the integrals of f and g do not add up to zero but "
                f"to {excess.sum():.4g}; expected data in equilibrium."
            )
        c = np.zeros(num)
        # Known up to a constant if no value is given anywhere.
        free = free[1:] if singular else free
        if len(free):
            c[free] = spla.spsolve(A[free][:, free].tocsc(), excess[free])
        self.u += np.einsum("nk,nk->n", self.hats.values, c[self.hats.vertices])
        return float(max(c @ (A @ c), 0.0))

    def _solve(self, S: FloatArray, h: FloatArray, flows: FloatArray) -> tuple[FloatArray, float]:
        return equilibrate(
            self.comm,
            self.owner,
            self.patch,
            self.cell,
            self.cells.facets[self.cell],
            S[self.cell],
            h,
            flows,
            self.dirichlet[self.cell],
            len(self.dofs),
        )

    def _improve(
        self, q: FloatArray, S: FloatArray, M: FloatArray, slope: FloatArray, sweeps: int
    ) -> FloatArray:
        """Conjugate gradients for the closest flux of all, preconditioned by the patches.

        The steps are free of sources: every flux on the way is equilibrated.
        """
        direction, before = np.zeros_like(q), 0.0
        for _ in range(sweeps):
            m = np.einsum("cfg,cg->cf", M, q) + slope
            h = -np.einsum("cfg,cg->cf", S, m)[self.cell]
            step, _ = self._solve(S, h, np.zeros_like(h))
            now = -float(np.sum(self.comm.allgather(float(np.sum(step * m)))))
            direction = step + (now / before if before > 0 else 0.0) * direction
            parts = (
                -float(np.sum(direction * m)),
                float(np.einsum("cf,cfg,cg->", direction, M, direction)),
            )
            drop, size = np.sum(self.comm.allgather(parts), axis=0)
            if not (now > 0 and drop > 0 and size > 0):
                break
            q = q + drop / size * direction
            before = now
        return q

    def bound(self, sweeps: int = 0) -> ErrorBound | None:
        """The bound; ``None`` if a part of a patch is not in equilibrium."""
        correction = self._correct()
        source, flows = self.flows()
        kappa, cell = self.kappa, self.cell
        gradient = self.gradient(self.u[self.dofs], np.arange(len(self.dofs)))
        M = np.einsum("cq,cqfi,cqgi->cfg", self.weights / kappa[:, None], self.psi, self.psi)
        S, z = eliminate(M)
        slope = np.einsum("cqfi,cqi->cqf", self.psi, gradient)
        m = np.einsum("cq,cqf->cf", self.weights[cell] * (self.chi @ self.values.T), slope[cell])
        h = z[cell] * source[:, None] - np.einsum("cfg,cg->cf", S[cell], m)
        q, lack = self._solve(S, h, flows)
        if not lack <= EQUILIBRIUM:
            return None
        self.flux = self._improve(q, S, M, np.einsum("cq,cqf->cf", self.weights, slope), sweeps)
        q = self.flux
        defect = np.einsum("cqfi,cf->cqi", self.psi, q) + kappa[:, None, None] * gradient
        flux = np.einsum("cq,cqi,cqi->c", self.weights / kappa[:, None], defect, defect)
        mean = (self.weights * self.f).sum(axis=1) / self.weights.sum(axis=1)
        rest = np.sqrt((self.weights * (self.f - mean[:, None]) ** 2).sum(axis=1))
        oscillation = self.cells.diameter / np.pi / np.sqrt(kappa) * rest + self.g_oscillation
        cells = np.sqrt(flux) + oscillation
        squares = np.array([cells @ cells, oscillation @ oscillation])
        total, waves = np.sum(self.comm.allgather(squares), axis=0)
        return ErrorBound(
            float(np.sqrt(total + correction)),
            cells,
            float(np.sqrt(waves)),
            float(np.sqrt(correction)),
        )
