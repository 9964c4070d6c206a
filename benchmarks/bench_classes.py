# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""One network for neighbourhoods of all classes, against one for each class.

Trained on solutions in log-normal fields, 100 x 100 cells under 5 boxes a side, with and without
Dirichlet conditions. One set of samples serves all, and a network of one class sees its part of it.
The networks of one class are trained as long as that of all together, or each as long as it.
Functions are used raw; the measure is the energy error of the solutions in fields that only
validate over that of as many modes, by class.

    python benchmarks/bench_classes.py [--quick] [--resume] [--show]
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from harness import learning
from harness.results import Parser, Record, Records, Results, Shown, tabulate

from dolfinx_msnn.nn.lattice import CLASSES

ALL, SHARED, LONG = "one for all", "one each, a third of the steps", "one each, all steps"
ROWS = (ALL, SHARED, LONG)


def configuration(seed: int, steps: int, quick: bool) -> dict[str, Any]:
    """Of one training."""
    cells, boxes, lattice, fields = (20, 2, 7, 4) if quick else (100, 5, 21, 100)
    return learning.configuration(
        f"classes-{seed}",
        seed,
        learning.LOG_NORMAL,
        quick,
        problem={"cells": [cells] * 2, "coarse": [boxes] * 2},
        data={
            "num_fields": fields,
            "per_field": 18,
            "lattice": lattice,
            "solutions": 8,
            "kinds": ["drop", "values", "one", "smooth"],
        },
        network={"fine": True, "constant": True, "steps": 3},
        # Validated once, at the end, in all samples.
        training=learning.RAW | {"loss": "solutions", "steps": steps, "validate_every": steps},
    )


def run(results: Results, options: Namespace) -> None:
    """Train all networks."""
    from dolfinx_msnn.nn.model import load_model

    for seed in range(1, options.seeds + 1):
        for row in ROWS:
            for name in ("",) if row == ALL else CLASSES[2]:
                key: Record = {"row": row, "trained on": name, "training_seed": seed}
                if not results.missing(**key):
                    continue
                steps = options.steps // 3 if row == SHARED else options.steps
                table = configuration(seed, steps, options.quick)
                made = learning.train(table, sample_seed=1, sample_class=name)
                validation = load_model(made.path).card.validation
                results.add(key | made.record() | {f"class {c}": v for c, v in validation.items()})


def shown(records: Records) -> Shown:
    """By class."""

    def error(name: str) -> Callable[[str], str]:
        return lambda row: records.spread(f"class {name}", row=row)

    def total(entry: str) -> Callable[[str], str]:
        return lambda row: f"{sum(records.values(entry, row=row)) / seeds:.0f}"

    seeds = max(records.by("training_seed"), default=1)
    columns: dict[str, Callable[[str], str]] = {
        "networks": str,
        **{name: error(name) for name in CLASSES[2]},
        "steps": total("steps"),
        "training, s": total("training"),
    }
    counts = ", ".join(
        f"{name or 'all'} {mine[0]['samples']}" for name, mine in records.by("trained on").items()
    )
    notes = (
        f"Energy error over that of as many modes, mean ± standard deviation of {seeds} training "
        f"seeds; neighbourhoods to learn and validate: {counts}. Steps and processor seconds of "
        "all networks of a row."
    )
    return tabulate("Networks by class of neighbourhood", list(records.by("row")), columns, notes)


def main() -> None:
    """Run, and write the table."""
    parser = Parser(__doc__)
    parser.depends("--seeds", 3, 1, type=int, help="training seeds; default 3")
    parser.depends("--steps", 2100, 3, type=int, help="of the network of all classes")
    options = parser.parse_args()
    settings = {"training": configuration(1, options.steps, options.quick)}
    results = Results("classes", options, settings)
    if not options.show:
        run(results, options)
    results.finish([shown(results.records)])


if __name__ == "__main__":
    main()
