# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Configuration of sampling and training: a TOML file, checked key by key."""

import dataclasses
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

LOSSES = ("energy", "rayleigh", "sal", "sal_pr", "basis_l2")

#: Keys of a family that may be drawn from a range, and the open or closed interval they lie in.
_CONTRAST = {"contrast": (1.0, math.inf)}
_LENGTH = {"correlation_length": (1e-6, math.inf)}
_FRACTION = {"fraction": (1e-6, 1.0 - 1e-6)}
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
_WHOLE = ("num_channels", "num_inclusions", "count")

_CELLS = {2: ("triangle", "quadrilateral"), 3: ("tetrahedron", "hexahedron")}
_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _key(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Sequence[str] = (),
) -> Any:
    """A field with the values it may have."""
    return field(default=default, metadata={"low": low, "high": high, "choices": tuple(choices)})


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Mesh and coarse grid.

    Attributes:
        cells: Cells of the mesh in each direction; two or three numbers give the dimension.
        coarse: Boxes of the coarse grid in each direction.
        cell: Type of the cells; default quadrilaterals or hexahedra.
        upper: Upper corner of the box (its lower one is the origin); default all ones.
        degree: Degree of the Lagrange elements.
        oversampling: Layers of cells added to each neighbourhood.
    """

    cells: tuple[int, ...] = _key(low=2)
    coarse: tuple[int, ...] = _key(low=1)
    cell: str = _key("", choices=("", *_CELLS[2], *_CELLS[3]))
    upper: tuple[float, ...] = _key((), low=1e-12)
    degree: int = _key(1, low=1, high=10)
    oversampling: int = _key(0, low=0)

    @property
    def dim(self) -> int:
        """Dimension of space."""
        return len(self.cells)

    def check(self) -> None:
        """Check what concerns several keys."""
        if self.dim not in (2, 3):
            raise ValueError(f"problem.cells must have 2 or 3 entries, got {self.dim}.")
        for name, value in (("coarse", self.coarse), ("upper", self.upper)):
            if len(value) != self.dim and (value or name == "coarse"):
                raise ValueError(
                    f"problem.{name} must have as many entries as problem.cells ({self.dim}), got "
                    f"{len(value)}."
                )
        if self.cell and self.cell not in _CELLS[self.dim]:
            raise ValueError(
                f"problem.cell must be one of {', '.join(_CELLS[self.dim])} in {self.dim}D, got "
                f"{self.cell!r}."
            )


@dataclass(frozen=True, kw_only=True)
class Data:
    """The set of samples.

    Attributes:
        path: HDF5 file; relative names are relative to the working folder.
        num_fields: Coefficient fields.
        per_field: Neighbourhoods drawn from each field; 0 for all.
        num_modes: Modes computed as labels.
        lattice: Nodes p of the lattice in each direction.
        samples: Sub-boxes q around a node in each direction; even.
        validation: Fraction of the fields that validate.
        test: Fraction of the fields that are kept away from training altogether.
    """

    path: str = _key()
    num_fields: int = _key(low=1)
    per_field: int = _key(0, low=0)
    num_modes: int = _key(8, low=1)
    lattice: int = _key(low=3)
    samples: int = _key(2, low=2)
    validation: float = _key(0.1, low=0.0, high=0.9)
    test: float = _key(0.1, low=0.0, high=0.9)

    def check(self) -> None:
        """Check what concerns several keys."""
        if self.samples % 2:
            raise ValueError(f"data.samples must be even, got {self.samples}.")
        if self.validation + self.test > 0.9:
            raise ValueError(
                "data.validation and data.test must leave at least 0.1 for training, got "
                f"{self.validation:g} and {self.test:g}."
            )
        if not self.path:
            raise ValueError("data.path must be the name of a file, got ''.")


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network; see :class:`dolfinx_msnn.nn.ffno.FFNO`."""

    outputs: int = _key(16, low=1)
    width: int = _key(32, low=1)
    modes: int = _key(12, low=1)
    layers: int = _key(4, low=1)
    warp: bool = _key(True)


@dataclass(frozen=True, kw_only=True)
class Training:
    """The optimisation.

    Attributes:
        loss: One of :data:`LOSSES`.
        sweeps: Degree of the filter through which the loss looks; 0 for none.
        sal_weight: Weight of the regularisation in ``sal_pr``.
        batch_size: Neighbourhoods of one shape in a step.
        learning_rate: Largest learning rate of AdamW.
        weight_decay: Of AdamW.
        schedule: ``cosine`` (short linear warm-up) or ``one_cycle`` (30 % of the steps upwards).
        warmup: Steps of warm-up.
        steps: Steps in all; 0 for as many as ``max_minutes`` allows.
        max_minutes: Training ends after this time, resumed time counted in; 0 for no limit.
        clip: Largest norm of the gradient; 0 for no limit.
        augment: Reflect and permute the axes at random where that keeps the pose.
        ema: Decay of the moving average of the weights; 0 for none.
        validate_every: Steps between validations.
        validation_samples: Largest number of neighbourhoods in a validation; 0 for all.
        patience: Validations without progress after which training stops; 0 for no limit.
        checkpoint_seconds: Least time between two checkpoints.
        threads: Of torch; 0 for ``OMP_NUM_THREADS``, or 1.
        device: ``cpu`` or ``cuda``.
    """

    loss: str = _key("energy", choices=LOSSES)
    sweeps: int = _key(0, low=0, high=200)
    sal_weight: float = _key(0.1, low=0.0)
    batch_size: int = _key(16, low=1)
    learning_rate: float = _key(2e-3, low=1e-12, high=10.0)
    weight_decay: float = _key(1e-4, low=0.0)
    schedule: str = _key("cosine", choices=("cosine", "one_cycle"))
    warmup: int = _key(100, low=0)
    steps: int = _key(0, low=0)
    max_minutes: float = _key(0.0, low=0.0)
    clip: float = _key(1.0, low=0.0)
    augment: bool = _key(True)
    ema: float = _key(0.0, low=0.0, high=0.99999)
    validate_every: int = _key(200, low=1)
    validation_samples: int = _key(0, low=0)
    patience: int = _key(0, low=0)
    checkpoint_seconds: float = _key(60.0, low=0.0)
    threads: int = _key(0, low=0, high=1024)
    device: str = _key("cpu", choices=("cpu", "cuda"))

    def check(self) -> None:
        """Check what concerns several keys."""
        if not self.steps and not self.max_minutes:
            raise ValueError(
                "training.steps or training.max_minutes must be positive, got 0 for both."
            )


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
    parameters: tuple[tuple[str, float | tuple[float, float] | tuple[str, float, float]], ...]

    def draw(self, rng: Any) -> dict[str, float | int]:
        """Draw all parameters from a NumPy generator, in the order of the file."""
        drawn: dict[str, float | int] = {}
        for key, spec in self.parameters:
            if not isinstance(spec, tuple):
                value = float(spec)
            elif len(spec) == 2:
                value = float(rng.uniform(*spec))
            else:
                value = float(10.0 ** rng.uniform(*spec[1:]))
            drawn[key] = round(value) if key in _WHOLE else value
        return drawn

    @classmethod
    def parse(cls, table: Any, where: str) -> Self:
        """From a TOML table."""
        if not isinstance(table, dict):
            raise ValueError(f"{where} must be a table, got {table!r}.")
        table = dict(table)
        name = table.pop("name", None)
        if name not in FAMILIES:
            raise ValueError(f"{where}.name must be one of {', '.join(FAMILIES)}, got {name!r}.")
        weight = table.pop("weight", 1.0)
        if not _is_number(weight) or not 0 < weight < math.inf:
            raise ValueError(f"{where}.weight must be a positive number, got {weight!r}.")
        known = FAMILIES[name]
        parameters = []
        for key, value in table.items():
            if key not in known:
                raise ValueError(
                    f"{where}.{key} is no parameter of {name}; expected {', '.join(known)}."
                )
            parameters.append((key, _draw(value, f"{where}.{key}", *known[key])))
        return cls(name, float(weight), tuple(parameters))

    def describe(self) -> dict[str, Any]:
        """As a table for a file's provenance."""
        spec = {k: list(v) if isinstance(v, tuple) else v for k, v in self.parameters}
        return {"name": self.name, "weight": self.weight, **spec}


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of a configuration; see the attributes' classes for the keys of each table.

    Attributes:
        seed: Of the fields, the choice of neighbourhoods, the split and the training.
        problem: Table ``[problem]``.
        data: Table ``[data]``.
        families: Tables ``[[family]]``.
        network: Table ``[network]``.
        training: Table ``[training]``.
        name: Name of the model, for its file and card.
    """

    seed: int
    problem: Problem
    data: Data
    families: tuple[Family, ...]
    network: Network
    training: Training
    name: str = "model"

    @classmethod
    def parse(cls, table: Mapping[str, Any], *, name: str = "model") -> Self:
        """Check a table as read from TOML.

        Raises:
            ValueError: For the first key that is unknown, missing, of the wrong type or out of
                range; names the key.
        """
        rest = dict(table)
        seed = _value(rest.pop("seed", 0), int, "seed", low=0)
        given = rest.pop("name", name)
        name = _value(given, str, "name")
        if not name or os.path.basename(name) != name or name.startswith("."):
            raise ValueError(f"name must be usable as the name of a file, got {name!r}.")
        families = rest.pop("family", None)
        if not isinstance(families, list) or not families:
            raise ValueError(f"family must be one or more tables [[family]], got {families!r}.")
        problem = _table(Problem, rest.pop("problem", {}), "problem")
        data = _table(Data, rest.pop("data", {}), "data")
        network = _table(Network, rest.pop("network", {}), "network")
        training = _table(Training, rest.pop("training", {}), "training")
        if rest:
            expected = "seed, name, problem, data, family, network, training"
            raise ValueError(f"{min(rest)} is not a known key; expected one of {expected}.")
        return cls(
            seed=seed,
            problem=problem,
            data=data,
            families=tuple(Family.parse(f, f"family[{k}]") for k, f in enumerate(families)),
            network=network,
            training=training,
            name=name,
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read and check a TOML file; the file's stem is the default name.

        Raises:
            ValueError: If it is no TOML file or has a wrong key; names file and key.
            FileNotFoundError: If it is not there.
        """
        file = os.fspath(path)
        if not os.path.isfile(file):
            raise FileNotFoundError(f"There is no configuration file {file}.")
        try:
            with open(file, "rb") as stream:
                table = tomllib.load(stream)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            reason = " ".join(str(exc).split()).rstrip(".")
            raise ValueError(f"{file} is not a TOML file: {reason}.") from exc
        try:
            return cls.parse(table, name=os.path.splitext(os.path.basename(file))[0])
        except ValueError as exc:
            raise ValueError(f"{file}: {exc}") from None

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary, for checkpoints and logs."""
        plain = dataclasses.asdict(self)
        plain["families"] = [f.describe() for f in self.families]
        return plain


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _value(
    value: Any,
    kind: type,
    where: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Sequence[str] = (),
) -> Any:
    """One value of a known type and range."""
    if kind is float:
        ok = _is_number(value)
    elif kind is int:
        ok = isinstance(value, int) and not isinstance(value, bool)
    else:
        ok = isinstance(value, kind)
    if not ok:
        raise ValueError(f"{where} must be {_NAMES[kind]}, got {value!r}.")
    if kind in (int, float) and not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{where} must be {bounds}, got {value!r}.")
    if choices and value not in choices:
        names = ", ".join(c for c in choices if c)
        raise ValueError(f"{where} must be one of {names}, got {value!r}.")
    return float(value) if kind is float else value


def _table[T: (Problem, Data, Network, Training)](cls: type[T], table: Any, where: str) -> T:
    """A dataclass from a TOML table."""
    if not isinstance(table, dict):
        raise ValueError(f"{where} must be a table, got {table!r}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            raise ValueError(f"{where}.{key} is not a known key; expected {', '.join(fields)}.")
    values = {}
    for key, entry in fields.items():
        if key not in table:
            if entry.default is dataclasses.MISSING:
                raise ValueError(f"{where}.{key} is missing.")
            continue
        value, name = table[key], f"{where}.{key}"
        if isinstance(entry.type, type):
            values[key] = _value(value, entry.type, name, **entry.metadata)
        else:
            # tuple[int, ...] or tuple[float, ...]
            kind = getattr(entry.type, "__args__")[0]  # noqa: B009 (mypy knows no such attribute)
            if not isinstance(value, list):
                raise ValueError(f"{name} must be a list, got {value!r}.")
            values[key] = tuple(
                _value(v, kind, f"{name}[{k}]", **entry.metadata) for k, v in enumerate(value)
            )
    made = cls(**values)
    if isinstance(made, Problem | Data | Training):
        made.check()
    return made


def _draw(
    value: Any, where: str, low: float, high: float
) -> float | tuple[float, float] | tuple[str, float, float]:
    """A parameter of a family: a number, a range, or a range of exponents of ten."""
    if _is_number(value):
        return float(_value(float(value), float, where, low=low, high=high))
    power = isinstance(value, dict) and list(value) == ["log10"]
    pair = value["log10"] if power else value
    ok = isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))
    if not ok or pair[0] > pair[1]:
        raise ValueError(
            f"{where} must be a number, [low, high] or {{ log10 = [low, high] }}, got {value!r}."
        )
    for end in pair:
        _value(10.0**end if power else float(end), float, where, low=low, high=high)
    ends = (float(pair[0]), float(pair[1]))
    return ("log10", *ends) if power else ends
