# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What the guard makes of good and of broken models, and what it costs.

Each model is used twice: alone, and inside ``GuardedBasis``. The broken ones are the pretrained
model with its answer replaced by noise, zeros or NaN, with the answers of another class of
neighbourhood (half for full, ...), and with kappa outside of its card's range (contrast 1e8). "raw"
takes the prediction as it is; the others are filtered as LearnedBasis does by default. Errors are
those of the multiscale solution relative to those with SLEPc's modes (mean and worst field); the
guard's time is processor time of one core, relative to SLEPc's in the same run.

    python benchmarks/bench_guard.py [--quick] [--resume] [--show] [--cases CASE ...] [--fields N]
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from typing import Any

from harness.problems import FAMILIES, FIRST_SEED, NUM_MODES, Diffusion, box
from harness.results import Parser, Record, Records, Results, Shown, tabulate
from harness.timing import Clock

import torch

import dolfinx_msnn as msnn
from dolfinx_msnn import fields
from dolfinx_msnn.nn.model import Model, load_model
from dolfinx_msnn.pretrained import pretrained_models

#: name: dimension, fine cells, coarse boxes, fields
CASES = {"2d-100": (2, 100, 5, 12), "3d-40": (3, 40, 4, 5)}
QUICK = {"2d-quick": (2, 40, 2, 1), "3d-quick": (3, 12, 2, 1)}
#: A prediction as it is, but for the compression from all outputs to the modes.
UNFILTERED: dict[str, Any] = {"sweeps": 0, "max_rounds": 1}
CHOSEN: dict[str, Callable[[Any, int], Any]] = {
    name: FAMILIES[name] for name in ("log-normal", "two-phase 1e3", "channels 1e3")
} | {"two-phase 1e8, outside of the card": lambda m, s: fields.two_phase(m, 1e8, seed=s)}


class Replaced(torch.nn.Module):
    """A model whose answer is replaced."""

    def __init__(self, inner: torch.nn.Module, what: str) -> None:
        super().__init__()
        self.inner, self.what = inner, what
        self.random = torch.Generator().manual_seed(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The replacement, of the shape of the answer."""
        if self.what == "another class":
            # A neighbourhood twice as long on each axis, seen from its corner.
            x = x.flip(tuple(range(2, x.dim())))
            x = torch.cat([x[:, : -2 * (x.dim() - 2)], x[:, -2 * (x.dim() - 2) :] * 0.5], dim=1)
        y = self.inner(x)
        if self.what == "noise":
            return torch.randn(y.shape, generator=self.random)
        return {"zeros": torch.zeros_like(y), "NaN": y * torch.nan}.get(self.what, y)


def models(dim: int) -> dict[str, Callable[[Any], Any]]:
    """Bases by name, as functions of kappa."""
    good = load_model(pretrained_models()[f"diffusion-{dim}d"])

    def learned(model: Model, **options: Any) -> Callable[[Any], Any]:
        return lambda kappa: msnn.LearnedBasis(model, kappa, NUM_MODES, **options)

    found = {"good": learned(good), "good, raw": learned(good, **UNFILTERED)}
    for what in ("noise", "zeros", "NaN", "another class"):
        model = Model(Replaced(good.network, what), good.card, good.device)
        found[what] = learned(model)
        found[f"{what}, raw"] = learned(model, **UNFILTERED)
    return found


def run(results: Results, options: Namespace) -> None:
    """All models on all families of all cases."""
    for case in options.cases:
        dim, cells, boxes, count = {**CASES, **QUICK}[case]
        msh = box(dim, cells)
        for family in options.families:
            for seed in range(FIRST_SEED, FIRST_SEED + (options.fields or count)):
                key, bases = {"case": case, "family": family, "seed": seed}, models(dim)
                left = [m for m in bases if results.missing(**key, model=m)]
                if not left:
                    continue
                problem = Diffusion(CHOSEN[family](msh, seed), boxes)
                slepc = Clock(msnn.SpectralBasis(NUM_MODES))
                best = problem.errors(slepc)
                for model in left:
                    found = measure(problem, bases[model], best, slepc.seconds)
                    results.add(key | {"model": model} | found)


def measure(
    problem: Diffusion, basis: Callable[[Any], Any], best: dict[str, float], seconds: float
) -> Record:
    """A basis alone and under guard, relative to SLEPc's errors and time."""
    alone = problem.errors(basis(problem.kappa))
    primary, fallback = Clock(basis(problem.kappa)), Clock(msnn.SpectralBasis(NUM_MODES))
    guard = Clock(msnn.GuardedBasis(primary, fallback))
    guarded = problem.errors(guard)
    outcomes = Counter(r.outcome for r in guard.basis.reports)
    return {
        **{f"alone {e}": alone[e] / best[e] for e in ("L2", "energy")},
        **{e: guarded[e] / best[e] for e in ("L2", "energy")},
        "guard": (guard.seconds - primary.seconds - fallback.seconds) / seconds,
        "whole": guard.seconds / seconds,
        **{key: outcomes[key] / guard.count for key in ("accepted", "repaired", "recomputed")},
    }


def shown(case: str, family: str, records: Records) -> Shown:
    """All models on a family of a case."""

    def get(entry: str, form: str) -> Callable[[Records], str]:
        return lambda r: format(r.values(entry).mean(), form)

    def worst(entry: str) -> Callable[[Records], str]:
        return lambda r: f"{r.values(entry).mean():.3f} ({r.values(entry).max():.3f})"

    columns = {
        "model": lambda r: str(r[0]["model"]),
        "energy / SLEPc alone": get("alone energy", ".3g"),
        "guarded (worst)": worst("energy"),
        "L2 / SLEPc alone": get("alone L2", ".3g"),
        "L2, guarded (worst)": worst("L2"),
        **{k: get(k, ".1%") for k in ("accepted", "repaired", "recomputed")},
        "guard's time / SLEPc's": get("guard", ".0%"),
        "all time / SLEPc's": get("whole", ".0%"),
    }
    number = len(records.by("seed"))
    title = f"{case}, {family}, {number} fields"
    return tabulate(title, records.by("model").values(), columns)


def main() -> None:
    """Run the cases and write the tables."""
    parser = Parser(__doc__, CASES, QUICK)
    parser.add_argument("--fields", type=int, help="fields of each family")
    parser.add_argument("--families", nargs="+", default=list(CHOSEN), choices=list(CHOSEN))
    options = parser.parse_args()
    results = Results("guard", options, {"num_modes": NUM_MODES, "first_seed": FIRST_SEED})
    if not options.show:
        run(results, options)
    groups = results.records.by("case", "family")
    results.finish([shown(*key, group) for key, group in groups.items()])


if __name__ == "__main__":
    main()
