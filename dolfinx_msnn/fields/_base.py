# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What all coefficient fields share: checks, and the way onto a mesh."""

import math
import numbers
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx import fem, mesh

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Box = Sequence[Sequence[float]]
type _Mesh = mesh.Mesh[Any]
type _Function = fem.Function[Any]


def _require(ok: object, what: str, given: object, expected: str) -> None:
    """Raise a one-sentence ValueError unless ``ok``."""
    if not ok:
        raise ValueError(f"{what} must be {expected}, but {given!r} was given.")


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _is_integer(value: object, least: int = 0) -> bool:
    return isinstance(value, numbers.Integral) and int(value) >= least


def _points(x: npt.ArrayLike, dim: int) -> Array:
    points = np.asarray(x, dtype=np.float64)
    ok = points.ndim == 2 and points.shape[1] in (dim, 3)
    _require(ok, "The shape of the points", points.shape, f"(n, {dim}) or (n, 3)")
    return points[:, :dim]


class _MeshField(ABC):
    """What generated and lattice fields share: one way onto a mesh."""

    dim: int

    @abstractmethod
    def _checksum(self) -> int:
        """A number that fields with unlike values do not share."""


def _agree[T: _MeshField](
    msh: _Mesh, make: Callable[[int], T], box: Box | None = None
) -> tuple[T, Array, Array]:
    """Make a field on every rank and find the box it is mapped to, or fail on every rank.

    Collective on ``msh.comm``: one reduction carries the mesh's bounding box, whether a rank
    failed, and a checksum, since ranks with unlike arguments would build unlike fields.
    """
    gdim = msh.geometry.dim
    x = msh.geometry.x[:, :gdim].astype(np.float64)
    lower, upper = x.min(axis=0, initial=np.inf), x.max(axis=0, initial=-np.inf)
    error: Exception | None = None
    checksum = 0
    try:
        field = make(gdim)
        _require(field.dim == gdim, "The dimension of the mesh", gdim, f"{field.dim}")
        checksum = zlib.crc32(repr(box).encode(), field._checksum())
        if box is not None:
            given = np.asarray(box, dtype=np.float64)
            ok = (
                given.shape == (2, gdim)
                and np.isfinite(given).all()
                and (given[0] < given[1]).all()
            )
            _require(ok, "box", box, f"a lower and an upper corner of {gdim} coordinates")
            lower, upper = given
    except Exception as exc:  # of any kind: the other ranks wait in the reduction
        error = exc
    sent = np.concatenate([lower, -upper, [-float(error is not None), checksum, -checksum]])
    least = np.empty_like(sent)
    msh.comm.Allreduce(sent, least, MPI.MIN)
    if least[-3] < 0:
        raise next(e for e in msh.comm.allgather(error) if e is not None)
    if least[-2] != -least[-1]:
        raise ValueError("The field must have the same arguments on all ranks, but they differ.")
    lower, upper = least[:gdim], -least[gdim : 2 * gdim]
    corners = [lower.tolist(), upper.tolist()]
    _require((lower < upper).all(), "The box", corners, "of positive size along each axis")
    return field, lower, upper


def _dg0(msh: _Mesh, evaluate: Callable[[Array], Array]) -> _Function:
    """Return the DG0 function of values at the midpoints of all cells, ghosts included."""
    tdim = msh.topology.dim
    cells = msh.topology.index_map(tdim)
    local = np.arange(cells.size_local + cells.num_ghosts, dtype=np.int32)
    x = mesh.compute_midpoints(msh, tdim, local)[:, : msh.geometry.dim]
    V = fem.functionspace(msh, ("DG", 0))
    kappa = fem.Function(V, name="kappa", dtype=msh.geometry.x.dtype)
    kappa.x.array[V.dofmap.list[:, 0]] = evaluate(x.astype(np.float64))
    return kappa
