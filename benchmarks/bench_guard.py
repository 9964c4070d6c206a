# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What the guard makes of good and of broken models, and what it costs.

Each model is used twice: alone, and inside ``GuardedBasis``. The broken ones are the pretrained
model with its answer replaced by noise, zeros or NaN, with the answers of another class of
neighbourhood (half for full, ...), trained on log-normal fields of small variance only (``--mild``,
a model file), and with kappa outside of its card's range (contrast 1e8). "raw" takes the prediction
as it is; the others are filtered as LearnedBasis does by default. Errors are those of the
multiscale solution relative to those with SLEPc's modes (mean and worst field); the guard's time is
processor time of one core, relative to SLEPc's in the same run.

    python benchmarks/bench_guard.py [--quick] [--fields N] [--mild model.pt]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import FAMILIES, FIRST_SEED, NUM_MODES, Clock, box, multiscale_error, pose
from tables import machine

import dolfinx_msnn as msnn
from dolfinx_msnn import fields
from dolfinx_msnn.nn.model import Model, load_model
from dolfinx_msnn.pretrained import pretrained_models

#: name: dimension, fine cells, coarse boxes, fields
CASES = {"2d-100": (2, 100, 5, 20), "3d-40": (3, 40, 4, 3)}
QUICK = {"2d-quick": (2, 40, 2, 1), "3d-quick": (3, 12, 2, 1)}


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


def models(dim: int, mild: Model | None) -> dict[str, Callable[[Any], Any]]:
    """Bases by name, as functions of kappa."""
    good = load_model(pretrained_models()[f"diffusion-{dim}d"])

    def learned(model: Model, **options: Any) -> Callable[[Any], Any]:
        return lambda kappa: msnn.LearnedBasis(model, kappa, NUM_MODES, **options)

    raw: dict[str, Any] = {"sweeps": 0, "max_rounds": 1}
    found = {"good": learned(good), "good, raw": learned(good, **raw)}
    for what in ("noise", "zeros", "NaN", "another class"):
        model = Model(Replaced(good._module, what), good.card, good.device)
        found[what] = learned(model)
        found[f"{what}, raw"] = learned(model, **raw)
    if mild is not None and mild.card.dim == dim:
        found["trained on mild fields"] = learned(mild)
        found["trained on mild fields, raw"] = learned(mild, **raw)
    return found


def run_case(
    name: str, num_fields: int | None, families: dict[str, Any], mild: Model | None
) -> list[dict[str, Any]]:
    """All models on all families of a case."""
    dim, cells, boxes, count = {**CASES, **QUICK}[name]
    msh = box(dim, cells)
    records = []
    for family, make in families.items():
        rows: dict[str, list[dict[str, float]]] = {}
        for k in range(num_fields or count):
            kappa = make(msh, FIRST_SEED + k)
            problem = pose(msh, kappa, 0)
            coarse = msnn.CoarseGrid(msh, (boxes,) * dim)
            slepc = Clock(msnn.SpectralBasis(NUM_MODES))
            best = multiscale_error(problem, coarse, slepc)
            for model, basis in models(dim, mild).items():
                alone = multiscale_error(problem, coarse, basis(kappa))
                primary = Clock(basis(kappa))
                fallback = Clock(msnn.SpectralBasis(NUM_MODES))
                guard = Clock(msnn.GuardedBasis(primary, fallback))
                guarded = multiscale_error(problem, coarse, guard)
                outcomes = Counter(r.outcome for r in guard.basis.reports)
                cost = guard.seconds - primary.seconds - fallback.seconds
                rows.setdefault(model, []).append(
                    {
                        "alone L2": alone[0] / best[0],
                        "alone energy": alone[1] / best[1],
                        "L2": guarded[0] / best[0],
                        "energy": guarded[1] / best[1],
                        "guard": cost / slepc.seconds,
                        "whole": guard.seconds / slepc.seconds,
                    }
                    | {
                        key: outcomes[key] / guard.count
                        for key in ("accepted", "repaired", "recomputed")
                    }
                )
            gc.collect()
        records.append(
            {"case": name, "family": family, "fields": num_fields or count, "rows": rows}
        )
        print(table(records[-1]), flush=True)
    return records


def table(record: dict[str, Any]) -> str:
    """One record as Markdown."""
    lines = [
        f"{record['case']}, {record['family']}, {record['fields']} fields",
        "",
        "| model | energy / SLEPc alone | guarded (worst) | L2 / SLEPc alone | guarded (worst) |"
        " accepted | repaired | recomputed | guard's time / SLEPc's | all time / SLEPc's |",
        "| " + "--- | " * 10,
    ]
    for model, samples in record["rows"].items():
        mean = {key: float(np.mean([s[key] for s in samples])) for key in samples[0]}
        worst = {key: float(np.max([s[key] for s in samples])) for key in ("L2", "energy")}
        lines.append(
            f"| {model} | {mean['alone energy']:.3g} | {mean['energy']:.3f} ({worst['energy']:.3f})"
            f" | {mean['alone L2']:.3g} | {mean['L2']:.3f} ({worst['L2']:.3f}) | "
            f"{mean['accepted']:.1%} | {mean['repaired']:.1%} | {mean['recomputed']:.1%} | "
            f"{mean['guard']:.0%} | {mean['whole']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--fields", type=int, help="fields of each family")
    parser.add_argument("--families", nargs="+", help="some of those in the tables; default all")
    parser.add_argument("--mild", help="a model trained on mild fields")
    parser.add_argument(
        "--out", default=str(Path(__file__).parent / "results"), help="folder of the results"
    )
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; default all")
    args = parser.parse_args(arguments)
    families = {name: FAMILIES[name] for name in ("log-normal", "two-phase 1e3", "channels 1e3")}
    families["two-phase 1e8, outside of the card"] = lambda m, s: fields.two_phase(m, 1e8, seed=s)
    families = {name: families[name] for name in args.families or families}
    mild = None if args.mild is None else load_model(args.mild)
    for name in args.case or (QUICK if args.quick else CASES):
        records = run_case(name, args.fields, families, mild)
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join(table(record) for record in records)
        (folder / f"guard-{name}.md").write_text(text)
        data = {"machine": machine(), "records": records}
        (folder / f"guard-{name}.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
