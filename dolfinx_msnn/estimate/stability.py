# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Computed constants of stable decompositions, which turn residuals into bounds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpi4py import MPI

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import ufl
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.checks import check_instance, is_number, require
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.linalg import whiten
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray
from dolfinx_msnn.algebra.local_solvers import factorise
from dolfinx_msnn.bases.inertia import can_count, inertia
from dolfinx_msnn.bases.nullspace import null_motions
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.neighbourhoods import cell_membership
from dolfinx_msnn.local.problem import LocalProblem
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Neighbourhoods with at most this many free dofs are solved densely.
DENSE = 300

#: The basis functions represent a function if they leave less than this fraction of its energy:
#: bases that are computed in single precision (FilteredBasis) leave some 1e-12 at high contrast.
LEAK_TOLERANCE = 1e-10


@checked
def stability_constants(
    W: MultiscaleFunctionSpace,
    coarse: CoarseGrid,
    a: ufl.Form,
    bcs: Sequence[DirichletBC] = (),
    *,
    vertices: Iterable[int] | None = None,
) -> dict[int, float]:
    """The constants τ_i: how well the basis functions of ω_i represent χ_i v. Collective.

    τ_i = max over v of min over w in the span of the basis functions of ω_i of
    ‖χ_i v − w‖²_A / ‖v‖²_{A_i}, with the natural matrix A_i of ω_i. For a spectral basis of the
    pencil (A_i, D_i A_i D_i) it is at most the inverse of the first eigenvalue left out (GenEO:
    Spillane et al., Numer. Math. 126, 2014, Lemma 2.11); computed here, it holds for any basis:
    of other pencils, filtered, predicted or enriched. It does not grow when functions are added.

    Small neighbourhoods are solved densely. On larger ones Lanczos gives a value, 2 % are added,
    and that no value lies above is verified by the inertia of a sparse LDLᵀ factorisation
    (Sylvester); where PETSc has no MUMPS the value is doubled instead, and not verified.

    Args:
        W: Multiscale space.
        coarse: Coarse grid that it was made with.
        a: Bilinear form that it was made with.
        bcs: Dirichlet conditions that it was made with.
        vertices: Which of this rank's neighbourhoods; default all.

    Returns:
        τ_i by coarse vertex, for this rank's neighbourhoods; infinite where the basis functions
        cannot represent χ_i times a function without energy (the constant, in diffusion).

    Raises:
        ValueError: If the arguments are not those that ``W`` was made with.

    Note:
        Values hold up to rounding errors, those of the basis included: a function of which less
        than 1e-10 of the energy is left counts as represented.
    """
    with collective_errors(W.comm) as checks:
        forms.check_form(a, W.V, "a")
        forms.check_bcs(bcs, W.V)
        ok = vertices is None or isinstance(vertices, Iterable)
        require(ok, "vertices", vertices, "coarse vertices of this rank")
        checks.agree(a=forms.identify(a))
    grid = copy.copy(coarse)
    grid.oversampling = 0
    problems = LocalProblems(W.V, grid, a, None, bcs)
    R, first = W.R, W.dof_range[0]
    wanted = None if vertices is None else set(vertices)
    constants: dict[int, float] = {}
    with collective_errors(W.comm):
        for problem in problems:
            support = np.flatnonzero((problem.chi > 0) & ~problem.dirichlet)
            if len(support) == 0 or (wanted is not None and problem.vertex not in wanted):
                continue
            order = support[np.argsort(problem.dofs[support])]
            functions = np.zeros((int((W.vertex == problem.vertex).sum()), problem.num_dofs))
            for row, k in zip(functions, np.flatnonzero(W.vertex == problem.vertex), strict=True):
                columns, values = R.getRow(first + int(k))
                if not np.array_equal(columns, problem.dofs[order]):
                    raise ValueError(
                        f"The basis functions of {problem.name} have another support than the "
                        "coarse grid and conditions given; expected those W was made with."
                    )
                row[order] = values
            constants[problem.vertex] = _constant(problem, functions)
        if wanted is None and set(constants) - set(W.vertex.tolist()):
            # τ_i has no meaning without basis functions; or W was built on other ranks.
            lost = min(set(constants) - set(W.vertex.tolist()))
            raise ValueError(
                f"The multiscale space has no basis function of coarse vertex {lost} on the rank "
                "that holds this neighbourhood; expected a space built on this number of ranks, "
                "with a basis function in each neighbourhood."
            )
    return constants


@checked
def schwarz_lambda_min(
    W: MultiscaleFunctionSpace, coarse: CoarseGrid, constants: Mapping[int, float]
) -> float:
    """A lower bound of λ_min(M⁻¹A) for :class:`SchwarzPreconditioner` on ``W``. Collective.

    1/max(1, θ) with θ the largest Σ τ_i over the neighbourhoods of one cell: v − v_0 splits into
    v_i = χ_i v − w_i, Σ ‖v_i‖² ≤ θ ‖v‖², and the coarse part is treated exactly (the hybrid, or
    balanced, Schwarz method: Toselli, Widlund, Domain Decomposition Methods, 2005, section 2.5).

    Args:
        W: Multiscale space.
        coarse: Coarse grid that it was made with.
        constants: τ_i of this rank's neighbourhoods from :func:`stability_constants`.

    Returns:
        The bound; zero if a τ_i is infinite. The same on every rank.

    Raises:
        ValueError: If a neighbourhood has no constant, or one that is NaN or negative.
    """
    with collective_errors(W.comm):
        check_constants(constants, W.vertex)
        # Those of all ranks are added up.
        for vertex in set(constants) - set(W.eigenvalues):
            raise ValueError(f"constants has coarse vertex {vertex}, which is not on this rank.")
        if max(constants, default=0) >= coarse.num_vertices:
            raise ValueError("coarse is another grid than W was made with; expected the same one.")
    tau = np.zeros(coarse.num_vertices)
    for vertex, value in constants.items():
        tau[vertex] = value
    W.comm.Allreduce(MPI.IN_PLACE, tau)
    hats = coarse.hats(W.V.tabulate_dof_coordinates())
    largest = float(((cell_membership(W.V, coarse, hats) > 0) @ tau).max(initial=0.0))
    return float(1.0 / max(1.0, max(W.comm.allgather(largest))))


def check_constants(constants: Mapping[int, float], vertices: Iterable[int]) -> None:
    """Refuse constants unless there is a valid one for each neighbourhood. Not collective."""
    check_instance(constants, Mapping)
    for vertex in {int(v) for v in vertices} - set(constants):
        raise ValueError(
            f"constants has no entry for coarse vertex {vertex}; expected one for each "
            "neighbourhood of this rank."
        )
    for vertex, value in constants.items():
        ok = is_number(value) and value >= 0
        require(ok, f"constants[{vertex}]", value, "a number not below zero")


def _constant(problem: LocalProblem, functions: FloatArray) -> float:
    """τ_i of one neighbourhood, with its basis functions as rows over all its dofs."""
    free = np.flatnonzero(~problem.dirichlet)
    A = problem.A[free][:, free].tocsr()
    chi, functions = problem.chi[free], functions[:, free]
    DAD = A.multiply(chi[:, None]).multiply(chi[None, :]).tocsr()
    # Orthonormal in energy; dependent ones are left out. Twice, as energies differ by the contrast
    # at first, and rounding errors with them.
    for _ in range(2):
        functions = whiten(functions @ (A @ functions.T)).T @ functions
    B = chi[:, None] * (A @ functions.T)
    fixed = _null_dofs(null_motions(problem, A, free), DAD, B)
    if fixed is None:
        return float("inf")
    rest = np.setdiff1d(np.arange(len(free)), fixed)
    A, DAD, B = A[rest][:, rest], DAD[rest][:, rest], B[rest]
    if len(rest) <= DENSE:
        values = scipy.linalg.eigvalsh(DAD.toarray() - B @ B.T, A.toarray())
        return float(max(values.max(initial=0.0), 0.0))
    return _largest(A, DAD, B)


def _null_dofs(null: FloatArray, DAD: Any, B: FloatArray) -> Any:
    """Dofs that may be fixed since a motion without energy can be added; ``None`` if it may not.

    Args:
        null: The motions without energy, shape ``(num, n)``.
        DAD: D A D with D = diag(χ), sparse, shape ``(n, n)``.
        B: D A times the basis functions, shape ``(n, m)``.
    """
    if len(null) == 0:
        return np.zeros(0, dtype=np.int64)
    null /= np.linalg.norm(null, axis=1)[:, None]
    whole = np.trace(null @ (DAD @ null.T))
    left = whole - np.trace((null @ B) @ (B.T @ null.T))
    if left > LEAK_TOLERANCE * max(whole, 1e-300):
        return None
    return scipy.linalg.qr(null, mode="r", pivoting=True)[-1][: len(null)]


def _largest(A: Any, DAD: Any, B: FloatArray) -> float:
    """Upper bound of the largest eigenvalue of (DAD − B Bᵀ, A)."""
    n = A.shape[0]
    factor = factorise(A)
    K = spla.LinearOperator((n, n), matvec=lambda v: DAD @ v - B @ (B.T @ v), dtype=np.float64)
    inverse = spla.LinearOperator((n, n), matvec=factor.solve, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(n)
    value = spla.eigsh(
        K, k=1, M=A, Minv=inverse, which="LA", tol=1e-2, v0=start, return_eigenvectors=False
    )[0]
    value = max(float(value), 1e-12)
    if not can_count():
        return 2 * value
    for _ in range(60):
        value *= 1.02
        if _is_above(value, A, DAD, B):
            return value
        value *= 1.1
    return float("inf")


def _is_above(value: float, A: Any, DAD: Any, B: FloatArray) -> bool:
    """Whether value·A − DAD + B Bᵀ is positive definite, by the inertia of an augmented matrix."""
    n, m = B.shape
    # Its Schur complement by the lower right block is the matrix in question.
    K = sp.bmat([[value * A - DAD, B], [B.T, -sp.identity(m)]], format="csr")
    return inertia(K, "a neighbourhood") == (m, 0, n)
