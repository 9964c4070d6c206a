# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Accuracy and time of local bases: computed, filtered, predicted, harmonic, and polynomials.

Each case is a mesh and a coarse grid, each family a set of coefficient fields that no model has
seen (seeds from 10^6 on). Errors are those of the multiscale solution against the fine one, for
-div(kappa grad u) = 1 with u = 1 and 0 on two opposite sides; times are processor seconds of one
core for the basis stage, all rows on the same core, one after the other on each field.

    python benchmarks/bench_bases.py [--quick] [--resume] [--show] [--cases CASE ...] [--fields N]

"learned + filter" are modes by the models ``diffusion-2d`` and ``diffusion-3d``, "learned, raw" the
functions of ``solutions-2d`` and ``solutions-3d`` as they are, also where they would give way to
others (``max_jump``), and "harmonic, predicted" harmonic functions with their boundary values.
SPE10=path adds layers of SPE10 Model 2.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

from harness.bases import (
    FILTERED,
    HARMONIC,
    LEARNED,
    PREDICTED,
    RAW,
    SLEPC,
    Polynomials,
    make,
    usable,
)
from harness.problems import FAMILIES, FIRST_SEED, NUM_MODES, Diffusion, box
from harness.results import Parser, Record, Records, Results, Shown, tabulate
from harness.trials import compare

from mpi4py import MPI

import numpy as np

from dolfinx_msnn import fields

#: name: dimension, fine cells, coarse boxes, fields of each family
CASES = {"2d-100": (2, 100, 5, 20), "2d-250": (2, 250, 3, 20), "3d-50": (3, 50, 5, 5)}
QUICK = {"2d-quick": (2, 40, 2, 2), "3d-quick": (3, 12, 2, 1)}
#: Layers of SPE10 Model 2, from both formations.
LAYERS = tuple(range(1, 51, 2))
BASES = (SLEPC, FILTERED, LEARNED, RAW, HARMONIC, PREDICTED)


def rows() -> dict[str, Callable[[Any], Any]]:
    """The bases to compare, as functions of a coefficient."""
    made: dict[str, Callable[[Any], Any]] = {name: partial(make, name) for name in usable(BASES)}
    return made | {"polynomials": lambda kappa: Polynomials()}


def pose(msh: Any, family: str, seed: int, boxes: int) -> tuple[Diffusion, Record]:
    """A field of a family."""
    return Diffusion(FAMILIES[family](msh, seed), boxes), {}


def layer(path: str, number: int) -> tuple[Diffusion, Record]:
    """A layer of SPE10 with boxes of 10 x 10 cells, pressure drop along y."""
    field = fields.read_spe10(path, number)
    kappa = field.interpolate(field.create_mesh(MPI.COMM_SELF))
    return Diffusion(kappa, [k // 10 for k in field.shape], axis=1), {}


def run(results: Results, options: Namespace) -> None:
    """All families of all cases."""
    for case in options.cases:
        if case == "spe10":
            for number in LAYERS[: options.fields]:
                key = {"case": case, "family": "layers", "field": number}
                compare(results, key, rows(), partial(layer, options.spe10, number))
            continue
        dim, cells, boxes, count = {**CASES, **QUICK}[case]
        msh = box(dim, cells)
        for family in options.families:
            for seed in range(FIRST_SEED, FIRST_SEED + (options.fields or count)):
                key = {"case": case, "family": family, "field": seed}
                compare(results, key, rows(), partial(pose, msh, family, seed, boxes))


def shown(case: str, family: str, records: Records) -> Shown:
    """All bases on one family of a case: means over fields, ratios field by field."""

    def over(basis: str, entry: str) -> np.ndarray:
        return records.ratios(entry, ("field",), {"basis": SLEPC}, basis=basis)

    columns: dict[str, Callable[[str], str]] = {
        "basis": str,
        "L2 %": lambda b: records.spread("L2", 100, basis=b),
        "energy %": lambda b: records.spread("energy", 100, basis=b),
        "L2 / SLEPc": lambda b: f"{over(b, 'L2').mean():.3f}",
        "energy / SLEPc": lambda b: f"{over(b, 'energy').mean():.3f}",
        "ms": lambda b: f"{np.median(records.values('basis_ms', basis=b)):.3g}",
        "faster than SLEPc": lambda b: f"{np.median(1 / over(b, 'basis_ms')):.1f}x",
        "sweeps": lambda b: records.spread("sweeps", basis=b),
        "fallbacks": lambda b: records.spread("fallbacks", 100, " %", basis=b),
    }
    number = len(records.by("field"))
    bases = [basis for basis in records.by("basis")]
    notes = "Times are medians, of a neighbourhood."
    return tabulate(f"{case}, {family}, {number} fields", bases, columns, notes)


def main() -> None:
    """Run the cases and write the tables."""
    spe10 = os.environ.get("SPE10")
    parser = Parser(__doc__, [*CASES, *["spe10"] * bool(spe10)], QUICK)
    parser.add_argument("--fields", type=int, help="fields of each family")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    options = parser.parse_args()
    options.spe10 = spe10
    results = Results("bases", options, {"num_modes": NUM_MODES, "first_seed": FIRST_SEED})
    if not options.show:
        run(results, options)
    groups = results.records.by("case", "family")
    results.finish([shown(*key, group) for key, group in groups.items()])


if __name__ == "__main__":
    main()
