# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficients given on a lattice of equal boxes."""

import zlib
from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx import mesh
from dolfinx_msnn._utils.checks import require
from dolfinx_msnn._utils.typing import FloatArray, Function, Mesh
from dolfinx_msnn.fields._base import MeshField, at_midpoints


class LatticeField(MeshField):
    """A positive coefficient, constant on each cell of a lattice of equal boxes.

    Attributes:
        values: Positive and finite, one value a cell, shape ``(nx, ny)`` or ``(nx, ny, nz)``,
            float64, read-only.
        cell_size: Sides of a cell; by default all cells are cubes and the longest side of the
            lattice is 1. In metres for SPE10.
        origin: Lower corner of the lattice, by default zero.
    """

    def __init__(
        self,
        values: npt.ArrayLike,
        cell_size: Sequence[float] | None = None,
        origin: Sequence[float] | None = None,
    ) -> None:
        """Copy and check the values; raises ValueError if an argument is not as described."""
        v = np.array(values, dtype=np.float64)
        ok = v.ndim in (2, 3) and v.size > 0
        require(ok, "The shape of the lattice", v.shape, "2D or 3D and not empty")
        bad = v[~(np.isfinite(v) & (v > 0))]
        require(not bad.size, "Every value", bad[:1].tolist(), "positive and finite")
        v.flags.writeable = False
        self.values, self.dim = v, v.ndim
        size = np.array([1 / max(v.shape)] * self.dim if cell_size is None else cell_size, float)
        positive = size.shape == (self.dim,) and (np.isfinite(size) & (size > 0)).all()
        require(positive, "cell_size", cell_size, f"{self.dim} positive lengths")
        corner = np.array([0.0] * self.dim if origin is None else origin, float)
        finite = corner.shape == (self.dim,) and np.isfinite(corner).all()
        require(finite, "origin", origin, f"{self.dim} finite coordinates")
        self.cell_size, self.origin = tuple(size.tolist()), tuple(corner.tolist())

    def __repr__(self) -> str:
        """Return shape, cell size and origin."""
        return f"LatticeField(shape={self.shape}, cell_size={self.cell_size}, origin={self.origin})"

    def _identity(self) -> object:
        return self, f"CRC-32 of the values {zlib.crc32(self.values.tobytes())}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each axis."""
        return self.values.shape

    @property
    def extent(self) -> tuple[float, ...]:
        """Lengths of the sides of the lattice."""
        return tuple(n * h for n, h in zip(self.shape, self.cell_size, strict=True))

    @property
    def contrast(self) -> float:
        """Largest over smallest value."""
        return float(self.values.max() / self.values.min())

    def __getitem__(self, key: object) -> "LatticeField":
        """Crop by slices of step 1; an integer drops its axis (a 2D layer of a 3D field)."""
        keys: list[Any] = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis not in keys:
            keys.append(Ellipsis)
        i = keys.index(Ellipsis)
        keys[i : i + 1] = [slice(None)] * (self.dim + 1 - len(keys))
        ok = len(keys) == self.dim and all(
            k.step in (None, 1) if isinstance(k, slice) else isinstance(k, int | np.integer)
            for k in keys
        )
        require(ok, "The index", key, "slices of step 1 or integers")
        kept = [a for a, k in enumerate(keys) if isinstance(k, slice)]
        start = [keys[a].indices(self.shape[a])[0] for a in kept]
        size = [self.cell_size[a] for a in kept]
        origin = [self.origin[a] + i * h for a, i, h in zip(kept, start, size, strict=True)]
        return LatticeField(self.values[tuple(keys)], size, origin)

    def __call__(self, x: npt.ArrayLike) -> FloatArray:
        """Values of the cells nearest to points in the lattice's own units. Not collective.

        Args:
            x: Points, shape ``(n, 3)`` or ``(n, dim)``.

        Returns:
            Values, shape ``(n,)``.
        """
        # Points on a face belong to the upper cell, also if rounding puts them slightly below.
        cell = np.floor((self._points(x) - self.origin) / self.cell_size + 1e-6)
        index = np.clip(cell.astype(np.int64), 0, np.array(self.shape) - 1)
        return np.asarray(self.values[tuple(index.T)])

    def create_mesh(self, comm: MPI.Comm, cell_type: mesh.CellType | None = None) -> Mesh:
        """Create the mesh of the lattice: one quadrilateral or hexahedron a cell, or simplices.

        Args:
            comm: Communicator. Collective.
            cell_type: By default quadrilateral or hexahedron; otherwise triangle or tetrahedron.

        Returns:
            Mesh in the lattice's own units.

        Raises:
            ValueError: A cell type of another dimension.
        """
        types = {
            2: (mesh.CellType.quadrilateral, mesh.CellType.triangle),
            3: (mesh.CellType.hexahedron, mesh.CellType.tetrahedron),
        }[self.dim]
        chosen = types[0] if cell_type is None else cell_type
        require(chosen in types, "cell_type", chosen, f"{types[0].name} or {types[1].name}")
        corners = [np.array(self.origin), np.add(self.origin, self.extent)]
        create = mesh.create_rectangle if self.dim == 2 else mesh.create_box
        return create(comm, corners, self.shape, chosen)

    def interpolate(self, msh: Mesh, *, fit: bool = False) -> Function:
        """The value at the midpoint of each mesh cell. Collective on ``msh.comm``.

        Args:
            msh: Mesh of the same dimension, inside the lattice.
            fit: Stretch the lattice onto the mesh's bounding box instead.

        Returns:
            DG0 function ``kappa``, set on owned and ghost cells.

        Raises:
            ValueError: The mesh is of another dimension or leaves the lattice, or the lattice
                differs between ranks. Raised on all ranks.
        """
        lower, upper = self._box(msh)
        origin, extent = np.array(self.origin), np.array(self.extent)
        if fit:
            scale = extent / (upper - lower)
            return at_midpoints(msh, lambda x: self(origin + (x - lower) * scale))
        slack = np.sqrt(np.finfo(msh.geometry.x.dtype).eps) * extent
        ok = (lower >= origin - slack).all() and (upper <= origin + extent + slack).all()
        box = [lower.tolist(), upper.tolist()]
        require(ok, "The mesh without fit=True", box, f"inside {self!r}")
        return at_midpoints(msh, self)
