# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Models that the programs of the benchmark train on the way: sampled, trained, and kept.

A model is known by its configuration, of which a hash names its folder in ``benchmarks/work/``: a
program that is started again finds what was trained before, and goes on with what was interrupted.
Sets of samples are kept too, and serve all models that differ in network and training only.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from harness.problems import NUM_MODES
from harness.results import WORK

from mpi4py import MPI

import numpy as np

import dolfinx_msnn as msnn
from dolfinx import mesh
from dolfinx_msnn.nn import dataset
from dolfinx_msnn.nn.config import Config

#: ``problems.FAMILIES["log-normal"]`` as a configuration has it.
LOG_NORMAL: dict[str, Any] = {"name": "log_normal", "variance": 4.0, "correlation_length": 0.06}
#: How networks whose functions are used raw are trained: keys of a ``training`` table.
RAW = {"batch_size": 8, "optimiser": "muon", "learning_rate": 3e-3, "schedule": "cosine"}


class Trained(NamedTuple):
    """A model that is there.

    Attributes:
        path: Of the model file.
        steps: Steps of training.
        validation: Mean energy defect of the modes in unseen fields, after the filter.
        samples: Neighbourhoods it was trained and validated on.
        sampling: Seconds of processor time for the samples, whichever model they were made for.
        training: Seconds of processor time for the training, validations included.
    """

    path: Path
    steps: int
    validation: float
    samples: int
    sampling: float
    training: float

    def record(self) -> dict[str, Any]:
        """As entries of a record."""
        return {k: v for k, v in self._asdict().items() if k != "path"}


def configuration(
    name: str,
    seed: int,
    family: Mapping[str, Any],
    quick: bool,
    **tables: Mapping[str, Any],
) -> dict[str, Any]:
    """A configuration as :func:`train` takes it, with what all of ours have in common.

    Args:
        name: Of the model.
        seed: Of the training.
        family: Of the fields.
        quick: A network and a set of samples that show that it works.
        tables: What differs: ``problem``, ``data``, ``network`` and ``training``.
    """
    found: dict[str, Any] = {
        "problem": {},
        "data": {"num_modes": NUM_MODES, "validation": 0.1, "test": 0.0},
        "network": {"outputs": NUM_MODES, "width": 32, "modes": 12, "layers": 4, "warp": False},
        "training": {
            "sweeps": 0,
            "batch_size": 16,
            "learning_rate": 4e-3,
            "schedule": "one_cycle",
            "ema": 0.99,
        },
    }
    for kind, table in found.items():
        table |= tables.get(kind, {})
    if quick:
        found["data"] |= {"lattice": 7, "validation": 0.5}
        found["network"] |= {"width": 8, "modes": 4, "layers": 2}
    return {"seed": seed, "name": name, "family": [dict(family)], **found}


def train(
    table: Mapping[str, Any],
    *,
    sample_seed: int | None = None,
    sample_fields: int | None = None,
    sample_class: str = "",
) -> Trained:
    """Train the model of a configuration, unless it is there already.

    Args:
        table: From :func:`configuration`: as in a file of ``configs/``, but for ``data.path``.
        sample_seed: Seed of the samples, if not that of the configuration, which then is that of
            the split, the weights and the order of the samples only.
        sample_fields: Fields in the set of samples, if more than ``data.num_fields``, which are
            the first of them.
        sample_class: Class of neighbourhoods, if not all in the set are to be seen.

    Raises:
        KeyboardInterrupt: If a signal ended the training; started again, it goes on.
    """
    # Torch is needed from here on.
    from dolfinx_msnn.nn import train as training

    table = deepcopy(dict(table))
    known: dict[str, Any] = dict(table)
    if sample_seed not in (None, table["seed"]):
        known["sample_seed"] = sample_seed
    if sample_fields not in (None, table["data"]["num_fields"]):
        known["sample_fields"] = sample_fields
    if sample_class:
        known["sample_class"] = sample_class
    output = WORK / "models" / _hash(known)
    table["data"]["path"] = str(output / "samples.h5")
    name = table.get("name", "model")
    config = Config.parse(table, name=name)
    report = output / "report.json"
    if report.exists():
        return Trained(output / f"{name}.safetensors", **json.loads(report.read_text()))
    output.mkdir(parents=True, exist_ok=True)
    seed = config.seed if sample_seed is None else sample_seed
    data = replace(config.data, num_fields=sample_fields or config.data.num_fields)
    samples, seconds = _sample(replace(config, data=data), seed)
    count = _copy(samples, config.data.path, config.seed, config.data.num_fields, sample_class)
    _load_optimiser()
    clock = output / "seconds.json"
    spent = json.loads(clock.read_text()) if clock.exists() else 0.0
    begin = time.process_time()
    result = training.train(
        config, output=output, resume=(output / training.CHECKPOINT).exists(), progress=False
    )
    spent += time.process_time() - begin
    clock.write_text(json.dumps(spent))
    if result.interrupted or result.model is None:
        raise KeyboardInterrupt(f"{name}: {result.reason} after {result.steps} steps")
    os.unlink(config.data.path)
    made = Trained(
        Path(result.model),
        result.steps,
        result.validation["all"],
        count,
        seconds,
        spent,
    )
    report.write_text(json.dumps(made.record()) + "\n")
    print(f"trained {name}: {made.record()}", flush=True)
    return made


def _sample(config: Config, seed: int) -> tuple[Path, float]:
    """The set of samples, and the processor time it took."""
    families = [family.describe() for family in config.families]
    plain = config.as_dict()
    kept = {k: v for k, v in plain["data"].items() if k != "path"}
    key = _hash([seed, plain["problem"], kept, families])
    path = WORK / "samples" / f"{key}.h5"
    clock = path.with_suffix(".json")
    if path.exists():
        return path, json.loads(clock.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(clock.read_text()) if clock.exists() else 0.0
    begin = time.process_time()

    def keep_time(*_: int) -> None:
        clock.write_text(json.dumps(before + time.process_time() - begin))

    generate(path, replace(config, seed=seed), keep_time)
    keep_time()
    return path, json.loads(clock.read_text())


def generate(path: Path, config: Config, progress: Callable[..., None] | None = None) -> None:
    """Compute the samples of a configuration."""
    problem, data = config.problem, config.data
    corners = [[0.0] * problem.dim, list(problem.upper or (1.0,) * problem.dim)]
    create, cell = (
        (mesh.create_rectangle, mesh.CellType.quadrilateral)
        if problem.dim == 2
        else (mesh.create_box, mesh.CellType.hexahedron)
    )
    msh = create(MPI.COMM_SELF, corners, problem.cells, cell_type=cell)
    dataset.generate(
        path,
        msnn.CoarseGrid(msh, problem.coarse),
        config.families,
        num_fields=data.num_fields,
        per_field=data.per_field,
        num_modes=data.num_modes,
        lattice=data.lattice,
        samples=data.samples,
        solutions=data.solutions,
        kinds=data.kinds,
        seed=config.seed,
        comm=MPI.COMM_SELF,
        progress=progress,
    )


def _copy(source: Path, target: str, seed: int, num_fields: int, sample_class: str) -> int:
    """Copy the first fields of a set with another seed, or one class of them; samples there."""
    import h5py

    from dolfinx_msnn.nn.sample_file import read_text

    draft, count = target + ".part", 0
    with h5py.File(source) as whole, h5py.File(draft, "w", libver=("v110", "v110")) as file:
        for name, value in whole.attrs.items():
            file.attrs[name] = value
        provenance = json.loads(whole.attrs["provenance"]) | {"seed": seed}
        file.attrs["provenance"] = np.bytes_(json.dumps(provenance))
        whole.copy("geometry", file)
        for number, field in whole["fields"].items():
            if int(number) >= num_fields:
                continue
            whole.copy(field, file.require_group("fields"), number)
            field = file["fields"][number]
            for key in list(field):
                if sample_class not in ("", read_text(whole["geometry"][key], "class")):
                    del field[key]
            count += sum(len(tables["vertex"]) for tables in field.values())
    os.replace(draft, target)
    return count


@cache
def _load_optimiser() -> None:
    """Let torch load what its first step needs, which takes seconds: no part of a training."""
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.AdamW([weight]).step()


def _hash(settings: Any) -> str:
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
