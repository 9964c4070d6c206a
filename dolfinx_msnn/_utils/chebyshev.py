# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Degrees of Chebyshev polynomials, and the intervals that they damp."""

import math


def degree_for(gain: float, lower: float, upper: float) -> int:
    """Smallest degree whose polynomial is ``gain`` times larger at 0 than on [lower, upper]."""
    return math.ceil(math.acosh(max(gain, 1.0)) / math.acosh((upper + lower) / (upper - lower)))


def smoothing_end(degree: int, upper: float) -> float:
    """Lower end α of the interval that a polynomial of some degree damps well: β (π / 2k)².

    For functions that are good at large scale already. At this α the polynomial is 12 to 17 times
    larger at zero than on [α, β] from degree 2 on.
    """
    return min(0.5, (0.5 * math.pi / degree) ** 2) * upper
