# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Table 1: accuracy of computed, filtered, learned and harmonic bases.

-div(kappa grad u) = 1 on the unit square or cube with u = 1 and 0 on two opposite sides; errors of
the multiscale solution against the fine one, relative, in L2, in the energy norm of kappa, and in
the H1 seminorm; N_bf = 2, 4, 8, 12, 16 functions for each vertex. All bases see the same fields
(seeds from 10^6 on, which no model has seen), and ratios are to SLEPc on the same field.

- SLEPc: 16 modes once; the first N_bf of them are the N_bf lowest.
- learned + filter: the model that comes with the package (16 outputs), for all N_bf and families.
- filtered: no training.
- learned, raw: the functions of a model that was trained on solutions, as they are; eight.
- harmonic: the default basis, harmonic functions and responses to sources, N_bf in all.
- harmonic, predicted: the same with the boundary values of "learned, raw", in place of those of
  modes; up to eight.

    python benchmarks/bench_accuracy.py [--quick] [--resume] [--show]
    python benchmarks/bench_accuracy.py --fields 3 --cases 2d-100 --families log-normal
"""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

from harness.bases import FILTERED, HARMONIC, LEARNED, PREDICTED, RAW, SLEPC, make, usable
from harness.problems import FAMILIES, FIRST_SEED, NORMS, Diffusion, box
from harness.results import Parser, Record, Records, Results, Shown, plain_ticks, spread, tabulate
from harness.timing import Clock

import numpy as np
from matplotlib.figure import Figure

import dolfinx_msnn as msnn

#: name: dimension, fine cells, coarse boxes, fields of each family
CASES = {"2d-100": (2, 100, 5, 12), "3d-50": (3, 50, 5, 5)}
QUICK = {"2d-quick": (2, 32, 2, 1), "3d-quick": (3, 10, 2, 1)}
MODES = (2, 4, 8, 12, 16)
BASES = (SLEPC, LEARNED, FILTERED, RAW, HARMONIC, PREDICTED)
#: For which numbers of functions, if not for all.
NUMBERS = {RAW: (8,), HARMONIC: (4, 8, 16), PREDICTED: (4, 8)}
#: Rudikov et al., ICLR 2026, their diffusion problems: L2 and H1 errors in per cent.
PAPER = {
    ("2d-100", SLEPC): (1.15, 11.68),
    ("2d-100", RAW): (1.06, 11.57),
    ("3d-50", SLEPC): (3.07, 20.72),
    ("3d-50", RAW): (3.10, 20.39),
}


class Lowest:
    """The lowest modes of a basis that has been computed once, for all numbers of modes."""

    def __init__(self, basis: Any, num_modes: int) -> None:
        self.basis, self.num_modes = basis, num_modes
        self.found: dict[int, msnn.LocalModes] = {}

    def modes(self, problems: Sequence[msnn.LocalProblem]) -> list[msnn.LocalModes]:
        """The first modes of each problem."""
        missing = [p for p in problems if p.vertex not in self.found]
        if missing:
            for problem, made in zip(missing, self.basis.modes(missing), strict=True):
                self.found[problem.vertex] = made
        k = self.num_modes
        cut = (self.found[p.vertex] for p in problems)
        return [msnn.LocalModes(m.values[:k], m.vectors[:k]) for m in cut]


def run_field(results: Results, key: Record, problem: Diffusion, left: list[Any]) -> None:
    """The bases and numbers of functions that are left on one field."""
    lowest = Lowest(msnn.SpectralBasis(max(MODES)), 0)
    for name, modes in left:
        lowest.num_modes = modes
        basis = lowest if name == SLEPC else make(name, problem.kappa, None, modes)
        clock = Clock(basis)
        record = {**key, "basis": name, "modes": modes} | problem.errors(clock)
        # SLEPc's time is that of all modes, and comes with the first number of them only.
        if name != SLEPC:
            record["ms"] = 1e3 * clock.seconds / clock.count
        results.add(record | {"fallbacks": getattr(basis, "num_fallbacks", 0)})
        gc.collect()


def run(results: Results, options: Namespace) -> None:
    """All cases."""
    pairs = [(b, k) for b in usable(BASES) for k in NUMBERS.get(b, MODES)]
    for case in options.cases:
        dim, cells, boxes, count = {**CASES, **QUICK}[case]
        msh = box(dim, cells)
        for seed in range(FIRST_SEED, FIRST_SEED + (options.fields or count)):
            for family in options.families:
                key = {"case": case, "family": family, "seed": seed}
                left = [(b, k) for b, k in pairs if results.missing(**key, basis=b, modes=k)]
                if left:
                    run_field(results, key, Diffusion(FAMILIES[family](msh, seed), boxes), left)


def shown(records: Records, case: str, family: str) -> Shown:
    """One case and family."""
    runs = records.select(case=case, family=family)

    def paper(key: tuple[int, str]) -> str:
        known = PAPER.get((case, key[1])) if key[0] == 8 and family == "log-normal" else None
        return "{}, {}".format(*known) if known else ""

    def error(entry: str, of: tuple[int, str]) -> str:
        return runs.spread(entry, 100, modes=of[0], basis=of[1])

    def over(entry: str, of: tuple[int, str]) -> str:
        pair, to = ("seed", "modes"), {"basis": SLEPC}
        return spread(runs.ratios(entry, pair, to, modes=of[0], basis=of[1]))

    columns = {
        "N_bf": lambda key: f"{key[0]}",
        "basis": lambda key: str(key[1]),
        **{f"{e} %": partial(error, e) for e in NORMS},
        **{f"{e} / SLEPc": partial(over, e) for e in NORMS},
        "paper: L2, H1 %": paper,
    }
    title = f"Accuracy: diffusion, {case}, {family}, fields: {len(runs.by('seed'))}"
    pairs = [pair for pair in product(MODES, BASES) if runs.select(modes=pair[0], basis=pair[1])]
    return tabulate(title, pairs, columns, notes(runs))


def notes(runs: Records) -> str:
    """What to know beside the figures of a case."""
    said = (
        "Mean ± standard deviation over fields; ratios are to SLEPc on the same field; H1 is the "
        "seminorm. SLEPc's modes are the lowest of 16 computed once. Paper: Rudikov et al., ICLR "
        "2026, GMsFEM and learned, their own problem, fields and number of modes; it enters no "
        "ratio."
    )
    tried, every = (len(part.by("seed")) for part in (runs.select(basis=HARMONIC), runs))
    if tried < every:
        said += f" Harmonic functions were computed on {tried} of the fields."
    return said


def draw(records: Records, case: str, canvas: Figure) -> None:
    """Errors over the number of modes, one line for each basis."""
    families = records.select(case=case).by("family")
    styles = dict(zip(BASES, ("ks-", "C0^--", "C2v:", "C3o", "C4D-", "C1x-."), strict=True))
    canvas.set_size_inches(max(5.4, 3.6 * len(families) + 0.4), 6.2)
    axes = canvas.subplots(2, len(families), squeeze=False, sharex=True)
    for row, error in zip(axes, ("L2", "energy"), strict=True):
        for ax, (family, runs) in zip(row, families.items(), strict=True):
            for basis, style in styles.items():
                found = [(k, runs.values(error, basis=basis, modes=k)) for k in MODES]
                points = [(k, 100 * v.mean()) for k, v in found if v.size]
                if points:
                    ax.semilogy(*np.array(points).T, style, label=basis, mfc="none", ms=6)
            ax.grid(alpha=0.3, which="both")
            ax.set(ylabel=f"{error} error, %", xticks=MODES)
            ax.set_title(f"{case}, {family}", fontsize=10)
            plain_ticks(ax)
    for ax in axes[-1]:
        ax.set_xlabel("modes for each vertex, N_bf")
    lines, names = axes[0][0].get_legend_handles_labels()
    canvas.legend(lines, names, fontsize=8, loc="outside lower center", ncols=3)


def main() -> None:
    """Run, and write the tables."""
    parser = Parser(__doc__, CASES, QUICK)
    families = list(FAMILIES)[:2]
    parser.depends("--families", families, families[:1], nargs="+", choices=list(FAMILIES))
    parser.add_argument("--fields", type=int, help="fields of each family")
    options = parser.parse_args()
    settings = {"modes": MODES, "first_seed": FIRST_SEED, "cases": CASES}
    results = Results("accuracy", options, settings)
    if not options.show:
        run(results, options)
    records = results.records
    groups = records.by("case", "family")
    cases = dict.fromkeys(case for case, _ in groups)
    figures = {case: partial(draw, records, case) for case in cases}
    results.finish([shown(records, *key) for key in groups], figures)


if __name__ == "__main__":
    main()
