# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Integrals of a function, its data and the hat functions over the cells of coarse patches."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import numpy as np

import basix
import ufl
from dolfinx import fem
from dolfinx_msnn._utils.mesh import dirichlet_mask
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import (
    DirichletBC,
    FloatArray,
    Function,
    FunctionSpace,
    LongArray,
    Mesh,
)
from dolfinx_msnn.estimate.equilibration import Cells
from dolfinx_msnn.local.coefficient import cell_values
from dolfinx_msnn.local.grid import CoarseGrid, Hats
from dolfinx_msnn.local.neighbourhoods import find_neighbourhoods


def _quadrature(kind: basix.CellType, degree: int) -> tuple[FloatArray, FloatArray]:
    points, weights = basix.make_quadrature(kind, degree)
    return np.asarray(points, np.float64), np.asarray(weights, np.float64)


def _evaluate(expression: object, msh: Mesh, X: FloatArray, cells: LongArray) -> FloatArray:
    """Values at reference points X of cells, shape ``(len(cells), len(X))``. Collective."""
    if isinstance(expression, numbers.Real):
        return np.full((len(cells), len(X)), float(expression))
    with collective_errors(msh.comm):
        if not isinstance(expression, ufl.core.expr.Expr) or expression.ufl_shape != ():
            raise ValueError(
                f"f and g must be scalar UFL expressions or numbers, got {expression!r}."
            )
    compiled = fem.Expression(expression, X)
    values = compiled.eval(msh, cells.astype(np.int32))
    return np.asarray(values, dtype=np.float64).reshape(len(cells), len(X))


class Patches:
    """What the flux through every patch is computed from, cell by cell.

    Args:
        u: Function.
        kappa: Coefficient.
        f: Right-hand side.
        g: Neumann data.
        coarse: Coarse grid; ``None`` for one patch with χ = 1.
        bcs: Dirichlet conditions.

    Attributes:
        cells: Geometry of this rank's cells.
        u: Values of the function at all dofs of this rank; a copy.
        kappa: Coefficient, shape ``(num_cells,)``.
        f: Right-hand side at the quadrature points, shape ``(num_cells, num_points)``.
        g_oscillation: What g adds to the bound where it is not constant on a facet.
        values: Basis of V at the quadrature points, shape ``(num_points, nodes)``.
        weights: Quadrature weights, shape ``(num_cells, num_points)``.
        psi: Flux functions there, shape ``(num_cells, num_points, nf, d)``.
        dirichlet: Facets with Dirichlet data, shape ``(num_cells, nf)``.
        owner: Rank that solves for each patch.
        cell: Cell of each pair of a patch and a cell in it.
        patch: Patch of each pair.
        chi: Nodal values of χ for each pair, shape ``(num_pairs, nodes)``.

    Note:
        Creation is collective.
    """

    def __init__(
        self,
        u: Function,
        kappa: object,
        f: object,
        g: object,
        coarse: CoarseGrid | None,
        bcs: Sequence[DirichletBC],
    ) -> None:
        self.V: FunctionSpace = u.function_space
        self.comm = self.V.mesh.comm
        msh = self.V.mesh
        self.cells = Cells.create(msh)
        num = len(self.cells.det)
        every = np.arange(num)
        element = self.V.element.basix_element
        self.element, self.dofs = element, self.V.dofmap.list[:num]
        self.u = u.x.array.copy()
        sample = np.empty((num, 1 + msh.geometry.dim))
        cell_values(kappa, msh, sample)
        self.kappa = sample[:, 0]
        X, weights = _quadrature(self.cells.kind, 2 * element.degree + 2)
        table = np.asarray(element.tabulate(1, X), dtype=np.float64)[..., 0]
        self.values: FloatArray = table[0]
        self.gradients: FloatArray = np.moveaxis(table[1:], 0, -1)
        self.inverse = np.linalg.inv(self.cells.J)
        self.weights = weights * self.cells.det[:, None]
        self.f = _evaluate(f, msh, X, every)
        psi = self.cells.flows(X)
        self.psi = np.einsum("cij,qfj->cqfi", self.cells.J / self.cells.det[:, None, None], psi)
        self._boundary(g, bcs)
        self._hats(coarse)

    def _boundary(self, g: object, bcs: Sequence[DirichletBC]) -> None:
        """Facets with Dirichlet data, and those with flows: g at their quadrature points."""
        fixed = dirichlet_mask(self.V, bcs)[:, 0][self.dofs]
        kind, d = self.cells.kind, self.cells.J.shape[1]
        closure = self.element.entity_closure_dofs[d - 1]
        all_fixed = np.stack([fixed[:, c].all(axis=1) for c in closure], axis=1)
        self.dirichlet = self.cells.exterior & all_fixed
        neumann = self.cells.exterior & ~all_fixed
        measures = self.cells.facet_measures()
        corners = basix.geometry(kind)
        self.neumann = []
        self.g_oscillation = np.zeros(len(self.dofs))
        for k, face in enumerate(basix.topology(kind)[d - 1]):
            facet = basix.cell.subentity_types(kind)[d - 1][k]
            points, weights = _quadrature(facet, 2 * self.element.degree + 2)
            origin, axes = corners[face[0]], corners[face[1:d]] - corners[face[0]]
            X = origin + points @ axes
            cells = np.flatnonzero(neumann[:, k])
            weights = measures[cells, k, None] * (weights / weights.sum())
            values = _evaluate(g, self.V.mesh, X, cells)
            trace = np.asarray(self.element.tabulate(0, X), dtype=np.float64)[0, ..., 0]
            self.neumann.append((cells, weights * values, trace))
            mean = (weights * values).sum(axis=1) / measures[cells, k]
            rest = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
            self.g_oscillation[cells] += rest * self._trace_constant(cells, measures[cells, k], k)

    def _trace_constant(self, cells: LongArray, measure: FloatArray, k: int) -> FloatArray:
        """C with ‖v − v_K‖_F ≤ C ‖κ^½ ∇v‖_K: divergence theorem, and Poincaré with h_K/π."""
        d = self.cells.J.shape[1]
        h, J = self.cells.diameter[cells], self.cells.J[cells]
        normals = basix.cell.facet_outward_normals(self.cells.kind)
        if len(basix.geometry(self.cells.kind)) == d + 1:
            volume = self.cells.det[cells] / np.prod(np.arange(1, d + 1))
            square = measure / volume * (h**2 / np.pi**2 + 2 * h**2 / (d * np.pi))
        else:
            length = np.linalg.norm(J[:, :, int(np.argmax(np.abs(normals[k])))], axis=1)
            volume = self.cells.det[cells]
            square = measure / volume * (h**2 / np.pi**2 + 2 * length * h / np.pi)
        return np.asarray(np.sqrt(square / self.kappa[cells]))

    def _hats(self, coarse: CoarseGrid | None) -> None:
        """Pairs of a patch and a cell of it, and the nodal values of χ there."""
        x = self.V.tabulate_dof_coordinates()
        if coarse is None:
            hats = Hats(np.zeros((len(x), 1), np.int64), np.ones((len(x), 1)))
            self.num_patches = 1
            self.owner = np.zeros(1, dtype=np.int32)
        else:
            hats = coarse.hats(x)
            self.num_patches = coarse.num_vertices
            owner = np.full(self.num_patches, -1, dtype=np.int32)
            owner[find_neighbourhoods(self.V, coarse, hats).vertices] = self.comm.rank
            self.owner = np.max(self.comm.allgather(owner), axis=0)
        self.hats = hats
        vertices, values = hats.vertices[self.dofs], hats.values[self.dofs]
        cell, node, slot = np.nonzero(values > 0)
        key = cell * self.num_patches + vertices[cell, node, slot]
        pairs, where = np.unique(key, return_inverse=True)
        self.cell, self.patch = pairs // self.num_patches, pairs % self.num_patches
        self.chi = np.zeros((len(pairs), self.dofs.shape[1]))
        np.add.at(self.chi, (where, node), values[cell, node, slot])

    def gradient(self, nodal: FloatArray, cells: LongArray) -> FloatArray:
        """Gradients at the quadrature points, shape ``(len(cells), num_points, d)``."""
        reference = np.einsum("cn,qni->cqi", nodal, self.gradients)
        return np.asarray(np.einsum("cqj,cji->cqi", reference, self.inverse[cells]))

    def flows(self) -> tuple[FloatArray, FloatArray]:
        """Source of each pair, ∫ χ f − κ ∇u·∇χ, and its flows through Neumann facets, −∫ χ g."""
        cell, weights = self.cell, self.weights[self.cell]
        chi = self.chi @ self.values.T
        source = np.einsum("cq,cq,cq->c", weights, chi, self.f[cell])
        slope = np.einsum(
            "cqi,cqi->cq",
            self.gradient(self.u[self.dofs], np.arange(len(self.dofs)))[cell],
            self.gradient(self.chi, cell),
        )
        source -= self.kappa[cell] * np.einsum("cq,cq->c", weights, slope)
        flows = np.zeros((len(cell), self.dirichlet.shape[1]))
        for k, (cells, values, trace) in enumerate(self.neumann):
            row = np.full(len(self.dofs), -1)
            row[cells] = np.arange(len(cells))
            mine = np.flatnonzero(row[cell] >= 0)
            at = self.chi[mine] @ trace.T
            flows[mine, k] = -np.einsum("cq,cq->c", values[row[cell[mine]]], at)
        return source, flows
