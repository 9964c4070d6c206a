# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The learned part: network, losses, data and model files. Imported on demand: it needs torch."""
