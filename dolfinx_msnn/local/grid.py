# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse grids: hat functions χ_i, neighbourhoods ω_i, and which rank computes which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

import basix
from dolfinx import geometry, mesh
from dolfinx_msnn._utils.mesh import bounding_box, mean_cell_extent
from dolfinx_msnn._utils.mpi import check_same, collective_errors, route
from dolfinx_msnn._utils.typing import FloatArray, IntArray, LongArray, Mesh

#: Hat values below this are taken as zero, so that a rounding error in a coordinate does not pull
#: a whole layer of cells into a neighbourhood.
HAT_TOLERANCE = 1e-10


class Hats(NamedTuple):
    """Hat functions at a set of points: at most ``m`` of them are non-zero at any point.

    Attributes:
        vertices: Coarse vertex numbers, shape ``(num_points, m)``, int64.
        values: χ of those vertices, shape ``(num_points, m)``, float64; rows sum to one.
    """

    vertices: LongArray
    values: FloatArray


def _snap(weights: FloatArray) -> FloatArray:
    """Remove negative and negligible weights and make the rows sum to one again."""
    weights = np.where(weights < HAT_TOLERANCE, 0.0, weights)
    return weights / weights.sum(axis=1, keepdims=True)


class CoarseGrid:
    """Axis-aligned coarse boxes with multilinear hat functions at their vertices.

    The fine mesh may be of any cell type, structured or not, and need not fit the boxes. Coarse
    vertices whose neighbourhood holds no fine cell (holes, L-shapes) simply have no basis.

    Args:
        fine: The fine mesh.
        n: Number of boxes in each direction, one integer for each dimension of the mesh.
        box: Two corners of the covered box, shape ``(2, gdim)``. Default: the bounding box of
            ``fine``. Hats are continued by constants outside it.
        oversampling: Layers of fine cells added around each neighbourhood for the local
            problems; the hat functions keep their support.

    Raises:
        ValueError: If an argument does not fit the mesh, or if a box is smaller than a mean fine
            cell ("coarse grid finer than the mesh").

    Note:
        Collective on the communicator of ``fine``.
    """

    def __init__(
        self,
        fine: Mesh,
        n: Sequence[int],
        *,
        box: npt.ArrayLike | None = None,
        oversampling: int = 0,
    ) -> None:
        self._init_common(fine, oversampling)
        gdim = fine.geometry.dim
        with collective_errors(fine.comm):
            try:
                shape = np.asarray(n)
            except ValueError:
                # Ragged sequences.
                shape = np.zeros(0)
            if shape.shape != (gdim,) or shape.dtype.kind not in "iu" or np.any(shape < 1):
                raise ValueError(
                    f"n must be {gdim} positive integers (boxes in each direction of the "
                    f"{gdim}-dimensional mesh), got {n!r}."
                )
            corners = None
            if box is not None:
                try:
                    corners = np.asarray(box, dtype=np.float64)
                except (ValueError, TypeError):
                    corners = np.zeros(0)
                if (
                    corners.shape != (2, gdim)
                    or not np.isfinite(corners).all()
                    or not np.all(corners[1] > corners[0])
                ):
                    raise ValueError(
                        f"box must be two corners, shape (2, {gdim}), the second above the first, "
                        f"got {box!r}."
                    )
        check_same(fine.comm, n=shape.tolist(), box=None if corners is None else corners.tolist())
        low, high = extent = bounding_box(fine)
        if corners is None:
            corners = extent
        elif np.any(corners[0] >= high) or np.any(corners[1] <= low):
            raise ValueError(
                f"box spans {_fmt(corners[0])} to {_fmt(corners[1])}, the mesh {_fmt(low)} to "
                f"{_fmt(high)}; expected a box that overlaps the mesh."
            )
        self.n: tuple[int, ...] = tuple(int(k) for k in shape)
        self.lower, self.upper = corners
        self.box_size: FloatArray = (self.upper - self.lower) / shape
        mean = mean_cell_extent(fine)
        if np.any(self.box_size < (1 - 1e-10) * mean):
            raise ValueError(
                f"The coarse grid is finer than the mesh: its boxes measure "
                f"{_fmt(self.box_size)}, the mesh's cells {_fmt(mean)} on average; "
                f"expected boxes at least as large as cells (got n={self.n})."
            )

    def _init_common(self, fine: Mesh, oversampling: int) -> None:
        with collective_errors(getattr(fine, "comm", MPI.COMM_SELF)):
            if not isinstance(fine, mesh.Mesh):
                raise ValueError(f"Expected a dolfinx.mesh.Mesh, got {type(fine).__name__}.")
            if fine.topology.dim not in (2, 3) or fine.topology.dim != fine.geometry.dim:
                raise ValueError(
                    "Expected a mesh of dimension 2 or 3 in a space of the same dimension, got "
                    f"dimension {fine.topology.dim} in {fine.geometry.dim}."
                )
            whole = isinstance(oversampling, int | np.integer)
            if not whole or isinstance(oversampling, bool) or oversampling < 0:
                raise ValueError(
                    f"oversampling must be a number of cell layers >= 0, got {oversampling!r}."
                )
        check_same(fine.comm, oversampling=int(oversampling))
        self.fine = fine
        self.oversampling = int(oversampling)

    @classmethod
    def from_mesh(cls, fine: Mesh, coarse: Mesh, *, oversampling: int = 0) -> CoarseGrid:
        """The hat functions of a coarse mesh, nested in the fine one or not.

        Args:
            fine: The fine mesh.
            coarse: A mesh of straight-sided cells of one type (simplices, quadrilaterals,
                hexahedra) on the same communicator. Fine points outside it take the hats of the
                nearest coarse cell.
            oversampling: As for :class:`CoarseGrid`.

        Note:
            Collective.
        """
        return _MeshCoarseGrid(fine, coarse, oversampling)

    @property
    def num_vertices(self) -> int:
        """Number of coarse vertices, on all ranks together."""
        return int(np.prod(np.asarray(self.n) + 1))

    def vertex_coordinates(self, vertices: npt.NDArray[np.integer]) -> FloatArray:
        """Coordinates of coarse vertices, shape ``(len(vertices), gdim)``. Not collective."""
        index = np.unravel_index(vertices, np.asarray(self.n)[::-1] + 1)[::-1]
        return np.asarray(self.lower + self.box_size * np.stack(index, axis=-1))

    def hats(self, x: FloatArray) -> Hats:
        """Evaluate the hat functions.

        Args:
            x: Points, shape ``(num_points, 3)``.

        Note:
            Collective (for coarse meshes the points may lie on other ranks).
        """
        gdim = len(self.n)
        vertices = np.zeros((len(x), 1), dtype=np.int64)
        values = np.ones((len(x), 1))
        stride = 1
        for k in range(gdim):
            t = (x[:, k] - self.lower[k]) / self.box_size[k]
            left = np.clip(np.floor(t + HAT_TOLERANCE), 0, self.n[k] - 1)
            s = np.clip(t - left, 0.0, 1.0)[:, None]
            pair = stride * (left.astype(np.int64)[:, None] + np.arange(2))
            weight = _snap(np.hstack([1 - s, s]))
            vertices = (pair[:, :, None] + vertices[:, None, :]).reshape(len(x), 2 ** (k + 1))
            values = (weight[:, :, None] * values[:, None, :]).reshape(len(x), 2 ** (k + 1))
            stride *= self.n[k] + 1
        return Hats(vertices, values)


class _MeshCoarseGrid(CoarseGrid):
    """Hat functions of a coarse DOLFINx mesh, located through its bounding-box trees."""

    def __init__(self, fine: Mesh, coarse: Mesh, oversampling: int) -> None:
        self._init_common(fine, oversampling)
        with collective_errors(fine.comm):
            if not isinstance(coarse, mesh.Mesh):
                raise ValueError(
                    f"Expected a coarse dolfinx.mesh.Mesh, got {type(coarse).__name__}."
                )
            if coarse.comm.size != fine.comm.size:
                raise ValueError(
                    f"The coarse mesh lives on {coarse.comm.size} ranks, the fine one on "
                    f"{fine.comm.size}; expected the same communicator."
                )
            if coarse.geometry.dim != fine.geometry.dim or coarse.topology.dim != fine.topology.dim:
                raise ValueError(
                    f"The coarse mesh has dimension {coarse.topology.dim}, the fine one "
                    f"{fine.topology.dim}; expected the same."
                )
            if coarse.geometry.cmaps[0].degree != 1:
                raise ValueError(
                    f"The coarse mesh has geometry degree {coarse.geometry.cmaps[0].degree}; "
                    "expected straight-sided cells (degree 1)."
                )
            num_coarse = coarse.topology.index_map(coarse.topology.dim).size_global
            num_fine = fine.topology.index_map(fine.topology.dim).size_global
            if num_coarse > num_fine:
                raise ValueError(
                    f"The coarse grid is finer than the mesh: it has {num_coarse} cells, the mesh "
                    f"{num_fine}."
                )
        self.coarse = coarse
        self._nodes = coarse.geometry.input_global_indices.astype(np.int64)
        # Cells are searched for with absolute tolerances: in a copy that fills the unit box.
        self._low, high = bounding_box(coarse)
        self._side = high - self._low
        topology, gdim = coarse.topology, coarse.geometry.dim
        cells = topology.index_map(topology.dim)
        everything = np.arange(cells.size_local + cells.num_ghosts, dtype=np.int32)
        self._scaled, _, _, node = mesh.create_submesh(coarse, topology.dim, everything)
        x = self._scaled.geometry.x
        x[:, :gdim] = (x[:, :gdim] - self._low) / self._side
        self._scaled_nodes = self._nodes[node]
        top = int(self._nodes.max()) if len(self._nodes) else -1
        self._num_vertices: int = coarse.comm.allreduce(top, op=MPI.MAX) + 1
        self._element = basix.create_element(
            basix.ElementFamily.P, basix.CellType[coarse.topology.cell_type.name], 1
        )

    @property
    def num_vertices(self) -> int:
        """Number of coarse vertices, on all ranks together."""
        return self._num_vertices

    def vertex_coordinates(self, vertices: npt.NDArray[np.integer]) -> FloatArray:
        """Coordinates of coarse vertices of this rank's part of the coarse mesh; NaN elsewhere."""
        order = np.argsort(self._nodes)
        found = np.searchsorted(self._nodes[order], vertices)
        found = order[np.minimum(found, len(order) - 1)] if len(order) else np.zeros(0, np.int64)
        x = np.full((len(vertices), self.coarse.geometry.dim), np.nan)
        if len(order):
            hit = self._nodes[found] == vertices
            x[hit] = self.coarse.geometry.x[found[hit], : x.shape[1]]
        return x

    def hats(self, x: FloatArray) -> Hats:
        """As :meth:`CoarseGrid.hats`. Collective."""
        coarse, comm = self._scaled, self.coarse.comm
        cells = np.arange(coarse.topology.index_map(coarse.topology.dim).size_local, dtype=np.int32)
        width = coarse.h(coarse.topology.dim, cells).max() if len(cells) else 0.0
        padding = comm.allreduce(width, op=MPI.MAX)
        points = np.array(x, dtype=np.float64)
        gdim = coarse.geometry.dim
        points[:, :gdim] = (points[:, :gdim] - self._low) / self._side
        # Exact collisions first; only the points left over pay for a wide search.
        place = geometry.determine_point_ownership(coarse, points, 1e-8 * padding)
        owner = np.asarray(place.src_owner).copy()
        hats = self._evaluate(place, owner)
        missing = np.flatnonzero(owner < 0)
        if comm.allreduce(len(missing), op=MPI.SUM) > 0:
            place = geometry.determine_point_ownership(coarse, points[missing], padding)
            wide = np.asarray(place.src_owner).copy()
            rest = self._evaluate(place, wide)
            hats.vertices[missing] = rest.vertices
            hats.values[missing] = rest.values
            owner[missing] = wide
        with collective_errors(comm):
            if np.any(owner < 0):
                where = _fmt(x[np.flatnonzero(owner < 0)[0], :gdim])
                raise ValueError(
                    f"The coarse mesh does not cover the fine mesh: the point {where} is farther "
                    "than one coarse cell from it."
                )
        return hats

    def _evaluate(self, place: geometry.PointOwnershipData[np.float64], owner: IntArray) -> Hats:
        """Hats at located points, computed where the cells are and sent back. Collective."""
        geometry = self._scaled.geometry
        points = np.asarray(place.dest_points)[:, : geometry.dim]
        nodes = geometry.dofmaps[0][np.asarray(place.dest_cells)]
        corners = geometry.x[nodes][:, :, : geometry.dim]
        weights = _snap(self._reference_hats(points, corners))
        _, (vertices, values) = route(
            self.coarse.comm,
            np.asarray(place.dest_owner),
            self._scaled_nodes[nodes].reshape(weights.shape),
            weights,
        )
        m = weights.shape[1]
        hats = Hats(np.zeros((len(owner), m), np.int64), np.zeros((len(owner), m)))
        # Answers come back by source rank and, within one, in the order the points were sent.
        hits = np.flatnonzero(owner >= 0)
        back = hits[np.argsort(owner[hits], kind="stable")]
        hats.vertices[back], hats.values[back] = vertices, values
        return hats

    def _reference_hats(self, points: FloatArray, corners: FloatArray) -> FloatArray:
        """Nodal basis of each point's cell at the point (clipped to the cell), by Newton.

        Args:
            points: Shape ``(num, gdim)``.
            corners: Of the cell of each point, shape ``(num, num_corners, gdim)``.

        Returns:
            Shape ``(num, num_corners)``.
        """
        if len(points) == 0:
            # Basix does not take an empty set of points.
            return np.zeros(corners.shape[:2])
        dim = points.shape[1]
        X = np.full_like(points, 1.0 / (dim + 1))
        for _ in range(20):
            table = np.asarray(self._element.tabulate(1, X))[:, :, :, 0]
            gap = points - np.einsum("pv,pvd->pd", table[0], corners)
            J = np.einsum("kpv,pvd->pdk", table[1:], corners)
            step = np.linalg.solve(J, gap[:, :, None])[:, :, 0]
            X += step
            if np.abs(step).max() < 1e-13:
                break
        if self._element.cell_type in (basix.CellType.triangle, basix.CellType.tetrahedron):
            X = np.maximum(X, 0.0)
            X /= np.maximum(1.0, X.sum(axis=1, keepdims=True))
        else:
            X = np.clip(X, 0.0, 1.0)
        return np.asarray(self._element.tabulate(0, X))[0, :, :, 0]


def _fmt(values: FloatArray) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
