# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Solvers: what a user would pick instead of a coarse space, and from how many solves on.

-div(kappa grad u) = f with u = 1 and 0 on two opposite sides, for three loads f (one, a smooth one,
blocks of either sign; two of them in the largest case). Against a tight fine solution:

- fine MUMPS (Cholesky), GAMG (threshold 0.02), BoomerAMG and PyAMG with CG until the natural norm
  has fallen by 1e-8. Each with the best of several settings. BoomerAMG is another PETSc's, in a
  process of its own, for which ``PETSC_PYTHON`` is the command; without it there is no such row.
- the same iterative ones, stopped after the fewest iterations that leave no larger errors, in L2
  and energy, than the harmonic coarse space does (where that was not run, the filtered one). A user
  could not know that number: no tolerance is better.
- the coarse solve with each basis (8 modes): restrict the fine right-hand side, solve, prolong.
  Harmonic functions are those of boxes that overlap by a fifth of their width.
- CG with the two-level preconditioner with the filtered basis, by 1e-8.

A run is a process of its own with limits of time and memory: over the limit, and it is recorded
so. Times are processor time of one core. Set-up (basis, factors, hierarchies, what is put off to
the first solve) and the time for a right-hand side (the median) are measured once, direct and
coarse solves also in blocks of ten; totals for 1 to 1000 right-hand sides follow from them.
Assembly of A, which all need, is stated apart; that of right-hand sides is left out.

    python benchmarks/bench_solvers.py [--quick] [--resume] [--show] [--cases CASE ...]
        [--families FAMILY ...] [--without SOLVER ...] [--minutes M] [--gib G]
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from time import process_time
from typing import Any

from harness import bases, fine_solvers
from harness.coarse_solvers import assemble, solve_coarse, solve_two_level
from harness.fine_solvers import BLOCK, BOOMER, RTOL, THRESHOLD, System, boomer
from harness.launch import WorkerError, launch, other_python, serve
from harness.machine import installed, peak_gib
from harness.problems import FAMILIES, FIRST_SEED, GAMG, MUMPS, NUM_MODES, Diffusion, box
from harness.results import WORK, Parser, Record, Records, Results, Shown

import numpy as np
from matplotlib.figure import Figure

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix

#: name: dimension, cells, boxes, loads, repetitions of a solve
CASES = {
    "2d-250": (2, 250, 10, 3, 2),
    "2d-400": (2, 400, 16, 3, 2),
    "3d-50": (3, 50, 5, 3, 1),
    "3d-100": (3, 100, 8, 2, 1),
}
QUICK = {"2d-quick": (2, 40, 2, 3, 1), "3d-quick": (3, 12, 2, 3, 1)}
HARMONIC, FILTERED = "coarse, harmonic", "coarse, filtered"
SLEPC, LEARNED = "coarse, SLEPc", "coarse, learned"
TWO_LEVEL = "two-level CG, filtered"
OURS = (HARMONIC, FILTERED, LEARNED, SLEPC, TWO_LEVEL)
RIVALS = ("MUMPS", "GAMG", "BoomerAMG", "PyAMG")
KINDS = {HARMONIC: bases.HARMONIC, FILTERED: bases.FILTERED}
KINDS |= {SLEPC: bases.SLEPC, LEARNED: bases.LEARNED}
#: The first alone in the largest case.
CHOSEN = ("two-phase 1e3", "log-normal")
NUMBERS = (1, 10, 100, 1000)
#: What is tried of each solver; of the largest case only what was the best in the case before.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "MUMPS": {
        "automatic ordering": MUMPS,
        "METIS": MUMPS | {"mat_mumps_icntl_7": 5},
        "Scotch": MUMPS | {"mat_mumps_icntl_7": 3},
    },
    "GAMG": {
        "as it is": GAMG,
        "no aggressive coarsening": GAMG | {"pc_gamg_aggressive_coarsening": 0},
        "symmetric Gauss-Seidel": GAMG
        | {"mg_levels_ksp_type": "richardson", "mg_levels_pc_type": "sor"},
    },
    "BoomerAMG": {
        "strong threshold 0.25": BOOMER,
        "0.5": BOOMER | THRESHOLD,
        "0.5, HMIS, ext+i": boomer(3),
        "0.5, HMIS, ext+i, aggressive": boomer(3) | {"pc_hypre_boomeramg_agg_nl": 1},
    },
    "PyAMG": {
        f"{name}, {theta}": {"solver": solver, "strength": strength, "theta": theta}
        for name, solver, strength, thetas in (
            ("smoothed aggregation", "smoothed_aggregation_solver", "symmetric", (0.0, 0.02)),
            ("Ruge-Stüben", "ruge_stuben_solver", "classical", (0.25, 0.5)),
        )
        for theta in thetas
    },
}
LARGE = 10**6


def settings(records: Records, case: str, family: str, method: str) -> dict[str, Any]:
    """What is tried of a fine solver."""
    every = SETTINGS[method]
    if {**CASES, **QUICK}[case][1] < 100 or case.startswith("2d"):
        return every
    before = records.select(case="3d-50", family=family, method=method, goal="solver")
    name = next((r["setting"] for r in before if r.get("setting")), next(iter(every)))
    return {name: every[name]}


def pose(case: str, family: str) -> Diffusion:
    """The problem of a case."""
    dim, cells, boxes, *_ = {**CASES, **QUICK}[case]
    return Diffusion(FAMILIES[family](box(dim, cells), FIRST_SEED), boxes)


def loads(problem: Diffusion, number: int) -> list[Any]:
    """Linear forms of one, a smooth function, and blocks of either sign."""
    msh, v = problem.V.mesh, ufl.TestFunction(problem.V)
    x, dim = ufl.SpatialCoordinate(msh), msh.topology.dim
    smooth = 4 * ufl.sin(2 * ufl.pi * x[0]) * ufl.cos(ufl.pi * x[1])
    signs = np.random.default_rng(FIRST_SEED).choice([-4.0, 4.0], (5,) * dim)
    blocks = fem.Function(fem.functionspace(msh, ("DG", 0)))
    blocks.interpolate(lambda y: signs[tuple(np.minimum(5 * y[:dim], 4).astype(int))])
    return [f * v * ufl.dx for f in (problem.f, smooth, blocks)][:number]


def prepare(case: str, family: str, folder: str) -> Records:
    """Write the system with its loads and their tight solutions; time the assembly of A."""
    problem = pose(case, family)
    dim, _, _, number, _ = {**CASES, **QUICK}[case]
    form = fem.form(problem.a)
    assemble_matrix(form, bcs=problem.bcs).destroy()
    start = process_time()
    A = assemble_matrix(form, bcs=problem.bcs)
    A.assemble()
    seconds = process_time() - start
    A.destroy()
    options = MUMPS if dim == 2 else GAMG | {"ksp_type": "cg", "ksp_rtol": 1e-12}
    system = assemble(problem, loads(problem, number), options, spd=True)
    system.write(folder)
    size = system.A.getSize()[0]
    return [{"method": "assembly", "setup_s": seconds, "N_f": size, "gib": peak_gib()}]


def ours(case: str, family: str, folder: str, *names: str) -> Records:
    """Records of a coarse space: its own solve and, if asked for, the two-level preconditioner."""
    problem, system = pose(case, family), System.read(folder)
    repeat = {**CASES, **QUICK}[case][4]
    basis = bases.make(KINDS[names[0]], problem.kappa)
    if names[0] == HARMONIC:
        problem.grid = problem.overlapping()
    if system.A.getSize()[0] < 10**5:
        problem.space(basis).destroy()
    start = process_time()
    W = problem.space(basis)
    space = process_time() - start
    more = {"space_s": space, "N_c": W.num_dofs}
    found, targets = solve_coarse(system, W, max(3, repeat))
    found["setup_s"] += space
    records = [more | found | {"method": names[0], "goal": "space", "gib": peak_gib()}]
    records[0]["targets"] = json.dumps(targets)
    if TWO_LEVEL in names:
        found = solve_two_level(system, W, repeat)
        found["setup_s"] += space
        records.append(more | found | {"method": TWO_LEVEL, "goal": "solver", "gib": peak_gib()})
    return records


def work(what: str, *arguments: str) -> Records:
    """What one process does."""
    return (prepare if what == "prepare" else ours)(*arguments)


def limited(
    options: Any, program: str, *arguments: Any, python: Sequence[str] = (sys.executable,)
) -> Records:
    """Run a worker within limits; what comes of it, or why nothing did."""
    limits = {"minutes": options.minutes, "gib": options.gib}
    try:
        found: Records = launch(program, *arguments, python=python, **limits)
    except WorkerError as error:
        if error.out_of_time:
            return [{"over": f"{options.minutes:g} minutes"}]
        memory = any("emory" in line for line in error.lines)
        return [{"over": f"{options.gib:g} GiB" if memory else error.lines[-1][:200]}]
    for record in found:
        # MUMPS has said what it needs.
        if "GiB" in record.get("over", ""):
            record["over"] = f"{options.gib:g} GiB ({record['over']})"
    return found


def run(results: Results, options: Any) -> None:
    """All that is missing, case by case."""
    for case in options.cases:
        few = case in ("3d-100", *QUICK)
        for family in options.families or (CHOSEN[:1] if few else CHOSEN):
            run_field(results, options, {"case": case, "family": family})


def run_field(results: Results, options: Any, key: dict[str, str]) -> None:
    """All solvers of one system."""
    folder = WORK / "solvers" / "{case} {family}".format(**key).replace(" ", "-")
    place = (key["case"], key["family"], str(folder))

    def add(found: Records, **more: Any) -> None:
        for record in found:
            results.add(key | more | record | {"load": os.getloadavg()[0]})

    def call(what: str, *names: str) -> Records:
        if options.quick:
            return work(what, *place, *names)
        return limited(options, __file__, what, *place, *names)

    coarse = [
        [HARMONIC],
        [FILTERED, TWO_LEVEL],
        *([[LEARNED]] if installed("torch") else []),
        [SLEPC],
    ]
    left = options.without or []
    todo = [n for n in coarse if n[0] not in left and results.missing(method=n[0], **key)]
    fine = [m for m in SETTINGS if m not in left and results.missing(method=m, **key)]
    if not todo and not fine:
        return
    if not (folder / "system.json").exists() or results.missing(method="assembly", **key):
        folder.mkdir(parents=True, exist_ok=True)
        add(call("prepare"))
    for names in todo:
        if names != [SLEPC]:
            add(call("ours", *names), method=names[0])
    made = (results.records.first(method=method, **key) for method in (HARMONIC, FILTERED))
    targets = next((r["targets"] for r in made if r.get("targets")), "null")
    for method in fine:
        python: list[str] | None = [sys.executable]
        if method == "BoomerAMG":
            python = other_python()
        if python is None or (method == "PyAMG" and not installed("pyamg")):
            continue
        spec = {
            "solver": method,
            "settings": settings(results.records, **key, method=method),
            "repeat": {**CASES, **QUICK}[key["case"]][4],
            "targets": json.loads(targets),
        }
        if options.quick and method != "BoomerAMG":
            found = fine_solvers.run(str(folder), spec)
        else:
            found = limited(options, "harness.fine_solvers", str(folder), spec, python=python)
        add(found, method=method)
    # The dearest comes last.
    if [SLEPC] in todo:
        add(call("ours", SLEPC), method=SLEPC)
    # What was left out may be asked for later.
    if not left:
        shutil.rmtree(folder)


def total(record: Record, number: Any) -> Any:
    """Seconds for so many right-hand sides, one by one or in blocks, the last of which not full."""
    each = number * record["solve_s"]
    if record.get("block_s"):
        blocks = np.ceil(np.asarray(number) / BLOCK) * BLOCK
        each = np.minimum(each, blocks * record["block_s"])
    return record["setup_s"] + each


def label(record: Record) -> str:
    """A row's name."""
    if record["method"] in (*OURS, "MUMPS"):
        return str(record["method"])
    return f"{record['method']}, {'1e-8' if record['goal'] == 'solver' else 'as good as ours'}"


def wins_from(mine: Record, others: Records) -> str:
    """Right-hand sides from which on one record takes less time than all others."""
    if not others:
        return "–"
    numbers = np.arange(1, LARGE)
    behind = total(mine, numbers) >= np.min([total(o, numbers) for o in others], axis=0)
    last = int(np.flatnonzero(behind)[-1]) + 1 if behind.any() else 0
    return "never" if last >= LARGE - 1 else f"{last + 1:,}"


def groups(records: Records) -> dict[tuple[str, str], Records]:
    """The records of each case and family, in the order of the rows."""
    rank, found = [*RIVALS, TWO_LEVEL, *OURS], {}
    for key in product([*CASES, *QUICK], CHOSEN):
        rows = Records(r for r in records.by("case", "family").get(key, ()) if r["method"] in rank)
        rows.sort(key=lambda r: (r.get("goal") == "space", rank.index(r["method"])))
        if rows:
            found[key] = rows
    return found


def expected(records: Records, family: str, rows: Records) -> str:
    """What MUMPS would take where it was over the limit, at its rate in a smaller case."""
    over = next((r["over"] for r in rows if r["method"] == "MUMPS" and "over" in r), "")
    work = re.search(r"(\d+) GFlop", over)
    before = records.select(case="3d-50", family=family, method="MUMPS", goal="solver")
    if not work or not before:
        return ""
    rate = before[0]["factor_gflop"] / before[0]["setup_s"]
    return (
        f" MUMPS would take {float(work[1]) / rate:.0f} s at its rate in the case 3d-50, "
        f"{rate:.1f} GFlop/s with the analysis."
    )


def case_table(records: Records, case: str, family: str, rows: Records) -> Shown:
    """All figures of one case and family."""
    head = ["solver", "set-up, s", "a right-hand side, ms", "of ten, ms", "iterations", "L2 error"]
    head += ["energy error", *(f"{n} in all, s" for n in NUMBERS), "GiB"]
    lines = []
    for r in rows:
        if "over" in r:
            lines.append([r["method"], f"over the limit: {r['over']}", *[""] * (len(head) - 2)])
            continue
        line = [label(r), f"{r['setup_s']:.3g}", f"{1e3 * r['solve_s']:.3g}"]
        line.append(f"{1e3 * r['block_s']:.3g}" if r.get("block_s") else "")
        line.append(f"{r['iterations']:.3g}" if r["iterations"] > 1 or "CG" in line[0] else "")
        line += [f"{r['L2']:.2g}", f"{r['energy']:.2g}"]
        line += [f"{float(total(r, n)):.3g}" for n in NUMBERS]
        lines.append([*line, f"{r['gib']:.2g}" if r.get("gib") else ""])
    there = {r["method"] for r in rows}
    missing = {"BoomerAMG": "not run: no PETSC_PYTHON"}
    for method in (*SETTINGS, *OURS):
        if method not in there:
            lines.append([method, missing.get(method, "not run"), *[""] * (len(head) - 2)])
    made = records.first(case=case, family=family, method="assembly")
    every = (f"{r['method']}: {r['setting']}" for r in rows if r.get("setting"))
    best = "; ".join(dict.fromkeys(every))
    slow = expected(records, family, rows)
    coarse = next((r["N_c"] for r in rows if r.get("N_c")), "–")
    notes = (
        f"{made.get('N_f', '–')} fine and {coarse} coarse dofs. Assembly of A: "
        f"{made.get('setup_s', float('nan')):.2g} s, not among the times. Errors: means over the "
        f"loads. Settings that were the best of those tried: {best}.{slow}"
    )
    return Shown(f"{case}, {family}", head, lines, notes)


def summary(records: Records) -> list[Shown]:
    """Who wins, and from where ours does."""
    winners, wins = [], []
    for (case, family), rows in groups(records).items():
        good = [r for r in rows if "over" not in r]
        exact = [r for r in good if r["goal"] == "solver"]
        for name, those in (("solver, 1e-8", exact), ("coarse space", good)):
            cells = []
            for number in NUMBERS:
                best = min(those, key=lambda r: float(total(r, number)))
                cells.append(f"{label(best)} ({float(total(best, number)):.3g} s)")
            winners.append([case, family, name, *cells])
        for mine in (r for r in good if r["method"] in OURS):
            allowed = exact if mine["goal"] == "solver" else good
            fine = Records(r for r in allowed if r["method"] in RIVALS)
            cells = [wins_from(mine, fine.select(method=rival)) for rival in RIVALS]
            wins.append([case, family, mine["method"], *cells, wins_from(mine, fine)])
    notes = (
        "Accuracy of a solver: MUMPS, AMG and the two-level preconditioner. Accuracy of the coarse "
        "space: all of them, and AMG stopped as soon as it is as good."
    )
    text = (
        f"Right-hand sides from which on the total is less than the rival's; at most {LARGE:,} "
        "were looked at. A coarse solve is compared with both: a rival to 1e-8 and one that "
        "stops early, the better of which counts."
    )
    return [
        Shown("Who wins", ["case", "field", "accuracy", *map(str, NUMBERS)], winners, notes),
        Shown("From where on ours wins", ["case", "field", "ours", *RIVALS, "all"], wins, text),
    ]


def draw(records: Records, family: str, figure: Figure) -> None:
    """Total time over the number of right-hand sides."""
    found = [(case, rows) for (case, name), rows in groups(records).items() if name == family]
    figure.set_size_inches(8.5, 3.4 * ((len(found) + 1) // 2))
    grid = np.atleast_1d(figure.subplots((len(found) + 1) // 2, 2, squeeze=False)).ravel()
    # Whole blocks: steps between them would tell nothing.
    numbers = np.append(np.arange(1, BLOCK), np.arange(BLOCK, 1001, BLOCK))
    order = [*SETTINGS, *OURS]
    for axes, (case, rows) in zip(grid, found, strict=False):
        for r in rows:
            if "over" in r:
                continue
            name = label(r)
            line = "-" if r["goal"] == "solver" else "--"
            mine = r["method"] in OURS
            style = {"color": f"C{order.index(r['method'])}", "lw": 2.2 if mine else 1.2}
            axes.loglog(numbers, total(r, numbers), line, label=name, **style)
        axes.set_title(case, fontsize=9)
        axes.set_xlabel("right-hand sides")
        axes.set_ylabel("total time, one core, s")
        axes.grid(alpha=0.3)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    handles: dict[str, Any] = {}
    for axes in grid:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=7)


def main() -> None:
    """Run from the command line."""
    if serve(work):
        return
    parser = Parser(__doc__, CASES, QUICK)
    parser.add_argument("--families", nargs="+", choices=CHOSEN, help="of coefficients")
    parser.add_argument("--without", nargs="+", choices=[*SETTINGS, *OURS], help="left out")
    parser.add_argument("--minutes", type=float, default=20.0, help="of a process, at most")
    parser.add_argument("--gib", type=float, default=20.0, help="of a process, at most")
    options = parser.parse_args()
    chosen = {"rtol": RTOL, "modes": NUM_MODES, "minutes": options.minutes, "gib": options.gib}
    results = Results("solvers", options, chosen | {"settings": SETTINGS})
    if not options.show:
        run(results, options)
    records = results.records
    tables = summary(records)
    tables += [case_table(records, *key, rows) for key, rows in groups(records).items()]
    families = dict.fromkeys(family for _, family in groups(records))
    figures = {name.replace(" ", "-"): partial(draw, records, name) for name in families}
    results.finish(tables, figures)


if __name__ == "__main__":
    main()
