# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coefficient fields: seeded generators, and readers of data on a lattice, in 2D and 3D.

A generator (:class:`Channels`, :class:`Inclusions`, :class:`TwoPhase`, :class:`LogNormal`) is a
function on the unit box, drawn from ``numpy``'s ``PCG64(seed)`` alone. On a mesh, the unit box is
mapped onto the mesh's bounding box and the field evaluated at cell midpoints, so one seed gives
one field at any mesh size, cell type and number of ranks. Lengths are fractions of the box.
:func:`channels`, :func:`inclusions`, :func:`two_phase` and :func:`log_normal` do both steps.
"""

import dolfinx_msnn._utils.environment  # noqa: F401  # says what is missing
from dolfinx_msnn.fields._base import Field
from dolfinx_msnn.fields.bodies import Channels, Inclusions, channels, inclusions
from dolfinx_msnn.fields.gaussian import LogNormal, TwoPhase, log_normal, two_phase
from dolfinx_msnn.fields.lattice import LatticeField
from dolfinx_msnn.fields.readers import from_array, read_image_stack, read_spe10

__all__ = [
    "Channels",
    "Field",
    "Inclusions",
    "LatticeField",
    "LogNormal",
    "TwoPhase",
    "channels",
    "from_array",
    "inclusions",
    "log_normal",
    "read_image_stack",
    "read_spe10",
    "two_phase",
]
