# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Resolution: the pretrained networks on finer meshes and other coarse grids than in training.

``diffusion-2d`` and ``solutions-2d`` were trained at 100 x 100 cells under 5 x 5 boxes,
``diffusion-3d`` at 32 cells a side under 4 boxes, ``solutions-3d`` at 30 under 3; none is trained
again here. Functions of the latter kind are used as they are, also where they would give way to
others (``max_jump``). A field is one function of x whatever the mesh:
each cell takes the value at its midpoint, so a finer mesh resolves the same interfaces better (the
last table measures by how much the coefficients differ for that). -div(kappa grad u) = 1 with u = 1
and 0 on two opposite sides; errors of the multiscale solution are relative to the fine one on the
same mesh. On each field every basis is built, on the same core, one after the other, and ratios are
taken field by field. Times are processor times of the basis stage, for one neighbourhood.

    python benchmarks/bench_resolution.py [--quick] [--resume] [--show] [--fields N]
        [--cases 2d-100-5 3d-32-4 ...]

A case is dimension, fine cells and boxes a side. About an hour on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from harness.bases import FILTERED, LEARNED, RAW, SLEPC, line, make, usable
from harness.problems import FAMILIES, FIRST_SEED, NUM_MODES, Diffusion, box
from harness.results import Parser, Record, Records, Results, Shown, mean, over, tabulate
from harness.trials import compare

import numpy as np
from matplotlib.figure import Figure

from dolfinx import mesh

BASES = (SLEPC, FILTERED, LEARNED, RAW)
#: What the models' cards do not say: cells and boxes of their training.
TRAINED = {2: (100, 5), 3: (32, 4)}
LATTICE = {2: 21, 3: 9}
#: Values that differ by more than this factor count as different.
DIFFERENT = 1.5
PAIR, TO = ("case", "family", "seed"), {"basis": SLEPC}


class Case(NamedTuple):
    """A mesh, a coarse grid, the fields of each family, and which families."""

    dim: int
    cells: int
    boxes: int
    fields: int
    families: tuple[str, ...] = ("two-phase 1e3", "log-normal")

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.dim}d-{self.cells}-{self.boxes}"

    @property
    def trained(self) -> bool:
        """Whether the model was trained on this mesh and coarse grid."""
        return (self.cells, self.boxes) == TRAINED[self.dim]


ONE = ("two-phase 1e3",)
CASES = [
    *(Case(2, 100, 5, 12), Case(2, 200, 5, 12), Case(2, 400, 5, 3, ONE)),
    *(Case(2, 100, boxes, 12) for boxes in (3, 4, 8, 10, 20)),
    *(Case(3, 32, 4, 5), Case(3, 24, 3, 5), Case(3, 24, 4, 5, ONE)),
    *(Case(3, 32, 8, 5, ONE), Case(3, 48, 6, 2, ONE), Case(3, 40, 4, 2, ONE)),
]
QUICK = [
    *(Case(2, 20, 2, 2), Case(2, 40, 2, 1), Case(2, 20, 3, 1)),
    *(Case(3, 8, 2, 1, ONE), Case(3, 12, 2, 1, ONE)),
]


def lattice_values(kappa: Any, cells: int) -> np.ndarray:
    """Cell values as an array, one axis for each direction."""
    msh = kappa.function_space.mesh
    dim = msh.topology.dim
    num = msh.topology.index_map(dim).size_local
    middle = mesh.compute_midpoints(msh, dim, np.arange(num, dtype=np.int32))[:, :dim]
    found = np.empty((cells,) * dim)
    found[tuple(np.floor(middle * cells).astype(int).T)] = kappa.x.array[:num]
    return found


def difference(kappa: Any, cells: int, coarser: Any, fewer: int) -> float:
    """Share of the cells whose value differs from that of the cell around them in another mesh."""
    fine, parent = lattice_values(kappa, cells), lattice_values(coarser, fewer)
    at = ((np.arange(cells) + 0.5) * fewer / cells).astype(int)
    ratio = fine / parent[np.ix_(*[at] * fine.ndim)]
    return float(np.mean(np.maximum(ratio, 1 / ratio) > DIFFERENT))


def sizes(dim: int) -> list[tuple[str, Callable[[Records], str]]]:
    """Columns of cells and boxes a side, those of training in bold."""

    def side(entry: str, rows: Records) -> str:
        first = rows[0]
        bold = "**" if (first["cells"], first["boxes"]) == TRAINED[dim] else ""
        return f"{bold}{first[entry]}{bold}"

    return [(entry, partial(side, entry)) for entry in ("cells", "boxes")]


def accuracy(dim: int, rows: Sequence[Records], others: Sequence[str]) -> Shown:
    """Errors of every basis."""
    columns = [
        *sizes(dim),
        ("fields", lambda rows: str(len(rows.values("L2", **TO)))),
        ("SLEPc: L2 %", mean("L2", 100, **TO)),
        ("energy %", mean("energy", 100, **TO)),
    ]
    for e in ("L2", "energy"):
        columns += [(f"{e} / SLEPc: {b}", over(e, PAIR, TO, basis=b)) for b in others]
    notes = "Bold: as in training. Means ± standard deviations over fields."
    return tabulate(f"{dim}D, {rows[0][0]['family']}: errors", rows, columns, notes)


def work(dim: int, rows: Sequence[Records], others: Sequence[str]) -> Shown:
    """Sweeps, fallbacks and time of every basis."""

    def faster(name: str, to: str) -> Callable[[Records], str]:
        return over("basis_ms", PAIR, {"basis": to}, inverse=True, basis=name)

    columns = [
        *sizes(dim),
        ("cells across", lambda rows: f"{across(rows[0]):.3g}"),
        ("mesh / lattice", lambda rows: f"{across(rows[0]) / (LATTICE[dim] - 1):.2g}"),
        ("sweeps: filtered", mean("sweeps", basis=FILTERED)),
        ("learned", mean("sweeps", basis=LEARNED)),
        ("converged: filtered", mean("converged", 100, " %", basis=FILTERED)),
        ("learned", mean("converged", 100, " %", basis=LEARNED)),
        ("fallbacks", mean("fallbacks", 100, " %", basis=LEARNED)),
        ("ms: SLEPc", mean("basis_ms", **TO)),
        *((b, mean("basis_ms", basis=b)) for b in others),
        *((f"SLEPc's time / its: {b}", faster(b, SLEPC)) for b in others),
        ("filtered's time / learned's", faster(LEARNED, FILTERED)),
    ]
    notes = (
        "Cells across: a neighbourhood of an inner vertex. Mesh / lattice: cells of the mesh to "
        f"one of the network's lattice, {LATTICE[dim]} nodes a side; 2 in training. Sweeps: "
        "products with the local matrix. Converged: neighbourhoods whose "
        "residuals are below the tolerance; the others ended because Ritz values stood still, or "
        "after the last round. ms: processor time of a neighbourhood."
    )
    return tabulate(f"{dim}D, {rows[0][0]['family']}: sweeps and time", rows, columns, notes)


def across(record: Record) -> float:
    """Cells across a neighbourhood."""
    return 2 * record["cells"] / record["boxes"]


def findings(records: Records) -> Shown:
    """Worst cases, and how far the coefficient changes with the mesh."""
    head = ["dimension", "basis", "energy / SLEPc: mean", "worst", "at", "fallbacks"]
    rows, changed = [], []
    for dim, basis in product((2, 3), BASES[1:]):
        mine = Records(r for r in records.select(dim=dim, basis=basis) if "energy" in r)
        if not mine:
            continue
        ratio = records.ratios("energy", PAIR, TO, dim=dim, basis=basis)
        at = mine[int(np.argmax(ratio))]
        where = f"{at['cells']} cells, {at['boxes']} boxes, {at['family']}"
        fallbacks = mine.spread("fallbacks", 100, " %")
        rows.append(
            [f"{dim}", basis, f"{ratio.mean():.4g}", f"{ratio.max():.4g}", where, fallbacks]
        )
    groups = records.select(**TO).by("dim", "cells", "boxes", "case", "family")
    for (dim, *size, case, family), mine in sorted(groups.items(), key=lambda g: g[0][:4]):
        found = mine.values("changed")
        if tuple(size) != TRAINED[dim] and found.any():
            changed.append(f"{case} {family}: {found.mean():.1%}")
    notes = (
        f"Cells whose coefficient differs by more than a factor of {DIFFERENT} from that of the "
        "cell around their midpoint in the mesh of training: " + ("; ".join(changed) or "none")
    )
    return Shown("Over all meshes and coarse grids", head, rows, notes + ".")


def draw(figure: Figure, records: Records) -> None:
    """Error and time over the cells across a neighbourhood."""
    figure.set_size_inches(7.6, 6.2)
    axes = figure.subplots(2, 2)
    labels = {"energy": "relative energy error", "basis_ms": "ms a neighbourhood"}
    for column, dim in zip(axes.T, (2, 3), strict=True):
        mine = records.select(dim=dim, family="two-phase 1e3")
        # Fields that every case and basis has: only those can be compared.
        each = [set(rows.by("seed")) for rows in mine.by("case", "basis").values()]
        common = set.intersection(*each) if each else set()
        mine = Records(r for r in mine if r["seed"] in common)
        for (axis, entry), b in product(zip(column, labels, strict=True), BASES):
            found = mine.select(basis=b).by("cells")
            for k, (cells, marker) in enumerate(zip(sorted(found), "os^D", strict=False)):
                runs = found[cells].by("boxes").values()
                points = sorted((across(r[0]), np.mean(r.values(entry))) for r in runs)
                style = {"marker": marker, "label": None if k else b}
                axis.plot(*zip(*points, strict=True), **line(b) | style, linewidth=1.0)
        every = records.select(dim=dim)
        ticks = sorted({across(r) for r in every})
        # Those that are wide apart.
        shown = [t for k, t in enumerate(ticks) if k == 0 or t > 1.24 * ticks[k - 1]]
        for axis, label in zip(column, labels.values(), strict=True):
            axis.set(xscale="log", yscale="log")
            axis.grid(visible=True, color="0.9")
            axis.set_xticks(shown, [f"{tick:.3g}" for tick in shown])
            axis.set_xticks([], minor=True)
            axis.set_ylabel(label if dim == 2 else "")
        marks = ", ".join(
            f"{m} {c}" for m, c in zip("○□△◇", sorted(every.by("cells")), strict=False)
        )
        title = f"{dim}D, two-phase 1e3, {len(common)} field(s)\ncells a side: {marks}"
        column[0].set_title(title, fontsize="medium")
        column[1].set_xlabel("cells across a neighbourhood")
    axes[1, 0].legend(fontsize="small")


def pose(
    case: Case, meshes: Mapping[tuple[int, int], Any], family: str, seed: int
) -> tuple[Diffusion, Record]:
    """The problem for one coefficient, and how it differs from that on the mesh of training."""
    fewer = TRAINED[case.dim][0]
    kappa, coarser = (FAMILIES[family](meshes[case.dim, n], seed) for n in (case.cells, fewer))
    more = {"dim": case.dim, "cells": case.cells, "boxes": case.boxes}
    more["changed"] = difference(kappa, case.cells, coarser, fewer)
    return Diffusion(kappa, case.boxes), more


def main() -> None:
    """Run the cases and write the tables."""
    parser = Parser(__doc__, (c.name for c in CASES), (c.name for c in QUICK))
    parser.add_argument("--fields", type=int, help="fields of each family, at most")
    options = parser.parse_args()
    cases = QUICK if options.quick else CASES
    settings = {"cases": cases, "num_modes": NUM_MODES, "first_seed": FIRST_SEED}
    results = Results("resolution", options, settings)
    chosen = [c for c in cases if c.name in options.cases and not options.show]
    bases = {b: partial(make, b) for b in usable(BASES)}
    pairs = {(c.dim, n) for c in chosen for n in (c.cells, TRAINED[c.dim][0])}
    meshes = {(dim, n): box(dim, n) for dim, n in pairs}
    # Fields first: what is stopped early has all cases.
    for k, case in product(range(options.fields or 100), chosen):
        for family in case.families if k < case.fields else ():
            key = {"case": case.name, "family": family, "seed": FIRST_SEED + k}
            compare(results, key, bases, partial(pose, case, meshes, family, FIRST_SEED + k))
    records = results.records
    tables = [findings(records)]
    for dim, family in sorted(records.by("dim", "family"), key=lambda pair: pair[0]):
        others = [b for b in BASES[1:] if records.select(dim=dim, basis=b)]
        groups = records.select(dim=dim, family=family).by("cells", "boxes")
        rows = [groups[size] for size in sorted(groups)]
        tables += [accuracy(dim, rows, others), work(dim, rows, others)]
    results.finish(tables, {"width": lambda figure: draw(figure, records)})


if __name__ == "__main__":
    main()
