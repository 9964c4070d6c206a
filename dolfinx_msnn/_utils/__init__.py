# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Useful in any add-on to DOLFINx: MPI, PETSc, forms, meshes, checks."""
