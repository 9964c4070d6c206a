# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A hundred time steps in one coarse space, next to multigrid and a direct solver.

u' - div(kappa grad u) = f by BDF2 (first step implicit Euler), u = 1 and 0 on two opposite sides,
from zero; the end is half the time in which the geometric mean of kappa crosses the domain. Errors
are those of the multiscale solution relative to the fine one at the same time, by the same scheme
with the same steps. Fine solvers: CG, set up once for each matrix, from the extrapolated last two
solutions; to a residual of 1e-8, and of the largest of 1e-1, 1e-2, ... that makes the largest error
in energy over time no larger than ours with the fewest modes. MUMPS is factored once for each
matrix. Seconds of processor time of one process; a step: the median of all.

    python benchmarks/bench_transient.py [--quick] [--resume] [--show] [--cases 2d 3d]
        [--families ...] [--modes 8 16] [--steps N] [--no-slepc]

PETSC_PYTHON=command of another Python with petsc4py and hypre adds BoomerAMG, in a process of its
own.
"""

from __future__ import annotations

import gc
import math
import os
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from harness.bases import FILTERED, SLEPC, make
from harness.coarse_solvers import load, unconstrained
from harness.fine_solvers import boomer, write
from harness.launch import WorkerError, launch, other_python
from harness.problems import FAMILIES, FIRST_SEED, GAMG, Diffusion, box
from harness.results import Parser, Record, Records, Results, Shown
from harness.time_loop import time_loop
from harness.timing import Stopwatch

from petsc4py import PETSc

import numpy as np

from dolfinx import fem
from dolfinx_msnn.petsc import TransientProblem

#: name: dimension, fine cells, coarse boxes, steps
CASES = {"2d": (2, 250, 10, 100), "3d": (3, 50, 5, 100)}
QUICK = {"2d": (2, 40, 4, 10), "3d": (3, 12, 2, 10)}
CHOSEN = ("log-normal", "two-phase 1e3")
MUMPS = {"pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}


class Transient(Diffusion):
    """Forms and fine matrices of one coefficient."""

    def __init__(self, kappa: Any, boxes: int, num: int, whole: int) -> None:
        scale = float(np.exp(np.log(kappa.x.array).mean()))
        super().__init__(kappa, boxes, f=scale)
        self.num, self.dt = num, 0.5 / scale / whole
        # As the fine solvers use them: Dirichlet rows and columns zero, the load with the lift.
        self.A, self.M, g, dofs = unconstrained(self)
        self.b, self.g = load(self.L, self.A, g, dofs), g.array.copy()
        g.destroy()
        self.Ks = []
        for c in (1.0, 1.5):
            K = self.A.copy()
            K.axpy(c / self.dt, self.M, PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
            K.zeroRowsColumns(dofs.astype(PETSc.IntType), diag=1.0)
            K.setOption(PETSc.Mat.Option.SPD, True)
            self.Ks.append(K)
        self.M_zero = self.M.copy()
        self.M_zero.zeroRowsColumns(dofs.astype(PETSc.IntType), diag=0.0)

    def on_mesh(self, options: dict[str, Any], rtol: float) -> tuple[Record, np.ndarray]:
        """All steps by a fine solver; what is kept of it, and the solutions, one a row."""
        rate = 1 / self.dt
        return self.record(time_loop(self.Ks, self.M_zero, self.b, rate, self.num, rtol, options))

    def boomer(self, rtol: float) -> tuple[Record, np.ndarray] | None:
        """All steps by BoomerAMG in a process of its own."""
        python = other_python()
        if python is None:
            return None
        arguments = (1 / self.dt, self.num, rtol, boomer(self.V.mesh.topology.dim))
        with tempfile.TemporaryDirectory() as folder:
            write(f"{folder}/system", *self.Ks, self.M_zero, self.b)
            try:
                found = launch("harness.time_loop", folder, *arguments, python=python)
            except WorkerError as error:
                print(error)
                return None
            return self.record(found | {"kept": np.load(f"{folder}/kept.npy")})

    def record(self, found: Record) -> tuple[Record, np.ndarray]:
        """Figures of a run of a fine solver, and its solutions."""
        record = {
            "setup": found["setup"],
            "step": float(np.median(found["seconds"])),
            "all steps": float(np.sum(found["seconds"])),
            "iterations": float(np.mean(found["iterations"])),
        }
        return record, found["kept"] + self.g

    def errors_over_time(self, kept: Sequence[np.ndarray], exact: np.ndarray) -> Record:
        """Relative errors in L2 and energy: largest, mean, last, and some in between."""
        found: Record = {}
        x, y = self.b.duplicate(), self.b.duplicate()

        def norm(matrix: Any, values: Any) -> float:
            x.array_w[:] = values
            matrix.mult(x, y)
            return float(np.sqrt(abs(x.dot(y))))

        for name, matrix in (("L2", self.M), ("energy", self.A)):
            over = [norm(matrix, u - e) / norm(matrix, e) for u, e in zip(kept, exact, strict=True)]
            found |= {f"{name} max": max(over), f"{name} mean": float(np.mean(over))}
            found |= {f"{name} last": over[-1]}
            found |= {f"{name} over time": over[:: max(1, len(over) // 10)]}
        x.destroy()
        y.destroy()
        return found

    def multiscale(self, basis: Any, exact: np.ndarray) -> Record:
        """All steps in a coarse space: times and errors."""
        watch = Stopwatch()
        W = self.space(basis)
        record: Record = {"space": watch.book("space"), "N_c": W.num_dofs}

        def run(step: Callable[[Any], Any]) -> tuple[float, list[float]]:
            u = fem.Function(self.V)
            u.x.array[:] = self.g
            watch, options = Stopwatch(), {"bcs": self.bcs, "petsc_options_prefix": "coarse_"}
            forms = (self.m, self.a, self.L)
            with TransientProblem(*forms, u, W, dt=self.dt, order=2, **options) as problem:
                problem.assemble()
                # The first two steps factor a matrix each.
                setup, seconds = watch.book("set-up"), []
                for _ in range(self.num):
                    watch.start()
                    step(problem)
                    seconds.append(watch.book("step"))
            median = float(np.median(seconds))
            return setup + sum(seconds[:2]) - 2 * median, seconds

        kept: list[np.ndarray] = []
        setup, seconds = run(lambda problem: problem.step(prolong=False))
        _, prolonged = run(lambda problem: kept.append(problem.step().x.array.copy()))
        scale = float(self.f.value)

        def changing(problem: Any) -> None:
            self.f.value = scale * (1 + problem.time)
            problem.step(prolong=False)

        _, loaded = run(changing)
        self.f.value = scale
        W.destroy()
        record |= {"setup": setup, "step": float(np.median(seconds))}
        record |= {"all steps": record["step"] * self.num}
        record |= {"step with u": float(np.median(prolonged))}
        record |= {"step with new load": float(np.median(loaded))}
        return record | self.errors_over_time(kept, exact)

    def as_good(
        self, solve: Callable[[float], tuple[Record, np.ndarray] | None], exact: Any, target: float
    ) -> Record | None:
        """The run with the largest tolerance that is as good as ours."""
        for rtol in 10.0 ** -np.arange(1, 8):
            made = solve(float(rtol))
            if made is None:
                return None
            errors = self.errors_over_time(made[1], exact)
            if errors["energy max"] <= target:
                return made[0] | {"rtol": float(rtol)} | errors
        return None

    def destroy(self) -> None:
        """Free the PETSc objects."""
        for item in (self.A, self.M, self.M_zero, self.b, *self.Ks):
            item.destroy()


def run_field(problem: Transient, options: Namespace) -> dict[str, Record]:
    """All methods for one coefficient."""
    gamg = partial(problem.on_mesh, GAMG)
    rows: dict[str, Record | None] = {}
    by_gamg, exact = gamg(1e-8)
    if problem.V.mesh.topology.dim == 2:
        kept = exact
        rows["MUMPS"], exact = problem.on_mesh(MUMPS, 0.0)
        by_gamg |= problem.errors_over_time(kept, exact)
    rows["GAMG 1e-8"] = by_gamg
    if made := problem.boomer(1e-8):
        rows["BoomerAMG 1e-8"] = made[0] | problem.errors_over_time(made[1], exact)
    for modes in options.modes:
        for kind in (FILTERED,) if options.no_slepc else (FILTERED, SLEPC):
            basis = make(kind, problem.kappa, num_modes=modes)
            rows[f"{kind}, {modes} modes"] = found = problem.multiscale(basis, exact)
            if kind == FILTERED and modes == options.modes[0]:
                target = found["energy max"]
    rows["GAMG as good as ours"] = problem.as_good(gamg, exact, target)
    rows["BoomerAMG as good as ours"] = problem.as_good(problem.boomer, exact, target)
    return {name: row for name, row in rows.items() if row is not None}


def run(results: Results, options: Namespace) -> None:
    """All families of all cases."""
    for case in options.cases:
        dim, cells, boxes, whole = (QUICK if options.quick else CASES)[case]
        num = options.steps or whole
        for family in options.families:
            key = {"case": case, "family": family}
            if not results.missing(**key):
                continue
            problem = Transient(FAMILIES[family](box(dim, cells), FIRST_SEED), boxes, num, whole)
            size = {"N_f": problem.A.getSize()[0], "cells": cells, "boxes": boxes}
            size |= {"steps": num, "of": whole, "load": os.getloadavg()}
            for method, found in run_field(problem, options).items():
                results.add(key | size | {"method": method} | found)
            problem.destroy()
            gc.collect()


def breaks_even(ours: Record, other: Record) -> str:
    """From how many steps on we take less time in all."""
    gain = other["step"] - ours["step"]
    lost = ours["space"] + ours["setup"] - other["setup"]
    return "never" if gain <= 0 else f"{max(1, math.ceil(lost / gain))}"


def shown(case: str, family: str, records: Records) -> list[Shown]:
    """Errors and times of all methods for one coefficient, and how they compare."""
    fine = [r for r in records if "space" not in r]
    ours = [r for r in records if "space" in r]
    first = records[0]
    head = ["", "N_c", "L2 max", "L2 last", "energy max", "energy last", "space", "set-up"]
    head += ["a step, ms", "with u, ms", "with new load, ms", "all steps"]
    rows = []
    for r in (*ours, *fine):
        name = f"{r['method']} (rtol {r['rtol']:.0e})" if "rtol" in r else r["method"]
        name += f", {r['iterations']:.1f} iterations" if r.get("iterations", 0) > 1 else ""
        row = [name, f"{r.get('N_c', '')}"]
        row += [f"{r[e]:.2g}" if e in r else "" for e in head[2:6]]
        row += [f"{r['space']:.2f}" if "space" in r else "", f"{r['setup']:.2f}"]
        steps = ("step", "step with u", "step with new load")
        row += [f"{1e3 * r[k]:.2f}" if k in r else "" for k in steps]
        rows.append([*row, f"{r.get('space', 0.0) + r['setup'] + r['steps'] * r['step']:.2f}"])
    shape = " x ".join([str(first["cells"])] * int(case[0]))
    notes = (
        f"{shape} cells, {first['N_f']} dofs, {first['boxes']} boxes a side, the first "
        f"{first['steps']} of {first['of']} steps; load of the machine {first['load'][0]:.1f}. "
        "Seconds, where nothing else is said."
    )
    faster = [
        [
            mine["method"],
            *(f"{r['step'] / mine['step']:.1f} ({breaks_even(mine, r)})" for r in fine),
        ]
        for mine in ours
    ]
    return [
        Shown(f"{case}, {family}", head, rows, notes),
        Shown(
            f"{case}, {family}: a step is faster by",
            ["", *(r["method"] for r in fine)],
            faster,
            "In brackets: breaks even after so many steps.",
        ),
    ]


def main() -> None:
    """Run the cases and write the tables."""
    parser = Parser(__doc__, CASES)
    parser.add_argument("--families", nargs="+", default=CHOSEN, choices=list(FAMILIES))
    parser.add_argument("--modes", nargs="+", type=int, default=(8, 16))
    parser.add_argument("--steps", type=int, help="only the first steps; default all")
    parser.add_argument("--no-slepc", action="store_true", help="filtered bases only")
    options = parser.parse_args()
    settings = {"gamg": GAMG, "modes": options.modes, "seed": FIRST_SEED}
    results = Results("transient", options, settings)
    if not options.show:
        run(results, options)
    groups = results.records.by("case", "family")
    results.finish([t for key, group in groups.items() for t in shown(*key, group)])


if __name__ == "__main__":
    main()
