# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Partitions of unity at points: on boxes, or linear (bilinear, trilinear) on a coarse mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

import basix
from dolfinx import geometry, mesh
from dolfinx_msnn._utils.checks import point
from dolfinx_msnn._utils.mesh import bounding_box
from dolfinx_msnn._utils.mpi import collective_errors, route
from dolfinx_msnn._utils.typing import FloatArray, IntArray, LongArray, Mesh

#: Hat values below this are taken as zero, so that a rounding error in a coordinate does not pull
#: a whole layer of cells into a neighbourhood.
HAT_TOLERANCE = 1e-10


class Hats(NamedTuple):
    """A partition of unity at a set of points: at most ``m`` functions are not zero at any point.

    Attributes:
        vertices: Numbers of coarse vertices (of boxes, if these overlap), int64, shape
            ``(num_points, m)``.
        values: χ of those vertices, shape ``(num_points, m)``, float64; rows sum to one.
    """

    vertices: LongArray
    values: FloatArray


def _snap(weights: FloatArray) -> FloatArray:
    """Remove negative and negligible weights and make the rows sum to one again."""
    weights = np.where(weights < HAT_TOLERANCE, 0.0, weights)
    return weights / weights.sum(axis=1, keepdims=True)


def box_hats(
    x: FloatArray,
    first: FloatArray,
    box_size: FloatArray,
    num: Sequence[int] | IntArray,
    ramp: npt.ArrayLike = 0.5,
) -> Hats:
    """A partition of unity by products of functions that rise and fall linearly in a direction.

    In each direction one function goes over into the next on a ramp; the first and the last are
    continued by constants. With ramps as wide as boxes these are multilinear hat functions, with
    narrower ones boxes that overlap a little.

    Args:
        x: Points, shape ``(num_points, gdim)`` or more columns.
        first: Where the first function goes over into the second, in each direction, the middle of
            the ramp; shape ``(gdim,)``.
        box_size: From one ramp's middle to the next one's, shape ``(gdim,)``.
        num: Functions in each direction; they are numbered x fastest.
        ramp: Half width of the ramps in units of ``box_size``, at most 1/2.

    Returns:
        The functions at the points. Not collective.
    """
    vertices = np.zeros((len(x), 1), dtype=np.int64)
    values = np.ones((len(x), 1))
    half, stride = np.broadcast_to(ramp, len(num)), 1
    for k, count in enumerate(num):
        t = (x[:, k] - first[k]) / box_size[k]
        left = np.clip(np.floor(t + 0.5 + HAT_TOLERANCE), 0, max(count - 2, 0))
        s = np.clip((t - left) / (2 * half[k]) + 0.5, 0.0, float(count > 1))[:, None]
        pair = left.astype(np.int64)[:, None] + np.arange(2)
        pair = stride * np.minimum(pair, count - 1)
        weight = _snap(np.hstack([1 - s, s]))
        vertices = (pair[:, :, None] + vertices[:, None, :]).reshape(len(x), 2 ** (k + 1))
        values = (weight[:, :, None] * values[:, None, :]).reshape(len(x), 2 ** (k + 1))
        stride *= count
    return Hats(vertices, values)


class MeshHats:
    """Hat functions of a coarse mesh, whose cells are found by DOLFINx's bounding-box trees.

    Args:
        coarse: Mesh of straight-sided cells of one type.

    Attributes:
        num_vertices: Its vertices, on all ranks together.

    Note:
        Creation is collective.
    """

    def __init__(self, coarse: Mesh) -> None:
        self._coarse = coarse
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
        top = int(self._nodes.max(initial=-1))
        self.num_vertices: int = coarse.comm.allreduce(top, op=MPI.MAX) + 1
        self._element = basix.create_element(
            basix.ElementFamily.P, basix.CellType[coarse.topology.cell_type.name], 1
        )

    def vertex_coordinates(self, vertices: npt.NDArray[np.integer]) -> FloatArray:
        """Coordinates of vertices of this rank's part of the mesh, ``(num, gdim)``; else NaN."""
        x = np.full((len(vertices), self._coarse.geometry.dim), np.nan)
        here, order = np.isin(vertices, self._nodes), np.argsort(self._nodes)
        node = order[np.searchsorted(self._nodes, vertices[here], sorter=order)]
        x[here] = self._coarse.geometry.x[node, : x.shape[1]]
        return x

    def evaluate(self, x: FloatArray) -> Hats:
        """The hats at points, shape ``(num_points, 3)``, of any rank's cells.

        Points outside take the hats of the nearest cell.

        Raises:
            ValueError: If a point is farther than one cell from the mesh; the same on every rank.

        Note:
            Collective.
        """
        coarse, comm = self._scaled, self._coarse.comm
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
            owner[missing] = np.asarray(place.src_owner)
            rest = self._evaluate(place, owner[missing])
            hats.vertices[missing], hats.values[missing] = rest
        with collective_errors(comm):
            if np.any(owner < 0):
                raise ValueError(
                    "The coarse mesh does not cover the fine mesh: the point "
                    f"{point(x[np.argmin(owner), :gdim])} is farther than one coarse cell from it."
                )
        return hats

    def _evaluate(self, place: geometry.PointOwnershipData[np.float64], owner: IntArray) -> Hats:
        """Hats at located points, computed where the cells are and sent back. Collective.

        Args:
            place: Where the points were found.
            owner: Rank that holds the cell of each point, -1 for none; shape ``(num_points,)``.
        """
        with collective_errors(self._coarse.comm):
            geometry = self._scaled.geometry
            points = np.asarray(place.dest_points)[:, : geometry.dim]
            nodes = geometry.dofmaps[0][np.asarray(place.dest_cells)]
            corners = geometry.x[nodes][:, :, : geometry.dim]
            weights = _snap(self._reference_hats(points, corners))
        _, (vertices, values) = route(
            self._coarse.comm,
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
