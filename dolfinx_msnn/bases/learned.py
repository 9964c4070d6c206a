# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Kept so that imports of this path keep working; see :mod:`dolfinx_msnn.nn.learned`."""

from dolfinx_msnn.nn.learned import LearnedBasis, LearnedReport

__all__ = ["LearnedBasis", "LearnedReport"]
