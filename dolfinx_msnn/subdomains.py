# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The overlapping subdomains that a multiscale space brings: the dofs of its neighbourhoods."""

from __future__ import annotations

from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._mpi import collective_errors
from dolfinx_msnn._typing import LongArray
from dolfinx_msnn.functionspace import MultiscaleFunctionSpace


def subdomains(W: MultiscaleFunctionSpace) -> list[tuple[int, LongArray]]:
    """The fine dofs inside every neighbourhood ω_i that this rank computed.

    Inside means χ_i > 0 and no Dirichlet condition: the support of the basis functions of ω_i,
    the same for all of them. A neighbourhood without coarse dofs is absent, and so are its dofs
    unless another one has them (:func:`uncovered_dofs` lists the dofs that none has).

    Args:
        W: Multiscale space.

    Returns:
        For each neighbourhood its coarse vertex and its dofs: global fine dofs (unrolled),
        ascending and distinct, int64, owned by any rank. In the order of ``W.vertex``.

    Raises:
        RuntimeError: If the space has been destroyed.

    Note:
        Collective the first time, as ``W.R`` is.
    """
    R, first = W.R, W.dof_range[0]
    found: list[tuple[int, LongArray]] = []
    with collective_errors(W.comm):
        vertices, rows = np.unique(W.vertex, return_index=True)
        for k in np.argsort(rows):
            # All rows of a vertex have the same pattern: the first tells.
            columns, _ = R.getRow(first + int(rows[k]))
            found.append((int(vertices[k]), np.unique(columns).astype(np.int64)))
    return found


def uncovered_dofs(W: MultiscaleFunctionSpace) -> LongArray:
    """Fine dofs of this rank that no neighbourhood has inside.

    Those with Dirichlet conditions, and the inner dofs of neighbourhoods without basis functions.

    Args:
        W: Multiscale space.

    Returns:
        Global fine dofs (unrolled), ascending, int64, all owned by this rank.

    Note:
        Collective.
    """
    covered = np.concatenate([np.zeros(0, np.int64), *(dofs for _, dofs in subdomains(W))])
    count = W.P.createVecLeft()
    try:
        # By a vector: a neighbourhood's dofs may belong to any rank.
        count.setValues(
            covered.astype(PETSc.IntType), np.ones(len(covered)), PETSc.InsertMode.ADD_VALUES
        )
        count.assemble()
        first, _ = count.getOwnershipRange()
        return np.asarray(first + np.flatnonzero(count.array_r == 0), dtype=np.int64)
    finally:
        count.destroy()
