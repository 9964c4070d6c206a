# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Error control of multiscale solutions: indicators, guaranteed bounds, adaptive enrichment."""

from dolfinx_msnn.indicators import (
    LocalIndicators,
    SubdomainSolvers,
    local_indicators,
    residual,
)

__all__ = [
    "LocalIndicators",
    "SubdomainSolvers",
    "local_indicators",
    "residual",
]
