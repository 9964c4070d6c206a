# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Imported before DOLFINx is: says what is missing. Training does without, see ``nn.train``."""

from dolfinx_msnn._utils.compat import check_environment

check_environment()
