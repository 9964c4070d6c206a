# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Fluxes that are in equilibrium with the sources, computed patch by patch.

The mixed problem of a patch is hybridised: cells are eliminated, which leaves a sparse, positive
definite system with one unknown a facet (Arnold, Brezzi, RAIRO M2AN 19, 1985).
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from dolfinx_msnn._utils.mpi import collective_errors, route
from dolfinx_msnn._utils.typing import BoolArray, FloatArray, LongArray
from dolfinx_msnn.algebra.local_solvers import factorise
from dolfinx_msnn.estimate.patches import Patches

#: Largest sum of all sources and flows, relative to their size, of compatible Neumann data.
COMPATIBLE = 1e-6


def balance(patches: Patches) -> float:
    """Add hat functions to ``patches.u`` until the sources and flows of each patch add up to zero.

    Returns:
        The energy norm of what was added, squared.

    Raises:
        ValueError: If u is fixed nowhere, and the data as a whole are not in equilibrium.

    Note:
        Collective.
    """
    comm, cell, patch = patches.comm, patches.cell, patches.patch
    source, flows = patches.flows()
    lack = source - flows.sum(axis=1)
    fixed = patches.dirichlet[cell].any(axis=1)
    sums = [
        np.bincount(patch, weights=w, minlength=patches.num) for w in (lack, np.abs(lack), fixed)
    ]
    excess, scale, fixed = np.sum(comm.allgather(sums), axis=0)
    singular = fixed.sum() == 0
    if singular and abs(excess.sum()) > COMPATIBLE * scale.sum():
        raise ValueError(
            "bcs fix no boundary facet, and the integrals of f and g do not add up to zero but "
            f"to {excess.sum():.4g}; expected data in equilibrium."
        )
    # Energies of the hat functions: one row a quadrature point and direction.
    slopes = patches.gradient(patches.chi, cell)
    slopes *= np.sqrt(patches.weights[cell] * patches.kappa[cell, None])[:, :, None]
    width = slopes.shape[1] * slopes.shape[2]
    rows = cell[:, None] * width + np.arange(width)
    X = sp.csr_matrix(
        (slopes.reshape(-1), (rows.reshape(-1), np.repeat(patch, width))),
        shape=(len(patches.dofs) * width, patches.num),
    )
    A = sum(comm.allgather((X.T @ X).tocsr()))
    free = np.flatnonzero((fixed == 0) & (scale > 0))
    # Without Dirichlet conditions the coefficients are determined up to a constant.
    free = free[1:] if singular else free
    c = np.zeros(patches.num)
    if len(free):
        c[free] = spla.spsolve(A[free][:, free].tocsc(), excess[free])
    patches.u += np.einsum("nk,nk->n", patches.hats.values, c[patches.hats.vertices])
    return float(max(c @ (A @ c), 0.0))


def eliminate(M: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Schur complements of cells: q = −S (m + λ) + z g minimises qᵀMq/2 + (m + λ)ᵀq, Σ q = g.

    Args:
        M: Cell matrices, shape ``(num_cells, nf, nf)``.

    Returns:
        S, shape ``(num_cells, nf, nf)``, and z, shape ``(num_cells, nf)``.
    """
    Z = np.linalg.inv(M)
    z = Z.sum(axis=2)
    z_sum = z.sum(axis=1)
    return Z - np.einsum("ci,cj->cij", z, z / z_sum[:, None]), z / z_sum[:, None]


def equilibrate(
    patches: Patches, S: FloatArray, h: FloatArray, boundary: FloatArray
) -> tuple[FloatArray, float]:
    """Solve the mixed problems of all patches, and sum their fluxes. Collective.

    Args:
        patches: Pairs of a patch and a cell of this rank; the cells of a patch may be on any rank.
        S: Schur complements of :func:`eliminate`, shape ``(num_cells, nf, nf)``.
        h: Flows of the cells alone, −S m + z g, shape ``(num_pairs, nf)``.
        boundary: Outward flows prescribed on boundary facets without Dirichlet condition (zero on
            others), shape ``(num_pairs, nf)``.

    Returns:
        The flux, shape ``(num_cells, nf)``, and the largest lack of equilibrium in a connected part
        of a patch, relative to the flows there; if it is more than rounding errors, there is no
        equilibrated flux.
    """
    comm, cell = patches.comm, patches.cell
    num_cells, nf = patches.dirichlet.shape
    data = np.concatenate([h, boundary, S[cell].reshape(len(cell), nf**2)], axis=1)
    source, (patch, cell, facets, data, dirichlet) = route(
        comm,
        patches.owner[patches.patch],
        patches.patch,
        cell,
        patches.cells.facets[cell],
        data,
        patches.dirichlet[cell],
    )
    q = np.empty((len(patch), nf))
    worst = 0.0
    order = np.argsort(patch, kind="stable")
    start = np.flatnonzero(np.diff(patch[order], prepend=-1))
    with collective_errors(comm):
        for rows in np.split(order, start[1:]) if len(order) else []:
            alone, given, matrix = np.split(data[rows], [nf, 2 * nf], axis=1)
            matrix = matrix.reshape(-1, nf, nf)
            q[rows], lack = _solve_patch(facets[rows], matrix, alone, given, dirichlet[rows])
            worst = max(worst, lack)
    _, (cell, q) = route(comm, source, cell, q)
    flux = np.zeros((num_cells, nf))
    np.add.at(flux, cell, q)
    return flux, comm.allreduce(worst, op=MPI.MAX)


def _solve_patch(
    facets: LongArray, S: FloatArray, h: FloatArray, boundary: FloatArray, dirichlet: BoolArray
) -> tuple[FloatArray, float]:
    """Flows of the n cells of one patch; zero through its boundary inside the domain.

    Arguments and results are as for :func:`equilibrate`: ``facets``, ``h``, ``boundary`` and
    ``dirichlet`` of shape ``(n, nf)``, ``S`` of shape ``(n, nf, nf)``.
    """
    numbers, local = np.unique(facets, return_inverse=True)
    local = local.reshape(facets.shape)
    n, nf = len(numbers), facets.shape[1]
    rows, cols = np.repeat(local, nf, axis=1).reshape(-1), np.tile(local, (1, nf)).reshape(-1)
    K: Any = sp.coo_matrix((S.reshape(-1), (rows, cols)), shape=(n, n)).tocsr()
    right = np.bincount(local.reshape(-1), weights=(h - boundary).reshape(-1), minlength=n)
    free = np.ones(n, dtype=bool)
    free[local[dirichlet]] = False
    # Parts of a patch that share no facet (two sides of a slit) are independent.
    num, part = sp.csgraph.connected_components(K, directed=False)
    floating = np.ones(num, dtype=bool)
    floating[part[~free]] = False
    excess = np.abs(np.bincount(part, weights=right, minlength=num))[floating]
    # Relative to all flows of the part: those of one cell may be rounding errors only.
    flow = np.bincount(part[local[:, 0]], weights=np.abs(h).sum(axis=1), minlength=num)[floating]
    lack = float(np.max(excess / np.maximum(flow, np.finfo(float).tiny), initial=0.0))
    # Without a Dirichlet facet multipliers are determined up to a constant.
    free[np.unique(part, return_index=True)[1][floating]] = False
    solution = np.zeros(n)
    if free.any():
        solution[free] = factorise(K[free][:, free]).solve(right[free])
    return h - np.einsum("cij,cj->ci", S, solution[local]), lack
