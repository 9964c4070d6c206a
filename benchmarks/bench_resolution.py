# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Resolution: the pretrained networks on finer meshes and other coarse grids than in training.

``diffusion-2d`` was trained at 100 x 100 cells under 5 x 5 boxes, ``diffusion-3d`` at 32 cells a
side under 4 boxes; neither is trained again here. A field is one function of x whatever the mesh:
each cell takes the value at its midpoint, so a finer mesh resolves the same interfaces better (the
last table measures by how much the coefficients differ for that). -div(kappa grad u) = 1 with u = 1
and 0 on two opposite sides; errors of the multiscale solution are relative to the fine one on the
same mesh. On each field every basis is built, on the same core, one after the other, and ratios are
taken field by field. Times are processor times of the basis stage, for one neighbourhood.

    python benchmarks/bench_resolution.py [--quick] [--resume] [--show] [--fields N]
        [--cases 2d-100-5 3d-32-4 ...]

A case is dimension, fine cells and boxes a side. About half an hour on one core.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from harness.bases import COLOURS, FILTERED, LEARNED, RAW, SLEPC, make, usable
from harness.problems import FAMILIES, FIRST_SEED, NUM_MODES, Diffusion, box
from harness.results import Parser, Record, Results, Shown, grouped, ratios, select, spread, values
from harness.trials import DIRECT_3D, compare

import numpy as np
from matplotlib.figure import Figure

from dolfinx import mesh

BASES = (SLEPC, FILTERED, LEARNED, RAW)
#: What the models' cards do not say: cells and boxes of their training.
TRAINED = {2: (100, 5), 3: (32, 4)}
LATTICE = {2: 21, 3: 9}
#: Values that differ by more than this factor count as different.
DIFFERENT = 1.5
PAIR = ("case", "family", "seed")


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
    *(Case(2, 100, 5, 20), Case(2, 200, 5, 20), Case(2, 400, 5, 3, ONE)),
    *(Case(2, 100, boxes, 20) for boxes in (3, 4, 8, 10, 20)),
    *(Case(2, 200, boxes, 10, ONE) for boxes in (3, 4, 8, 10, 20)),
    *(Case(3, 32, 4, 2, ONE), Case(3, 24, 3, 2, ONE), Case(3, 24, 4, 2, ONE)),
    *(Case(3, 32, 8, 2, ONE), Case(3, 48, 6, 1, ONE), Case(3, 40, 4, 1, ONE)),
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


def ordered(records: Sequence[Record], dim: int) -> list[tuple[int, int, str]]:
    """Cells, boxes and names of the cases that there are."""
    return sorted({(r["cells"], r["boxes"], r["case"]) for r in select(records, dim=dim)})


def accuracy(records: Sequence[Record], dim: int, family: str) -> Shown:
    """Errors of every basis."""
    head = ["cells", "boxes", "fields", "SLEPc: L2 %", "energy %"]
    others = [b for b in BASES[1:] if any(select(records, dim=dim, basis=b))]
    head += [f"{name} / SLEPc: {b}" for name in ("L2", "energy") for b in others]
    rows = []
    for cells, boxes, case in ordered(records, dim):
        key = {"case": case, "family": family}
        exact = {entry: values(records, entry, basis=SLEPC, **key) for entry in ("L2", "energy")}
        if not len(exact["L2"]):
            continue
        row = [*sizes(dim, cells, boxes), str(len(exact["L2"]))]
        row += [spread(found, 100) for found in exact.values()]
        for entry in exact:
            for b in others:
                found = ratios(records, entry, PAIR, {"basis": SLEPC}, basis=b, **key)
                row.append(spread(found))
        rows.append(row)
    notes = "Bold: as in training. Means ± standard deviations over fields."
    return Shown(f"{dim}D, {family}: errors", head, rows, notes)


def work(records: Sequence[Record], dim: int, family: str) -> Shown:
    """Sweeps, fallbacks and time of every basis."""
    head = ["cells", "boxes", "cells across", "mesh / lattice", "sweeps: filtered", "learned"]
    head += ["converged: filtered", "learned", "fallbacks", "ms: SLEPc"]
    others = [b for b in BASES[1:] if any(select(records, dim=dim, basis=b))]
    head += [*others, *(f"SLEPc's time / its: {b}" for b in others)]
    head += ["filtered's time / learned's"]
    rows = []
    for cells, boxes, case in ordered(records, dim):
        key = {"case": case, "family": family}
        if not any(select(records, **key)):
            continue
        width = 2 * cells / boxes
        row = [*sizes(dim, cells, boxes), f"{width:.3g}", f"{width / (LATTICE[dim] - 1):.2g}"]
        for entry, scale, unit in (("sweeps", 1, ""), ("converged", 100, " %")):
            for b in (FILTERED, LEARNED):
                row.append(spread(values(records, entry, basis=b, **key), scale, unit))
        row.append(spread(values(records, "fallbacks", basis=LEARNED, **key), 100, " %"))
        row += [spread(values(records, "basis_ms", basis=b, **key)) for b in (SLEPC, *others)]
        for b, to in [*((b, SLEPC) for b in others), (LEARNED, FILTERED)]:
            found = ratios(records, "basis_ms", PAIR, {"basis": to}, basis=b, **key)
            row.append(spread(1.0 / found))
        rows.append(row)
    notes = (
        "Cells across: a neighbourhood of an inner vertex. Mesh / lattice: cells of the mesh to "
        f"one of the network's lattice, {LATTICE[dim]} nodes a side; 2 in training. Sweeps: "
        "products with the local matrix. Converged: neighbourhoods whose "
        "residuals are below the tolerance; the others ended because Ritz values stood still, or "
        "after the last round. ms: processor time of a neighbourhood."
    )
    return Shown(f"{dim}D, {family}: sweeps and time", head, rows, notes)


def sizes(dim: int, cells: int, boxes: int) -> list[str]:
    """Cells and boxes a side, those of training in bold."""
    bold = "**" if (cells, boxes) == TRAINED[dim] else ""
    return [f"{bold}{cells}{bold}", f"{bold}{boxes}{bold}"]


def findings(records: Sequence[Record]) -> Shown:
    """Worst cases, and how far the coefficient changes with the mesh."""
    head = ["dimension", "basis", "energy / SLEPc: mean", "worst", "at", "fallbacks"]
    rows = []
    for dim in (2, 3):
        partners = {tuple(r[p] for p in PAIR): r for r in select(records, dim=dim, basis=SLEPC)}
        for b in BASES[1:]:
            mine = [r for r in select(records, dim=dim, basis=b) if "energy" in r]
            if not mine:
                continue
            ratio = [r["energy"] / partners[tuple(r[p] for p in PAIR)]["energy"] for r in mine]
            k = int(np.argmax(ratio))
            where = f"{mine[k]['cells']} cells, {mine[k]['boxes']} boxes, {mine[k]['family']}"
            fallbacks = spread(values(mine, "fallbacks"), 100, " %")
            rows.append([f"{dim}", b, f"{np.mean(ratio):.4g}", f"{ratio[k]:.4g}", where, fallbacks])
    changed = []
    for dim in (2, 3):
        for cells, boxes, case in ordered(records, dim):
            for family in dict.fromkeys(r["family"] for r in select(records, case=case)):
                found = values(records, "changed", case=case, family=family, basis=SLEPC)
                if found.size and (cells, boxes) != TRAINED[dim] and found.any():
                    changed.append(f"{case} {family}: {found.mean():.1%}")
    notes = (
        f"Cells whose coefficient differs by more than a factor of {DIFFERENT} from that of the "
        "cell around their midpoint in the mesh of training: " + ("; ".join(changed) or "none")
    )
    return Shown("Over all meshes and coarse grids", head, rows, notes + ".")


def seeds(records: Sequence[Record], dim: int) -> set[int]:
    """Fields that every case and basis of a dimension has: only those can be compared."""
    mine = list(select(records, dim=dim, family="two-phase 1e3"))
    groups = {(r["case"], r["basis"]) for r in mine}
    found = [{r["seed"] for r in select(mine, case=c, basis=b)} for c, b in groups]
    return set.intersection(*found) if found else set()


def draw(figure: Figure, records: Sequence[Record]) -> None:
    """Error and time over the cells across a neighbourhood."""
    figure.set_size_inches(7.6, 6.2)
    axes = figure.subplots(2, 2)
    entries = (("energy", "relative energy error"), ("basis_ms", "ms a neighbourhood"))
    for axis, (_, label) in zip(axes[:, 0], entries, strict=True):
        axis.set_ylabel(label)
    for column, dim in zip(axes.T, (2, 3), strict=True):
        common = seeds(records, dim)
        for axis, (entry, _) in zip(column, entries, strict=True):
            for b in BASES:
                found = []
                for cells, boxes, case in ordered(records, dim):
                    key = {"case": case, "basis": b, "family": "two-phase 1e3"}
                    v = values((r for r in records if r["seed"] in common), entry, **key)
                    if v.size:
                        found.append((2 * cells / boxes, cells, np.mean(v)))
                first = True
                for cells in sorted({c for _, c, _ in found}):
                    line = sorted((w, v) for w, c, v in found if c == cells)
                    marker = dict(zip(sorted({c for _, c, _ in found}), "os^D", strict=False))
                    axis.plot(
                        *zip(*line, strict=True),
                        color=COLOURS[b],
                        marker=marker[cells],
                        markerfacecolor="none",
                        linewidth=1.0,
                        label=b if first else None,
                    )
                    first = False
            axis.set(xscale="log", yscale="log")
            axis.grid(visible=True, color="0.9")
        ticks = sorted({2 * cells / boxes for cells, boxes, _ in ordered(records, dim)})
        for axis in column:
            # Those that are wide apart.
            shown = [t for k, t in enumerate(ticks) if k == 0 or t > 1.24 * ticks[k - 1]]
            axis.set_xticks(shown, [f"{tick:.3g}" for tick in shown])
            axis.set_xticks([], minor=True)
        fewest = sorted({c for c, _, _ in ordered(records, dim)})
        marks = ", ".join(f"{m} {c}" for m, c in zip("○□△◇", fewest, strict=False))
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
    return Diffusion(kappa, case.boxes, direct_up_to=DIRECT_3D), more


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
    for k, case in itertools.product(range(options.fields or 100), chosen):
        for family in case.families if k < case.fields else ():
            key = {"case": case.name, "family": family, "seed": FIRST_SEED + k}
            compare(results, key, bases, partial(pose, case, meshes, family, FIRST_SEED + k))
    records = results.records
    tables = [findings(records)]
    for dim, family in sorted(grouped(records, "dim", "family"), key=lambda pair: pair[0]):
        tables += [accuracy(records, dim, family), work(records, dim, family)]
    results.finish(tables, {"width": lambda figure: draw(figure, records)})


if __name__ == "__main__":
    main()
