# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse operators, their null spaces and solvers, and the two-level preconditioner."""
