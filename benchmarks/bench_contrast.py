# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Contrast 1 to 1e8: errors, sweeps, fallbacks and two-level iterations of every basis.

Two-phase fields and channels whose coefficient is 1 and the contrast; a seed draws the same shapes
at every contrast, so a row differs from the next in the contrast alone. -div(kappa grad u) = 1 with
u = 1 and 0 on two opposite sides; errors of the multiscale solution are relative to the fine one,
in L2 and energy. On each field every basis is built, on the same core, one after the other; ratios
are taken field by field. Iterations: conjugate gradients on the fine problem, from zero, until the
natural norm of the residual has fallen by 1e-8, with each space as coarse level of a V-cycle.

    python benchmarks/bench_contrast.py [--quick] [--resume] [--show] [--fields N]
        [--cases 2d 3d] [--contrasts 1 1e3 ...]

Bases: computed (SLEPc), filtered cosines, a pretrained network behind the filter and under guard,
raw functions of the one that was trained on solutions, and harmonic functions, eight each; on five
fields larger spaces, too. About an hour on one core.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

from harness.bases import BASES, FILTERED, GUARDED, HARMONIC, LEARNED, SLEPC, line, make, usable
from harness.fine_solvers import RTOL
from harness.problems import FIRST_SEED, NUM_MODES, Diffusion, box
from harness.results import Parser, Record, Records, Results, Shown, mean, over, tabulate
from harness.trials import MAX_ITERATIONS, compare

import numpy as np
from matplotlib.figure import Figure

from dolfinx_msnn import FilteredBasis, HarmonicBasis, fields

FAMILIES = ("two_phase", "channels")
#: Contrasts with the number of fields of each family: at 1 all fields are equal.
EVERY = {10.0**k: 12 if k else 1 for k in range(0, 9, 2)}
#: name: dimension, fine cells, coarse boxes, contrasts and fields
CASES = {
    "2d": (2, 100, 5, EVERY),
    "3d": (3, 24, 3, {1.0: 1} | dict.fromkeys((1e2, 1e4, 1e6, 1e8), 5)),
}
QUICK = {"2d": (2, 24, 2, {1.0: 1, 1e6: 2}), "3d": (3, 8, 2, {1e6: 1})}
#: On so many fields larger spaces are tried, too.
FEW = 5
#: Tell a small number of functions from functions of low quality.
MORE = {
    "filtered, 16 modes": lambda kappa: FilteredBasis(16),
    "harmonic, 11 functions": lambda kappa: HarmonicBasis(11),
    "harmonic, 16 functions": lambda kappa: HarmonicBasis(16),
    "harmonic, tolerance 1e-2": lambda kappa: HarmonicBasis(tolerance=1e-2),
}
#: What partners of a ratio have in common.
PAIR = ("case", "family", "contrast", "seed")
TO = {"basis": SLEPC}


def contrast(rows: Records) -> str:
    """The first column of most tables."""
    return f"{rows[0]['contrast']:.0e}"


def largest(basis: str, rows: Records) -> str:
    """The largest error in L2, where the energy hardly sees it, on the first few fields."""
    found = [r["L2"] for r in rows.select(basis=basis) if r["seed"] < FIRST_SEED + FEW]
    return f"{100 * max(found):.3g}" if found else ""


def errors(name: str, rows: Sequence[Records], bases: Sequence[str]) -> Shown:
    """Errors over the contrast."""
    columns = [
        ("contrast", contrast),
        ("fields", lambda rows: str(len(rows.values("L2", **TO)))),
        ("SLEPc: L2 %", mean("L2", 100, **TO)),
        ("energy %", mean("energy", 100, **TO)),
    ]
    for e in ("L2", "energy"):
        others = (b for b in bases if b not in (SLEPC, *MORE))
        columns += [(f"{e} / SLEPc: {b}", over(e, PAIR, TO, basis=b)) for b in others]
    for b in (b for b in bases if b.startswith(HARMONIC)):
        columns.append((f"largest L2 %: {b}", partial(largest, b)))
    return tabulate(f"{name}: errors", rows, columns)


def work(name: str, rows: Sequence[Records], bases: Sequence[str]) -> Shown:
    """What filter, network and guard did, over the contrast."""
    columns = [
        ("contrast", contrast),
        ("sweeps: filtered", mean("sweeps", basis=FILTERED)),
        ("learned", mean("sweeps", basis=LEARNED)),
        ("the guard's", mean("guard_sweeps", basis=GUARDED)),
        ("rounds: filtered", mean("rounds", basis=FILTERED)),
        ("learned", mean("rounds", basis=LEARNED)),
        ("out of the card's range", mean("out_of_range", 100, " %", basis=LEARNED)),
        ("fallbacks", mean("fallbacks", 100, " %", basis=LEARNED)),
        ("guard: repaired", mean("repaired", 100, " %", basis=GUARDED)),
        ("recomputed", mean("recomputed", 100, " %", basis=GUARDED)),
    ]
    notes = (
        "Means ± standard deviations over fields, of means over neighbourhoods. Sweeps: products "
        "with the local matrix (the guard's with 24 functions, come on top). Rounds: of filter "
        "and Rayleigh-Ritz. Fallbacks: neighbourhoods whose modes are not the network's. Repaired, "
        "recomputed: neighbourhoods whose modes the guard did not accept."
    )
    return tabulate(f"{name}: sweeps and fallbacks", rows, columns, notes)


def iterations(name: str, rows: Sequence[Records], bases: Sequence[str]) -> Shown:
    """Iterations with each space, and times, over the contrast."""

    def count(basis: str, rows: Records) -> str:
        failed = len(rows.select(basis=basis, solved=False))
        found = rows.spread("iterations", basis=basis)
        return found + (f" ({failed} not solved)" if failed else "")

    columns = [("contrast", contrast), *((f"CG: {b}", partial(count, b)) for b in bases)]
    columns.append(("SLEPc: ms", mean("basis_ms", **TO)))
    for b in (b for b in bases if b not in (SLEPC, *MORE)):
        less = over("basis_ms", PAIR, TO, inverse=True, basis=b)
        columns.append((f"SLEPc's time / its: {b}", less))
    notes = (
        f"CG: iterations to {RTOL:.0e}, at most {MAX_ITERATIONS} (counted as such if not solved). "
        f"Time: processor time of the basis stage of a neighbourhood, {NUM_MODES} modes."
    )
    return tabulate(f"{name}: two-level iterations and time", rows, columns, notes)


def findings(records: Records) -> Shown:
    """The figures that decide, over all contrasts."""
    head = ["basis", "worst energy / SLEPc", "at", "above 1.05", "worst L2 / SLEPc", "at"]
    head += ["above 1.05", "most CG", "at", "most CG / SLEPc's", "failed"]
    rows = []
    for basis in (*BASES, *MORE):
        chosen = records.select(basis=basis)
        mine = Records(r for r in chosen if "failed" not in r)
        if not mine:
            continue
        row = [basis]
        for entry in ("energy", "L2"):
            ratio = records.ratios(entry, PAIR, TO, basis=basis)
            row += [f"{ratio.max():.4g}", place(mine[int(ratio.argmax())])]
            row.append(f"{np.mean(ratio > 1.05):.0%}")
        most = max(mine, key=lambda r: r["iterations"])
        more = records.ratios("iterations", PAIR, TO, basis=basis)
        row += [f"{most['iterations']}", place(most), f"{more.max():.2g}"]
        rows.append([*row, f"{len(chosen) - len(mine)} of {len(chosen)}"])
    return Shown(
        "Over all fields and contrasts",
        head,
        rows,
        "Raw functions are those of the network that was trained on solutions, also where they "
        "would give way to others (max_jump). Where iterations grow "
        "with the contrast for SLEPc's eight modes as well, the space of eight modes is what "
        "fails, wherever they come from; whether more help, the rows of larger ones tell. At "
        "contrast 1 all fields are equal. Energy errors may come near 100 % and exceed it: the "
        "space has to make up for the lift of the boundary values, which is zero at all inner "
        "nodes. Galerkin minimises the energy error. At high contrast that of a stiff part whose "
        "constant is slightly off is small while the L2 error is large: there, even filtered "
        "modes as good as SLEPc's in energy can lose in L2; compare the row of guarded modes.",
    )


def place(record: Record) -> str:
    """Where a record is from."""
    return f"{record['case']} {record['family'].replace('_', '-')} {record['contrast']:.0e}"


def title(case: str, family: str) -> str:
    """Of a table or a panel."""
    return f"{case.upper()}, {family.replace('_', '-')}"


def draw(figure: Figure, records: Records, case: str) -> None:
    """Energy error and iterations over the contrast."""
    figure.set_size_inches(7.6, 6.2)
    axes = figure.subplots(2, len(FAMILIES), sharex=True, sharey="row")
    labels = {"energy": "relative energy error", "iterations": "CG iterations, two levels"}
    for column, family in zip(axes.T, FAMILIES, strict=True):
        for axis, entry in zip(column, labels, strict=True):
            for basis in BASES:
                mine = records.select(case=case, family=family, basis=basis).by("contrast")
                found = {c: v for c, r in sorted(mine.items()) if (v := r.values(entry)).size}
                if not found:
                    continue
                low, middle, high = (
                    [np.quantile(v, q) for v in found.values()] for q in (0.1, 0.5, 0.9)
                )
                axis.plot(list(found), middle, linewidth=1.2, **line(basis))
                shade = {"color": line(basis)["color"], "alpha": 0.12, "linewidth": 0}
                axis.fill_between(list(found), low, high, **shade)
            axis.set(xscale="log", yscale="log")
            axis.grid(visible=True, color="0.9")
        column[0].set_title(title(case, family))
        column[1].set_xlabel("contrast of the coefficient")
    for axis, label in zip(axes[:, 0], labels.values(), strict=True):
        axis.set_ylabel(label)
    axes[0, 0].legend(fontsize="small", title="median; shade: 10 to 90 %", title_fontsize="small")


def pose(msh: Any, boxes: int, family: str, contrast: float, seed: int) -> tuple[Diffusion, Record]:
    """The problem for one coefficient."""
    kappa = getattr(fields, family)(msh, contrast, seed=seed)
    return Diffusion(kappa, boxes), {}


def main() -> None:
    """Run the cases and write the tables."""
    parser = Parser(__doc__, CASES)
    parser.add_argument("--fields", type=int, help="fields of each family, at most")
    parser.add_argument("--contrasts", type=float, nargs="+")
    options = parser.parse_args()
    cases = QUICK if options.quick else CASES
    settings = {"cases": cases, "num_modes": NUM_MODES, "first_seed": FIRST_SEED, "rtol": RTOL}
    results = Results("contrast", options, settings)
    for case in [] if options.show else options.cases:
        dim, cells, boxes, counts = cases[case]
        msh, bases = box(dim, cells), {b: partial(make, b) for b in usable(BASES)}
        most = min(max(counts.values()), options.fields or 1000)
        # Seeds first: what is stopped early has all contrasts.
        for k, family, contrast in itertools.product(range(most), FAMILIES, counts):
            chosen = options.contrasts is None or contrast in options.contrasts
            if k >= counts[contrast] or not chosen:
                continue
            seed = FIRST_SEED + k
            key = {"case": case, "family": family, "contrast": contrast, "seed": seed}
            posed = partial(pose, msh, boxes, family, contrast, seed)
            compare(results, key, bases | (MORE if k < FEW else {}), posed, iterations=True)
    records = results.records
    tables = [findings(records)]
    for (case, family), mine in sorted(records.by("case", "family").items(), key=order):
        rows = [mine.select(contrast=c) for c in sorted(mine.by("contrast"))]
        bases = [b for b in (*BASES, *MORE) if mine.select(basis=b)]
        tables += [f(title(case, family), rows, bases) for f in (errors, work, iterations)]
    figures = {c: lambda figure, c=c: draw(figure, records, c) for c in records.by("case")}
    results.finish(tables, figures)


def order(group: tuple[tuple[str, str], Records]) -> tuple[int, int]:
    """Where a case and family stand."""
    case, family = group[0]
    return list(CASES).index(case), FAMILIES.index(family)


if __name__ == "__main__":
    main()
