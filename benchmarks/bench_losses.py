# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Table 3: what a network is trained on, with its functions used as they are.

Problems: diffusion with f = 1 and u = 1 and 0 on two opposite sides, 100 x 100 and 50 x 50 x 50
cells under 5 boxes a side, and Richards' equation with a pressure drop
(``harness/richards.py``), 100 x 100 cells under 5 and 250 x 250 under 10 boxes a side; log-normal
fields. Each row is one way of training: the subspace alignment loss with and without its
regularisation, as Rudikov et al. have them, the energy of the modes, and fine solutions. All have
eight functions, the constant among them, and are used raw, without filter or compression. Network,
samples, start, steps and optimiser are the same, but for "sal, plain": the network without its
constant and its last steps, by AdamW; and "not turned": trained without the turns and reflections
that samples otherwise undergo. Samples are of other seeds than the tests, and of the
family, domain and mesh width of the problem; those of 3D lie in a smaller cube. Both problems on
100 x 100 cells share their networks, as spaces see kappa alone. Training seeds share the samples.

Errors are relative to the fine solution; ratios to those of SLEPc's 8 modes of the same field.

    python benchmarks/bench_losses.py [--quick] [--resume] [--show]
    python benchmarks/bench_losses.py --cases "diffusion 2d-100" --seeds 1 --losses solutions
"""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from harness import learning
from harness.problems import FAMILIES, FIRST_SEED, NORMS, NUM_MODES, Diffusion, box, relative_errors
from harness.results import Parser, Record, Records, Results, Shown, plain_ticks, tabulate
from harness.richards import Richards

import numpy as np
from matplotlib.figure import Figure

import dolfinx_msnn as msnn
from dolfinx import fem

PLAIN = "sal, plain"
UNTURNED = "solutions, not turned"
LOSSES = (PLAIN, "sal", "sal_pr", "energy", "solutions", UNTURNED)
SLEPC = "SLEPc"
#: Rudikov et al., ICLR 2026: errors in L2 in per cent, their problems, fields and network.
PAPER = {
    ("diffusion 2d-100", SLEPC): 1.15,
    ("diffusion 2d-100", "sal"): 1.06,
    ("diffusion 3d-50", SLEPC): 3.07,
    ("diffusion 3d-50", "sal"): 3.10,
    ("Richards 2d-100", SLEPC): 2.03,
    ("Richards 2d-100", "sal"): 1.88,
    ("Richards 2d-100", "sal_pr"): 1.87,
    ("Richards 2d-250", SLEPC): 1.79,
    ("Richards 2d-250", "sal_pr"): 1.72,
}


class Case(NamedTuple):
    """A problem: dimension, fine cells, boxes, unseen fields, and what is trained for it."""

    dim: int
    cells: int
    boxes: int
    fields: int
    trained: str


CASES = {
    "diffusion 2d-100": Case(2, 100, 5, 20, "2d-100"),
    "Richards 2d-100": Case(2, 100, 5, 20, "2d-100"),
    "diffusion 3d-50": Case(3, 50, 5, 5, "3d-50"),
    "Richards 2d-250": Case(2, 250, 10, 20, "2d-250"),
}
QUICK = {
    "diffusion 2d-quick": Case(2, 20, 2, 1, "2d-quick"),
    "Richards 2d-quick": Case(2, 20, 2, 1, "2d-quick"),
}
#: Where samples are from: cells and boxes a side, length of a side, lattice, fields, and steps.
TRAINED: dict[str, tuple[int, int, float, int, int, int]] = {
    "2d-100": (100, 5, 1.0, 21, 100, 2000),
    "2d-250": (250, 10, 1.0, 26, 60, 2000),
    "3d-50": (30, 3, 0.6, 11, 60, 1200),
    "2d-quick": (20, 2, 1.0, 7, 4, 3),
}


def configuration(trained: str, loss: str, seed: int, options: Namespace) -> dict[str, Any]:
    """Of one training."""
    cells, boxes, side, lattice, number, steps = TRAINED[trained]
    dim, steps = int(trained[0]), options.steps or steps
    plain = loss == PLAIN
    return learning.configuration(
        f"{trained}-{loss.replace(', ', '-')}-{seed}",
        seed,
        learning.LOG_NORMAL,
        options.quick,
        problem={"cells": [cells] * dim, "coarse": [boxes] * dim, "upper": [side] * dim},
        data={
            "num_fields": number,
            "per_field": 18,
            "lattice": lattice,
            "solutions": 8,
            "kinds": ["drop", "values", "one", "smooth"],
        },
        network={
            "width": 32 if dim == 2 else 24,
            "modes": 12 if dim == 2 else 6,
            "fine": True,
            "constant": not plain,
            "steps": 0 if plain else 3,
        },
        training=learning.RAW
        | {
            "loss": loss.split(",")[0],
            "batch_size": 8 if dim == 2 else 4,
            "optimiser": "adamw" if plain else "muon",
            "steps": steps,
            # Once, at the end: which weights are kept must not depend on another loss.
            "validate_every": steps,
            "validation_samples": 60,
        }
        | ({"augment": False} if loss == UNTURNED else {}),
    )


def solver(case: str, msh: Any, seed: int) -> Callable[[Any], Record]:
    """What gives the errors of a basis on one field."""
    kappa, boxes = FAMILIES["log-normal"](msh, seed), {**CASES, **QUICK}[case].boxes
    if case.startswith("diffusion"):
        return Diffusion(kappa, boxes).errors
    problem = Richards(kappa, boxes, "drop")
    problem.start()
    problem.on_mesh().solve()
    fine = problem.p.copy()

    def errors(basis: Any) -> Record:
        with problem.space(basis) as W, problem.in_space(W, snes_max_it=100) as coarse:
            problem.start()
            try:
                coarse.solve()
            except RuntimeError as exc:
                return {"failed": str(exc)}
            found: fem.Function = problem.p
            return dict(relative_errors(found, fine, kappa))

    return errors


def run(results: Results, options: Namespace) -> None:
    """Train, and measure field by field."""
    from dolfinx_msnn.nn.model import load_model

    cases = {name: {**CASES, **QUICK}[name] for name in options.cases}
    models: dict[str, dict[tuple[str, int], Any]] = {}
    for trained in dict.fromkeys(case.trained for case in cases.values()):
        models[trained] = {}
        for seed in range(1, options.seeds + 1):
            for loss in options.losses:
                made = learning.train(configuration(trained, loss, seed, options), sample_seed=1)
                key: Record = {"trained": trained, "row": loss, "training_seed": seed}
                if results.missing(**key):
                    results.add(key | made.record())
                models[trained][loss, seed] = load_model(made.path)
    for name, case in cases.items():
        msh = box(case.dim, case.cells)
        for number in range(options.fields or case.fields):
            errors, seed = None, FIRST_SEED + number
            rows: dict[tuple[str, int], Any] = {(SLEPC, 0): None} | models[case.trained]
            for (row, training_seed), model in rows.items():
                key = {"case": name, "row": row, "training_seed": training_seed, "seed": seed}
                if not results.missing(**key):
                    continue
                kappa = FAMILIES["log-normal"](msh, seed)
                basis = (
                    msnn.LearnedBasis(model, kappa, refine=None, max_jump=np.inf)
                    if model
                    else msnn.SpectralBasis(NUM_MODES)
                )
                errors = errors or solver(name, msh, seed)
                results.add(key | errors(basis))
                gc.collect()


def ratios(here: Records, row: str, norm: str) -> np.ndarray:
    """Of all fields and training seeds of one case, to SLEPc's."""
    return here.ratios(norm, ("seed",), {"row": SLEPC}, row=row)


def shown(records: Records, case: str) -> Shown:
    """One problem."""
    here = records.select(case=case)
    rows = list(here.by("row"))
    trained = records.select(trained={**CASES, **QUICK}[case].trained)
    seeds, fields = max(here.by("training_seed")), len(here.by("seed"))

    def over(norm: str, row: str) -> str:
        if row == SLEPC:
            return ""
        found = ratios(here, row, norm)
        each = [
            geometric(ratios(Records([*here.select(row=SLEPC), *part]), row, norm))
            for part in here.select(row=row).by("training_seed").values()
        ]
        return (
            f"{geometric(found):.2f} ({min(each):.2f} to {max(each):.2f}; {found.max():.2f})"
            if found.size
            else "–"
        )

    columns: dict[str, Callable[[str], str]] = {
        "trained on": str,
        "L2 %": lambda row: here.spread("L2", 100, row=row),
        **{f"{norm} / SLEPc": partial(over, norm) for norm in NORMS},
        "training, s": lambda row: trained.spread("training", row=row) if row != SLEPC else "",
        "paper: L2 %": lambda row: str(PAPER.get((case, row), "")),
    }
    notes = (
        "Ratios: geometric mean over fields and training seeds; in brackets the least and the "
        "largest mean of a training seed, and the worst single run. Paper: Rudikov et al., ICLR "
        "2026, their own problems, fields and training on an H100; it enters no ratio."
    )
    if trained:
        first = trained[0]
        notes += (
            f" {first['steps']} steps on {first['samples']} neighbourhoods, sampled in "
            f"{first['sampling']:.3g} s."
        )
    if failed := sum("failed" in record for record in here):
        notes += f" Newton's method failed in {failed} runs, which are left out."
    title = f"{case}: raw functions by loss, {seeds} training seeds, {fields} fields"
    return tabulate(title, rows, columns, notes)


def geometric(values: np.ndarray) -> float:
    """Geometric mean."""
    return float(np.exp(np.log(values).mean())) if values.size else np.nan


def draw(records: Records, canvas: Figure) -> None:
    """Energy errors over SLEPc's, a point for each training seed and field."""
    groups = records.by("case")
    canvas.set_size_inches(3.4 * len(groups) + 0.6, 3.4)
    for ax, (case, here) in zip(
        np.ravel(canvas.subplots(1, len(groups), sharey=True)), groups.items(), strict=True
    ):
        names = [row for row in here.by("row") if row != SLEPC]
        for k, name in enumerate(names):
            found = ratios(here, name, "energy")
            ax.plot(np.full(found.size, k), found, "C0o", mfc="none", ms=4)
            ax.plot([k], [geometric(found)], "C3D")
        ax.axhline(1, color="k", lw=0.8, ls=":")
        ax.set_yscale("log")
        plain_ticks(ax)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
        ax.set_title(case, fontsize=9)
        ax.grid(alpha=0.3, which="both")
    canvas.supylabel("energy error / SLEPc's", fontsize=9)


def main() -> None:
    """Run, and write the tables."""
    parser = Parser(__doc__, CASES, QUICK)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.depends("--seeds", 3, 1, type=int, help="training seeds; default 3")
    parser.add_argument("--steps", type=int, help="of each training")
    parser.add_argument("--fields", type=int, help="unseen fields of each case")
    options = parser.parse_args()
    settings = {"first_seed": FIRST_SEED, "cases": CASES, "trained": TRAINED}
    settings |= {"training": configuration("2d-100", "sal", 1, options)}
    results = Results("losses", options, settings)
    if not options.show:
        run(results, options)
    records = results.records
    tables = [shown(records, case) for case in records.by("case")]
    results.finish(tables, {"energy": partial(draw, records)})


if __name__ == "__main__":
    main()
