# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Parts of ``bench_growth.py``: cost model, tables and figures."""
