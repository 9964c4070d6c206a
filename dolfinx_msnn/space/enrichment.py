# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Multiscale spaces made from others: some of their basis functions, and new ones added."""

from __future__ import annotations

from collections.abc import Sequence

from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._utils.checks import require
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import BoolArray, FloatArray, LongArray
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace
from dolfinx_msnn.space.prolongation import CoarseDofs, create_coo_matrix

#: ``W.mode`` of a basis function that no local basis made.
ONLINE = -1


@checked
def enrich(
    W: MultiscaleFunctionSpace,
    functions: Sequence[tuple[int, LongArray, FloatArray]] = (),
    *,
    keep: BoolArray | None = None,
) -> MultiscaleFunctionSpace:
    """A new space with the basis functions of ``W``, or some of them, and more.

    Args:
        W: Multiscale space; left as it is.
        functions: New basis functions of this rank: coarse vertex (one that this rank holds
            already), global fine dofs (those of its subdomain) and values there. Their ``mode``
            is −1.
        keep: Which of this rank's basis functions to keep, shape ``(W.num_local_dofs,)``; default
            all. They keep their order and come first.

    Returns:
        The new space. The caller destroys it.

    Raises:
        ValueError: If an array has the wrong shape, or a value is not finite.

    Note:
        Collective. Entries are copied: twice the memory of P for a moment.
    """
    comm = W.comm
    indptr, indices, data = W.R.getValuesCSR()
    with collective_errors(comm):
        keep = np.ones(W.num_local_dofs, dtype=bool) if keep is None else np.asarray(keep)
        if keep.dtype != np.bool_ or keep.shape != (W.num_local_dofs,):
            raise ValueError(
                f"keep has type {keep.dtype} and shape {keep.shape}; expected bool and "
                f"({W.num_local_dofs},)."
            )
        whole = isinstance(functions, Sequence) and all(
            isinstance(f, Sequence) and len(f) == 3 for f in functions
        )
        require(whole, "functions", functions, "a sequence of (coarse vertex, dofs, values)")
        for vertex, dofs, values in functions:
            if vertex not in W.eigenvalues:
                raise ValueError(f"Coarse vertex {vertex} is not on this rank.")
            rows, num = np.asarray(dofs), W.P.getSize()[0]
            inside = rows.dtype.kind in "iu" and ((rows >= 0) & (rows < num)).all()
            if not inside or len(np.unique(rows)) != rows.size:
                raise ValueError(
                    f"A new basis function of coarse vertex {vertex} has dofs {rows}; expected "
                    f"distinct integers from 0 to {num - 1}."
                )
            if np.shape(dofs) != np.shape(values) or not np.isfinite(values).all():
                raise ValueError(
                    f"A new basis function of coarse vertex {vertex} has {np.size(dofs)} dofs and "
                    f"{np.size(values)} values, or infinite ones; expected as many, finite."
                )
    entries = np.repeat(keep, np.diff(indptr))
    lengths = np.concatenate(
        [np.diff(indptr)[keep], np.array([len(dofs) for _, dofs, _ in functions], np.int32)]
    )
    num = len(lengths)
    first = comm.exscan(num) or 0
    P = create_coo_matrix(
        W.V,
        num,
        np.concatenate([indices[entries], *(f[1] for f in functions)]).astype(PETSc.IntType),
        np.repeat(first + np.arange(num), lengths).astype(PETSc.IntType),
        np.concatenate([data[entries], *(f[2] for f in functions)]),
        W.P.getType(),
    )
    added = np.array([f[0] for f in functions], dtype=np.int64)
    coarse_dofs = CoarseDofs(
        np.concatenate([W.vertex[keep], added]),
        np.concatenate([W.mode[keep], np.full(len(added), ONLINE, np.int32)]),
        dict(W.eigenvalues),
        0,
    )
    return MultiscaleFunctionSpace(W.V, P, coarse_dofs, W.dirichlet, coarse=W.coarse)
