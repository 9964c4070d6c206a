# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The overlapping subdomains that a multiscale space brings: the dofs of its neighbourhoods."""

from __future__ import annotations

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._utils.mpi import collective_errors, route
from dolfinx_msnn._utils.typing import BoolArray, FloatArray, LongArray
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace
from dolfinx_msnn.space.prolongation import create_coo_matrix


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
    # Their rows of P have no entries.
    indptr, _ = W.P.getRowIJ()
    return np.asarray(W.P.getOwnershipRange()[0] + np.flatnonzero(np.diff(indptr) == 0), np.int64)


def parts(W: MultiscaleFunctionSpace, max_dofs: int) -> list[LongArray]:
    """Divide the dofs inside the neighbourhoods into parts, without overlap.

    Each dof goes to the neighbourhood whose middle (mean of its dofs' positions) is nearest; what a
    neighbourhood gets is cut in two across its longest side until no part has more than
    ``max_dofs``. Where the cuts are does not depend on the number of ranks.

    Args:
        W: Multiscale space.
        max_dofs: Largest number of dofs of a part.

    Returns:
        Parts of the neighbourhoods that this rank computed: global fine dofs (unrolled), ascending,
        int64, owned by any rank. Together with :func:`uncovered_dofs` every fine dof is in one.

    Note:
        Collective.
    """
    own = subdomains(W)
    vertex = np.repeat([v for v, _ in own], [len(dofs) for _, dofs in own]).astype(np.int64)
    dofs = np.concatenate([np.zeros(0, np.int64), *(dofs for _, dofs in own)])
    owner = np.searchsorted(np.array(W.P.getOwnershipRanges()), dofs, side="right") - 1
    x = _positions(W, owner, dofs)
    found: list[LongArray] = []
    distance = np.zeros(len(dofs))
    with collective_errors(W.comm):
        for v, _ in own:
            mine = vertex == v
            distance[mine] = np.linalg.norm(x[mine] - x[mine].mean(axis=0), axis=1)
    kept = _nearest(W, owner, dofs, vertex, distance)
    for v, _ in own:
        mine = kept & (vertex == v)
        found += bisect(dofs[mine], x[mine], max_dofs)
    return found


def multiplicity(
    W: MultiscaleFunctionSpace, A: PETSc.Mat, sets: list[LongArray], layers: int
) -> int:
    """The largest number of sets that a fine dof is in when all have been extended by layers.

    With one layer more than the subdomains of an additive Schwarz preconditioner have, this bounds
    the largest eigenvalue of the preconditioned matrix: uᵀAu is a sum over elements, and no element
    sees more subdomains than that.

    Args:
        W: Multiscale space.
        A: Fine matrix, its graph defines the layers.
        sets: This rank's sets of global fine dofs.
        layers: How many.

    Note:
        Collective.
    """
    rows = np.concatenate([np.zeros(0, np.int64), *sets]).astype(PETSc.IntType)
    first = W.comm.exscan(len(sets)) or 0
    cols = np.repeat(np.arange(first, first + len(sets)), [len(s) for s in sets])
    ones = np.ones(len(rows))
    members = create_coo_matrix(W.V, len(sets), rows, cols.astype(PETSc.IntType), ones, A.getType())
    try:
        for _ in range(layers):
            # The pattern counts: A's has its zeros, and PETSc keeps those of the product.
            extended = A.matMult(members)
            members.destroy()
            members = extended
        indptr, _, _ = members.getValuesCSR()
    finally:
        members.destroy()
    return int(W.comm.allreduce(int(np.diff(indptr).max(initial=0)), op=MPI.MAX))


def bisect(dofs: LongArray, x: FloatArray, max_dofs: int) -> list[LongArray]:
    """Cut a set of dofs across its longest side, between two positions, until it is small enough.

    Args:
        dofs: Shape ``(n,)``.
        x: Their positions, shape ``(n, gdim)``. Dofs in one position stay together.
        max_dofs: Largest number of dofs of a part, but for dofs in one position.

    Returns:
        Parts, none of them empty.
    """
    if len(dofs) <= max(max_dofs, 0):
        return [dofs] if len(dofs) else []
    extent = np.ptp(x, axis=0)
    # Rounded: sides of equal length must be found equal whatever the rounding.
    axis = int(np.argmax(np.round(extent / max(extent.max(), np.finfo(float).tiny), 6)))
    along = np.sort(x[:, axis])
    gaps = np.flatnonzero(np.diff(along) > 1e-9 * extent[axis])
    if not len(gaps):
        return [dofs]
    k = gaps[np.argmin(np.abs(gaps + 1 - len(dofs) / 2))]
    low = x[:, axis] < (along[k] + along[k + 1]) / 2
    return bisect(dofs[low], x[low], max_dofs) + bisect(dofs[~low], x[~low], max_dofs)


def _positions(W: MultiscaleFunctionSpace, owner: LongArray, dofs: LongArray) -> FloatArray:
    """Positions of fine dofs, asked from the ranks that own them, shape ``(n, gdim)``. Collective.

    Args:
        W: Multiscale space.
        owner: Owning rank of each dof, shape ``(n,)``.
        dofs: Global fine dofs (unrolled), shape ``(n,)``.
    """
    own = W.V.tabulate_dof_coordinates()[:, : W.V.mesh.geometry.dim]
    source, (asked,) = route(W.comm, owner, dofs)
    blocks = (asked - W.P.getOwnershipRange()[0]) // W.V.dofmap.index_map_bs
    _, (told,) = route(W.comm, source, own[blocks])
    x = np.empty_like(told)
    x[np.argsort(owner, kind="stable")] = told
    return x


def _nearest(
    W: MultiscaleFunctionSpace,
    owner: LongArray,
    dofs: LongArray,
    vertex: LongArray,
    distance: FloatArray,
) -> BoolArray:
    """Which of the pairs (dof, vertex) of all ranks has the least distance for its dof.

    All arrays have shape ``(n,)``, as has the result. Collective.
    """
    scale = W.comm.allreduce(distance.max(initial=0.0), op=MPI.MAX) or 1.0
    # Rounded, so that ties are ties on any number of ranks; the lower vertex takes them.
    steps = np.round(distance / (1e-9 * scale)).astype(np.int64)
    index = np.arange(len(dofs))
    source, (d, v, s, i) = route(W.comm, owner, dofs, vertex, steps, index)
    order = np.lexsort((v, s, d))
    first = np.ones(len(d), dtype=bool)
    first[1:] = np.diff(d[order]) > 0
    best = order[first]
    _, (won,) = route(W.comm, source[best], i[best])
    kept = np.zeros(len(dofs), dtype=bool)
    kept[won] = True
    return kept
