# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Dataclasses made from TOML tables, checked key by key."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from dolfinx_msnn._utils.checks import is_finite, require

_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def key(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Sequence[str] = (),
    table: str = "",
) -> Any:
    """A field of a dataclass: the values that it, or each entry of a list, may have.

    ``table`` is the name of its key, if not that of the field.
    """
    metadata = {"range": (low, high), "choices": tuple(choices), "table": table}
    return dataclasses.field(default=default, metadata=metadata)


def from_table[T](cls: type[T], table: object, where: str = "") -> T:
    """A dataclass from a TOML table; its fields may be dataclasses and tuples themselves.

    Args:
        cls: Dataclass whose annotations are types, with fields made by :func:`key`.
        table: The table.
        where: Its name.

    Raises:
        ValueError: For the first key that is unknown, missing, of the wrong type or out of range;
            names the key.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} must be a table, got {table!r}.")
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # cls is a dataclass
    known = {entry.metadata.get("table") or entry.name: entry for entry in fields}
    prefix = f"{where}." if where else ""
    for name in table:
        if name not in known:
            raise ValueError(f"{prefix}{name} is not a known key; expected {', '.join(known)}.")
    values = {}
    for name, entry in known.items():
        if name in table:
            values[entry.name] = _convert(table[name], entry.type, prefix + name, entry.metadata)
        elif entry.default is dataclasses.MISSING:
            raise ValueError(f"{prefix}{name} is missing.")
    return cls(**values)


def check_range(value: float, where: str, low: float, high: float) -> None:
    """Refuse a number that is not in a closed interval, whose upper end may be infinite.

    Raises:
        ValueError: With the name and the value.
    """
    bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
    require(low <= value <= high, where, value, bounds)


def _convert(value: Any, kind: Any, where: str, allowed: Mapping[str, Any]) -> Any:
    """A value of a type, which may be a dataclass or a tuple of equal types."""
    if get_origin(kind) is tuple:
        require(isinstance(value, list), where, value, "a list")
        item = get_args(kind)[0]
        return tuple(_convert(v, item, f"{where}[{k}]", allowed) for k, v in enumerate(value))
    if hasattr(kind, "parse"):
        return kind.parse(value, where)
    if dataclasses.is_dataclass(kind):
        return from_table(kind, value, where)  # type: ignore[arg-type]  # a class, no instance
    if kind is float:
        ok = is_finite(value)
    elif kind is int:
        ok = isinstance(value, int) and not isinstance(value, bool)
    else:
        ok = isinstance(value, kind)
    require(ok, where, value, _NAMES[kind])
    if kind in (int, float):
        check_range(value, where, *allowed["range"])
    elif allowed["choices"]:
        choices = ", ".join(c for c in allowed["choices"] if c)
        require(value in allowed["choices"], where, value, f"one of {choices}")
    return kind(value)
