# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Checks of what users give. What is wrong is said in one form: "x must be ..., got ...".

Nothing is collective.
"""

from __future__ import annotations

import math
import numbers
import os
import sys
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt


def require(ok: object, name: str, given: object, expected: str) -> None:
    """Raise a ``ValueError`` of one sentence unless ``ok``."""
    if not ok:
        raise ValueError(f"{name} must be {expected}, got {given!r}.")


def check_instance(value: object, kind: type) -> None:
    """Raise a ``ValueError`` unless ``value`` is a ``kind``."""
    if not isinstance(value, kind):
        raise ValueError(f"Expected a {kind.__name__}, got {type(value).__name__}.")


def point(x: npt.NDArray[np.floating]) -> str:
    """Coordinates as messages show them, e.g. ``(0.5, 0.25)``."""
    return f"({', '.join(f'{v:.4g}' for v in x)})"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, maybe infinite or NaN."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a finite real number, and as a float too."""
    # Compared, because math.isfinite overflows with large integers.
    return is_number(value) and bool(abs(value) <= sys.float_info.max)


def is_integer(value: Any, least: int = 0) -> bool:
    """Whether a value is an integer of at least ``least``."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and int(value) >= least


def positive_integer(name: str, value: Any) -> int:
    """Refuse what is not a positive integer.

    Raises:
        ValueError: With the argument's name and value.
    """
    require(is_integer(value, 1), name, value, "a positive integer")
    return int(value)


def number_between(
    name: str, value: Any, low: float = 0.0, high: float = math.inf, *, closed: bool = False
) -> float:
    """Refuse what is not a number between two others.

    Args:
        name: Name of the argument.
        value: Its value.
        low: Lower bound, not allowed itself.
        high: Upper bound.
        closed: Whether ``high`` is allowed.

    Raises:
        ValueError: With the argument's name and value.
    """
    number = float(value) if is_number(value) else math.nan
    ok = low < number < high or (closed and number == high)
    interval = f"({low:g}, {high:g}{']' if closed else ')'}"
    positive = (low, high) == (0.0, math.inf)
    require(ok, name, value, "a positive number" if positive else f"a number in {interval}")
    return number


def default_threads(num_threads: int | None) -> int:
    """The number asked for, or that of ``OMP_NUM_THREADS``, or one."""
    if num_threads is not None:
        return positive_integer("num_threads", num_threads)
    given = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return int(given) if given.isdigit() and int(given) > 0 else 1
