# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The PETSc side of a multiscale space, under the names that DOLFINx uses."""

from dolfinx_msnn.linear import LinearProblem
from dolfinx_msnn.nonlinear import NonlinearProblem, PicardProblem
from dolfinx_msnn.operators import (
    assemble_coarse_matrix,
    assemble_coarse_vector,
    create_coarse_matrix,
    create_coarse_solver,
)

__all__ = [
    "LinearProblem",
    "NonlinearProblem",
    "PicardProblem",
    "assemble_coarse_matrix",
    "assemble_coarse_vector",
    "create_coarse_matrix",
    "create_coarse_solver",
]
