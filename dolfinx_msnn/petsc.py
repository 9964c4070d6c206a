# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The PETSc side of a multiscale space, under the names that DOLFINx uses."""

from dolfinx_msnn.linear import LinearProblem
from dolfinx_msnn.nonlinear import NonlinearProblem
from dolfinx_msnn.operators import (
    assemble_coarse_matrix,
    assemble_coarse_vector,
    create_coarse_matrix,
    create_coarse_solver,
)
from dolfinx_msnn.picard import PicardProblem
from dolfinx_msnn.time_stepping import BDF
from dolfinx_msnn.transient import TransientProblem

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
