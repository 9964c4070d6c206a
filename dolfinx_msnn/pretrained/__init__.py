# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Models that come with the package; listing them needs no torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def pretrained_models() -> dict[str, Path]:
    """Models that come with the package, by name."""
    folder = Path(str(files("dolfinx_msnn") / "pretrained"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
