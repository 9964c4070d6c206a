# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Fluxes of lowest Raviart-Thomas order on affine cells, equilibrated patch by patch.

A flux is stored by its outward flows through the facets of every cell, shape ``(num_cells, nf)``;
a conforming one has opposite flows on the two sides of a facet. The mixed problem of a patch is
hybridised: cells are eliminated, and what is left is sparse, positive definite, one unknown a facet
(Arnold, Brezzi, RAIRO M2AN 19, 1985).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

import numpy as np
import scipy.sparse as sp

import basix
from dolfinx_msnn._utils.mpi import collective_errors, route
from dolfinx_msnn._utils.typing import BoolArray, FloatArray, IntArray, LongArray, Mesh
from dolfinx_msnn.algebra.local_solvers import factorise

#: Cells whose vertices are further from those of an affine cell, relative to its size, are refused.
AFFINE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Cells:
    """Geometry of the cells of this rank, all affine.

    Attributes:
        kind: Cell type.
        J: Jacobians, shape ``(num_cells, d, d)``.
        det: Their absolute determinants.
        diameter: Diameters.
        facets: Global numbers of the facets in reference order, shape ``(num_cells, nf)``.
        exterior: Which of them are on the boundary of the domain.
    """

    kind: basix.CellType
    J: FloatArray
    det: FloatArray
    diameter: FloatArray
    facets: LongArray
    exterior: BoolArray

    @classmethod
    def create(cls, msh: Mesh) -> Cells:
        """Geometry of a mesh.

        Raises:
            ValueError: If a cell is not affine, or of another type than triangle, quadrilateral,
                tetrahedron or hexahedron; the same on every rank.

        Note:
            Collective.
        """
        topology = msh.topology
        d = topology.dim
        name = topology.cell_type.name
        kind = getattr(basix.CellType, name)
        num = topology.index_map(d).size_local
        with collective_errors(msh.comm):
            supported = ("triangle", "quadrilateral", "tetrahedron", "hexahedron")
            if name not in supported or msh.geometry.dim != d:
                raise ValueError(
                    f"The mesh has {name} cells in {msh.geometry.dim} dimensions; a guaranteed "
                    "bound needs triangles, parallelograms, tetrahedra or parallelepipeds in as "
                    "many dimensions as they have."
                )
            corners = basix.geometry(kind)
            nodes = msh.geometry.dofmaps[0][:num]
            x = msh.geometry.x[nodes][:, :, :d]
            axes = [int(np.flatnonzero((corners == e).all(axis=1))[0]) for e in np.eye(d)]
            J = np.stack([x[:, k] - x[:, 0] for k in axes], axis=-1)
            size = np.abs(J).max(initial=0.0)
            affine = x[:, :1] + np.einsum("cij,pj->cpi", J, corners)
            if x.shape[1] != len(corners) or np.abs(x - affine).max(initial=0.0) > (
                AFFINE_TOLERANCE * size
            ):
                raise ValueError(
                    f"The mesh has {name} cells that are not affine; a guaranteed bound needs "
                    "triangles, parallelograms, tetrahedra or parallelepipeds."
                )
        pairs = x[:, :, None] - x[:, None, :]
        topology.create_connectivity(d, d - 1)
        topology.create_connectivity(d - 1, d)
        links = topology.connectivity(d, d - 1).array
        nf = len(basix.topology(kind)[d - 1])
        local = links[: num * nf].reshape(num, nf)
        facets = topology.index_map(d - 1)
        return cls(
            kind,
            J,
            np.abs(np.linalg.det(J)),
            np.sqrt(np.einsum("cabi,cabi->cab", pairs, pairs).max(axis=(1, 2), initial=0.0)),
            facets.local_to_global(local.reshape(-1)).reshape(num, nf).astype(np.int64),
            _exterior(msh)[local],
        )

    def flows(self, X: FloatArray) -> FloatArray:
        """Reference flux functions of outward flow one through one facet.

        Args:
            X: Reference points, shape ``(num_points, d)``.

        Returns:
            Shape ``(num_points, nf, d)``; physical ones are J/|det J| times these.
        """
        corners = basix.geometry(self.kind)
        d = X.shape[1]
        faces = basix.topology(self.kind)[d - 1]
        functions = np.zeros((len(X), len(faces), d))
        for k, face in enumerate(faces):
            if len(corners) == d + 1:
                opposite = corners[next(p for p in range(d + 1) if p not in face)]
                # div = d!, times the reference volume 1/d! is one.
                functions[:, k] = (X - opposite) * np.prod(np.arange(1, d))
            else:
                axis = int(np.argmin(np.ptp(corners[face], axis=0)))
                functions[:, k, axis] = X[:, axis] - 1.0 + corners[face[0], axis]
        return functions

    def facet_measures(self) -> FloatArray:
        """Lengths or areas of the facets, shape ``(num_cells, nf)``."""
        tangents = np.einsum("cij,fjk->cfik", self.J, basix.cell.facet_jacobians(self.kind))
        gram = np.einsum("cfik,cfil->cfkl", tangents, tangents)
        size = basix.cell.facet_reference_volumes(self.kind)
        return np.asarray(np.sqrt(np.linalg.det(gram)) * size)


def _exterior(msh: Mesh) -> BoolArray:
    """Which facets of this rank (ghosts included) are on the boundary. Collective."""
    from dolfinx import la, mesh

    mark = la.vector(msh.topology.index_map(msh.topology.dim - 1))
    mark.array[mesh.exterior_facet_indices(msh.topology)] = 1.0
    mark.scatter_reverse(la.InsertMode.add)
    mark.scatter_forward()
    return np.asarray(mark.array > 0)


def eliminate(M: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Schur complements of cells: q = −S (m + λ) + z g minimises qᵀMq/2 + (m + λ)ᵀq, Σ q = g.

    Args:
        M: Cell matrices, shape ``(num_cells, nf, nf)``.

    Returns:
        S, shape ``(num_cells, nf, nf)``, and z, shape ``(num_cells, nf)``.
    """
    Z = np.linalg.inv(M)
    z = Z.sum(axis=2)
    z_sum = z.sum(axis=1)
    return Z - np.einsum("ci,cj->cij", z, z / z_sum[:, None]), z / z_sum[:, None]


def equilibrate(
    comm: MPI.Comm,
    owner: IntArray,
    patch: LongArray,
    cell: LongArray,
    facets: LongArray,
    S: FloatArray,
    h: FloatArray,
    boundary: FloatArray,
    dirichlet: BoolArray,
    num_cells: int,
) -> tuple[FloatArray, float]:
    """Solve the mixed problems of all patches, and sum their fluxes.

    Rows are pairs of a patch and a cell of this rank; the cells of a patch may be on any rank.

    Args:
        comm: Communicator.
        owner: Rank that solves for each patch of all ranks, shape ``(num_patches,)``.
        patch: Patches, shape ``(n,)``.
        cell: Cells of this rank.
        facets: Their facets, global numbers, shape ``(n, nf)``.
        S: Schur complements of :func:`eliminate`, shape ``(n, nf, nf)``.
        h: Flows of the cells alone, −S m + z g, shape ``(n, nf)``.
        boundary: Outward flows prescribed on boundary facets without Dirichlet condition (zero on
            others), shape ``(n, nf)``.
        dirichlet: Facets where the flow is free, shape ``(n, nf)``.
        num_cells: Cells of this rank.

    Returns:
        The flux, shape ``(num_cells, nf)``, and the largest lack of equilibrium in a connected part
        of a patch, relative to the flows there: rounding errors, or there is no such flux.

    Note:
        Collective.
    """
    data = np.concatenate([h, boundary, S.reshape(len(S), h.shape[1] ** 2)], axis=1)
    source, (patch, cell, facets, data, dirichlet) = route(
        comm, owner[patch], patch, cell, facets, data, dirichlet
    )
    nf = facets.shape[1]
    q = np.empty((len(patch), nf))
    worst = 0.0
    order = np.argsort(patch, kind="stable")
    start = np.flatnonzero(np.diff(patch[order], prepend=-1))
    with collective_errors(comm):
        for rows in np.split(order, start[1:]) if len(order) else []:
            part = data[rows]
            q[rows], lack = _solve_patch(
                facets[rows],
                part[:, 2 * nf :].reshape(-1, nf, nf),
                part[:, :nf],
                part[:, nf : 2 * nf],
                dirichlet[rows],
            )
            worst = max(worst, lack)
    _, (cell, q) = route(comm, source, cell, q)
    flux = np.zeros((num_cells, nf))
    np.add.at(flux, cell, q)
    return flux, comm.allreduce(worst, op=MPI.MAX)


def _solve_patch(
    facets: LongArray, S: FloatArray, h: FloatArray, boundary: FloatArray, dirichlet: BoolArray
) -> tuple[FloatArray, float]:
    """Flows of the cells of one patch; the inner boundary lets nothing through."""
    numbers, local = np.unique(facets, return_inverse=True)
    local = local.reshape(facets.shape)
    n, nf = len(numbers), facets.shape[1]
    rows, cols = np.repeat(local, nf, axis=1).reshape(-1), np.tile(local, (1, nf)).reshape(-1)
    K: Any = sp.coo_matrix((S.reshape(-1), (rows, cols)), shape=(n, n)).tocsr()
    right = np.bincount(local.reshape(-1), weights=(h - boundary).reshape(-1), minlength=n)
    free = np.ones(n, dtype=bool)
    free[local[dirichlet]] = False
    # Parts of a patch that only meet in a vertex, or on two sides of a slit, stand for themselves.
    num, part = sp.csgraph.connected_components(K, directed=False)
    floating = np.ones(num, dtype=bool)
    floating[part[~free]] = False
    excess = np.abs(np.bincount(part, weights=right, minlength=num))[floating]
    # Of what flows: the residual of one cell may be rounding errors only.
    flow = np.bincount(part[local[:, 0]], weights=np.abs(h).sum(axis=1), minlength=num)[floating]
    lack = float(np.max(excess / np.maximum(flow, np.finfo(float).tiny), initial=0.0))
    # Multipliers are known up to a constant there.
    free[np.unique(part, return_index=True)[1][floating]] = False
    solution = np.zeros(n)
    if free.any():
        solution[free] = factorise(K[free][:, free]).solve(right[free])
    return h - np.einsum("cij,cj->ci", S, solution[local]), lack
