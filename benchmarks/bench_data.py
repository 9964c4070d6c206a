# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Table 5: error over the number of fields to learn from, of a learned basis and a network alone.

Problem, fields and standalone F-FNO are those of ``bench_operators.py``, loads as in training. From
the first 800, 400, 200 and 100 fields of one set learn, with several seeds of training,

- the standalone F-FNO: one fine solution of each field, the same seconds of training for all;
- learned, raw: eight functions, trained on fine solutions of other, linear problems in the same
  fields, and used as they are; some neighbourhoods of each field, equally many steps.

A tenth of a basis's fields choose the weights. Bases of SLEPc, filtered cosines and harmonic
functions learn nothing and are the lines that a learned basis has to reach, or to beat. Unseen
fields are the same for all; errors are relative to the fine solution.

    python benchmarks/bench_data.py [--quick] [--resume] [--show]
    python benchmarks/bench_data.py --fields 10 --seeds 1 --cases 800 100 --minutes 0.5 --steps 100

Samples, fine solutions and models are kept in ``benchmarks/work``.
"""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from harness import flow, learning, networks
from harness.bases import FILTERED, HARMONIC, RAW, SLEPC, make
from harness.flow import DATA_SEED, KINDS, FlowProblem
from harness.results import Parser, Record, Records, Results, Shown, spread

import numpy as np
from matplotlib.figure import Figure

#: Fields to learn from.
CASES, QUICK_CASES = (800, 400, 200, 100), (8, 4)
ALONE = "F-FNO alone"
LEARNED, CONSTANT = (ALONE, RAW), (SLEPC, FILTERED, HARMONIC)
#: L2 errors in per cent of Rudikov et al. (ICLR 2026), by fields to learn from.
PAPER = {RAW: {800: 1.82, 200: 2.07}, ALONE: {800: 2.44, 200: 6.52}}


def basis_table(count: int, seed: int, options: Namespace) -> dict[str, Any]:
    """Configuration of a learned basis."""
    cells, boxes, *_ = flow.QUICK if options.quick else flow.FULL
    return learning.configuration(
        f"data-{count}",
        seed,
        flow.FAMILY,
        options.quick,
        problem={"cells": [cells] * 2, "coarse": [boxes] * 2},
        data={"num_fields": count, "per_field": options.per_field, "lattice": 11, "solutions": 8},
        network={"modes": 8, "fine": True, "constant": True, "steps": 3},
        training=learning.RAW
        | {
            "loss": "solutions",
            "steps": options.steps,
            "validate_every": max(1, options.steps // 4),
            "validation_samples": 60,
        },
    )


def measure(problem: FlowProblem, test: Mapping[str, Any], maker: Callable[[], Any]) -> Record:
    """Solve a test problem in the space of a basis."""
    problem.log_kappa, load, exact = test[KINDS[0]]
    p, times = problem.multiscale(maker, {KINDS[0]: load})[KINDS[0]]
    gc.collect()
    return problem.errors(p, exact) | {"solve s": times["solve s"]}


def run_constant(results: Results, problem: FlowProblem, tests: Sequence[Any]) -> None:
    """Bases that learn nothing."""
    for name in CONSTANT:
        for number, test in tests:
            key = {"method": name, "train": 0, "seed": 0, "field": number}
            if results.missing(method=name, field=number):
                results.add(key | measure(problem, test, partial(make, name, problem.kappa)))


def run_learned(
    results: Results, problem: FlowProblem, tests: Sequence[Any], options: Namespace
) -> None:
    """All trainings, a seed after the other: with fewer seeds the table is whole all the same."""
    from dolfinx_msnn.nn.model import load_model

    sizes = networks.SMALL if options.quick else networks.FULL
    most = max(options.cases)
    plan = [(s, c, n) for s in range(1, options.seeds + 1) for c in options.cases for n in LEARNED]
    for seed, count, name in plan:
        key = {"method": name, "train": count, "seed": seed}
        todo = [t for t in tests if results.missing(**key, field=t[0])]
        if not todo:
            continue
        if name == ALONE:
            data = flow.dataset(problem, DATA_SEED, most)
            some = flow.Data(*(column[:count] for column in data))
            network = networks.train("F-FNO", some, seed, 60 * options.minutes, sizes)
            wanted = [(k, {KINDS[0]: test[KINDS[0]]}) for k, test in todo]
            for record in networks.evaluate(problem, network, wanted):
                results.add(key | record)
            continue
        table = basis_table(count, seed, options)
        trained = learning.train(table, sample_seed=DATA_SEED, sample_fields=most)
        model = load_model(trained.path)

        def maker(model: Any = model) -> Any:
            return make(RAW, problem.kappa, model)

        for number, test in todo:
            found = measure(problem, test, maker)
            results.add(key | {"field": number} | found | trained.record())


def shown(records: Records, settings: Mapping[str, Any]) -> list[Shown]:
    """Errors over the number of fields."""
    counts = sorted((n for n in records.by("train") if n), reverse=True)
    seeds, found = [seed for seed in records.by("seed") if seed], []
    titles = "Error in L2, %", "Relative error in the energy norm"
    for error, title, scale in zip(("L2", "energy"), titles, (100, 1), strict=True):
        head = ["method", *(f"{n} fields" for n in counts)]
        table = Shown(title, head, [], "As above.")
        if error == "L2":
            note = (
                "Steady Richards' equation, log-normal κ, {cells} x {cells} cells, "
                "{boxes} x {boxes} boxes with 8 modes a vertex, {fields} unseen fields. ".format(
                    **settings
                )
                + f"Mean ± standard deviation over fields and {len(seeds)} seeds of "
                "training; in brackets the standard deviation of the seeds' means. Growth: error "
                "over that of the most fields, same seed and test field. The paper's rows have its "
                "own problem, 250 x 250 cells and training on an H100 to the end; here it ends "
                f"long before, after {settings['steps']} steps of a basis and "
                f"{settings['minutes']:g} minutes of the F-FNO."
            )
            growth = f"growth, {counts[0]} to {counts[-1]}" if counts else "growth"
            table = table._replace(head=[*head, growth, "over SLEPc, fewest"], notes=note)
        for name in (*CONSTANT, *LEARNED):
            if name in CONSTANT:
                cells = [records.spread(error, scale, method=name)] * len(counts)
                table.rows.append([name, *cells, *["–", "–"] * (error == "L2")])
                continue
            cells = []
            for n in counts:
                mine = records.select(method=name, train=n)
                between = spread(seed_means(mine, error), scale).partition("±")[2].strip() or "–"
                cells.append(f"{mine.spread(error, scale)} ({between})" if mine else "–")
            if error == "L2":
                key, to = {"method": name, "train": counts[-1]}, {"method": SLEPC}
                most = {"method": name, "train": counts[0]}
                cells.append(spread(records.ratios(error, ("seed", "field"), most, **key)))
                cells.append(spread(records.ratios(error, ("field",), to, **key)))
            table.rows.append([name, *cells])
        if error == "L2":
            for name, figures in PAPER.items():
                cells = [f"{figures[n]}" if n in figures else "–" for n in counts]
                table.rows.append([f"paper: {name}", *cells, "–", "–"])
        found.append(table)
    return [*found, training(records, counts)]


def seed_means(records: Records, error: str) -> np.ndarray:
    """Mean error over the fields for each seed."""
    return np.array([mine.values(error).mean() for _, mine in sorted(records.by("seed").items())])


def training(records: Records, counts: Sequence[int]) -> Shown:
    """What each training saw and took."""
    table = Shown(
        "Training",
        ["method", "fields", "samples", "steps", "s", "loss or defect"],
        [],
        "Samples: neighbourhoods, or fine solutions. s: processor time of training on one core. "
        "Last column: L2 error in the last steps of training (F-FNO alone), error of solutions "
        "over that of modes in the fields that validate.",
    )
    for name in LEARNED:
        for n in counts:
            runs = records.select(method=name, train=n).by("seed").values()
            mine = Records(of_seed[-1] for of_seed in runs)
            if not mine:
                continue
            alone = name == ALONE
            samples = f"{n if alone else mine.values('samples').mean():,.0f}"
            keys = ("steps", "train s", "loss") if alone else ("steps", "training", "validation")
            table.rows.append([name, f"{n}", samples, *(mine.spread(k) for k in keys)])
    return table


def draw(figure: Figure, records: Records) -> None:
    """Error over the number of fields."""
    all_axes = figure.subplots(1, 2)
    counts = sorted(n for n in records.by("train") if n)
    for axes, error, title in zip(all_axes, ("L2", "energy"), ("L2", "energy norm"), strict=True):
        for name, marker in zip(LEARNED, "so", strict=True):
            # What a seed means: the fields, and so their spread, are the same for all points.
            mine = sorted(records.select(method=name).by("train").items())
            found = {n: 100 * seed_means(runs, error) for n, runs in mine}
            if found:
                bars = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in found.values()]
                y = [v.mean() for v in found.values()]
                axes.errorbar(list(found), y, bars, marker=marker, label=name, capsize=3)
        for name, style in zip(CONSTANT, ("-", ":", "--"), strict=True):
            level = 100 * records.values(error, method=name).mean()
            axes.axhline(level, color="black", ls=style, lw=1.2, label=name)
        axes.set(
            xscale="log", yscale="log", xlabel="fields to learn from (bars: seeds)", title=title
        )
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("relative error, %")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def main() -> None:
    """Run from the command line."""
    parser = Parser(__doc__)
    (*_, full, _, minutes), (*_, few, _, short) = flow.FULL, flow.QUICK
    parser.depends("--fields", full, few, type=int, help="fields to test")
    parser.depends("--seeds", 3, 1, type=int, help="trainings of each kind")
    parser.depends("--minutes", minutes, short, type=float, help="of a training of F-FNO")
    parser.depends("--steps", 1000, 2, type=int, help="of each training of a basis")
    parser.depends("--per-field", 6, 0, type=int, help="neighbourhoods of a field; 0: all")
    parser.depends(
        "--cases", CASES, QUICK_CASES, type=int, nargs="+", help="numbers of fields to learn from"
    )
    options = parser.parse_args()
    cells, boxes, *_ = flow.QUICK if options.quick else flow.FULL
    settings = {"cells": cells, "boxes": boxes, "family": flow.FAMILY}
    chosen = ("fields", "seeds", "minutes", "steps", "per_field", "cases")
    results = Results("data", options, settings | {k: getattr(options, k) for k in chosen})
    if not options.show:
        problem = FlowProblem(cells, boxes)
        tests = flow.unseen(problem, options.fields)
        run_constant(results, problem, tests)
        run_learned(results, problem, tests, options)
    made = shown(results.records, results.head["settings"])
    results.finish(made, {"fields": lambda figure: draw(figure, results.records)})


if __name__ == "__main__":
    main()
