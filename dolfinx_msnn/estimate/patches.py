# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Integrals of a function, its data and the hat functions over the cells of coarse patches."""

from __future__ import annotations

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
    IntArray,
    LongArray,
    Mesh,
)
from dolfinx_msnn.estimate.raviart_thomas import Cells
from dolfinx_msnn.local.coefficient import cell_values
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.hats import Hats
from dolfinx_msnn.local.neighbourhoods import find_neighbourhoods

#: Type of the right-hand side and the Neumann data.
type Data = ufl.core.expr.Expr | float


def _quadrature(cell_type: basix.CellType, degree: int) -> tuple[FloatArray, FloatArray]:
    points, weights = basix.make_quadrature(cell_type, degree)
    return np.asarray(points, np.float64), np.asarray(weights, np.float64)


def _evaluate(expression: Data, msh: Mesh, X: FloatArray, cells: LongArray) -> FloatArray:
    """Values at reference points X of cells, shape ``(len(cells), len(X))``. Collective."""
    if not isinstance(expression, ufl.core.expr.Expr):
        return np.full((len(cells), len(X)), float(expression))
    compiled = fem.Expression(expression, X)
    # DOLFINx with assertions does not take an empty set of cells.
    values = compiled.eval(msh, cells.astype(np.int32)) if len(cells) else np.zeros(0)
    return np.asarray(values, dtype=np.float64).reshape(len(cells), len(X))


class Patches:
    """Coefficients, data and hat functions on the cells of patches. Creation is collective.

    Args:
        u: Function.
        kappa: Coefficient.
        f: Right-hand side.
        g: Neumann data.
        coarse: Coarse grid; ``None`` for one patch with χ = 1.
        bcs: Dirichlet conditions.

    Attributes:
        comm: Communicator of the mesh.
        cells: Geometry of this rank's cells.
        dofs: Dofs of V of each cell, shape ``(num_cells, nodes)``.
        u: Values of the function at all dofs of this rank; a copy.
        kappa: Coefficient, shape ``(num_cells,)``.
        f: Right-hand side at the quadrature points, shape ``(num_cells, num_points)``.
        g_oscillation: What g adds to the bound where it is not constant on a facet, shape
            ``(num_cells,)``.
        values: Basis of V at the quadrature points, shape ``(num_points, nodes)``.
        weights: Quadrature weights, shape ``(num_cells, num_points)``.
        psi: Flux functions there, shape ``(num_cells, num_points, nf, d)``.
        dirichlet: Facets with Dirichlet data, shape ``(num_cells, nf)``.
        hats: Hat functions of all patches at the dofs.
        num: Number of patches of all ranks.
        owner: Rank that solves for each patch, shape ``(num,)``.
        cell: Cell of each pair of a patch and a cell in it, shape ``(num_pairs,)``.
        patch: Patch of each pair.
        chi: Nodal values of χ for each pair, shape ``(num_pairs, nodes)``.
    """

    def __init__(
        self,
        u: Function,
        kappa: object,
        f: Data,
        g: Data,
        coarse: CoarseGrid | None,
        bcs: Sequence[DirichletBC],
    ) -> None:
        V = u.function_space
        msh, element = V.mesh, V.element.basix_element
        self.comm, self.cells = msh.comm, Cells.create(msh)
        num = len(self.cells.det)
        self.dofs: IntArray = V.dofmap.list[:num]
        self.u = u.x.array.copy()
        self.kappa = cell_values(kappa, msh)[:, 0]
        X, weights = _quadrature(self.cells.cell_type, 2 * element.degree + 2)
        table = np.asarray(element.tabulate(1, X), dtype=np.float64)[..., 0]
        self.values: FloatArray = table[0]
        self._gradients: FloatArray = np.moveaxis(table[1:], 0, -1)
        self._inverse = np.linalg.inv(self.cells.J)
        self.weights = weights * self.cells.det[:, None]
        self.f = _evaluate(f, msh, X, np.arange(num))
        scaled = self.cells.J / self.cells.det[:, None, None]
        self.psi = np.einsum("cij,qfj->cqfi", scaled, self.cells.flows(X))
        self._boundary(V, g, bcs)
        with collective_errors(self.comm):
            flows = [np.zeros(0), *(values.reshape(-1) for _, values, _ in self._neumann)]
            for name, values in (("u", self.u), ("f", self.f), ("g", np.concatenate(flows))):
                if not np.isfinite(values).all():
                    raise ValueError(f"{name} has NaN or infinite values; expected finite ones.")
        self._hats(V, coarse)

    def _boundary(self, V: FunctionSpace, g: Data, bcs: Sequence[DirichletBC]) -> None:
        """Facets with Dirichlet data, and those with flows: g at their quadrature points."""
        element, cell_type, d = V.element.basix_element, self.cells.cell_type, V.mesh.topology.dim
        fixed = dirichlet_mask(V, bcs)[:, 0][self.dofs]
        closure = element.entity_closure_dofs[d - 1]
        all_fixed = np.stack([fixed[:, c].all(axis=1) for c in closure], axis=1)
        self.dirichlet = self.cells.exterior & all_fixed
        neumann = self.cells.exterior & ~all_fixed
        measures = self.cells.facet_measures()
        constants = self.cells.trace_constants() / np.sqrt(self.kappa)[:, None]
        corners = basix.geometry(cell_type)
        self._neumann: list[tuple[LongArray, FloatArray, FloatArray]] = []
        self.g_oscillation = np.zeros(len(self.dofs))
        for k, face in enumerate(basix.topology(cell_type)[d - 1]):
            facet_type = basix.cell.subentity_types(cell_type)[d - 1][k]
            points, weights = _quadrature(facet_type, 2 * element.degree + 2)
            X = corners[face[0]] + points @ (corners[face[1:d]] - corners[face[0]])
            cells = np.flatnonzero(neumann[:, k])
            weights = measures[cells, k, None] * (weights / weights.sum())
            values = _evaluate(g, V.mesh, X, cells)
            trace = np.asarray(element.tabulate(0, X), dtype=np.float64)[0, ..., 0]
            self._neumann.append((cells, weights * values, trace))
            mean = (weights * values).sum(axis=1) / measures[cells, k]
            rest = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
            self.g_oscillation[cells] += rest * constants[cells, k]

    def _hats(self, V: FunctionSpace, coarse: CoarseGrid | None) -> None:
        """Pairs of a patch and a cell of it, and the nodal values of χ there."""
        x = V.tabulate_dof_coordinates()
        if coarse is None:
            hats = Hats(np.zeros((len(x), 1), np.int64), np.ones((len(x), 1)))
            self.num, self.owner = 1, np.zeros(1, dtype=np.int32)
        else:
            hats = coarse.hats(x)
            self.num = coarse.num_vertices
            owner = np.full(self.num, -1, dtype=np.int32)
            owner[find_neighbourhoods(V, coarse, hats, coarse.layers()).vertices] = self.comm.rank
            self.owner = np.max(self.comm.allgather(owner), axis=0)
        self.hats = hats
        vertices, values = hats.vertices[self.dofs], hats.values[self.dofs]
        cell, node, slot = np.nonzero(values > 0)
        key = cell * self.num + vertices[cell, node, slot]
        pairs, where = np.unique(key, return_inverse=True)
        self.cell, self.patch = np.divmod(pairs, self.num)
        self.chi = np.zeros((len(pairs), self.dofs.shape[1]))
        np.add.at(self.chi, (where, node), values[cell, node, slot])

    def gradient(self, nodal: FloatArray, cells: LongArray) -> FloatArray:
        """Gradients at the quadrature points, shape ``(len(cells), num_points, d)``.

        Args:
            nodal: Values at the dofs of the cells, shape ``(len(cells), nodes)``.
            cells: Cells.
        """
        reference = np.einsum("cn,qni->cqi", nodal, self._gradients)
        return np.asarray(np.einsum("cqj,cji->cqi", reference, self._inverse[cells]))

    def gradient_of_u(self) -> FloatArray:
        """The same for u on all cells, shape ``(num_cells, num_points, d)``."""
        return self.gradient(self.u[self.dofs], np.arange(len(self.dofs)))

    def flows(self) -> tuple[FloatArray, FloatArray]:
        """Sources ∫ χ f − κ ∇u·∇χ of the pairs, and their flows −∫ χ g through Neumann facets.

        Returns:
            Shapes ``(num_pairs,)`` and ``(num_pairs, nf)``.
        """
        cell, weights = self.cell, self.weights[self.cell]
        source = np.einsum("cq,cq,cq->c", weights, self.chi @ self.values.T, self.f[cell])
        slopes = self.gradient_of_u()[cell], self.gradient(self.chi, cell)
        source -= self.kappa[cell] * np.einsum("cq,cqi,cqi->c", weights, *slopes)
        flows = np.zeros((len(cell), self.dirichlet.shape[1]))
        for k, (cells, values, trace) in enumerate(self._neumann):
            mine = np.flatnonzero(np.isin(cell, cells))
            where = np.searchsorted(cells, cell[mine])
            flows[mine, k] = -np.einsum("cq,cq->c", values[where], self.chi[mine] @ trace.T)
        return source, flows
