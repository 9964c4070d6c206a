# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Table 3: ablation of the losses, on Richards' equation at mild and at high contrast.

-div(kappa k_r(p) grad p) = 1 on 100 x 100 cells with a pressure drop (``harness/richards.py``), in
the coarse space of 10 x 10 boxes with 8 modes for each vertex; a neighbourhood then has 21 x 21
nodes, all of which are lattice nodes of the network, so that nothing is lost between the two.
Networks with 8 outputs are trained with each loss: the same network, samples, start, steps and
learning rates, and none of them sees a filter. Their last weights are used raw, with the constant
as a ninth function (the first mode everywhere, which each loss counts as one of eight), and through
a filter of the same degree for all losses. One more row is trained through that filter. Training
seeds share the samples, and have start, order and split of their own. Rows without training say
what there is to gain and what the filter alone gives.

Contrasts: "mild" is log-normal of variance 1/4 (about 40 between the extremes), "high" two-phase
with 1e4. Errors are relative to the fine solution, in L2 and in the energy norm of kappa, on fields
with seeds from 10^6 on.

    python benchmarks/bench_losses.py [--quick] [--resume] [--show]
    python benchmarks/bench_losses.py --seeds 2 --steps 200 --fields 2 --contrasts high
"""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from harness import learning
from harness.bases import Polynomials, WithConstant
from harness.machine import installed
from harness.problems import FIRST_SEED, NUM_MODES, box, relative_errors
from harness.results import Parser, Record, Records, Results, Shown, plain_ticks, spread
from harness.richards import Richards

import numpy as np
from matplotlib.figure import Figure

import dolfinx_msnn as msnn
from dolfinx import fem
from dolfinx_msnn import fields

LOSSES = ("basis_l2", "sal", "sal_pr", "energy", "rayleigh")
#: The row that is trained through the filter.
THROUGH = "energy, through the filter"
#: Degree of the filter, for all rows.
SWEEPS = 6
CONTRASTS: dict[str, tuple[Callable[[Any, int], Any], dict[str, Any]]] = {
    "mild": (
        lambda m, s: fields.log_normal(m, seed=s, variance=0.25, correlation_length=0.06),
        {"name": "log_normal", "variance": 0.25, "correlation_length": 0.06},
    ),
    "high": (
        lambda m, s: fields.two_phase(m, 1e4, seed=s),
        {"name": "two_phase", "contrast": 1e4},
    ),
}
USES = ("raw", "raw + constant", "filtered")
#: Rows without training: their bases by use.
UNTRAINED: dict[str, dict[str, Callable[[Any], Any]]] = {
    "SLEPc": {"raw": lambda _: msnn.SpectralBasis(NUM_MODES)},
    "8 cosines": {"raw": lambda _: Polynomials(), "filtered": lambda _: cosines(8)},
    "24 cosines": {"filtered": lambda _: cosines(24)},
}
#: Rudikov et al., ICLR 2026: L2 errors in per cent of their ablation, Richards 100 x 100.
PAPER = {"basis_l2": 3.46, "sal": 1.88, "sal_pr": 1.87}


def configuration(contrast: str, loss: str, seed: int, options: Namespace) -> dict[str, Any]:
    """Of one training."""
    quick, through = options.quick, loss == THROUGH
    size = {"num_fields": 4, "per_field": 4} if quick else {"num_fields": 50, "per_field": 24}
    return learning.configuration(
        f"{contrast}-{'through' if through else loss}-{seed}",
        seed,
        CONTRASTS[contrast][1],
        quick,
        problem={"cells": [20 if quick else 100] * 2, "coarse": [2 if quick else 10] * 2},
        data=size | {"lattice": 21},
        network={"width": 24, "modes": 8},
        training={
            "loss": "energy" if through else loss,
            "sweeps": SWEEPS if through else 0,
            "batch_size": 4 if quick else 16,
            "steps": options.steps,
            # Once, at the end: which weights are kept must not depend on another loss.
            "validate_every": options.steps,
        },
    )


def cosines(number: int) -> msnn.FilteredBasis:
    """So many, through the filter."""
    return msnn.FilteredBasis(NUM_MODES, degree=SWEEPS, max_rounds=1, num_start=number)


class Field(Richards):
    """A field with its fine solution."""

    def __init__(self, msh: Any, contrast: str, seed: int, boxes: int) -> None:
        super().__init__(CONTRASTS[contrast][0](msh, seed), boxes, "drop")
        self.seed = seed
        self.start()
        self.on_mesh().solve()
        self.fine = fem.Function(self.V)
        self.fine.x.array[:] = self.p.x.array

    def measure(self, basis: Any) -> Record:
        """Errors of the multiscale solution in one space."""
        found: Record = {"L2": np.nan, "energy": np.nan}
        with self.space(basis) as W, self.in_space(W, snes_max_it=100) as problem:
            self.start()
            try:
                problem.solve()
                found |= relative_errors(self.p, self.fine, self.kappa)
            except RuntimeError as exc:
                found["failed"] = str(exc)
        return found | {"fallbacks": getattr(basis, "num_fallbacks", 0)}


def measure(
    results: Results, key: Record, samples: list[Field], bases: dict[str, Callable[[Field], Any]]
) -> None:
    """The uses of a row on all fields."""
    for field, (use, make) in product(samples, bases.items()):
        entry = {**key, "use": use, "seed": field.seed}
        if results.missing(**entry):
            results.add(entry | field.measure(make(field)))
            gc.collect()


def learned(model: Any, use: str, field: Field) -> Any:
    """The basis of a model, raw, with one function more, or filtered."""
    sweeps = SWEEPS if use == "filtered" else 0
    basis = msnn.LearnedBasis(model, field.kappa, NUM_MODES, sweeps=sweeps, cosines=0, max_rounds=1)
    return WithConstant(basis) if use == "raw + constant" else basis


def run(results: Results, options: Namespace) -> None:
    """Seed by seed, so that an interrupted run has as many of each loss."""
    cells, boxes = (20, 2) if options.quick else (100, 10)
    msh = box(2, cells)
    samples = {
        contrast: [Field(msh, contrast, FIRST_SEED + k, boxes) for k in range(options.fields)]
        for contrast in options.contrasts
    }
    for contrast, (name, bases) in product(options.contrasts, UNTRAINED.items()):
        measure(results, {"contrast": contrast, "row": name}, samples[contrast], bases)
    if not installed("torch", "h5py"):
        return
    from dolfinx_msnn.nn.model import load_model

    seeds = range(1, options.seeds + 1)
    for seed, contrast, loss in product(seeds, options.contrasts, options.losses):
        key: Record = {"contrast": contrast, "row": loss, "training_seed": seed}
        trained = learning.train(configuration(contrast, loss, seed, options), sample_seed=1)
        if results.missing(**key, use="training"):
            results.add({**key, "use": "training", **trained.record()})
        model = load_model(trained.path)
        bases = {use: partial(learned, model, use) for use in USES}
        measure(results, key, samples[contrast], bases)


def by_seed(records: Records, entry: str, contrast: str, row: str, use: str) -> np.ndarray:
    """Mean over fields of each training seed; without training, of all."""
    found = records.select(contrast=contrast, row=row, use=use)
    means = (
        found.values(entry, training_seed=seed) for seed in found.by("training_seed") or (None,)
    )
    return np.array([m.mean() for m in means if m.size])


def shown(results: Results) -> list[Shown]:
    """One table for each contrast."""
    records, made = results.records, []
    for contrast, here in records.by("contrast").items():
        rows = []
        for row in (*UNTRAINED, *LOSSES, THROUGH):
            cells = [
                spread(by_seed(records, error, contrast, row, use), 100)
                for use in USES
                for error in ("L2", "energy")
            ]
            pair, to = ("contrast", "seed"), {"row": "SLEPc", "use": "raw"}
            for use in USES:
                over = here.ratios("energy", pair, to, row=row, use=use)
                cells.append(f"{np.median(over):.3g}" if over.size else "–")
            trained = here.select(row=row, use="training")
            pair, to = ("contrast", "seed", "training_seed"), {"row": "sal", "use": "raw"}
            over = here.ratios("energy", pair, to, row=row, use="raw") if trained else []
            cells += [spread(over), trained.spread("validation"), trained.spread("training")]
            # The paper's problem is of mild contrast.
            rows.append([row, *cells, str(PAPER.get(row, "")) if contrast == "mild" else ""])
        head = ["basis or loss", *[f"{use}: {e} %" for use in USES for e in ("L2", "energy")]]
        head += [f"{use}: energy / SLEPc" for use in USES]
        head += ["raw: energy / sal", "energy defect", "training s", "paper: L2 %, raw"]
        seeds, number = (len(here.by(entry)) for entry in ("training_seed", "seed"))
        title = f"Losses: Richards 100², {contrast} contrast, {seeds} training seeds, "
        said = " ".join([notes(results, here), compared(here, contrast)])
        made.append(Shown(title + f"{number} fields", head, rows, said.strip()))
    return made


def notes(results: Results, here: Records) -> str:
    """What to know beside the figures of one contrast."""
    said = [
        "Mean ± standard deviation over training seeds, each the mean over the same fields; rows "
        "without training: mean over these fields. Ratios to SLEPc: median over fields and "
        f"seeds, paired by field. Filtered: {SWEEPS} sweeps for all. Energy defect: mean "
        "relative squared energy error of the modes on unseen fields, raw (in the last row, "
        "filtered), with the last weights, which are those that are used. Training in seconds of "
        "processor time. Paper: Rudikov et al., ICLR 2026, "
        "their own problem; it enters no ratio."
    ]
    trained = here.select(use="training")
    if trained:
        said.append(
            f"{trained[0]['steps']} steps for all losses; {trained[0]['samples']} neighbourhoods "
            f"for all seeds, sampled in {trained[0]['sampling']:.3g} s."
        )
    else:
        said.append("The losses need torch and h5py, which were not installed.")
    failed = [r for r in here if r.get("failed")]
    if failed:
        rows = ", ".join(sorted({f"{r['row']} ({r['use']})" for r in failed}))
        said.append(f"Newton failed in {len(failed)} runs, left out of the means: {rows}.")
    fallen = sum(r.get("fallbacks", 0) for r in here)
    if fallen:
        said.append(f"{fallen} predictions were dependent; filtered cosines stood in.")
    return " ".join(said)


def compared(here: Records, contrast: str) -> str:
    """What the best of the losses has over cosines that need no training."""
    said = []
    for use in USES:
        cosines = by_seed(here, "energy", contrast, "8 cosines", use)
        means = {k: by_seed(here, "energy", contrast, k, use) for k in (*LOSSES, THROUGH)}
        found = {k: v.mean() for k, v in means.items() if v.size}
        if found and cosines.size:
            best = min(found, key=lambda k: found[k])
            said.append(
                f"The least mean energy error, {use}, is that of {best}: "
                f"{found[best] / cosines[0]:.2g} times that of as many cosines without training."
            )
    return " ".join(said)


def draw(records: Records, canvas: Figure) -> None:
    """Energy errors of all seeds, raw and filtered."""
    contrasts, names = list(records.by("contrast")), (*UNTRAINED, *LOSSES, THROUGH)
    canvas.set_size_inches(8.0, 0.6 + 2.9 * len(contrasts))
    axes = canvas.subplots(len(contrasts), 1, sharex=True, squeeze=False)[:, 0]
    for ax, contrast in zip(axes, contrasts, strict=True):
        for use, style, shift in zip(USES, ("C3o", "C1x", "C0^"), (-0.2, 0, 0.2), strict=True):
            points = [
                (k + shift, 100 * value)
                for k, name in enumerate(names)
                for value in by_seed(records, "energy", contrast, name, use)
            ]
            if points:
                ax.plot(*np.array(points).T, style, mfc="none", label=use)
        best = by_seed(records, "energy", contrast, "SLEPc", "raw")
        if best.size:
            ax.axhline(100 * best[0], color="k", lw=0.8, ls=":", label="SLEPc")
        low, high = ax.get_ylim()
        if high > 5 * max(low, 1e-3):
            ax.set_yscale("log")
        plain_ticks(ax)
        ax.set_ylabel("energy error, %")
        ax.set_title(f"{contrast} contrast; one point a training seed", fontsize=10)
        ax.set_xticks(range(len(names)), [n.replace(", ", ",\n") for n in names], fontsize=8)
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize=8)


def main() -> None:
    """Run, and write the tables."""
    parser = Parser(__doc__)
    every, losses = list(CONTRASTS), (*LOSSES, THROUGH)
    parser.depends("--contrasts", every, every[1:], nargs="+", choices=every, help="default both")
    parser.add_argument("--losses", nargs="+", choices=losses, default=losses)
    parser.depends("--seeds", 5, 1, type=int, help="training seeds; default 5")
    parser.depends("--steps", 600, 3, type=int, help="of each training; default 600")
    parser.depends("--fields", 5, 1, type=int, help="unseen fields; default 5")
    options = parser.parse_args()
    settings = {"sweeps": SWEEPS, "modes": NUM_MODES, "first_seed": FIRST_SEED}
    settings |= {"steps": options.steps, "seeds": options.seeds, "fields": options.fields}
    settings |= {"training": configuration("mild", "sal", 1, options)}
    results = Results("losses", options, settings)
    if not options.show:
        run(results, options)
    results.finish(shown(results), {"energy": partial(draw, results.records)})


if __name__ == "__main__":
    main()
