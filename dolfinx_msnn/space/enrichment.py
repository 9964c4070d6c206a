# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Multiscale spaces made from others: some of their basis functions, and new ones added."""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import BoolArray, FloatArray, IntArray, LongArray
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace
from dolfinx_msnn.space.prolongation import CoarseDofs, create_coo_matrix

#: ``W.mode`` of a basis function that no local basis made.
ONLINE = -1


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
        for vertex, dofs, values in functions:
            if vertex not in W.eigenvalues:
                raise ValueError(f"Coarse vertex {vertex} is not on this rank.")
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
    return MultiscaleFunctionSpace(W.V, P, coarse_dofs, W.dirichlet)


def colour(W: MultiscaleFunctionSpace, A0: PETSc.Mat) -> dict[int, int]:
    """Colour neighbourhoods so that no two of a colour are coupled.

    Args:
        W: Multiscale space.
        A0: Its coarse matrix: its pattern tells which neighbourhoods overlap or touch.

    Returns:
        A colour 0, 1, ... for each coarse vertex of all ranks; the same on every rank, and for any
        number of ranks.

    Note:
        Collective. Every rank holds the graph of the coarse vertices.
    """
    comm = W.comm
    vertices = np.concatenate(comm.allgather(W.vertex))
    indptr, indices, _ = A0.getValuesCSR()
    rows = np.repeat(W.vertex, np.diff(indptr))
    pairs = np.unique(np.column_stack([rows, vertices[indices]]), axis=0).reshape(-1, 2)
    neighbours: dict[int, set[int]] = {int(v): set() for v in vertices}
    for part in comm.allgather(pairs):
        for i, j in part.tolist():
            neighbours[i].add(j)
            neighbours[j].add(i)
    colours: dict[int, int] = {}
    for i in sorted(neighbours):
        taken = {colours[j] for j in neighbours[i] if j in colours}
        colours[i] = next(c for c in range(len(taken) + 1) if c not in taken)
    return colours


def mark(comm: MPI.Intracomm, vertex: LongArray, energy: FloatArray, fraction: float) -> set[int]:
    """The fewest neighbourhoods that hold a fraction of Σ η_i² (Dörfler, 1996).

    Args:
        comm: Communicator. Collective.
        vertex: Coarse vertices of this rank, shape ``(num,)``.
        energy: Their η_i², shape ``(num,)``.
        fraction: Between 0 and 1.

    Returns:
        Their coarse vertices, of all ranks; the same on every rank.
    """
    vertices = np.concatenate(comm.allgather(vertex))
    energies = np.concatenate(comm.allgather(energy))
    # Ties, such as symmetric problems have, are decided by number and not by rounding errors.
    order = np.lexsort((vertices, -np.round(energies / max(energies.max(initial=0.0), 1e-300), 9)))
    running = np.cumsum(energies[order])
    if len(running) == 0 or running[-1] == 0.0:
        return set()
    count = int(np.searchsorted(running, fraction * running[-1] * (1 - 1e-12))) + 1
    return {int(v) for v in vertices[order[:count]]}


def position_in_vertex(vertex: LongArray) -> IntArray:
    """Each dof's number among those of its neighbourhood, in order; shape ``(num,)``."""
    order = np.argsort(vertex, kind="stable")
    _, start, count = np.unique(vertex[order], return_index=True, return_counts=True)
    place = np.empty(len(vertex), dtype=np.int32)
    place[order] = np.arange(len(vertex)) - np.repeat(start, count)
    return place
