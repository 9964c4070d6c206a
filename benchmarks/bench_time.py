# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Time: construction of the basis, computed, filtered and predicted; what a model has cost.

Cases are meshes of the unit square and cube with log-normal fields that no model has seen, 8
functions. Each run is a process of its own, on one field: time of the stage that computes
the modes and of the whole space (with element matrices, local matrices, P), and peak memory. Times
are processor time, on two ranks that of the slower one for its share of the neighbourhoods, since
other jobs may run on the machine; the wall-clock time and the load are in the records. The loop of
scipy's eigsh is that of ``bench_space.py``, in 3D on some neighbourhoods of each size, with the
fastest of three orderings. "learned, raw" are functions that were trained on solutions, as they
are, "harmonic, predicted" harmonic functions with their boundary values; there are no harmonic rows
in the largest case.

The cost of a model is the training of the pretrained one, by its card, and the sampling of its
data, measured on some fields and scaled to all of them.

    python benchmarks/bench_time.py [--quick] [--resume] [--show] [--cases CASE ...] [--ranks 1 2]
        [--fields N] [--bases BASIS ...]
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

from harness import learning
from harness.bases import FILTERED, HARMONIC, LEARNED, PREDICTED, RAW, SLEPC, make
from harness.building import CASES, LARGE, QUICK, build, eigsh_loop
from harness.launch import launch, serve
from harness.machine import installed
from harness.problems import FAMILIES, FIRST_SEED, NUM_MODES, Diffusion, box
from harness.results import Parser, Record, Records, Results, Shown, spread

import numpy as np
from matplotlib.figure import Figure

FAMILY = "log-normal"
SCIPY = "scipy loop"
BASES = (FILTERED, RAW, LEARNED, HARMONIC, PREDICTED, SLEPC)
ROWS = (SLEPC, SCIPY, FILTERED, LEARNED, RAW, HARMONIC, PREDICTED)
#: The model of a basis.
MODELS = {LEARNED: "diffusion", RAW: "solutions", PREDICTED: "solutions"}
#: Fields of each case.
FIELDS = {"2d-100": 3, "2d-250": 3, "3d-50": 3, "3d-100": 1, "2d-quick": 1, "3d-quick": 1}
#: Fields that sampling is timed on, by dimension.
SAMPLED, SAMPLED_QUICK = {2: 10, 3: 5}, {2: 1, 3: 1}
#: Seconds of the paper, on an H100 with JAX: basis of GMsFEM, and learned.
PAPER = {
    "2d-100": (16.87, 0.28),
    "2d-250": (210.5, 0.31),
    "3d-50": (935.4, 0.84),
    "3d-100": (10547.0, 1.33),
}


def field(msh: Any, seed: int) -> Any:
    """The coefficient of a field's number."""
    return FAMILIES[FAMILY](msh, FIRST_SEED + seed)


def basis(kappa: Any, name: str) -> Any:
    """One of :data:`BASES` for a coefficient; the file of a model is read each time."""
    if name not in MODELS:
        return make(name, kappa)
    from dolfinx_msnn.nn.model import load_model
    from dolfinx_msnn.pretrained import pretrained_models

    dim = kappa.function_space.mesh.topology.dim
    return make(name, kappa, load_model(pretrained_models()[f"{MODELS[name]}-{dim}d"]))


def construct(case: str, seed: int, name: str) -> Record | None:
    """A basis on one field, on the ranks of this process."""
    dim, cells = {**CASES, **QUICK}[case][:2]
    arguments = partial(field, seed=seed), partial(basis, name=name)
    if cells**dim > LARGE:
        # First use of libraries and compiled forms; smaller cases are built twice.
        build(f"{dim}d-quick", *arguments)
    made = build(case, *arguments)
    if made is None:
        return None
    return {
        "case": case,
        "basis": name,
        "ranks": made["ranks"],
        "seed": seed,
        "seconds": max(made["eigensolves_by_rank_cpu_s"]),
        "wall_s": made["s basis"],
        # A rank that waits for another one is busy, too.
        "space_s": made["space_by_rank_cpu_s"][0] if made["ranks"] == 1 else None,
        "load_s": made["s creation of the basis"],
        "gib": sum(made["peak_gib_by_rank"]),
        "N_f": made["N_f"],
        "N_c": made["N_c"],
        "neighbourhoods": sum(made["neighbourhoods"]),
        "load": os.getloadavg()[0],
    }


def scipy_loop(case: str, seed: int) -> Record:
    """The loop of eigsh, and SLEPc on the same pencils."""
    made = eigsh_loop(case, partial(field, seed=seed))[0]
    return {
        "case": case,
        "basis": SCIPY,
        "ranks": 1,
        "seed": seed,
        "seconds": made["eigsh_in_all_s"],
        "same_pencils": made["ratio"],
        "timed": made["timed_neighbourhoods"],
        "ordering": made["ordering"],
        "load": os.getloadavg()[0],
    }


def accuracy(case: str) -> Records:
    """Errors of the multiscale solution with each basis, on the first field."""
    dim, cells, boxes = {**CASES, **QUICK}[case]
    problem = Diffusion(field(box(dim, cells), 0), boxes)
    found = []
    for name in BASES:
        if name not in MODELS or installed("torch"):
            errors = problem.errors(basis(problem.kappa, name))
            found.append({"case": case, "errors_of": name, **errors})
    return found


def model_cost(name: str, num_fields: int) -> Record:
    """Seconds of sampling, scaled to the whole set, and of training, of a pretrained model."""
    from dolfinx_msnn.nn.config import Config
    from dolfinx_msnn.nn.model import read_card
    from dolfinx_msnn.pretrained import pretrained_models

    config = Config.read(Path(__file__).parent.parent / "configs" / f"{name}.toml")
    data = config.data
    some = replace(config, data=replace(data, num_fields=num_fields))
    with tempfile.TemporaryDirectory() as folder:
        start = process_time()
        learning.generate(Path(folder) / "set.h5", some)
        sampling = (process_time() - start) * data.num_fields / num_fields
    card = read_card(pretrained_models()[name])
    return {
        "model": name,
        "sampling_s": sampling,
        "training_s": card.training_time_s,
        "sampled": num_fields,
        "fields": data.num_fields,
        "load": os.getloadavg()[0],
    }


#: What a process does, by name.
WORK: dict[str, Callable[..., Any]] = {
    "basis": construct,
    "scipy": scipy_loop,
    "errors": accuracy,
    "model": model_cost,
}


def work(what: str, *arguments: Any) -> Any:
    """The work of one process."""
    return WORK[what](*arguments)


def pays(cost: float, saved: np.ndarray) -> str:
    """Problems after which a cost is made up for, by what each saves.

    The median, as a spell of load must not decide it.
    """
    if not saved.size:
        return "–"
    gain = float(np.median(saved))
    return f"{math.ceil(cost / gain):,}" if gain > 0 else "never"


def main_table(records: Records, cases: Sequence[str]) -> Shown:
    """Times and memory."""
    head = ["case", "basis", "basis, s", "ms a neighbourhood", "whole space, s", "SLEPc / this"]
    head += ["filtered / this"]
    head += ["2 ranks: basis, s", "1 rank / 2 ranks", "GiB", "GiB on 2", "energy error"]
    head += ["paper: s, H100, JAX"]
    rows = []
    pair = ("case", "seed")
    for case in cases:
        counts = records.values("neighbourhoods", case=case)
        number = int(counts[0]) if counts.size else 0
        for name in ROWS:
            one = {"case": case, "basis": name, "ranks": 1}
            seconds = records.values("seconds", **one)
            theirs = PAPER.get(case, ("", ""))
            if not seconds.size:
                continue
            gain = 1 / records.ratios("seconds", pair, {"basis": SLEPC, "ranks": 1}, **one)
            over = 1 / records.ratios("seconds", pair, {"basis": FILTERED, "ranks": 1}, **one)
            if name == SCIPY:
                gain = 1 / records.values("same_pencils", **one)
            two = {"case": case, "basis": name, "ranks": 2}
            speed = 1 / records.ratios("seconds", pair, {"basis": name, "ranks": 1}, **two)
            error = records.values("energy", case=case, errors_of=name)
            row = [f"{case}, {number} neighbourhoods", name, spread(seconds)]
            row.append(spread(seconds, 1e3 / number) if number else "–")
            row.append(records.spread("space_s", **one))
            row.append("1" if name == SLEPC else spread(gain))
            row.append("1" if name == FILTERED else spread(over))
            row += [records.spread("seconds", **two), spread(speed)]
            row += [records.spread("gib", **size) for size in (one, two)]
            row.append(f"{error[0]:.1%}" if error.size else "–")
            rows.append([*row, str({SLEPC: theirs[0], RAW: theirs[1]}.get(name, ""))])
    timed = {r["case"]: f"{r['timed']} ({r['ordering']})" for r in records.select(basis=SCIPY)}
    notes = (
        f"Fields: {FAMILY}; mean ± standard deviation over fields, or one field alone, in "
        "processor time. The scipy loop was timed on so many neighbourhoods, with the ordering "
        "that was the fastest: "
        + "; ".join(f"{k}: {v}" for k, v in timed.items())
        + ", and scaled to all of them; its ratio is that to SLEPc on the same pencils in the same "
        "process. GiB: peak resident memory of all ranks together, DOLFINx "
        "and, where a network is used, PyTorch among it. Energy error: of the multiscale solution "
        "on the first field (not solved in the largest case); what is fast there and far off is "
        "of no use. On two ranks: processor time of the slower rank for its share. Other jobs were "
        "running, so a gain may come out above 2, and memory bandwidth limits it less than alone. "
        "The paper's seconds are those of GMsFEM's basis and of its network, on another machine: "
        "not compared."
    )
    return Shown("Construction of the basis", head, rows, notes)


def cost_table(records: Records, cases: Sequence[str]) -> Shown:
    """When a model has paid for itself."""
    others = (SLEPC, SCIPY, FILTERED, HARMONIC)
    head = ["case", "basis", "data, s", "training, s", "pays after, against SLEPc"]
    head += [f"against {other}" for other in others[1:]]
    rows, lines = [], []
    for case, (name, kind) in product(cases, MODELS.items()):
        dim = {**CASES, **QUICK}[case][0]
        cost = records.first(model=f"{kind}-{dim}d")
        runs = records.select(case=case, ranks=1)
        ours = {r["seed"]: r["seconds"] for r in runs.select(basis=name)}
        if not cost or not ours:
            continue
        text = f"{cost['model']}: {cost['sampled']} of {cost['fields']} fields sampled"
        if text not in lines:
            lines.append(text)
        row = [case, name, f"{cost['sampling_s']:.0f}", f"{cost['training_s']:.0f}"]
        for other in others:
            found = [r for r in runs.select(basis=other) if r["seed"] in ours]
            saved = np.array([r["seconds"] - ours[r["seed"]] for r in found])
            row.append(pays(cost["sampling_s"] + cost["training_s"], saved))
        rows.append(row)
    notes = (
        "Problems (one coefficient field each, one rank) after which the time saved on the basis, "
        "field by field, the median, has made up for data and training. Training: by the "
        "model's card. "
        + "; ".join(lines)
        + ". What is compared is time alone: errors are in the table above."
    )
    return Shown("What a model has cost, and when it has paid", head, rows, notes)


def draw(records: Records, cases: Sequence[str], figure: Figure) -> None:
    """Bars of the time for the basis."""
    axes = figure.subplots()
    at = np.arange(len(cases))
    width = 0.8 / len(ROWS)
    for k, name in enumerate(ROWS):
        means = [records.values("seconds", case=c, basis=name, ranks=1) for c in cases]
        heights = [m.mean() if m.size else np.nan for m in means]
        axes.bar(at + (k - 3) * width, heights, width, label=name, color=f"C{k}")
    for which, label, marker in ((0, "GMsFEM basis", "_"), (1, "learned", "x")):
        points = [PAPER[c][which] if c in PAPER else np.nan for c in cases]
        if np.isfinite(points).any():
            text = f"paper, {label} (H100, JAX)"
            axes.plot(at, points, marker, color="black", ms=12 - 4 * which, label=text)
    axes.set_yscale("log")
    axes.set_xticks(at, [f"{c}³" if c.startswith("3d") else f"{c}²" for c in cases])
    axes.set_ylabel("basis construction, one core, s")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)


def run(results: Results, options: Any, cases: Sequence[str]) -> None:
    """Make the records that are missing: one rank first, as that is what most columns need."""

    def start(*arguments: Any, ranks: int = 1) -> None:
        # In a process each, for its peak memory, but for the quick check.
        alone = options.quick and ranks == 1
        made = work(*arguments) if alone else launch(__file__, *arguments, ranks=ranks)
        for record in made if isinstance(made, list) else [made]:
            results.add(record)

    torch = installed("torch")
    for case in cases:
        if case != "3d-100" and results.missing(case=case, errors_of=SLEPC):
            start("errors", case)
    names = [n for n in BASES if n in options.bases and (torch or n not in MODELS)]
    sampled = SAMPLED_QUICK if options.quick else SAMPLED
    dims = {{**CASES, **QUICK}[case][0] for case in cases}
    for dim, kind in product(dims, dict.fromkeys(MODELS.values())):
        if torch and results.missing(model=f"{kind}-{dim}d"):
            start("model", f"{kind}-{dim}d", sampled[dim])
    for case in cases:
        for seed in range(options.fields or FIELDS[case]):
            for name in names:
                if case == "3d-100" and name in (HARMONIC, PREDICTED):
                    continue
                # One after the other, so that the load of the machine is the same to both.
                for ranks in options.ranks:
                    key = {"case": case, "ranks": ranks, "seed": seed, "basis": name}
                    # To start PyTorch twice more takes longer than all else in the quick check.
                    twice = case == "2d-quick" and name == FILTERED
                    if (options.quick and ranks > 1 and not twice) or not results.missing(**key):
                        continue
                    start("basis", case, seed, name, ranks=ranks)
            # In 3D one field is sampled, and that takes long enough.
            once = case.startswith("2d") or seed == 0
            key = {"case": case, "ranks": 1, "seed": seed, "basis": SCIPY}
            if 1 in options.ranks and once and results.missing(**key):
                start("scipy", case, seed)


def main() -> None:
    """Run from the command line."""
    if serve(work):
        return
    parser = Parser(__doc__, CASES, QUICK)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--fields", type=int, help="fields of each case")
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    options = parser.parse_args()
    settings = {"family": FAMILY, "fields": FIELDS, "num_modes": NUM_MODES}
    results = Results("time", options, settings)
    if not options.show:
        run(results, options, options.cases)
    found = {r["case"] for r in results.records if "basis" in r}
    cases = [case for case in {**CASES, **QUICK} if case in found]
    shown = [main_table(results.records, cases), cost_table(results.records, cases)]
    results.finish(shown, {"bars": lambda figure: draw(results.records, cases, figure)})


if __name__ == "__main__":
    main()
