# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Local problems: the pencil (A_i, S_i) of every neighbourhood that this rank computes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from dolfinx_msnn._utils.checks import point
from dolfinx_msnn._utils.typing import (
    BoolArray,
    FloatArray,
    LongArray,
)
from dolfinx_msnn.local.geometry import Geometry


class CellSample(NamedTuple):
    """The coefficient that a basis asked for, at the cells of a neighbourhood.

    Attributes:
        values: Its values at the midpoints of the cells, shape ``(num_cells,)``.
        midpoints: Those midpoints, shape ``(num_cells, gdim)``, sorted like the cells' dofs.
    """

    values: FloatArray
    midpoints: FloatArray


@dataclass(frozen=True)
class LocalProblem:
    """The eigenproblem A_i φ = λ S_i φ on one neighbourhood, natural boundary all around.

    Dofs are unrolled (component fastest) and sorted by their position in space, so neighbourhoods
    of one shape have the same numbering and the same sparsity pattern at any number of ranks.

    Attributes:
        vertex: Number of the coarse vertex.
        A: Sum of the element matrices of ``a``, shape ``(n_i, n_i)``; symmetric positive
            semi-definite. ``None`` if the basis has declared that it does not look at it.
        s: Sum of the element matrices of ``s``, or ``None`` if the user gave none.
        chi: Partition of unity χ_i at the dofs, shape ``(n_i,)``.
        x: Coordinates of the dofs, shape ``(n_i, gdim)``.
        dofs: Global numbers of the dofs in the fine space, shape ``(n_i,)``, int64.
        dirichlet: Which dofs carry a Dirichlet condition, shape ``(n_i,)``, bool.
        block_size: Components of a dof block.
        pattern: Equal for problems whose matrices have the same sparsity pattern.
        place: Coordinates of the coarse vertex; shape ``(gdim,)``.
        lift: Values of the Dirichlet conditions, zero at other dofs, shape ``(n_i,)``.
        interface: Which dofs lie on the boundary of the neighbourhood inside the domain: cells
            around them are left out; shape ``(n_i,)``, bool.
        loads: Vectors of the linear forms that the basis asked for, at dofs not on the interface;
            shape ``(num_loads, n_i)``.
        sample: The coefficient that the basis asked for; ``None`` if it asked for none.
    """

    vertex: int
    A: sp.csr_matrix
    s: sp.csr_matrix | None
    chi: FloatArray
    x: FloatArray
    dofs: LongArray
    dirichlet: BoolArray
    block_size: int
    pattern: bytes
    place: FloatArray
    lift: FloatArray
    interface: BoolArray
    loads: FloatArray
    sample: CellSample | None = None

    @property
    def num_dofs(self) -> int:
        """n_i, the number of dofs of the neighbourhood."""
        return len(self.x)

    @property
    def gdim(self) -> int:
        """Dimension of space."""
        return int(self.x.shape[1])

    @cached_property
    def S(self) -> sp.csr_matrix:
        """Right-hand matrix: the user's ``s``, or D A_i D with D = diag(χ_i) (GenEO)."""
        if self.s is not None:
            return self.s
        rows = np.repeat(self.chi, np.diff(self.A.indptr))
        data = self.A.data * rows * self.chi[self.A.indices]
        return sp.csr_matrix((data, self.A.indices, self.A.indptr), shape=self.A.shape)

    @cached_property
    def geometry(self) -> Geometry:
        """Where the dofs are, shared between neighbourhoods of one shape."""
        return Geometry.of(self.x, self.pattern, self.block_size)

    @property
    def name(self) -> str:
        """How messages call this neighbourhood."""
        return f"neighbourhood {self.vertex} at {point(self.place)}"

    @property
    def nbytes(self) -> int:
        """Rough memory of the problem in bytes."""
        matrices = 0 if self.A is None else 2 * self.A.data.nbytes + self.A.indices.nbytes
        return int(matrices + 6 * self.x.nbytes)
