# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse grids: what the neighbourhoods of a fine mesh are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx import mesh
from dolfinx_msnn._utils.checks import is_integer, point, require
from dolfinx_msnn._utils.mesh import bounding_box, mean_cell_extent
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, IntArray, Mesh
from dolfinx_msnn.local.hats import Hats, MeshHats, box_hats


class CoarseGrid:
    """Axis-aligned coarse boxes with multilinear hat functions at their vertices, or overlapping.

    The fine mesh may be of any cell type, structured or not, and need not fit the boxes. Coarse
    vertices whose neighbourhood holds no fine cell (holes, L-shapes) simply have no basis.

    With ``overlap`` there is one neighbourhood for each box, the box and some layers of cells
    around it, in place of one for each vertex, the boxes around that: fewer and smaller ones. The
    functions of the partition of unity are one in the middle of a box and fall to zero across the
    overlap. Where this text and others speak of a coarse vertex, it is the box then.

    Args:
        fine: The fine mesh.
        n: Number of boxes in each direction, one integer for each dimension of the mesh.
        box: Two corners of the covered box, shape ``(2, gdim)``. Default: the bounding box of
            ``fine``. Hats are continued by constants outside it.
        oversampling: Layers of fine cells added around each neighbourhood for the local
            problems; the hat functions keep their support. Default: what the basis wants, which is
            none for modes of neighbourhoods.
        overlap: Neighbourhoods are boxes with so many layers of cells around them; a number of
            cells of mean extent, at least one and at most half a box. Default: hat functions.

    Example:
        >>> coarse = msnn.CoarseGrid(msh, (3, 3))
        >>> coarse.num_vertices
        16

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
        oversampling: int | None = None,
        overlap: int | None = None,
    ) -> None:
        with collective_errors(getattr(fine, "comm", MPI.COMM_SELF)) as checks:
            _check_mesh(fine, oversampling)
            known = overlap is None or is_integer(overlap, 1)
            require(known, "overlap", overlap, "a number of cells >= 1")
            gdim = fine.geometry.dim
            shape, corners = _array(n), None if box is None else _array(box, np.float64)
            whole = shape.shape == (gdim,) and shape.dtype.kind in "iu" and np.all(shape >= 1)
            boxes = f"(boxes in each direction of the {gdim}-dimensional mesh)"
            require(whole, "n", n, f"{gdim} positive integers {boxes}")
            if corners is not None:
                finite = corners.shape == (2, gdim) and np.isfinite(corners).all()
                wanted = f"two corners, shape (2, {gdim}), the second above the first"
                require(finite and np.all(corners[1] > corners[0]), "box", box, wanted)
            checks.agree(
                n=shape.tolist(),
                box=None if corners is None else corners.tolist(),
                oversampling=oversampling,
                overlap=overlap,
            )
        self.fine, self.oversampling, self.overlap = fine, oversampling, overlap
        low, high = extent = bounding_box(fine)
        if corners is None:
            corners = extent
        elif np.any(corners[0] >= high) or np.any(corners[1] <= low):
            raise ValueError(
                f"box spans {point(corners[0])} to {point(corners[1])}, the mesh {point(low)} to "
                f"{point(high)}; expected a box that overlaps the mesh."
            )
        self.n: tuple[int, ...] = tuple(int(k) for k in shape)
        self.lower, self.upper = corners
        self.box_size: FloatArray = (self.upper - self.lower) / shape
        mean = mean_cell_extent(fine)
        if np.any(self.box_size < (1 - 1e-10) * mean):
            raise ValueError(
                f"The coarse grid is finer than the mesh: its boxes measure "
                f"{point(self.box_size)}, the mesh's cells {point(mean)} on average; "
                f"expected boxes at least as large as cells (got n={self.n})."
            )
        #: Half the width in which one function goes over into the next, in boxes.
        self._ramp: FloatArray = np.full(gdim, 0.5)
        if overlap is not None:
            self._ramp = overlap * mean / self.box_size
            if np.any(self._ramp[shape > 1] > 0.5 + 1e-10):
                raise ValueError(
                    f"An overlap of {overlap} cells is more than half a box: boxes measure "
                    f"{point(self.box_size)}, cells {point(mean)} on average; expected less."
                )

    @classmethod
    def from_mesh(cls, fine: Mesh, coarse: Mesh, *, oversampling: int | None = None) -> CoarseGrid:
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
        """Number of coarse vertices, on all ranks together; of boxes with ``overlap``."""
        return int(np.prod(self._counts))

    @property
    def _counts(self) -> IntArray:
        """Neighbourhoods in each direction."""
        return np.asarray(self.n, dtype=np.int32) + (self.overlap is None)

    @property
    def num_cells(self) -> int:
        """Number of boxes or coarse cells, on all ranks together."""
        return int(np.prod(self.n))

    def layers(self, width: float = 0.0) -> int:
        """Layers of fine cells around neighbourhoods: ``oversampling``, or from a wanted width.

        Args:
            width: In coarse cells; what to take if ``oversampling`` was left open. Half as much
                again around boxes that overlap, which are half as wide as the support of hats.
        """
        if self.oversampling is not None:
            return int(self.oversampling)
        width *= 1.0 if self.overlap is None else 1.5
        tdim = self.fine.topology.dim
        each = self.fine.topology.index_map(tdim).size_global / self.num_cells
        return int(np.rint(width * each ** (1 / tdim)))

    def vertex_coordinates(self, vertices: npt.NDArray[np.integer]) -> FloatArray:
        """Coordinates of coarse vertices, shape ``(len(vertices), gdim)``. Not collective.

        With ``overlap`` those of the middles of boxes.
        """
        index = np.stack(np.unravel_index(vertices, self._counts[::-1])[::-1], axis=-1)
        middle = 0.0 if self.overlap is None else 0.5
        return np.asarray(self.lower + self.box_size * (index + middle))

    def hats(self, x: FloatArray) -> Hats:
        """Evaluate the hat functions, or those of overlapping boxes.

        Args:
            x: Points, shape ``(num_points, 3)``.

        Note:
            Collective (for coarse meshes the points may lie on other ranks).
        """
        with collective_errors(self.fine.comm):
            first = self.lower + (0.5 if self.overlap is None else 1.0) * self.box_size
            return box_hats(x, first, self.box_size, self._counts, self._ramp)


class _MeshCoarseGrid(CoarseGrid):
    """The coarse grid of :meth:`CoarseGrid.from_mesh`."""

    def __init__(self, fine: Mesh, coarse: Mesh, oversampling: int | None) -> None:
        with collective_errors(getattr(fine, "comm", MPI.COMM_SELF)) as checks:
            _check_mesh(fine, oversampling)
            if not isinstance(coarse, mesh.Mesh):
                raise ValueError(
                    f"Expected a coarse dolfinx.mesh.Mesh, got {type(coarse).__name__}."
                )
            if coarse.comm.size != fine.comm.size:
                raise ValueError(
                    f"The coarse mesh lives on {coarse.comm.size} ranks, the fine one on "
                    f"{fine.comm.size}; expected the same communicator."
                )
            tdim = fine.topology.dim
            if coarse.geometry.dim != fine.geometry.dim or coarse.topology.dim != tdim:
                raise ValueError(
                    f"The coarse mesh has dimension {coarse.topology.dim}, the fine one {tdim}; "
                    "expected the same."
                )
            if coarse.geometry.cmaps[0].degree != 1:
                raise ValueError(
                    f"The coarse mesh has geometry degree {coarse.geometry.cmaps[0].degree}; "
                    "expected straight-sided cells (degree 1)."
                )
            num = [msh.topology.index_map(tdim).size_global for msh in (coarse, fine)]
            if num[0] > num[1]:
                raise ValueError(
                    f"The coarse grid is finer than the mesh: it has {num[0]} cells, the mesh "
                    f"{num[1]}."
                )
            checks.agree(oversampling=oversampling)
        self.fine, self.oversampling, self.overlap = fine, oversampling, None
        self.coarse = coarse
        self._hats = MeshHats(coarse)

    @property
    def num_vertices(self) -> int:
        """Number of coarse vertices, on all ranks together."""
        return self._hats.num_vertices

    @property
    def num_cells(self) -> int:
        """Number of boxes or coarse cells, on all ranks together."""
        topology = self.coarse.topology
        return int(topology.index_map(topology.dim).size_global)

    def vertex_coordinates(self, vertices: npt.NDArray[np.integer]) -> FloatArray:
        """Coordinates of coarse vertices of this rank's part of the coarse mesh; NaN elsewhere."""
        return self._hats.vertex_coordinates(vertices)

    def hats(self, x: FloatArray) -> Hats:
        """As :meth:`CoarseGrid.hats`. Collective."""
        return self._hats.evaluate(x)


def _check_mesh(fine: Mesh, oversampling: object) -> None:
    """Refuse what no coarse grid can be laid over. Not collective."""
    if not isinstance(fine, mesh.Mesh):
        raise ValueError(f"Expected a dolfinx.mesh.Mesh, got {type(fine).__name__}.")
    if fine.topology.dim not in (2, 3) or fine.topology.dim != fine.geometry.dim:
        raise ValueError(
            "Expected a mesh of dimension 2 or 3 in a space of the same dimension, got "
            f"dimension {fine.topology.dim} in {fine.geometry.dim}; a plane mesh with three "
            "coordinates needs the first two only (gdim=2 of dolfinx.io.gmsh, x[:, :2] for "
            "dolfinx.mesh.create_mesh)."
        )
    known = oversampling is None or is_integer(oversampling)
    require(known, "oversampling", oversampling, "a number of cell layers >= 0")


def _array(value: object, dtype: type | None = None) -> npt.NDArray[Any]:
    """An array of what a user gave, or an empty one if it is not regular."""
    try:
        return np.asarray(value, dtype=dtype)
    except (ValueError, TypeError):
        return np.zeros(0)
