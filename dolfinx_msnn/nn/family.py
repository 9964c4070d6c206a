# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Families of coefficient fields whose parameters are drawn at random."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from dolfinx_msnn._utils.checks import is_finite, require
from dolfinx_msnn.nn.tables import check_range

type Draw = float | tuple[float, float] | tuple[str, float, float]

_CONTRAST = {"contrast": (1.0, math.inf)}
_LENGTH = {"correlation_length": (1e-6, math.inf)}
_FRACTION = {"fraction": (1e-6, 1.0 - 1e-6)}

#: Parameters of each family, and the closed interval each lies in.
FAMILIES: dict[str, dict[str, tuple[float, float]]] = {
    "channels": {
        **_CONTRAST,
        "num_channels": (0, 10_000),
        "thickness": (1e-6, 1.0 - 1e-6),
        "num_inclusions": (0, 1_000_000),
    },
    "inclusions": {**_CONTRAST, **_FRACTION, "count": (0, 1_000_000)},
    "two_phase": {**_CONTRAST, **_FRACTION, **_LENGTH},
    "log_normal": {**_CONTRAST, "variance": (1e-12, math.inf), **_LENGTH},
}
_INTEGERS = ("num_channels", "num_inclusions", "count")


@dataclass(frozen=True)
class Family:
    """A family of coefficient fields and how its parameters are drawn.

    Attributes:
        name: One of :data:`FAMILIES`.
        weight: How often it is chosen, relative to the others.
        parameters: A number, ``(low, high)`` for a uniform draw, or ``("log10", low, high)`` for
            ten to the power of a uniform draw; by name.
    """

    name: str
    weight: float
    parameters: tuple[tuple[str, Draw], ...]

    def draw(self, rng: np.random.Generator) -> dict[str, float | int]:
        """Draw all parameters, in the order of the file."""
        drawn: dict[str, float | int] = {}
        for key, spec in self.parameters:
            if not isinstance(spec, tuple):
                value = float(spec)
            elif len(spec) == 2:
                value = float(rng.uniform(*spec))
            else:
                value = float(10.0 ** rng.uniform(*spec[1:]))
            drawn[key] = round(value) if key in _INTEGERS else value
        return drawn

    @classmethod
    def parse(cls, table: object, where: str) -> Self:
        """From a TOML table.

        Raises:
            ValueError: For the first key that is wrong.
        """
        if not isinstance(table, dict):
            raise ValueError(f"{where} must be a table, got {table!r}.")
        rest = dict(table)
        name, weight = rest.pop("name", None), rest.pop("weight", 1.0)
        known = FAMILIES.get(str(name), {})
        require(known, f"{where}.name", name, f"one of {', '.join(FAMILIES)}")
        require(is_finite(weight) and weight > 0, f"{where}.weight", weight, "a positive number")
        for key in rest:
            if key not in known:
                raise ValueError(
                    f"{where}.{key} is no parameter of {name}; expected {', '.join(known)}."
                )
        draws = ((key, _draw(value, f"{where}.{key}", *known[key])) for key, value in rest.items())
        return cls(name, float(weight), tuple(draws))

    def describe(self) -> dict[str, Any]:
        """As a table for a file's provenance."""
        spec = {k: list(v) if isinstance(v, tuple) else v for k, v in self.parameters}
        return {"name": self.name, "weight": self.weight, **spec}


def _draw(value: Any, where: str, low: float, high: float) -> Draw:
    """A parameter: a number, a range, or a range of exponents of ten."""
    power = isinstance(value, dict) and list(value) == ["log10"]
    ends = value["log10"] if power else [value, value] if is_finite(value) else value
    ok = isinstance(ends, list) and len(ends) == 2 and all(map(is_finite, ends))
    expected = "a number, [low, high] or { log10 = [low, high] }"
    require(ok and ends[0] <= ends[1], where, value, expected)
    first, last = map(float, ends)
    for end in (first, last):
        if power:
            check_range(end, f"{where}.log10", -300, 300)
        check_range(10.0**end if power else end, where, low, high)
    if power:
        return "log10", first, last
    return (first, last) if ends is value else first
