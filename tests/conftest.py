# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Set-up that all tests share."""

from pathlib import Path

# Loads the MPI library that DOLFINx and petsc4py link to, whichever a test module imports first.
from mpi4py import MPI  # noqa: F401

#: Tests of what is in a checkout and not in the wheel are left out where only the wheel is.
CHECKOUT = Path(__file__).parent.parent
collect_ignore = [] if (CHECKOUT / "README.md").exists() else ["repository"]
