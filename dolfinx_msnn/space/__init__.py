# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""From local modes to the multiscale space and its prolongation matrix P."""
