# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The version of dolfinx_msnn; the one place that states it."""

__version__ = "0.2.0"
