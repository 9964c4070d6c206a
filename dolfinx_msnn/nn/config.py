# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Configuration of sampling and training: a TOML file, checked key by key."""

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dolfinx_msnn._utils.checks import require
from dolfinx_msnn._utils.files import reason
from dolfinx_msnn.nn.card import BOUNDS, check_lattice
from dolfinx_msnn.nn.family import FAMILIES, Family
from dolfinx_msnn.nn.tables import from_table, key

__all__ = ["FAMILIES", "LOSSES", "Config", "Data", "Family", "Network", "Problem", "Training"]

LOSSES = ("energy", "rayleigh", "sal", "sal_pr", "basis_l2", "solutions")

#: Kinds of fine solutions, see :mod:`dolfinx_msnn.nn.solutions`.
KINDS = ("drop", "values", "one", "smooth", "waves", "wells", "noise")

_CELLS = {2: ("triangle", "quadrilateral"), 3: ("tetrahedron", "hexahedron")}


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

    cells: tuple[int, ...] = key(low=2)
    coarse: tuple[int, ...] = key(low=1)
    cell: str = key("", choices=("", *_CELLS[2], *_CELLS[3]))
    upper: tuple[float, ...] = key((), low=1e-12)
    degree: int = key(1, low=1, high=10)
    oversampling: int = key(0, low=0)

    @property
    def dim(self) -> int:
        """Dimension of space."""
        return len(self.cells)

    def __post_init__(self) -> None:
        """Check what concerns several keys."""
        dim = self.dim
        require(dim in (2, 3), "problem.cells", list(self.cells), "two or three integers")
        same = f"as long as problem.cells ({dim} entries)"
        require(len(self.coarse) == dim, "problem.coarse", list(self.coarse), same)
        require(len(self.upper) in (0, dim), "problem.upper", list(self.upper), same)
        known = f"one of {', '.join(_CELLS[dim])} in {dim}D"
        require(self.cell in ("", *_CELLS[dim]), "problem.cell", self.cell, known)


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
        solutions: Fine solutions of each field, for the loss ``solutions``.
        kinds: Their kinds, of :data:`KINDS`, one after the other and from the first again; name a
            kind twice to have twice as many.
    """

    path: str = key()
    num_fields: int = key(low=1)
    per_field: int = key(0, low=0)
    num_modes: int = key(8, low=1)
    lattice: int = key(low=3, high=BOUNDS["lattice"][1])
    samples: int = key(2, low=2, high=BOUNDS["samples"][1])
    validation: float = key(0.1, low=0.0, high=0.9)
    test: float = key(0.1, low=0.0, high=0.9)
    solutions: int = key(0, low=0, high=64)
    kinds: tuple[str, ...] = key(("drop", "values", "one", "smooth"), choices=KINDS)

    def __post_init__(self) -> None:
        """Check what concerns several keys."""
        require(self.path, "data.path", self.path, "the name of a file")
        require(self.samples % 2 == 0, "data.samples", self.samples, "even")
        require(self.kinds, "data.kinds", [], "one or more kinds")
        if self.validation + self.test > 0.9:
            raise ValueError(
                "data.validation and data.test must leave at least 0.1 for training, got "
                f"{self.validation:g} and {self.test:g}."
            )


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network; see :class:`dolfinx_msnn.nn.ffno.FFNO`.

    Attributes:
        outputs: Functions, the constant included.
        width: Channels inside.
        modes: Cosine modes in each direction.
        layers: Number of layers.
        warp: Predict a displacement of the coordinates.
        fine: Functions on the lattice of the sub-boxes, ``data.samples`` times finer.
        constant: The first function is the constant.
        steps: Learned steps at the end; they need ``fine``.
    """

    outputs: int = key(16, low=1, high=BOUNDS["n_out"][1])
    width: int = key(32, low=1, high=BOUNDS["width"][1])
    modes: int = key(12, low=1, high=BOUNDS["modes"][1])
    layers: int = key(4, low=1, high=BOUNDS["layers"][1])
    warp: bool = key(True)
    fine: bool = key(False)
    constant: bool = key(False)
    steps: int = key(0, low=0, high=BOUNDS["steps"][1])

    def __post_init__(self) -> None:
        """Check what concerns several keys."""
        if self.steps and not self.fine:
            raise ValueError(f"network.steps needs network.fine = true, got {self.steps} steps.")
        if self.constant and self.outputs < 2:
            raise ValueError("network.outputs must be at least 2 with network.constant, got 1.")


@dataclass(frozen=True, kw_only=True)
class Training:
    """The optimisation.

    Attributes:
        loss: One of :data:`LOSSES`, or a sum such as ``solutions + 0.1 energy``.
        sweeps: Degree of the filter through which the loss looks; 0 for none.
        sal_weight: Weight of the regularisation in ``sal_pr``.
        batch_size: Neighbourhoods of one shape in a step.
        optimiser: ``adamw``, or ``muon``: Muon for the matrices inside of layers, AdamW for others.
        learning_rate: Largest learning rate.
        weight_decay: Of both.
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

    loss: str = key("energy")
    sweeps: int = key(0, low=0, high=200)
    sal_weight: float = key(0.1, low=0.0)
    batch_size: int = key(16, low=1)
    optimiser: str = key("adamw", choices=("adamw", "muon"))
    learning_rate: float = key(2e-3, low=1e-12, high=10.0)
    weight_decay: float = key(1e-4, low=0.0)
    schedule: str = key("cosine", choices=("cosine", "one_cycle"))
    warmup: int = key(100, low=0)
    steps: int = key(0, low=0)
    max_minutes: float = key(0.0, low=0.0)
    clip: float = key(1.0, low=0.0)
    augment: bool = key(True)
    ema: float = key(0.0, low=0.0, high=0.99999)
    validate_every: int = key(200, low=1)
    validation_samples: int = key(0, low=0)
    patience: int = key(0, low=0)
    checkpoint_seconds: float = key(60.0, low=0.0)
    threads: int = key(0, low=0, high=1024)
    device: str = key("cpu", choices=("cpu", "cuda"))

    def __post_init__(self) -> None:
        """Check what concerns several keys."""
        for name in self.terms:
            require(name in LOSSES, "training.loss", self.loss, f"one of {', '.join(LOSSES)}")
        if not self.steps and not self.max_minutes:
            raise ValueError(
                "training.steps or training.max_minutes must be positive, got 0 for both."
            )

    @property
    def terms(self) -> dict[str, float]:
        """Losses with their factors."""
        found = {}
        for term in self.loss.split("+"):
            part = re.fullmatch(r"(?:(\d+\.?\d*)[ *]+)?(\w+)", term.strip())
            found[part[2] if part else ""] = float(part[1] or 1.0) if part else 0.0
        return found


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

    seed: int = key(0, low=0)
    problem: Problem
    data: Data
    families: tuple[Family, ...] = key(table="family")
    network: Network = field(default=Network())
    training: Training
    name: str = key("model")

    def __post_init__(self) -> None:
        """Check what no type says."""
        require(self.families, "family", [], "one or more tables [[family]]")
        ok = self.name and os.path.basename(self.name) == self.name and self.name[0] != "."
        require(ok, "name", self.name, "usable as the name of a file")
        dim, network = self.problem.dim, self.network
        channels = max(self.data.samples**dim + 2 * dim, network.outputs, 2 * network.width)
        check_lattice(dim, self.data.lattice, channels, "data.lattice")
        if "solutions" in self.training.terms and not self.data.solutions:
            raise ValueError("The loss solutions needs data.solutions of at least 1, got 0.")
        if self.network.steps and not self.data.solutions:
            raise ValueError("network.steps needs data.solutions of at least 1, got 0.")

    @classmethod
    def parse(cls, table: Mapping[str, Any], *, name: str = "model") -> Self:
        """Check a table as read from TOML.

        Raises:
            ValueError: For the first key that is unknown, missing, of the wrong type or out of
                range; names the key.
        """
        return from_table(cls, {"name": name, **table})

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
            raise ValueError(f"{file} is not a TOML file: {reason(exc)}.") from exc
        try:
            return cls.parse(table, name=os.path.splitext(os.path.basename(file))[0])
        except ValueError as exc:
            raise ValueError(f"{file}: {exc}") from None

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary, for checkpoints and logs."""
        families = [family.describe() for family in self.families]
        return dataclasses.asdict(self) | {"families": families}
