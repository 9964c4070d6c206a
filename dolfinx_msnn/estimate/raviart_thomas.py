# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Fluxes of lowest Raviart-Thomas order on affine cells.

A flux is stored by its outward flows through the facets of every cell, shape ``(num_cells, nf)``;
a conforming one has opposite flows on the two sides of a facet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import basix
from dolfinx import mesh
from dolfinx_msnn._utils.mesh import marked_anywhere
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import BoolArray, FloatArray, LongArray, Mesh

#: Cells whose vertices are further from those of an affine cell, relative to its size, are refused.
AFFINE_TOLERANCE = 1e-9

#: End of the messages about meshes.
SUPPORTED = "a guaranteed bound needs triangles, parallelograms, tetrahedra or parallelepipeds"


@dataclass(frozen=True)
class Cells:
    """Geometry of the cells of this rank, all affine; d is the dimension.

    Attributes:
        cell_type: Type of the cells.
        J: Jacobians, shape ``(num_cells, d, d)``.
        det: Their absolute determinants, shape ``(num_cells,)``.
        diameter: Diameters, shape ``(num_cells,)``.
        facets: Global numbers of the facets in reference order, shape ``(num_cells, nf)``.
        exterior: Which of them are on the boundary of the domain, shape ``(num_cells, nf)``.
    """

    cell_type: basix.CellType
    J: FloatArray
    det: FloatArray
    diameter: FloatArray
    facets: LongArray
    exterior: BoolArray

    @classmethod
    def create(cls, msh: Mesh) -> Cells:
        """Geometry of a mesh. Collective.

        Raises:
            ValueError: If a cell is not affine, or of another type than triangle, quadrilateral,
                tetrahedron or hexahedron; the same on every rank.
        """
        topology, d = msh.topology, msh.topology.dim
        name = topology.cell_type.name
        num = topology.index_map(d).size_local
        with collective_errors(msh.comm):
            supported = ("triangle", "quadrilateral", "tetrahedron", "hexahedron")
            if name not in supported or msh.geometry.dim != d:
                raise ValueError(
                    f"The mesh has {name} cells in {msh.geometry.dim} dimensions; {SUPPORTED} in "
                    "as many dimensions as they have."
                )
            corners = basix.geometry(basix.CellType[name])
            x = msh.geometry.x[msh.geometry.dofmaps[0][:num]][:, :, :d]
            axes = [int(np.flatnonzero((corners == e).all(axis=1))[0]) for e in np.eye(d)]
            J = np.stack([x[:, k] - x[:, 0] for k in axes], axis=-1)
            affine = x[:, :1] + np.einsum("cij,pj->cpi", J, corners)
            tolerance = AFFINE_TOLERANCE * np.abs(J).max(initial=0.0)
            if x.shape[1] != len(corners) or np.abs(x - affine).max(initial=0.0) > tolerance:
                raise ValueError(f"The mesh has {name} cells that are not affine; {SUPPORTED}.")
        topology.create_connectivity(d, d - 1)
        topology.create_connectivity(d - 1, d)
        nf = len(basix.topology(basix.CellType[name])[d - 1])
        facets = topology.connectivity(d, d - 1).array[: num * nf].reshape(num, nf)
        index_map = topology.index_map(d - 1)
        exterior = marked_anywhere(index_map, mesh.exterior_facet_indices(topology))
        return cls(
            basix.CellType[name],
            J,
            np.abs(np.linalg.det(J)),
            msh.h(d, np.arange(num, dtype=np.int32)),
            index_map.local_to_global(facets.reshape(-1)).reshape(num, nf).astype(np.int64),
            exterior[facets],
        )

    def flows(self, X: FloatArray) -> FloatArray:
        """Reference flux functions of outward flow one through one facet.

        Args:
            X: Reference points, shape ``(num_points, d)``.

        Returns:
            Shape ``(num_points, nf, d)``; physical ones are J/|det J| times these.
        """
        corners = basix.geometry(self.cell_type)
        d = X.shape[1]
        faces = basix.topology(self.cell_type)[d - 1]
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
        tangents = np.einsum("cij,fjk->cfik", self.J, basix.cell.facet_jacobians(self.cell_type))
        gram = np.einsum("cfik,cfil->cfkl", tangents, tangents)
        size = basix.cell.facet_reference_volumes(self.cell_type)
        return np.asarray(np.sqrt(np.linalg.det(gram)) * size)

    def trace_constants(self) -> FloatArray:
        """C with ‖v − v_K‖_F ≤ C ‖∇v‖_K for each facet F of a cell K, shape ``(num_cells, nf)``.

        By the divergence theorem, and Poincaré's inequality with the constant h_K/π.
        """
        d, h = self.J.shape[1], self.diameter[:, None]
        if len(basix.geometry(self.cell_type)) == d + 1:
            volume = self.det[:, None] / np.prod(np.arange(1, d + 1))
            rest = 2 * h**2 / (d * np.pi)
        else:
            volume = self.det[:, None]
            axis = np.argmax(np.abs(basix.cell.facet_outward_normals(self.cell_type)), axis=1)
            rest = 2 * np.linalg.norm(self.J, axis=1)[:, axis] * h / np.pi
        return np.asarray(np.sqrt(self.facet_measures() / volume * (h**2 / np.pi**2 + rest)))
