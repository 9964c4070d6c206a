# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Real rock: SPE10 layers and blocks: errors, fallbacks, guaranteed bounds, iterations.

SPE10 Model 2 (Christie and Blunt, 2001): 60 x 220 cells a layer of 6.1 m x 3.0 m x 0.6 m,
horizontal permeability kx = ky as given (in 3D for all three directions). Boxes of 10 x 10 cells,
in a block as high as the block; a pressure drop along y, no flow through the other sides. Layers 1
to 35 are the Tarbert formation, 36 to 85 the Upper Ness. The networks have seen nothing like it.

    python benchmarks/bench_rock.py [--spe10 PATH] [--quick] [--resume] [--show] [--fields N]
        [--cases layers block "thick block"]

PATH (or SPE10=PATH) is spe_perm.dat or .npz files, see dolfinx_msnn.fields.read_spe10. Without it,
and with ``--quick``, fields of the same size and like contrast are generated instead, and the
tables say so. Errors are relative to the fine solution, in L2 and energy. Bounds, on some layers
and the blocks: of the energy error against the fine solution (constants of the space, ten steps of
conjugate gradients) and, but for thick blocks, against the exact one (equilibrated fluxes), each
over the error that it bounds; the exact error is taken from the energy of a solution on a mesh that
is four times finer (twice in blocks), so that the second quotient is slightly too large. Half an
hour on a core.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from harness.bases import FILTERED, GUARDED, HARMONIC, LEARNED, SLEPC, line, make, usable
from harness.fine_solvers import RTOL
from harness.problems import FIRST_SEED, NUM_MODES, Diffusion, norms
from harness.results import Parser, Record, Records, Results, Shown, mean, spread, tabulate
from harness.trials import MAX_ITERATIONS, compare

from mpi4py import MPI

import numpy as np
from matplotlib.figure import Figure

from dolfinx_msnn import fields
from dolfinx_msnn.fields import LatticeField

BASES = (SLEPC, FILTERED, LEARNED, GUARDED, HARMONIC)
LAYERS = tuple(range(1, 51, 2))
#: Layers whose bounds are computed.
BOUNDED = (1, 13, 25, 37, 49)
#: First and last layers.
BLOCKS = {"block": ((6, 10), (41, 45)), "thick block": ((1, 10), (36, 45))}
QUICK_BLOCKS = {"block": ((41, 42),)}
CELL = (6.096, 3.048, 0.6096)
FORMATIONS = ("Tarbert", "Upper Ness")
#: How much finer the mesh is whose energy stands for the exact one, by dimension.
FINER = {2: 4, 3: 2}
PAIR, TO = ("case", "layers"), {"basis": SLEPC}


def formation(layer: int) -> str:
    """Name of the formation of a layer."""
    return FORMATIONS[layer > 35]


def generated(first: int, last: int, shape: tuple[int, int]) -> LatticeField:
    """A stand-in: anisotropic log-normal, for the Upper Ness with channels; contrast up to 1e7."""
    nz = last - first + 1
    # All 85 layers are the unit box; a layer is a cut through it.
    centres = np.indices((*shape, nz)).reshape(3, -1).T + np.array([0.5, 0.5, first - 0.5])
    x = centres / np.array([*shape, 85])
    lengths = (0.15, 0.05, 0.05)
    values = fields.LogNormal(3, 1e7, FIRST_SEED, variance=9.0, correlation_length=lengths)(x)
    if formation(first) == FORMATIONS[1]:
        values = values**0.5 * fields.Channels(3, 1e3, FIRST_SEED, axis=1)(x)
    field = LatticeField(values.reshape(*shape, nz), CELL, (0.0, 0.0, (first - 1) * CELL[2]))
    return field if nz > 1 else field[:, :, 0]


def exact_error(field: LatticeField, kappa: Any) -> Callable[[Any], float]:
    """Energy error of a function against the solution on a finer mesh with the same coefficient."""
    times = FINER[field.dim]
    # The same coefficient, each cell cut into equal ones.
    cut = np.kron(field.values, np.ones((times,) * field.dim))
    sizes = [h / times for h in field.cell_size]
    msh = LatticeField(cut, sizes, field.origin).create_mesh(MPI.COMM_SELF)
    finer = Diffusion(field.interpolate(msh), 1, axis=1)
    least = norms(finer.fine, finer.kappa)[1] ** 2
    # Both have the boundary values of the exact solution, and f = 0.
    return lambda u: float(np.sqrt(norms(u, kappa)[1] ** 2 - least))


def pose(field: LatticeField, exact: bool) -> tuple[Diffusion, Record]:
    """The problem on a layer or a block."""
    kappa = field.interpolate(field.create_mesh(MPI.COMM_SELF))
    boxes = tuple(max(1, n // 10) if axis < 2 else 1 for axis, n in enumerate(field.shape))
    problem = Diffusion(kappa, boxes, axis=1)
    problem.exact = exact_error(field, kappa) if exact else None
    return problem, {"contrast": field.contrast, "cells": "x".join(map(str, field.shape))}


def table(case: str, name: str, mine: Records) -> Shown:
    """All bases on the layers or the block of a formation."""

    def faster(row: Records) -> str:
        return spread(1 / mine.ratios("basis_ms", PAIR, TO, basis=row[0]["basis"]))

    def energy(row: Records) -> np.ndarray:
        return mine.ratios("energy", PAIR, TO, basis=row[0]["basis"])

    def count(row: Records) -> str:
        failed = sum(not r.get("solved", True) for r in row)
        return row.spread("iterations") + (f" ({failed} not solved)" if failed else "")

    def bound(row: Records) -> str:
        missed = len(row.select(lambda_min=0.0))
        return row.spread("fine_bound") + (f" (none for {missed})" if missed else "")

    columns = {
        "basis": lambda row: str(row[0]["basis"]),
        "L2 %": mean("L2", 100),
        "energy %": mean("energy", 100),
        "L2 / SLEPc": lambda row: spread(mine.ratios("L2", PAIR, TO, basis=row[0]["basis"])),
        "energy / SLEPc": lambda row: spread(energy(row)),
        "worst": lambda row: f"{energy(row).max(initial=0.0):.4g}",
        "sweeps": mean("sweeps"),
        "rounds": mean("rounds"),
        "fallbacks": mean("fallbacks", 100, " %"),
        "guard: repaired": mean("repaired", 100, " %"),
        "recomputed": mean("recomputed", 100, " %"),
        "CG": count,
        "fine bound / error": bound,
        "exact bound / error": mean("exact_bound"),
        "ms": mean("basis_ms"),
        "SLEPc's time / its": faster,
        "space s": mean("space_s"),
    }
    bases = mine.by("basis")
    layers = sorted(mine.by("layers"), key=lambda name: int(name.split("-")[0]))
    contrasts, first = mine.values("contrast"), mine[0]
    source = "" if first["data"] == "SPE10" else ", generated, not SPE10"
    what = "layers" if case == "layers" else f"{case}, layers"
    bounded = len(mine.values("fine_bound", **TO))
    notes = (
        f"{first['cells'].replace('x', ' x ')} cells, contrast {contrasts.min():.1e} to "
        f"{contrasts.max():.1e}, {first['neighbourhoods']} neighbourhoods, {NUM_MODES} modes. "
        f"CG: two-level iterations to {RTOL:.0e}, at most {MAX_ITERATIONS}. Bounds: of "
        f"{bounded} of {len(layers)}; there is none against the fine solution where a "
        "neighbourhood's functions leave more than 1e-10 of the energy of its constant. ms: "
        "processor time of the basis stage of a neighbourhood; space: of the whole space."
    )
    title = f"{name}{source}: {what} {', '.join(layers)}"
    return tabulate(title, [bases[b] for b in BASES if b in bases], columns, notes)


def draw(figure: Figure, records: Records) -> None:
    """Energy error and time over the layers."""
    figure.set_size_inches(7.4, 6.4)
    axes = figure.subplots(3, 1, sharex=True)
    entries = (
        ("energy", 100, "energy error, %"),
        ("iterations", 1, "CG iterations"),
        ("basis_ms", 1, "ms a neighbourhood"),
    )
    for axis, (entry, scale, label) in zip(axes, entries, strict=True):
        for b, mine in records.select(case="layers").by("basis").items():
            found = sorted((int(r["layers"]), scale * r[entry]) for r in mine if entry in r)
            if found:
                axis.plot(*zip(*found, strict=True), linewidth=1.0, **line(b))
        axis.axvline(35.5, color="0.5", linestyle="--", linewidth=0.8)
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.grid(visible=True, color="0.9")
    source = {r["data"] for r in records}
    name = "SPE10" if source == {"SPE10"} else "Generated, not SPE10"
    axes[0].set_title(f"{name}: left Tarbert, right Upper Ness", fontsize="medium")
    axes[-1].set_xlabel("layer")
    axes[0].legend(fontsize="small", ncols=5, loc="center", bbox_to_anchor=(0.5, 0.4))


def main() -> None:
    """Run the cases and write the tables."""
    cases = ("layers", *BLOCKS)
    parser = Parser(__doc__, cases)
    parser.add_argument("--fields", type=int, help="number of layers")
    parser.add_argument("--spe10", default=os.environ.get("SPE10"), help="the data")
    options = parser.parse_args()
    path = None if options.quick else options.spe10
    data = "generated" if path is None else "SPE10"
    settings = {"layers": LAYERS, "blocks": BLOCKS, "bounded": BOUNDED, "num_modes": NUM_MODES}
    results = Results("rock", options, settings | {"rtol": RTOL, "data": data})
    shape = (20, 40) if options.quick else (60, 220)
    bases = {b: partial(make, b) for b in usable(BASES)}

    def read(first: int, last: int) -> LatticeField:
        if path is None:
            return generated(first, last, shape)
        layers = first if first == last else (first, last)
        return fields.read_spe10(path, layers, comm=MPI.COMM_SELF)

    def run(case: str, first: int, last: int, bounds: bool) -> None:
        name = f"{first}" if first == last else f"{first}-{last}"
        key = {"case": case, "layers": name, "formation": formation(first), "data": data}
        exact = bounds and case != "thick block"
        compare(
            results,
            key,
            bases,
            lambda: pose(read(first, last), exact),
            iterations=True,
            bounds=bounds,
        )

    if not options.show:
        # Those with bounds first: fewer layers should not be fewer bounds.
        layers = [*BOUNDED, *(k for k in LAYERS if k not in BOUNDED)]
        for k in [1, 37] if options.quick else layers[: options.fields]:
            if "layers" in options.cases:
                run("layers", k, k, k in BOUNDED)
        for case, blocks in (QUICK_BLOCKS if options.quick else BLOCKS).items():
            for first, last in blocks if case in options.cases else ():
                run(case, first, last, True)
    records = results.records
    groups = records.by("case", "formation")
    tables = [table(*key, groups[key]) for key in product(cases, FORMATIONS) if key in groups]
    results.finish(tables, {"layers": lambda figure: draw(figure, records)})


if __name__ == "__main__":
    main()
