# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Error control of multiscale solutions: indicators, guaranteed bounds, adaptive enrichment."""

import dolfinx_msnn._utils.environment  # noqa: F401  # says what is missing
from dolfinx_msnn.algebra.local_solvers import SubdomainSolvers
from dolfinx_msnn.estimate.adaptive import AdaptiveSolution, Round, adapt
from dolfinx_msnn.estimate.fine_bound import (
    FineErrorBound,
    Preconditioner,
    SchwarzPreconditioner,
    bound_fine_error,
)
from dolfinx_msnn.estimate.flux_bound import ErrorBound, bound_error
from dolfinx_msnn.estimate.indicators import (
    LocalIndicators,
    local_energies,
    local_indicators,
    residual,
)
from dolfinx_msnn.estimate.stability import schwarz_lambda_min, stability_constants
from dolfinx_msnn.space.enrichment import enrich

__all__ = [
    "AdaptiveSolution",
    "ErrorBound",
    "FineErrorBound",
    "LocalIndicators",
    "Preconditioner",
    "Round",
    "SchwarzPreconditioner",
    "SubdomainSolvers",
    "adapt",
    "bound_error",
    "bound_fine_error",
    "enrich",
    "local_energies",
    "local_indicators",
    "residual",
    "schwarz_lambda_min",
    "stability_constants",
]
