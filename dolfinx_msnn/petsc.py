# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The PETSc side of a multiscale space, under the names that DOLFINx uses."""

from dolfinx_msnn._utils.solvers import create_coarse_solver
from dolfinx_msnn.algebra.product import (
    assemble_coarse_matrix,
    assemble_coarse_vector,
    create_coarse_matrix,
)
from dolfinx_msnn.problems.bdf import BDF
from dolfinx_msnn.problems.linear import LinearProblem
from dolfinx_msnn.problems.nonlinear import NonlinearProblem, PicardProblem
from dolfinx_msnn.problems.transient import TransientProblem

__all__ = [
    "BDF",
    "LinearProblem",
    "NonlinearProblem",
    "PicardProblem",
    "TransientProblem",
    "assemble_coarse_matrix",
    "assemble_coarse_vector",
    "create_coarse_matrix",
    "create_coarse_solver",
]
