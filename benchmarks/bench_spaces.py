# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Which space: eigenmodes, harmonic functions, hats, boxes that overlap, at equal dofs.

Loads: "f = 1", "smooth" (a Gaussian random field of correlation length 0.2), "rough" (another
number in each cell), "well" (a small source and a small sink), with u = 0 on two opposite sides;
"drop": f = 0 and a pressure drop between them; one space for all of them. Errors are energy errors
of the multiscale solution against the fine one, computed by a direct solver, in per cent: geometric
means over all fields, and the worst. The number is that of functions a neighbourhood; boxes that
overlap by a fifth of their width are fewer than vertices, and have as many more, so that the coarse
dofs are those of the row of SLEPc's modes above. With local solutions (an argument of
``LinearProblem``) no function of the basis is for a load. The time of a basis is processor time of
one core over that of SLEPc's modes in the same run.

    python benchmarks/bench_spaces.py [--quick] [--resume] [--show] [--cases CASE ...] [--fields N]
        [--spe10 PATH]

PATH (or SPE10=PATH) is spe_perm.dat or .npz files with layers of SPE10; without it there is no case
"rock".
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from harness.problems import FAMILIES, FIRST_SEED, Diffusion, box
from harness.results import Parser, Records, Results, Shown, tabulate
from harness.spaces import LOADS, SPACES, Space, at_zero, fine_solutions, loads, measure
from harness.timing import Clock

from mpi4py import MPI

import numpy as np
from matplotlib.figure import Figure

from dolfinx_msnn import fields


class Case(NamedTuple):
    """Fine cells and coarse boxes along an axis, fields of each family, numbers of functions."""

    dim: int
    cells: int
    boxes: int
    fields: int
    numbers: tuple[int, ...]
    families: tuple[str, ...] = tuple(FAMILIES)


CONTRASTS = (1e0, 1e2, 1e4, 1e6, 1e8)
#: Families of the case "contrast": the contrast is the only thing that differs.
SWEEP: dict[str, Callable[[Any, int], Any]] = {
    f"{name}, contrast {contrast:.0e}": partial(
        lambda make, contrast, m, s: make(m, contrast, seed=s), make, contrast
    )
    for name, make in (("two-phase", fields.two_phase), ("channels", fields.channels))
    for contrast in CONTRASTS
}
#: Two layers of each formation.
LAYERS = (5, 25, 40, 50)
CASES = {
    "2d-100": Case(2, 100, 5, 12, (4, 8, 12, 16)),
    "2d-250": Case(2, 250, 10, 1, (8,), ("log-normal", "two-phase 1e6", "channels 1e3")),
    "3d-40": Case(3, 40, 4, 5, (8,), ("two-phase 1e3",)),
    "contrast": Case(2, 60, 4, 1, (8, 12), tuple(SWEEP)),
    "rock": Case(2, 0, 0, 1, (8, 12), tuple(f"layer {k}" for k in LAYERS)),
}
QUICK = {
    "2d-quick": Case(2, 20, 2, 1, (8,), ("log-normal", "channels 1e3")),
    "3d-quick": Case(3, 6, 2, 1, (8,), ("two-phase 1e3",)),
}


def coefficients(name: str, case: Case, options: Namespace) -> Iterator[tuple[str, int, Any]]:
    """Family, seed and coefficient of all fields of a case; coefficients are made when asked."""
    for family in case.families:
        for k in range(options.fields or case.fields):
            seed = FIRST_SEED + k
            if name == "rock":
                yield family, seed, partial(layer, options.spe10, int(family.split()[1]))
            else:
                make = {**FAMILIES, **SWEEP}[family]
                yield family, seed, lambda m=make, s=seed: m(box(case.dim, case.cells), s)


def layer(path: str, number: int) -> Any:
    """The permeability of a layer of SPE10."""
    field = fields.read_spe10(path, number, comm=MPI.COMM_SELF)
    return field.interpolate(field.create_mesh(MPI.COMM_SELF))


def run(results: Results, options: Namespace) -> None:
    """All spaces on all fields of all cases."""
    for name in options.cases:
        case = {**CASES, **QUICK}[name]
        if name == "rock" and options.spe10 is None:
            print("No case rock: no data of SPE10.")
            continue
        for family, seed, make in coefficients(name, case, options):
            key = {"case": name, "family": family, "seed": seed}
            boxes = (6, 22) if name == "rock" else (case.boxes,) * case.dim
            chosen = list(rows(case, boxes))
            if not any(results.missing(**key, space=title) for title, *_ in chosen):
                continue
            kappa = make()
            drop = Diffusion(kappa, boxes, axis=int(name == "rock"), f=0.0)
            zero = at_zero(drop)
            forms = loads(drop.V, seed)
            exact = fine_solutions(zero, drop, forms)
            seconds = 1.0
            for _, mine in groupby(chosen, key=lambda row: row[1]):
                some = [(row, results.missing(**key, space=row[0])) for row in mine]
                # The first row is SLEPc's: always for its time.
                for (title, n, space, basis), missing in some if any(m for _, m in some) else ():
                    first = title.startswith("SLEPc")
                    if not missing and not first:
                        continue
                    found = measure(zero, drop, forms, exact, space, basis)
                    seconds = basis.seconds if first else seconds
                    found["time"] = basis.seconds / seconds
                    if missing:
                        results.add(key | {"space": title, "number": n} | found)


def rows(case: Case, boxes: tuple[int, ...]) -> Iterator[tuple[str, int, Space, Clock]]:
    """Title, number of the row of SLEPc's modes with as many dofs, kind and basis."""
    for n in case.numbers:
        for kind, space in SPACES.items():
            if n in (space.numbers or (n,)):
                number = n
                if space.overlap:
                    number = n * int(np.prod(np.array(boxes) + 1)) // int(np.prod(boxes))
                yield f"{kind} {number}", n, space, Clock(space.make(number))


def pairs(records: Records, mine: Records, load: str) -> np.ndarray:
    """Errors, and those of SLEPc's modes at equal dofs, by field; shape ``(2, num)``.

    Linear solutions, which any hat functions hold, are left out: a drop at contrast one.
    """
    partner = {
        (r["family"], r["seed"], r["number"]): r[load] for r in records if r["space"][:5] == "SLEPc"
    }
    found = [(r[load], partner[r["family"], r["seed"], r["number"]]) for r in mine]
    return np.array([pair for pair in found if pair[1] > 1e-8]).T


def shown(case: str, records: Records) -> Iterator[Shown]:
    """All spaces of a case, one load a column: errors, and gains."""

    def error(load: str, r: Records) -> str:
        values = 100 * pairs(records, r, load)[0]
        return f"{np.exp(np.log(values).mean()):.2g} ({values.max():.2g})"

    def times(load: str, r: Records) -> str:
        mine, other = pairs(records, r, load)
        return f"{np.exp(np.log(other / mine).mean()):.2g} ({(other / mine).min():.2g})"

    head = {
        "space": lambda r: str(r[0]["space"]),
        "coarse dofs": lambda r: f"{r.values('dofs').mean():.0f}",
    }
    time = {
        "time / SLEPc's": lambda r: (
            f"{np.median(r.values('time')):.2f}" if len(r.values("time")) else "–"
        )
    }
    rows = list(records.by("space", "number").values())
    count = len(records.by("family", "seed"))
    errors = {load: partial(error, load) for load in LOADS}
    title = f"{case}: energy error in per cent, geometric mean and worst of {count} fields"
    yield tabulate(title, rows, head | errors | time)
    title = f"{case}: SLEPc's error over it at equal dofs, geometric mean and worst"
    gains = {load: partial(times, load) for load in LOADS}
    yield tabulate(title, [r for r in rows if r[0]["space"][:5] != "SLEPc"], head | gains)


#: Title of axes: kind of space: points of a line.
type Panels = dict[str, dict[str, list[tuple[float, float]]]]


def over_dofs(records: Records) -> Panels:
    """Errors over coarse dofs, for three loads."""
    panels: Panels = {load: {} for load in LOADS[:3]}
    for load, lines in panels.items():
        for kind in SPACES:
            mine = [r for r in records if r["space"].rpartition(" ")[0] == kind]
            points = [
                (
                    float(part.values("dofs").mean()),
                    float(100 * np.exp(np.log(part.values(load)).mean())),
                )
                for part in Records(mine).by("number").values()
            ]
            if len(points) > 1:
                lines[kind] = points
    return panels


def over_contrast(records: Records) -> Panels:
    """Errors over the contrast, of spaces as large as that of eight modes."""
    names = list(dict.fromkeys(r["family"].partition(",")[0] for r in records))
    return {
        f"{name}, {load}": {
            kind: [
                (float(r["family"].rpartition(" ")[2]), 100 * r[load])
                for r in records.select(number=8)
                if r["space"].rpartition(" ")[0] == kind
                and r["family"].startswith(name)
                and not (load == "drop" and r["family"].endswith("1e+00"))
            ]
            for kind in SPACES
        }
        for name in names
        for load in ("f = 1", "drop")
    }


def draw(figure: Figure, panels: Panels, label: str, scale: str) -> None:
    """Axes side by side, with the names of their lines below."""
    figure.set_size_inches(9.5, 3.6)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        for kind, points in lines.items():
            axes.semilogy(*zip(*points, strict=True), "o-", markersize=3, label=kind)
        axes.set(xlabel=label, xscale=scale)
        axes.set_title(title, fontsize="medium")
        axes.grid(visible=True, color="0.9")
    all_axes[0].set_ylabel("energy error, %")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


def main() -> None:
    """Run the cases and write the tables."""
    parser = Parser(__doc__, CASES, QUICK)
    parser.add_argument("--fields", type=int, help="fields of each family")
    parser.add_argument("--spe10", default=os.environ.get("SPE10"), help="the data")
    options = parser.parse_args()
    settings = {"first_seed": FIRST_SEED, "layers": LAYERS}
    results = Results("spaces", options, settings)
    if not options.show:
        run(results, options)
    groups = results.records.by("case")
    figures = {}
    if "2d-100" in groups:
        figures["dofs"] = partial(
            draw, panels=over_dofs(groups["2d-100"]), label="coarse dofs", scale="linear"
        )
    if "contrast" in groups:
        figures["contrast"] = partial(
            draw, panels=over_contrast(groups["contrast"]), label="contrast", scale="log"
        )
    tables = [table for case, group in groups.items() for table in shown(case, group)]
    results.finish(tables, figures)


if __name__ == "__main__":
    main()
