# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Kept so that imports of this path keep working; see :mod:`dolfinx_msnn.nn.lattice`."""

from dolfinx_msnn.nn.lattice import Pose, interpolation, network_input

__all__ = ["Pose", "interpolation", "network_input"]
