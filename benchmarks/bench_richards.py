# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Steady Richards' equation in coarse spaces of computed, filtered, learned and harmonic bases.

-div(kappa k_r(p) grad p) = f on the unit square or cube with k_r = 1/(1 + |p|), by Newton and by
Picard, on the fine mesh and in the coarse space; 8 modes for each vertex, from kappa alone. Two
sets of data, "drop" and "source", are described in ``harness/richards.py``.
Errors are relative to the fine Newton solution, in L2 and in the energy norm of kappa; times are
processor time of one core. Newton's steps are counted until the residual has fallen by 1e-8; as
residuals on the two levels are not measured in the same norm, and Picard's fall slowly, Picard's
steps are counted until nodal values change by less than 1e-6 (relative, Euclidean).

    python benchmarks/bench_richards.py [--quick] [--resume] [--show] [--cases CASE ...]
        [--fields N] [--data drop source]
"""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

from harness.bases import FILTERED, HARMONIC, LEARNED, SLEPC, make, usable
from harness.machine import peak_gib
from harness.problems import FAMILIES, FIRST_SEED, NUM_MODES, box, relative_errors
from harness.results import Parser, Record, Records, Results, Shown, tabulate
from harness.richards import PAPER, Richards
from harness.timing import Stopwatch, least

import numpy as np

from dolfinx import fem
from dolfinx_msnn._utils.assembly import fill_matrix
from dolfinx_msnn.algebra.product import CoarseOperator

#: name: dimension, fine cells, coarse boxes, fields, sets of data
CASES = {
    "2d-100": (2, 100, 5, 10, ("drop", "source")),
    "2d-250": (2, 250, 10, 10, ("drop", "source")),
    "3d-50": (3, 50, 5, 3, ("drop",)),
    "3d-100": (3, 100, 8, 1, ("drop",)),
}
QUICK = {"2d-quick": (2, 30, 2, 1, ("drop", "source")), "3d-quick": (3, 12, 2, 1, ("drop",))}
FAMILY = "log-normal"
NAMES = {"computed": SLEPC, "filtered": FILTERED, "learned": LEARNED, "harmonic": HARMONIC}
#: Of a step of Newton's method.
PARTS = ("F", "J", "PtAP", "linear solve")


class Changes:
    """A monitor of SNES: the step at which nodal values no longer change by more than 1e-6."""

    def __init__(self, values: Callable[[Any], np.ndarray]) -> None:
        self.values, self.last, self.step = values, np.zeros(0), 0

    def __call__(self, snes: Any, step: int, _: float) -> None:
        """Called by SNES before the first and after each step."""
        new = self.values(snes.getSolution())
        change = np.linalg.norm(new - self.last) if step else np.inf
        if change <= 1e-6 * np.linalg.norm(new) and not self.step:
            self.step = step
        self.last = new


def solve(
    problem: Richards, nonlinear: Any, prolong: Callable[[Any], np.ndarray], *, picard: bool
) -> Record:
    """Iterations and seconds, on the mesh or in a space."""
    problem.start()
    snes, changes, watch = nonlinear.solver, Changes(prolong), Stopwatch()
    if picard:
        snes.setMonitor(changes)
    watch.start()
    nonlinear.solve()
    seconds = watch.book("solve")
    if picard:
        snes.cancelMonitor()
    assert snes.getConvergedReason() > 0, snes.getConvergedReason()
    assert changes.step or not picard
    if picard:
        return {"Picard": changes.step, "Picard seconds": seconds}
    return {"Newton": snes.getIterationNumber(), "seconds": seconds}


def step_on_mesh(problem: Any) -> Record:
    """Seconds of the parts of a step of Newton's method."""
    A, x, b, snes = problem.A, problem.x, problem.b, problem.solver
    ksp = snes.getKSP()
    snes.computeFunction(x, b)
    seconds = {"F": least(lambda: snes.computeFunction(x, b))}
    seconds["J"] = least(lambda: snes.computeJacobian(x, A))
    rest, random = x.duplicate(), b.duplicate()
    random.setRandom()

    def linear_solve() -> None:
        A.setValue(0, 0, A.getValue(0, 0))
        A.assemble()
        ksp.setOperators(A)
        ksp.solve(random, rest)

    seconds["linear solve"] = least(linear_solve, 2)
    return {f"step: {part}": s for part, s in seconds.items()}


def step_in_space(problem: Any, W: Any) -> Record:
    """The same in a multiscale space."""
    A, A0, snes = problem.A, problem.A0, problem.solver
    x, f, ksp = A0.createVecRight(), A0.createVecLeft(), snes.getKSP()
    f.setRandom()
    seconds = {"F": least(lambda: snes.computeFunction(snes.getSolution(), x))}
    seconds["J"] = least(lambda: fill_matrix(A, problem.J, problem.bcs))
    product = CoarseOperator(W)
    product.refresh(A)
    seconds["PtAP"] = least(lambda: product.refresh(A))
    product.destroy()

    def linear_solve() -> None:
        ksp.setOperators(A0)
        ksp.solve(f, x)

    times = []
    for _ in range(2):
        # As after new values: to be factored anew.
        A0.stateIncrease()
        times.append(least(linear_solve, 1))
    seconds["linear solve"] = min(times)
    x.destroy()
    f.destroy()
    return {f"step: {part}": s for part, s in seconds.items()}


def run_field(results: Results, key: Record, problem: Richards) -> None:
    """The fine mesh, and all bases on one field."""
    found = {}
    for picard in (True, False):
        nonlinear = problem.on_mesh(picard=picard)
        found |= solve(problem, nonlinear, lambda x: x.array_r.copy(), picard=picard)
    # Before the timings, which use the solver's vectors.
    exact = fem.Function(problem.V)
    exact.x.array[:] = problem.p.x.array
    found |= step_on_mesh(nonlinear) | {"largest |p|": float(np.abs(exact.x.array).max())}
    results.add(key | {"basis": "fine"} | found | {"peak GiB": peak_gib()})
    kinds = usable(list(NAMES.values()))
    for name, kind in NAMES.items():
        if kind not in kinds:
            continue
        basis, watch = make(kind, problem.kappa), Stopwatch()
        with problem.space(basis) as W:
            found = {"build": watch.book("build"), "coarse dofs": W.num_dofs}
            problem.start()
            boundary, fine = problem.p.x.array.copy(), W.P.createVecLeft()

            def prolong(x: Any, P: Any, fine: Any, boundary: np.ndarray) -> np.ndarray:
                P.mult(x, fine)
                values: np.ndarray = fine.array_r + boundary
                return values

            look = partial(prolong, P=W.P, fine=fine, boundary=boundary)
            for picard in (True, False):
                with problem.in_space(W, picard=picard) as nonlinear:
                    found |= solve(problem, nonlinear, look, picard=picard)
                    if not picard:
                        found |= relative_errors(problem.p, exact, problem.kappa)
                        found |= step_in_space(nonlinear, W)
            fine.destroy()
        results.add(key | {"basis": name} | found | {"peak GiB": peak_gib()})
        gc.collect()


def run(results: Results, options: Namespace) -> None:
    """All sets of data of all cases."""
    for case in options.cases:
        dim, cells, boxes, count, sets = {**CASES, **QUICK}[case]
        msh = box(dim, cells)
        for data in (d for d in sets if d in options.data):
            for seed in range(FIRST_SEED, FIRST_SEED + (options.fields or count)):
                key = {"case": case, "family": FAMILY, "data": data, "seed": seed}
                if results.missing(**key, basis="harmonic"):
                    run_field(results, key, Richards(FAMILIES[FAMILY](msh, seed), boxes, data))


def shown(case: str, data: str, records: Records) -> list[Shown]:
    """Errors, iterations and times of a case, and the parts of a step."""
    every = {basis: rows for basis, rows in records.by("basis").items()}

    def over(rows: Records, entry: str) -> np.ndarray:
        to = {"basis": "computed"}
        return records.ratios(entry, ("seed",), to, basis=rows[0]["basis"])

    def counts(entry: str) -> Callable[[Records], str]:
        def count(rows: Records) -> str:
            found = sorted({r[entry] for r in rows})
            return f"{found[0]}" if len(found) == 1 else f"{found[0]}-{found[-1]}"

        return count

    def of_space(cell: Callable[[Records], str]) -> Callable[[Records], str]:
        return lambda rows: "" if rows[0]["basis"] == "fine" else cell(rows)

    columns = {
        "basis": lambda r: "fine mesh" if r[0]["basis"] == "fine" else r[0]["basis"],
        "L2 %": of_space(lambda r: r.spread("L2", 100)),
        "median": of_space(lambda r: f"{100 * np.median(r.values('L2')):.3g}"),
        "energy %": of_space(lambda r: r.spread("energy", 100)),
        "L2 / computed (worst)": of_space(
            lambda r: f"{over(r, 'L2').mean():.3f} ({over(r, 'L2').max():.3f})"
        ),
        "energy / computed": of_space(lambda r: f"{over(r, 'energy').mean():.3f}"),
        "Newton": counts("Newton"),
        "Picard": counts("Picard"),
        "Newton s": lambda r: r.spread("seconds"),
        "build s": lambda r: r.spread("build"),
    }
    largest = every["fine"].values("largest |p|").mean()
    notes = f"Largest |p|: {largest:.2g} (mean)."
    if case in PAPER:
        notes += (
            " The paper's L2 errors, its own problem and machine: GMsFEM {}, learned {} %.".format(
                *PAPER[case]
            )
        )
    rows = [every[name] for name in (*NAMES, "fine") if name in every]
    title = f"{case}, {FAMILY}, {data}, {len(every['fine'])} fields"

    def part(name: str) -> Callable[[Records], str]:
        def cell(rows: Records) -> str:
            found = rows.values(f"step: {name}")
            return f"{1e3 * np.median(found):.3g}" if found.size else ""

        return cell

    steps = {"": lambda r: "fine" if r[0]["basis"] == "fine" else "coarse"}
    return [
        tabulate(title, rows, columns, notes),
        tabulate(
            f"{case}, {data}: one Newton step, ms",
            [every["fine"], every["computed"]],
            steps | {name: part(name) for name in PARTS},
            "Medians, processor time.",
        ),
    ]


def main() -> None:
    """Run the cases and write the tables."""
    parser = Parser(__doc__, CASES, QUICK)
    parser.add_argument("--fields", type=int, help="fields of each set of data")
    sets = ("drop", "source")
    parser.add_argument("--data", nargs="+", default=sets, choices=sets, help="default both")
    options = parser.parse_args()
    results = Results("richards", options, {"num_modes": NUM_MODES, "first_seed": FIRST_SEED})
    if not options.show:
        run(results, options)
    groups = results.records.by("case", "data")
    results.finish([t for key, group in groups.items() for t in shown(*key, group)])


if __name__ == "__main__":
    main()
