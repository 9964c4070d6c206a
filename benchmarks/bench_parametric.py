# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""One space for many coefficients: what a sample costs, and what a moving front leaves to compute.

Cases ``2d-100``, ``2d-250``, ``3d-40``: log-normal samples; the space is updated for each of them
and its effective permeability compared with the fine mesh's. "anew" makes space and problem from
nothing. A right-hand side "fine" is assembled, restricted, solved and prolonged; "coarse" is the
coarse solve alone. The fine solver keeps its pattern and symbolic factors (MUMPS) or its settings
(CG with GAMG, threshold 0.02, tolerance 1e-6) from sample to sample. Break-even: right-hand sides
a sample from which on the coarse space needs less time in all, or samples after which the training
of a model has paid for itself against the same number of SLEPc's bases.

Case ``front``: a front behind which the mobility is ten times as high runs through a log-normal
field; at every step the modes are updated where the coefficient has changed by more than a
tolerance. Errors are relative to the fine solution, with modes that are never, sometimes, and
always renewed.

Times are processor time of one core; medians.

    python benchmarks/bench_parametric.py [--quick] [--resume] [--show] [--cases CASE ...]
        [--samples N]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from harness.bases import FILTERED, LEARNED, SLEPC, make, usable
from harness.machine import installed
from harness.problems import (
    FAMILIES,
    FIRST_SEED,
    GAMG,
    MUMPS,
    NUM_MODES,
    Diffusion,
    box,
    relative_errors,
)
from harness.results import Parser, Record, Records, Results, Shown, tabulate, text
from harness.timing import Stopwatch

import numpy as np

import ufl
from dolfinx import fem
from dolfinx_msnn import fields
from dolfinx_msnn.petsc import assemble_coarse_vector

#: name: dimension, fine cells, coarse boxes, samples; of the front: steps
CASES = {
    "2d-100": (2, 100, 5, 100),
    "2d-250": (2, 250, 10, 10),
    "3d-40": (3, 40, 4, 3),
    "front": (2, 100, 10, 40),
}
QUICK = {"2d-quick": (2, 40, 2, 2), "3d-quick": (3, 12, 2, 1), "front": (2, 40, 4, 4)}
TOLERANCES = (0.0, 0.05, 0.2, 0.5, 1.0, float("inf"))
NAMES = {SLEPC: "SLEPc", FILTERED: "filtered", LEARNED: "learned"}
FINE = {"MUMPS": MUMPS, "GAMG": GAMG | {"ksp_type": "cg", "ksp_rtol": 1e-6}}


class Model(Diffusion):
    """Pressure drop along x through a coefficient that is to be filled in."""

    def __init__(self, dim: int, cells: int, boxes: int) -> None:
        kappa = fem.Function(fem.functionspace(box(dim, cells), ("DG", 0)))
        kappa.x.array[:] = 1.0
        super().__init__(kappa, boxes, f=0.0)
        self.w = fem.Function(self.V)
        self._energy = fem.form(kappa * ufl.inner(ufl.grad(self.w), ufl.grad(self.w)) * ufl.dx)

    def permeability(self, u: Any) -> float:
        """The energy of a solution."""
        self.w.x.array[:] = u.x.array
        return float(fem.assemble_scalar(self._energy))


def training_seconds(dim: int) -> float | None:
    """What the training of the pretrained model took, by its card."""
    if not installed("torch"):
        return None
    from dolfinx_msnn.nn.model import read_card
    from dolfinx_msnn.pretrained import pretrained_models

    return read_card(pretrained_models()[f"diffusion-{dim}d"]).training_time_s


def fine(model: Model, solver: str, samples: Sequence[np.ndarray]) -> tuple[Record, np.ndarray]:
    """A fine solver on all samples: times, and effective permeabilities."""
    watch, problem = Stopwatch(), model.fine_problem(FINE[solver])
    problem.solve()
    iterations, found = [], []
    for values in samples:
        model.kappa.x.array[:] = values
        watch.start()
        problem.solve()
        watch.book("first")
        problem.solver.solve(problem.b, problem.x)
        watch.book("again")
        iterations.append(problem.solver.getIterationNumber())
        found.append(model.permeability(problem.u))
    return watch.medians() | {"iterations": float(np.median(iterations))}, np.array(found)


def coarse(model: Model, basis: Any, samples: Sequence[np.ndarray], exact: np.ndarray) -> Record:
    """One space, updated for all samples; then anew for some."""
    model.kappa.x.array[:] = samples[0]
    watch, errors = Stopwatch(), []
    with model.space(basis, updatable=True) as W, model.coarse_problem(W) as problem:
        problem.solve()
        b0, x0 = problem.A0.createVecs()
        # The first is that of the space: after a field like no other, all is computed again.
        model.kappa.x.array[:] = samples[0][::-1]
        W.update()
        for k, values in enumerate(samples):
            model.kappa.x.array[:] = values
            watch.start()
            rebuilt = W.update()
            watch.book("update")
            assert len(rebuilt) == W.num_neighbourhoods
            problem.assemble()
            watch.book("assemble")
            problem.solve()
            watch.book("rhs, fine")
            assemble_coarse_vector(problem.b, W, b0)
            watch.start()
            problem.solver.solve(b0, x0)
            watch.book("rhs, coarse")
            errors.append(model.permeability(problem.u) / exact[k] - 1)
        b0.destroy()
        x0.destroy()
    for values in samples[:5]:
        model.kappa.x.array[:] = values
        watch.start()
        with model.space(basis) as W, model.coarse_problem(W) as problem:
            problem.assemble()
        watch.book("anew")
    return watch.medians() | {
        "error, median": float(np.median(errors)),
        "error, largest": float(np.max(errors)),
    }


def run_samples(results: Results, case: str, num_samples: int | None) -> None:
    """All bases on all samples of a case."""
    dim, cells, boxes, count = {**CASES, **QUICK}[case]
    left = [k for k in usable(list(NAMES)) if results.missing(case=case, solver=NAMES[k])]
    if not left:
        return
    model, count = Model(dim, cells, boxes), num_samples or count
    msh = model.V.mesh
    samples = [FAMILIES["log-normal"](msh, FIRST_SEED + k).x.array.copy() for k in range(count)]
    key = {"case": case, "samples": count, "N_f": model.V.dofmap.index_map.size_global}
    found = {solver: fine(model, solver, samples) for solver in FINE}
    for solver, (record, _) in found.items():
        if results.missing(case=case, solver=f"fine, {solver}"):
            results.add(key | {"solver": f"fine, {solver}"} | record)
    for kind in left:
        record = coarse(model, make(kind, model.kappa), samples, found["MUMPS"][1])
        if kind == LEARNED:
            record["training"] = training_seconds(dim)
        results.add(key | {"solver": NAMES[kind]} | record)


def even(extra: float, saved: float) -> str:
    """How many it takes until what is saved each time makes up for what is spent before."""
    if extra <= 0:
        return "1" if saved >= 0 else f"1 to {int(extra / saved)}"
    return f"{math.ceil(extra / saved)}" if saved > 0 else "never"


def shown_samples(case: str, records: Records) -> Shown:
    """Times, errors and when they break even."""
    rows = {r["solver"]: r for r in records}
    exact = {solver: rows[f"fine, {solver}"] for solver in FINE}
    setup = {solver: r["first"] - r["again"] for solver, r in exact.items()}

    def ms(entry: str) -> Callable[[Record], str]:
        return lambda r: f"{1e3 * r[entry]:.3g}" if entry in r else ""

    def breaks(rhs: str) -> Callable[[Record], str]:
        def cell(r: Record) -> str:
            if rhs not in r:
                return ""
            extra = r["update"] + r["assemble"]
            pair = (even(extra - setup[s], exact[s]["again"] - r[rhs]) for s in FINE)
            return " / ".join(pair)

        return cell

    def name(r: Record) -> str:
        text = str(r["solver"])
        return f"{text}, {r['iterations']:.0f} iterations" if text == "fine, GAMG" else text

    def assembly(r: Record) -> str:
        return f"{1e3 * (r['assemble'] if 'assemble' in r else r['first'] - r['again']):.3g}"

    def error(r: Record) -> str:
        if "first" in r:
            return "0"
        return f"{r['error, median']:.2%} ({r['error, largest']:.2%})"

    columns = {
        "solver": name,
        "update": ms("update"),
        "A, PᵀAP, factors": assembly,
        "anew": ms("anew"),
        "rhs, fine": lambda r: ms("again" if "first" in r else "rhs, fine")(r),
        "rhs, coarse": ms("rhs, coarse"),
        "error of k, median (largest)": error,
        "break-even rhs, fine, MUMPS / GAMG": breaks("rhs, fine"),
        "rhs, coarse, MUMPS / GAMG": breaks("rhs, coarse"),
    }
    first, notes = records[0], "Milliseconds."
    training = rows.get("learned", {}).get("training")
    if training is not None:
        saved = {k: rows[k]["update"] - rows["learned"]["update"] for k in ("SLEPc", "filtered")}
        text = ", ".join(f"{even(training, s)} against {other}" for other, s in saved.items())
        notes += f" Training took {training:.0f} s. Samples until it has paid: {text}."
    title = f"{case}, {first['samples']} samples, {first['N_f']} fine dofs"
    order = [r for r in records if "first" not in r] + list(exact.values())
    return tabulate(title, order, columns, notes)


def run_front(results: Results, quick: bool) -> None:
    """A front through a field."""
    _, cells, boxes, steps = (QUICK if quick else CASES)["front"]
    model = Model(2, cells, boxes)
    msh, space = model.V.mesh, model.kappa.function_space
    rock = fields.log_normal(msh, seed=FIRST_SEED, variance=4.0, correlation_length=0.06)
    rock = rock.x.array.copy()
    dofs = space.dofmap.list[:, 0]
    x = np.empty(len(rock))
    x[dofs] = space.tabulate_dof_coordinates()[dofs, 0]

    def mobility(step: int) -> np.ndarray:
        at = (step + 1) / (steps + 2)
        return 1.0 + 9.0 / (1.0 + np.exp((x - at) / 0.01))

    exact = model.fine_problem(MUMPS)
    key = {"case": "front", "cells": cells, "boxes": boxes, "steps": steps}
    for tolerance in (t for t in TOLERANCES if results.missing(**key, tolerance=t)):
        model.kappa.x.array[:] = rock * mobility(0)
        watch, shares, errors = Stopwatch(), [], []
        basis = make(FILTERED, model.kappa)
        with model.space(basis, updatable=True) as W, model.coarse_problem(W) as problem:
            problem.solve()
            for step in range(1, steps + 1):
                model.kappa.x.array[:] = rock * mobility(step)
                watch.start()
                rebuilt = W.update(tolerance)
                watch.book("update")
                shares.append(len(rebuilt) / W.num_neighbourhoods)
                problem.assemble()
                problem.solve()
                errors.append(relative_errors(problem.u, exact.solve(), model.kappa))
        found = watch.medians() | {"share": float(np.mean(shares))}
        found |= {e: float(np.mean([r[e] for r in errors])) for e in ("L2", "energy")}
        found["worst energy"] = max(r["energy"] for r in errors)
        results.add(key | {"tolerance": tolerance} | found)


def shown_front(case: str, records: Records) -> Shown:
    """What renewing fewer modes costs and saves."""
    columns: dict[str, Callable[[Record], str]] = {
        "tolerance": lambda r: "never" if r["tolerance"] is None else f"{r['tolerance']}",
        "modes renewed a step": text("share", ".0%"),
        "update, ms": lambda r: f"{1e3 * r['update']:.3g}",
        "L2 error": text("L2", ".3%"),
        "energy error, mean (worst)": lambda r: f"{r['energy']:.2%} ({r['worst energy']:.2%})",
    }
    cells, boxes, steps = (records[0][k] for k in ("cells", "boxes", "steps"))
    title = f"A front through {cells} x {cells} cells in {steps} steps"
    return tabulate(title, records, columns, f"{boxes} x {boxes} boxes, filtered bases.")


def main() -> None:
    """Run the cases and write the tables."""
    parser = Parser(__doc__, CASES, QUICK)
    parser.add_argument("--samples", type=int, help="samples of each case")
    options = parser.parse_args()
    results = Results("parametric", options, {"num_modes": NUM_MODES, "first_seed": FIRST_SEED})
    for case in [] if options.show else options.cases:
        if case == "front":
            run_front(results, options.quick)
        else:
            run_samples(results, case, options.samples)
    groups = results.records.by("case")
    results.finish(
        [
            (shown_front if case == "front" else shown_samples)(case, group)
            for case, group in groups.items()
        ]
    )


if __name__ == "__main__":
    main()
