# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What the benchmark programs share. Nothing here imports a program."""

import os

# One thread a process, set before anything that reads it is loaded: import this package first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
