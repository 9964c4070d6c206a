# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The card of a model: what it is for, how it was made and how good it was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Self

from dolfinx_msnn._utils.checks import is_finite, require
from dolfinx_msnn._version import __version__

FORMAT_VERSION = 2

#: What the network's input holds; see :func:`dolfinx_msnn.nn.lattice.network_input`.
CONVENTIONS = ("log-centred-0.25", "log-centred-0.25-hat-dirichlet")

#: Factor of log κ - mean(log κ) in it.
LOG_SCALE = 0.25

#: Bounds of a card's integers: a wrong one must not exhaust the memory.
BOUNDS = {
    "format_version": (1, FORMAT_VERSION),
    "dim": (2, 3),
    "n_out": (1, 1024),
    "lattice": (2, 257),
    "samples": (1, 16),
    "num_fields": (0, 2**53),
    "width": (1, 4096),
    "modes": (1, 257),
    "layers": (1, 256),
    "steps": (0, 64),
}
#: Numbers on a lattice, of all channels together.
_LARGEST_LATTICE = 2**25


def check_lattice(dim: int, nodes: int, channels: int, name: str = "lattice") -> None:
    """Refuse a lattice of more nodes in each direction than there should be memory for.

    Args:
        dim: Dimension of space.
        nodes: Nodes in each direction.
        channels: Most channels that a network has there.
        name: Name of the argument.

    Raises:
        ValueError: With the largest number of nodes.
    """
    most = min(BOUNDS["lattice"][1], int((_LARGEST_LATTICE / channels) ** (1 / dim)))
    expected = f"at most {most} nodes in each direction for {channels} channels"
    require(nodes <= most, name, nodes, expected)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model is for, how it was made and how good it was.

    Attributes:
        pde: Name of the problem, such as ``"diffusion"``.
        dim: Dimension of space, 2 or 3.
        n_out: Lattice functions that the network predicts.
        classes: Classes of neighbourhoods it was trained on.
        lattice: Lattice nodes p in each direction.
        samples: Sub-boxes q in each direction around a node, of which the input holds log κ.
        log_kappa_range: Largest log(max κ / min κ) of a neighbourhood in training.
        family: Coefficient fields of the training set.
        num_fields: Number of fields in it.
        loss: Loss function.
        validation: Figures on fields that were not trained on.
        training_time_s: Seconds of training.
        hardware: What it was trained on.
        licence: Licence of the weights.
        width: Channels of the network.
        modes: Cosine modes per dimension.
        layers: Number of layers.
        fine: Whether the functions are on the lattice of the sub-boxes, q times finer than p.
        constant: Whether the first function is the constant.
        steps: Learned steps at the end of the network.
        loads: Kinds of the solutions that it was trained on.
        input_convention: How the input is made, one of :data:`CONVENTIONS`.
        sha256: :func:`weights_hash`, in hexadecimal; set by :func:`save_model`, as the versions.
        package_version: Version of this package.
        torch_version: Version of torch.
        format_version: Version of the card.
    """

    pde: str
    dim: int
    n_out: int
    classes: tuple[str, ...]
    lattice: int
    samples: int
    log_kappa_range: float
    family: str
    num_fields: int
    loss: str
    training_time_s: float
    hardware: str
    licence: str
    width: int
    modes: int
    layers: int
    validation: Mapping[str, float] = field(default_factory=dict)
    fine: bool = False
    constant: bool = False
    steps: int = 0
    loads: tuple[str, ...] = ()
    input_convention: str = CONVENTIONS[0]
    sha256: str = ""
    package_version: str = __version__
    torch_version: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Check types and bounds.

        Raises:
            ValueError: If an entry has another type than stated, or is out of bounds.
        """
        for name in (entry.name for entry in fields(self) if entry.type == "str"):
            _require(isinstance(getattr(self, name), str), name, getattr(self, name), "a string")
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            ok = type(value) is int and low <= value <= high
            _require(ok, name, value, f"an integer from {low} to {high}")
        for name in ("log_kappa_range", "training_time_s"):
            value = getattr(self, name)
            _require(_is_number(value) and value >= 0, name, value, "a number >= 0")
        for name in ("classes", "loads"):
            value = getattr(self, name)
            ok = isinstance(value, tuple) and all(isinstance(text, str) for text in value)
            _require(ok, name, value, "strings")
        for name in ("fine", "constant"):
            value = getattr(self, name)
            _require(isinstance(value, bool), name, value, "true or false")
        ok = isinstance(self.validation, Mapping) and all(
            isinstance(key, str) and _is_number(value) for key, value in self.validation.items()
        )
        _require(ok, "validation", self.validation, "names with finite numbers")
        known = self.input_convention in CONVENTIONS
        expected = f"one of {', '.join(map(repr, CONVENTIONS))}"
        _require(known, "input_convention", self.input_convention, expected)
        ok = re.fullmatch(r"[0-9a-f]{64}|", self.sha256) is not None
        _require(ok, "sha256", self.sha256, "64 hexadecimal digits")
        ok = not self.steps or (self.fine and self.input_convention != CONVENTIONS[0])
        _require(ok, "steps", self.steps, "0 for this input")
        check_lattice(self.dim, self.lattice, self.in_channels)
        check_lattice(self.dim, self.out_nodes(self.lattice), self.n_out)

    @property
    def in_channels(self) -> int:
        """Channels of the network's input."""
        more = 2 * (self.input_convention != CONVENTIONS[0])
        return int(self.samples**self.dim + 2 * self.dim + more)

    def out_nodes(self, lattice: int) -> int:
        """Nodes in each direction of the output for an input of so many."""
        return self.samples * (lattice - 1) + 1 if self.fine else lattice

    def to_json(self) -> str:
        """The card as a JSON object, one entry for each attribute."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: If it is not a card: one sentence.
        """
        try:
            data = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            raise ValueError("The card is not valid JSON.") from None
        if not isinstance(data, dict):
            raise ValueError(f"The card is a {type(data).__name__}, expected a JSON object.")
        names = {entry.name for entry in fields(cls)}
        # Cards of the first version do not have them.
        needed = names - {"fine", "constant", "steps", "loads"}
        for what, keys in (("lacks", needed - data.keys()), ("has", data.keys() - names)):
            if keys:
                entry = "the entry" if what == "lacks" else "the unknown entry"
                raise ValueError(f"The card {what} {entry} {min(keys)!r}.")
        for name in ("classes", "loads"):
            if isinstance(data.get(name), list):
                data[name] = tuple(data[name])
        return cls(**data)


def _is_number(value: object) -> bool:
    """Whether a value is a finite number that JSON may hold."""
    return isinstance(value, int | float) and is_finite(value)


def _require(ok: bool, name: str, value: object, expected: str) -> None:
    """Refuse an entry of a card, of which no more than the beginning is told."""
    require(ok, name, str(value)[:80], expected)
