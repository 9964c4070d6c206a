# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Checks of numbers that users give."""

from __future__ import annotations

import numpy as np


def is_number(value: object) -> bool:
    """Whether a value is a real number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def positive_integer(name: str, value: object) -> int:
    """Refuse what is not a positive integer.

    Raises:
        ValueError: With the argument's name and value.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    return int(value)
