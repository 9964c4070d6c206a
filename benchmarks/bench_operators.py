# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Table 4: networks that predict the solution by themselves, next to multiscale spaces.

Steady Richards' equation on the unit square (``harness/flow.py`` says what is drawn). F-FNO of this
package, FNO of ``neuraloperator``, Transolver of ``nvidia-physicsnemo`` and PCA-Net learn p from
log κ, f and the boundary values, DeepPOD a space of few functions from log κ
(``harness/reduced.py``): the same fine solutions and seconds of training on one core, and several
seeds. POD has the leading functions of these solutions, local POD those of each neighbourhood, as a
basis of the coarse space. All methods then solve the same unseen fields, with loads drawn as in
training and with loads that no network has seen: wells, f twice as large, the pressures on the two
other sides, a drop of pressure twice as large. The other spaces need no training for any of these.
Errors are relative to the fine solution, in L2 and in the energy norm of κ; seconds are processor
time of one core for one problem: a forward pass, or a basis, its space and Newton's method in it,
or a forward pass and Newton's method.

    python benchmarks/bench_operators.py [--quick] [--resume] [--show]
    python benchmarks/bench_operators.py --fields 10 --seeds 2 --minutes 0.5 --networks F-FNO FNO

Fine solutions and trained networks are kept in ``benchmarks/work/operators``. A network whose
package is not there has no row but a remark.
"""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from harness import flow, networks
from harness.flow import DATA_SEED, FULL, KINDS, QUICK, FlowProblem
from harness.networks import NETWORKS
from harness.results import Parser, Record, Records, Results, Shown, spread
from harness.timing import Stopwatch

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

#: A training that is longer by ``--long``, to see how much of the errors is the budget's.
LONG = "F-FNO, longer"
INTERPOLANT = "interpolant g"
POD, LOCAL_POD = "POD of other fields", "local POD of other fields"
SPACES = ("SLEPc", "filtered cosines", "learned (shipped)", "harmonic", LOCAL_POD, POD)
#: L2 errors in per cent of Rudikov et al. (ICLR 2026), their Richards' problem on 250 x 250.
PAPER = {"F-FNO": "4.45", "Transolver": "8.82 (++)", "learned (shipped)": "1.60", "GNOT": "14.69"}


def run_spaces(
    results: Results,
    problem: FlowProblem,
    tests: Sequence[Any],
    options: Namespace,
    num_functions: int,
) -> None:
    """Multiscale spaces, POD, and the fine mesh, on all test problems."""
    makers = {n: m for n, m in flow.bases(problem).items() if n in options.spaces}
    if {POD, LOCAL_POD} & set(options.spaces):
        from harness import reduced

        data = flow.dataset(problem, DATA_SEED, options.train)
        local, functions = reduced.local_pod(problem, data), reduced.pod(data, num_functions)
        makers |= {LOCAL_POD: lambda: local} if LOCAL_POD in options.spaces else {}
    for number, problems in tests:
        loads = {kind: load for kind, (_, load, _) in problems.items()}
        problem.log_kappa = next(iter(problems.values()))[0]

        def add(method: str, kind: str, found: Record, number: int = number) -> None:
            key = {"method": method, "seed": 0, "field": number, "kind": kind}
            results.add(key | found)

        if results.missing(method="fine mesh", field=number):
            for kind, load in loads.items():
                watch = Stopwatch()
                problem.solve(load)
                add("fine mesh", kind, {"solve s": watch.book("solve")})
        if results.missing(method=INTERPOLANT, field=number):
            for kind, (_, load, exact) in problems.items():
                add(INTERPOLANT, kind, problem.errors(problem.lift(load), exact))
        if POD in options.spaces and results.missing(method=POD, field=number):
            for kind, (_, load, exact) in problems.items():
                watch = Stopwatch()
                p = reduced.galerkin(problem, load, functions)
                seconds = watch.book("solve")
                add(POD, kind, problem.errors(p, exact) | {"solve s": seconds})
        for name, maker in makers.items():
            if not results.missing(method=name, field=number):
                continue
            if number == tests[0][0]:
                # The first call compiles forms and loads libraries.
                problem.multiscale(maker, loads)
            for kind, (p, times) in problem.multiscale(maker, loads).items():
                add(name, kind, problem.errors(p, problems[kind][2]) | times)
        gc.collect()


def run_networks(
    results: Results, problem: FlowProblem, tests: Sequence[Any], options: Namespace
) -> None:
    """Train each network with each seed, and use it on all test problems."""
    sizes = networks.SMALL if options.quick else networks.FULL
    plan = [(s, n, 1.0) for s in range(1, options.seeds + 1) for n in options.networks]
    plan += [(1, LONG, options.long)] if options.long and "F-FNO" in options.networks else []
    for seed, name, factor in plan:
        todo = [t for t in tests if results.missing(method=name, seed=seed, field=t[0])]
        kind = "F-FNO" if name == LONG else name
        if not todo or not networks.available(kind):
            continue
        data = flow.dataset(problem, DATA_SEED, options.train)
        network = networks.train(kind, data, seed, 60 * factor * options.minutes, sizes)
        for record in networks.evaluate(problem, network, todo):
            results.add({"method": name, "seed": seed} | record)


def shown(records: Records, settings: Mapping[str, Any]) -> list[Shown]:
    """Errors by kind of load; then costs."""
    pair = ("field", "kind")
    peaks = records.values("L2", method="SLEPc", kind="wells")
    lost = int((peaks > 0.5).sum())
    first = Shown(
        "Error in L2, %",
        ["method", "paper", "as in training", "over SLEPc", *KINDS[1:]],
        [],
        "Steady Richards' equation, log-normal κ, {cells} x {cells} cells, {boxes} x {boxes} boxes "
        "with 8 modes a vertex, {fields} unseen fields; networks: {train} fine solutions, {seeds} "
        "seeds, {minutes:g} minutes of one core for a training. ".format(**settings)
        + f"{LONG}: one training, {settings['long']:g} times as long. "
        "Mean ± standard deviation over fields and seeds of training (median). Over SLEPc: ratio "
        "of errors, field by field, mean. Interpolant: what the networks add to. "
        f"Wells: in {lost} of {len(peaks)} fields one lies where κ is so small that p goes to "
        "hundreds or beyond there, and no space catches that peak (errors above 50 %); hence the "
        f"medians. DeepPOD, POD: Galerkin solutions in spaces of {settings['functions']} "
        "functions, predicted for κ and the same for all. Local POD: the constant and 7 functions "
        "of the solutions that networks learn from. "
        "The paper's column has its own problem and machine (250 x 250 cells, H100): its "
        "Transolver is Transolver++, its learned basis is trained for the problem; its GNOT "
        "(14.69) is not run here.",
    )
    second = Shown(
        "Relative error in the energy norm",
        ["method", "as in training", "over SLEPc", *KINDS[1:]],
        [],
        "As above. 1 is the error of p = 0: nothing keeps the gradient of a network, or of other "
        "fields' functions, small where κ is large. Networks give 2 x 2 nodes at a "
        "time, which may add to it.",
    )
    head = ["method", "numbers to learn", "steps", "training s", "L2 % in training"]
    head += ["one problem s", "of these for the basis", "L2 %, seeds' means"]
    third = Shown(
        "Cost, processor seconds of one core",
        head,
        [],
        "L2 in training: mean of the last 50 steps, on fields that were learned; where it is that "
        "of unseen fields, a network lacks time, not fields; DeepPOD's: of the best approximation "
        "in its space. One problem: a forward pass, or basis, space and Newton, or both; functions "
        "of POD and local POD are made before. The fine mesh is small enough for Newton on it to "
        "be faster than any space of the coarse grid. Not here: fine solutions to learn from.",
    )
    for name in [INTERPOLANT, *NETWORKS, LONG, *SPACES, "fine mesh"]:
        mine = records.select(method=name)
        if not mine:
            if name in NETWORKS and not networks.available(name):
                for table in (first, second, third):
                    table.rows.append([name, "not installed", *["–"] * (len(table.head) - 2)])
            continue
        if name != "fine mesh":
            for table, error in ((first, "L2"), (second, "energy")):
                scale = 100 if error == "L2" else 1
                found = [scale * mine.values(error, kind=q) for q in KINDS]
                cells = [f"{spread(v)} ({np.median(v):.3g})" for v in found]
                over = records.ratios(error, pair, {"method": "SLEPc"}, method=name, kind=KINDS[0])
                lead = [name, PAPER.get(name, "–")] if error == "L2" else [name]
                table.rows.append([*lead, cells[0], f"{over.mean():.3g}", *cells[1:]])
        if name == INTERPOLANT:
            continue
        runs = Records(of_seed[-1] for of_seed in mine.by("seed", "steps").values())
        means = [mine.values("L2", kind=KINDS[0], seed=r["seed"]).mean() for r in runs]
        row = [name, f"{runs[0]['parameters']:,}" if runs else "–", runs.spread("steps")]
        row += [runs.spread("train s"), runs.spread("loss", 100)]
        row += [mine.spread("solve s"), mine.spread("build s"), spread(means, 100)]
        third.rows.append(row)
    return [first, second, third]


def draw(figure: Figure, records: Records) -> None:
    """Bars of the L2 error by kind of load."""
    axes = figure.add_subplot()
    names = [n for n in [*NETWORKS, LONG, *SPACES] if records.select(method=n)]
    width = 0.85 / len(names)
    axes.set_prop_cycle(color=colormaps["tab20"].colors)
    for k, name in enumerate(names):
        found = [100 * records.values("L2", method=name, kind=q) for q in KINDS]
        places = np.arange(len(KINDS)) + (k - (len(names) - 1) / 2) * width
        style = {"hatch": "//", "edgecolor": "white"} if name in (*NETWORKS, LONG) else {}
        axes.bar(places, [v.mean() for v in found], width, label=name, **style)
        low, high = ([np.percentile(v, q) for v in found] for q in (10, 90))
        axes.vlines(places, low, high, color="black", lw=1)
    axes.set_xticks(range(len(KINDS)), ["as in training", *KINDS[1:]])
    axes.set_yscale("log")
    axes.set(ylabel="relative error in L2, %", xlabel="load (lines: 10 to 90 % of the runs)")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3)


def main() -> None:
    """Run from the command line."""
    parser = Parser(__doc__)
    what = {
        "train": "fields to learn from",
        "fields": "fields to test",
        "seeds": "trainings of each network",
        "minutes": "of each training",
    }
    cells, boxes = zip(FULL[:2], QUICK[:2], strict=True)
    for (name, text), full, quick in zip(what.items(), FULL[2:], QUICK[2:], strict=True):
        parser.depends(f"--{name}", full, quick, type=type(full), help=text)
    parser.depends("--long", 5.0, 2.0, type=float, help="how much longer one training is; 0: none")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--spaces", nargs="*", default=list(SPACES), choices=SPACES)
    options = parser.parse_args()
    settings = {"cells": cells[options.quick], "boxes": boxes[options.quick]}
    settings |= {"family": flow.FAMILY} | {k: getattr(options, k) for k in (*what, "long")}
    settings["functions"] = (networks.SMALL if options.quick else networks.FULL)["DeepPOD"]["num"]
    results = Results("operators", options, settings)
    if not options.show:
        problem = FlowProblem(settings["cells"], settings["boxes"])
        tests = flow.unseen(problem, options.fields)
        run_spaces(results, problem, tests, options, settings["functions"])
        run_networks(results, problem, tests, options)
    made = shown(results.records, results.head["settings"])
    results.finish(made, {"errors": lambda figure: draw(figure, results.records)})


if __name__ == "__main__":
    main()
