# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""``python -m dolfinx_msnn.cli`` is ``msnn``."""

from dolfinx_msnn.cli import main

main()
