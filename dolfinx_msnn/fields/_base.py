# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Base classes of coefficient fields, and their interpolation into DG0."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Concatenate

import numpy as np
import numpy.typing as npt

from dolfinx import fem, mesh
from dolfinx_msnn._utils.checks import is_integer, is_number, require
from dolfinx_msnn._utils.mesh import bounding_box
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import BoolArray, FloatArray, Function, Mesh

type Box = Sequence[Sequence[float]]


class MeshField(ABC):
    """Base class of random fields and fields on a lattice.

    Attributes:
        dim: Dimension, 2 or 3.
    """

    dim: int

    @abstractmethod
    def __call__(self, x: npt.ArrayLike) -> FloatArray:
        """Values at points of shape ``(n, 3)`` or ``(n, dim)``, shape ``(n,)``."""

    def _identity(self) -> object:
        """An object whose ``repr`` differs for fields with different values."""
        return self

    def _points(self, x: npt.ArrayLike) -> FloatArray:
        """Check points, shape ``(n, 3)`` or ``(n, dim)``; returns shape ``(n, dim)``."""
        points = np.asarray(x, dtype=np.float64)
        ok = points.ndim == 2 and points.shape[1] in (self.dim, 3)
        expected = f"(n, {self.dim}) or (n, 3)"
        require(ok, "The shape of the points", points.shape, expected)
        return points[:, : self.dim]

    def _box(self, msh: Mesh, box: Box | None = None) -> FloatArray:
        """The corners of ``box``, by default of the mesh's bounding box, checked. Collective.

        Returns:
            Shape ``(2, dim)``.

        Raises:
            ValueError: On all ranks.
        """
        corners, dim = bounding_box(msh), msh.geometry.dim
        with collective_errors(msh.comm) as checks:
            require(self.dim == dim, "The dimension of the mesh", dim, f"{self.dim}")
            if box is not None:
                corners = np.asarray(box, dtype=np.float64)
            finite = corners.shape == (2, dim) and np.isfinite(corners).all()
            name = "The bounding box of the mesh" if box is None else "box"
            expected = f"a lower and an upper corner of {dim} coordinates"
            ok = finite and (corners[0] < corners[1]).all()
            require(ok, name, corners.tolist(), expected)
            checks.agree(field=self._identity(), box=corners.tolist())
        return corners


def at_midpoints(msh: Mesh, evaluate: Callable[[FloatArray], FloatArray]) -> Function:
    """The DG0 function ``kappa`` of values at the midpoints of all cells, ghosts included.

    Args:
        msh: Mesh.
        evaluate: Takes points of shape ``(n, gdim)``, gives ``(n,)``.
    """
    tdim = msh.topology.dim
    cells = msh.topology.index_map(tdim)
    local = np.arange(cells.size_local + cells.num_ghosts, dtype=np.int32)
    x = mesh.compute_midpoints(msh, tdim, local)[:, : msh.geometry.dim]
    V = fem.functionspace(msh, ("DG", 0))
    kappa: Function = fem.Function(V, name="kappa", dtype=msh.geometry.x.dtype)
    kappa.x.array[V.dofmap.list[:, 0]] = evaluate(x.astype(np.float64))
    return kappa


class Field(MeshField):
    """A random coefficient on the unit box.

    Attributes:
        dim: Dimension of the box, 2 or 3.
        contrast: Ratio of the largest to the smallest value, finite and at least 1.
        seed: Seed of the random numbers, not negative.
    """

    contrast: float | None

    def __init__(self, dim: int, contrast: float, seed: int) -> None:
        """Check the common arguments; raises ValueError like the constructors of the families."""
        require(dim in (2, 3), "The dimension of a field or its mesh", dim, "2 or 3")
        ok = is_number(contrast) and 1 <= contrast < math.inf
        require(ok, "contrast", contrast, "a finite number not below 1")
        require(is_integer(seed), "seed", seed, "a non-negative integer")
        self.dim, self.seed = dim, int(seed)
        self.contrast = float(contrast)

    def __repr__(self) -> str:
        """Return the family and its parameters."""
        public = (f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({', '.join(public)})"

    @abstractmethod
    def _evaluate(self, x: FloatArray) -> FloatArray:
        """Values at points of shape ``(n, dim)``, shape ``(n,)``."""

    def __call__(self, x: npt.ArrayLike) -> FloatArray:
        """Evaluate the field at points in unit-box coordinates. Not collective.

        Args:
            x: Points, shape ``(n, 3)`` or ``(n, dim)``.

        Returns:
            Values, shape ``(n,)``.
        """
        return self._evaluate(self._points(x))

    def interpolate(self, msh: Mesh, *, box: Box | None = None) -> Function:
        """Evaluate the field at the cell midpoints of a mesh. Collective on ``msh.comm``.

        Args:
            msh: Mesh of geometric dimension ``dim``.
            box: Lower and upper corner of the image of the unit box, by default of the mesh.

        Returns:
            DG0 function ``kappa``, set on owned and ghost cells.

        Raises:
            ValueError: The mesh or the box is of another dimension or flat, or the field differs
                between ranks. Raised on all ranks.
        """
        lower, upper = self._box(msh, box)
        return at_midpoints(msh, lambda x: self((x - lower) / (upper - lower)))


class TwoValuedField(Field):
    """1 in the background, ``contrast`` in the high phase."""

    contrast: float

    @abstractmethod
    def _high(self, x: FloatArray) -> BoolArray:
        """Which points of shape ``(n, dim)`` are in the high phase, shape ``(n,)``."""

    def _evaluate(self, x: FloatArray) -> FloatArray:
        return np.where(self._high(x), self.contrast, 1.0)


def on_mesh[**P](
    family: Callable[Concatenate[int, P], Field], name: str
) -> Callable[Concatenate[Mesh, P], Function]:
    """The function that creates a field of the family and interpolates it on a mesh."""

    def generate(msh: Mesh, /, *args: P.args, **kwargs: P.kwargs) -> Function:
        with collective_errors(msh.comm):
            field = family(msh.geometry.dim, *args, **kwargs)
        return field.interpolate(msh)

    first = inspect.Parameter("msh", inspect.Parameter.POSITIONAL_ONLY, annotation=mesh.Mesh)
    rest = list(inspect.signature(family).parameters.values())[1:]
    signature = inspect.Signature([first, *rest], return_annotation=fem.Function)
    setattr(generate, "__signature__", signature)  # noqa: B010 (mypy knows no such attribute)
    generate.__name__ = generate.__qualname__ = name
    generate.__doc__ = f"""Return a coefficient as a DG0 function. Collective on ``msh.comm``.

    The same as ``{name.title().replace("_", "")}(dim, ...).interpolate(msh)``, which also takes a
    box. The keyword arguments are the attributes described here.

    {family.__doc__}"""
    return generate
