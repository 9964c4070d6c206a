# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Where local bases come from."""

import dolfinx_msnn._utils.environment  # noqa: F401  # says what is missing
from dolfinx_msnn.bases.filtered import FilteredBasis, FilterReport
from dolfinx_msnn.bases.guarded import GuardedBasis, GuardReport, guard_table
from dolfinx_msnn.bases.harmonic import HarmonicBasis, HarmonicReport
from dolfinx_msnn.bases.protocol import BasisNeeds, LocalBasis, LocalModes
from dolfinx_msnn.bases.spectral import SpectralBasis

__all__ = [
    "BasisNeeds",
    "FilterReport",
    "FilteredBasis",
    "GuardReport",
    "GuardedBasis",
    "HarmonicBasis",
    "HarmonicReport",
    "LocalBasis",
    "LocalModes",
    "SpectralBasis",
    "guard_table",
]
