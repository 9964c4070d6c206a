# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Checks that all bases make of their arguments and of the pencils they get. None is collective."""

from __future__ import annotations

import numpy as np

from dolfinx_msnn._utils.checks import is_number, positive_integer
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.local.problem import LocalProblem


def count_or_limit(
    num_modes: int | None,
    name: str,
    limit: float | None,
    max_modes: int | None,
    defaults: tuple[int, int],
) -> int:
    """How many functions a basis gives, or gives at most where a limit chooses the number.

    Args:
        num_modes: What the user gave, as the next ones.
        name: Of the limit.
        limit: In place of ``num_modes``.
        max_modes: Only with ``limit``.
        defaults: Of ``num_modes`` and of ``max_modes``.

    Raises:
        ValueError: If they contradict each other or are out of range.
    """
    if limit is not None and num_modes is not None:
        raise ValueError(
            f"Give num_modes or {name}, not both (got num_modes={num_modes!r}, {name}={limit!r})."
        )
    if limit is None and max_modes is not None:
        raise ValueError(f"max_modes={max_modes!r} needs a {name}; use num_modes instead.")
    if limit is None:
        return positive_integer("num_modes", defaults[0] if num_modes is None else num_modes)
    return positive_integer("max_modes", defaults[1] if max_modes is None else max_modes)


def check_threshold(threshold: object) -> None:
    """Refuse what is neither ``None`` nor a bound of eigenvalues.

    Raises:
        ValueError: With the value.
    """
    if threshold is not None and not (is_number(threshold) and 0 < threshold < np.inf):
        raise ValueError(f"threshold must be a positive number, got {threshold!r}.")


def check_energies(
    problem: LocalProblem, energy: FloatArray, size: FloatArray, diagonal: FloatArray
) -> None:
    """Refuse S_i = 0, and A_i if it gives a function a negative energy.

    Args:
        problem: The local problem.
        energy: zᵀA z of some functions.
        size: What those energies could be, so that rounding errors are told from negative ones.
        diagonal: diag(S).

    Raises:
        ValueError: Naming the neighbourhood.
    """
    if not np.any(diagonal > 0):
        raise ValueError(
            f"The form s vanishes on {problem.name}; expected one that is positive somewhere in "
            "every neighbourhood."
        )
    if np.any(energy < -1e-10 * size):
        raise ValueError(
            f"The form a is not positive semi-definite on {problem.name}, where it gives the "
            f"energy {energy.min():.4g}; expected a coercive form."
        )


def check_signs(problem: LocalProblem, values: FloatArray, scale: float) -> None:
    """Refuse eigenvalues that are negative by more than rounding errors.

    Args:
        problem: The local problem.
        values: Eigenvalues or Ritz values.
        scale: Scale of the wanted eigenvalues.

    Raises:
        ValueError: Naming the neighbourhood.
    """
    least, largest = values.min(), np.abs(values).max()
    if least < -1e-6 * max(largest, scale):
        raise ValueError(
            f"The form a is not positive semi-definite on {problem.name}, where it has the "
            f"eigenvalue {least:.4g}; expected a coercive form."
        )
