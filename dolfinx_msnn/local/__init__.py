# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""From mesh, forms and coarse grid to local problems."""
