# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Set-up that all tests share."""

# Loads the MPI library that DOLFINx and petsc4py link to, whichever a test module imports first.
from mpi4py import MPI  # noqa: F401
