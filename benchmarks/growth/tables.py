# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Tables of the growth benchmark, from its records alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from growth.cost_model import (
    HERE,
    LOCAL,
    NUM_MODES,
    Cluster,
    Rates,
    Size,
    entry_count,
    flop_count,
    predict,
)
from harness.bases import FILTERED, LEARNED, SLEPC
from harness.results import Record, Records, Shown

import numpy as np

type Sizes = Mapping[int, Sequence[tuple[int, int]]]

BASES = (SLEPC, FILTERED, LEARNED)
RANKS = (100, 1000, 10_000)
DOFS = 1e9


def runs(records: Records, **key: object) -> Records:
    """The selected runs by size, basis and ranks; of repetitions the least of each time."""
    found = Records()
    names = ("part", "dim", "boxes", "cells", "ranks", "basis")
    for same in records.select(**key).by(*names).values():
        made = dict(same[0])
        made |= {k: min(r[k] for r in same) for k in made if k.startswith("s ")}
        found.append(made | {k: max(r[k] for r in same) for k in ("mib", "peak_mib")})
    return found


def size_of(record: Record) -> Size:
    """Its size."""
    return Size(record["dim"], record["boxes"], record["cells"])


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(x) > 1 else float("nan")


def number(records: Records) -> Iterator[Shown]:
    """Time and memory of a neighbourhood over their number."""
    for dim in (2, 3):
        mine = runs(records, part="number", dim=dim)
        head = ["neighbourhoods", "N_f", "N_c", "basis", *(f"{s}, ms" for s in LOCAL)]
        head += ["PᵀAP, ms", "all, ms", "KiB", "factor A_0, s", "multigrid on A_0, s"]
        head += ["its iterations", "peak, MiB"]
        rows = []
        for r in mine:
            full = size_of(r).full
            each = [1e3 * r[f"s {stage}"] / full for stage in (*LOCAL, "product", "all")]
            row = [f"{size_of(r).vertices}", f"{r['N_f']:.0f}", f"{r['N_c']:.0f}", r["basis"]]
            row += [*(f"{ms:.3g}" for ms in each), f"{1024 * r['mib'] / full:.3g}"]
            row += [f"{r['s factor']:.3g}", f"{r['s multigrid']:.3g}"]
            row.append(f"{r['iterations']}" + ("" if r["solved"] else " (not solved)"))
            rows.append([*row, f"{r['peak_mib']:.0f}"])
        if not rows:
            continue
        growth, shares = [], []
        for b in (SLEPC, FILTERED):
            this = mine.select(basis=b)
            share = this.values("s basis") / this.values("s all")
            shares.append(f"{b} {share.min():.0%} to {share.max():.0%}")
            x = [size_of(r).full for r in this]
            for name in ("total", "product", "factor"):
                growth.append(f"{b} {name} {exponent(x, this.values(f's {name}')):.2f}")
        notes = (
            "For one full neighbourhood (one for each box: as many cells as all neighbourhoods "
            "have, those at the boundary being smaller). Memory: what the space added to the "
            f"process. {mine[0]['cells']} cells across a box. All: space, PᵀAP, coarse factors, "
            "one solve. Multigrid: CG with GAMG, blocks of 8, the constant as near null space, SOR "
            f"as smoother, set-up and one solve to 1e-6. Share of the basis in all: "
            f"{', '.join(shares)}. Exponents of the time over the number: {', '.join(growth)}."
        )
        yield Shown(f"Number of neighbourhoods, {dim}D", head, rows, notes)


def width(records: Records) -> Iterator[Shown]:
    """Time of a neighbourhood over its width."""
    for dim in (2, 3):
        mine = runs(records, part="width", dim=dim)
        found = sorted(mine.by("cells"))
        names = [b for b in BASES if mine.select(basis=b)]
        if not found:
            continue
        head = ["cells across", "dofs", *(f"{b}, ms" for b in names)]
        head += [f"SLEPc's time / its: {b}" for b in names[1:]] + ["local matrices, ms"]
        rows, ms = [], {}
        for cells in found:
            this = {r["basis"]: r for r in mine.select(cells=cells)}
            ms[cells] = {b: 1e3 * r["s basis"] / size_of(r).vertices for b, r in this.items()}
            row = [f"{2 * cells}", f"{(2 * cells + 1) ** dim}"]
            row += [f"{ms[cells][b]:.3g}" for b in names]
            row += [f"{ms[cells][SLEPC] / ms[cells][b]:.3g}" for b in names[1:]]
            local = 1e3 * this[SLEPC]["s local matrices"] / size_of(this[SLEPC]).vertices
            rows.append([*row, f"{local:.3g}"])
        fits = [f"{b} {exponent(found, [ms[c][b] for c in found]):.2f}" for b in names]
        last = [f"{b} {exponent(found[-2:], [ms[c][b] for c in found[-2:]]):.2f}" for b in names]
        notes = (
            "Processor time of the basis stage, mean over all "
            f"{size_of(mine[0]).vertices} neighbourhoods, those at the boundary included. Time ~ "
            f"width^p with p: {', '.join(fits)}; between the two widest: {', '.join(last)} "
            f"({dim} is proportional to the dofs)."
        )
        yield Shown(f"Width of a neighbourhood, {dim}D", head, rows, notes)


def scaling(records: Records, cores: int) -> Iterator[Shown]:
    """Strong and weak scaling."""
    for part in ("strong", "weak"):
        mine = runs(records, part=part)
        if not mine:
            continue
        head = ["dimension", "basis", "ranks", "neighbourhoods", "basis, s", "space, s", "PᵀAP, s"]
        head += ["factor, s", "efficiency: basis", "space", "all"]
        rows = []
        for r in mine:
            one = mine.first(dim=r["dim"], basis=r["basis"], ranks=1)
            ranks = f"{r['ranks']}" + (" (oversubscribed)" if r["ranks"] > cores else "")
            row = [f"{r['dim']}", r["basis"], ranks, f"{size_of(r).vertices}"]
            row += [f"{r[f's {k}']:.3g}" for k in ("basis", "total", "product", "factor")]
            # Of equal work for each rank: boxes are counted.
            gain = size_of(r).full / size_of(one).full / r["ranks"] if one else 0
            for k in ("s basis", "s total", "s all"):
                row.append(f"{gain * one[k] / r[k]:.0%}" if one else "–")
            rows.append(row)
        title = "the same problem" if part == "strong" else "a problem that grows with the ranks"
        notes = (
            f"Processor time of the slowest rank; waiting in MPI is counted, as it spins. {cores} "
            "cores: the time of more ranks (oversubscribed) leaves out that they wait for a core, "
            "and says little of as many cores. Memory and caches are shared with other jobs, so "
            "that figures scatter, to above 100 %."
        )
        yield Shown(f"Ranks, {title}", head, rows, notes)


def peaks(records: Records) -> Iterator[Shown]:
    """What of the peaks the kernels reach."""
    mine = records.select(part="peaks")
    if not mine:
        return
    stream = mine.first(name="sum of two arrays")["gbytes"]
    head = ["", "dofs", "functions", "GFlop/s", "of GEMM", "GByte/s", "of the stream", "ms"]
    head += ["block, KiB"]
    rows = []
    for r in mine:
        if "n" not in r:
            numbers = [f"{r[k]:.3g}" if k in r else "–" for k in ("gflops", "gbytes")]
            rows.append([r["name"], "–", "–", numbers[0], "–", numbers[1], "–", "–", "–"])
            continue
        gemm = "GEMM, single" if r["name"].startswith("filter") else "GEMM, double"
        peak = mine.first(name=gemm)["gflops"]
        row = [f"{r['name']}, {r['dim']}D, {r['width']} cells across", f"{r['n']}", f"{r['m']}"]
        row += [f"{r['gflops']:.3g}", f"{r['gflops'] / peak:.0%}", f"{r['gbytes']:.3g}"]
        row += [f"{r['gbytes'] / stream:.0%}", f"{r['ms']:.3g}", f"{r['block_kib']:.0f}"]
        rows.append(row)
    notes = (
        "One core, one thread, best of seven. Filter: single precision, 2 nnz + 5 n operations a "
        "function and sweep; it moves the entries (8 bytes with their column), and three blocks. "
        "Gram matrices: of A and S, sums in double precision, the functions in single: 4 nnz + "
        "2 n (m + 1) operations a function. Bytes: what has to move once, however often it is "
        "read from the caches; a block that stays there may go faster than the stream, which is "
        "that of arrays far larger."
    )
    yield Shown("Peaks of one core, and what the kernels reach", head, rows, notes)


def rates(records: Records, dim: int, cells: int, basis: str) -> Rates | None:
    """Rates of one width: of the smallest and the middle run over the number, if there are any.

    Otherwise of the run over the width.
    """
    mine = runs(records, part="number", dim=dim, cells=cells, basis=basis)
    small = mine[0] if len(mine) > 1 else None
    if not mine:
        mine = runs(records, part="width", dim=dim, cells=cells, basis=basis)
    # Coarse factors: constants from the largest matrix of this dimension.
    factors = Records(r for r in runs(records, dim=dim, ranks=1) if r.get("flops"))
    stream = records.values("gbytes", part="peaks", name="sum of two arrays")
    if not mine or not factors or not stream.size:
        return None
    chosen = mine[len(mine) // 2]
    full = size_of(chosen).full
    names = (*LOCAL, "product")
    seconds = {s: chosen[f"s {s}"] / full for s in names}
    fixed = 0.0
    if small is not None:
        first = size_of(small).full
        seconds = {s: max(chosen[f"s {s}"] - small[f"s {s}"], 0.0) / (full - first) for s in names}
        fixed = sum(small[f"s {s}"] - first * seconds[s] for s in LOCAL)
    largest = max(factors, key=lambda r: r["N_c"])
    size = size_of(largest)
    return Rates(
        seconds,
        max(fixed, 0.0),
        chosen["mib"] * 2**20 / full,
        largest["flops"] / flop_count(size),
        entries(largest) / entry_count(size),
        largest["flops"] / largest["s factor"],
        1e9 * float(stream[0]),
        max(r["iterations"] for r in factors),
    )


def entries(record: Record) -> float:
    """Entries of the factors; MUMPS gives large numbers in millions, as negative ones."""
    found = float(record["entries"])
    return found if found >= 0 else -1e6 * found


def validation(records: Records) -> Iterator[Shown]:
    """The model against all runs, with rates of two runs each."""
    head = ["dimension", "ranks", "basis", "neighbourhoods", "space: predicted, s"]
    head += ["measured, s", "ratio", "PᵀAP: ratio", "factor: ratio", "all: predicted, s"]
    head += ["measured, s", "ratio"]
    rows, off = [], []
    for part in ("number", "strong", "weak"):
        for r in runs(records, part=part):
            found = rates(records, r["dim"], r["cells"], r["basis"])
            if found is None:
                continue
            p = predict(size_of(r), r["ranks"], found, HERE)
            space, whole = p["local"] + p["exchange"], r["s all"]
            predicted = space + p["product"] + p["direct"]
            row = [f"{r['dim']}", f"{r['ranks']}", r["basis"], f"{size_of(r).vertices}"]
            row += [f"{space:.3g}", f"{r['s total']:.3g}", f"{space / r['s total']:.2f}"]
            row += [f"{p['product'] / r['s product']:.2f}", f"{p['direct'] / r['s factor']:.2f}"]
            row += [f"{predicted:.3g}", f"{whole:.3g}", f"{predicted / whole:.2f}"]
            rows.append(row)
            off.append((r["ranks"], predicted / whole))
    if not rows:
        return
    ranges = []
    for ranks in sorted({k for k, _ in off}):
        found_off = [v for k, v in off if k == ranks]
        ranges.append(f"{min(found_off):.2f} to {max(found_off):.2f} on {ranks}")
    growth = []
    for dim in (2, 3):
        mine = [r for r in runs(records, part="number", dim=dim, basis=FILTERED) if r.get("flops")]
        if len(mine) > 2:
            x = [r["N_c"] for r in mine[-3:]]
            flops = exponent(x, [r["flops"] for r in mine[-3:]])
            growth.append(
                f"{dim}D flops ~ N_c^{flops:.2f}, entries ~ "
                f"N_c^{exponent(x, [entries(r) for r in mine[-3:]]):.2f}"
            )
    notes = (
        "Rates and a fixed time from the smallest and the middle size over the number (ratio one "
        "by construction); the constant of the coarse factors from the largest matrix. All: "
        f"predicted over measured, by ranks: {'; '.join(ranges)}. "
        "Small coarse matrices factorise at a lower rate than the largest, and on several ranks "
        "MUMPS and PᵀAP need some time whatever the size, which the model leaves out. Growth of "
        f"MUMPS's counts over the three largest: {'; '.join(growth) or 'not known'}; the model "
        "takes those of nested dissection."
    )
    yield Shown("The model against this machine", head, rows, notes)


def forecast(records: Records, cluster: Cluster) -> list[tuple[Size, int, Record]]:
    """Predictions for 1e9 dofs, filtered bases."""
    found = []
    for dim in (2, 3):
        widths = {r["cells"] for p in ("number", "width") for r in records.select(part=p, dim=dim)}
        narrow = {r["cells"] for r in records.select(part="number", dim=dim)}
        for cells in sorted({*narrow, *([max(widths)] if widths else [])}):
            mine = rates(records, dim, cells, FILTERED)
            if mine is None:
                continue
            size = Size(dim, round(DOFS ** (1 / dim) / cells), cells)
            found += [(size, p, predict(size, p, mine, cluster)) for p in RANKS]
    return found


def prediction(records: Records, cluster: Cluster) -> Iterator[Shown]:
    """What the model says of 1e9 dofs, with its assumptions."""
    head = ["dimension", "cells a box", "ranks", "neighbourhoods", "N_c", "local, s", "PᵀAP, s"]
    head += ["exchange, s", "coarse: direct, s", "factors, GiB", "coarse: multigrid, s"]
    head += ["all, direct, s", "all, multigrid, s", "GiB a rank"]
    rows = []
    for size, ranks, p in forecast(records, cluster):
        fixed = p["local"] + p["product"] + p["exchange"]
        row = [f"{size.dim}", f"{size.cells}", f"{ranks}", f"{size.vertices:.3g}"]
        row += [f"{size.num_coarse:.3g}", *(f"{p[k]:.3g}" for k in ("local", "product"))]
        row += [f"{p['exchange']:.2g}", f"{p['direct']:.3g}", f"{p['factors'] / 2**30:.3g}"]
        row += [f"{p['amg']:.2g}", f"{fixed + p['direct']:.3g}", f"{fixed + p['amg']:.3g}"]
        rows.append([*row, f"{p['memory'] / 2**30:.2g}"])
    if rows:
        ranges = []
        for dim in (2, 3):
            counts = [r["iterations"] for r in runs(records, part="number", dim=dim)]
            if counts:
                ranges.append(f"{min(counts)} to {max(counts)} in {dim}D")
        assumed = ", ".join(
            f"{field.name} {getattr(cluster, field.name):g}"
            for field in dataclasses.fields(Cluster)
        )
        notes = (
            f"Predicted, not measured: {DOFS:.0e} fine dofs, filtered bases, {NUM_MODES} modes. "
            f"Assumptions ({assumed}): cores like the measured one, slower by `crowding` when "
            "all of a node work; whole neighbourhoods dealt out with `imbalance`; a node's "
            "network shared by its ranks; exchange of the element matrices of one layer of boxes "
            "and of the rows of P that ranks share; `collectives` all-reduces of latency · log2 p. "
            "Direct coarse solve: flops ~ N_c² (3D), N_c^1.5 (2D) and entries ~ N_c^(4/3), "
            "N_c log N_c (nested dissection), constants from MUMPS's own counts at the largest "
            "measured N_c, no faster beyond `direct_ranks`. Multigrid on A_0: as many "
            f"iterations as the worst measured run of this dimension ({', '.join(ranges)}), "
            "assumed not to grow further, each of which moves A_0 `amg_work` times. Left out: its "
            "set-up, the mesh, assembly of A, input and output. What limits is the coarse "
            "system: a direct solver of a 3D one with millions of unknowns needs more memory and "
            "time than all the rest, so at this size boxes have to be wider (fewer coarse dofs, "
            "more work on each neighbourhood), or a third level has to take its place: multigrid "
            "or a two-level method on A_0, by options of the coarse solver (pc_type gamg)."
        )
        yield Shown(f"The model at {DOFS:.0e} dofs", head, rows, notes)


def tables(records: Records, cluster: Cluster, cores: int) -> list[Shown]:
    """All tables; ``cores`` are those of the machine that was measured."""
    return [
        *number(records),
        *width(records),
        *scaling(records, cores),
        *peaks(records),
        *validation(records),
        *prediction(records, cluster),
    ]
