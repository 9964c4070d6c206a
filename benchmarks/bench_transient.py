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

    python benchmarks/bench_transient.py [--quick] [case ...]

PETSC_PYTHON=command of another Python with petsc4py and hypre adds BoomerAMG, in a process of its
own. Tables and JSON go to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
from common import FAMILIES, FIRST_SEED, box
from tables import machine

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix, assemble_vector
from dolfinx_msnn.petsc import TransientProblem

#: name: dimension, fine cells, coarse boxes, steps
CASES = {"2d": (2, 250, 10, 100), "3d": (3, 50, 5, 100)}
QUICK = {"2d": (2, 40, 4, 10), "3d": (3, 12, 2, 10)}
CHOSEN = ("log-normal", "two-phase 1e3")
MODES = (8, 16)
GAMG = {"pc_type": "gamg", "pc_gamg_threshold": "0.02"}
MUMPS = {"pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}

#: The time loop of the fine solvers, here and in the process of another PETSc: matrices for the
#: first step and for the others, mass, load, 1/dt; solutions are kept as rows of an array.
LOOP = '''
import time
import numpy as np


def fine_loop(PETSc, Ks, M, b, rate, num, rtol):
    """Set-up seconds, seconds of every step, iterations of every step, solutions."""
    solvers, setup = [], []
    for K in Ks:
        start = time.process_time()
        ksp = PETSc.KSP().create(K.comm)
        ksp.setOperators(K)
        ksp.setType("cg" if rtol else "preonly")
        if rtol:
            ksp.setTolerances(rtol=rtol, max_it=1000)
            ksp.setInitialGuessNonzero(True)
        ksp.setOptionsPrefix("fine_")
        ksp.setFromOptions()
        ksp.setUp()
        setup.append(time.process_time() - start)
        solvers.append(ksp)
    seconds, iterations = [], []
    x, r, last, before = (b.duplicate() for _ in range(4))
    for vector in (x, r, last, before):
        vector.set(0.0)
    kept = np.empty((num, b.getLocalSize()))
    history = b.duplicate()
    for k in range(num):
        start = time.process_time()
        history.set(0.0)
        if k == 0:
            history.axpy(rate, last)
        else:
            history.axpy(2 * rate, last)
            history.axpy(-0.5 * rate, before)
        M.multAdd(history, b, r)
        if rtol:
            x.set(0.0)
            x.axpy(2.0 if k > 1 else 1.0, last)
            x.axpy(-1.0 if k > 1 else 0.0, before)
        solvers[min(k, 1)].solve(r, x)
        if solvers[min(k, 1)].getConvergedReason() < 0:
            raise RuntimeError("the fine solver did not converge")
        last.copy(before)
        x.copy(last)
        seconds.append(time.process_time() - start)
        iterations.append(solvers[min(k, 1)].getIterationNumber())
        kept[k] = x.getArray(readonly=True)
    for ksp in solvers:
        ksp.destroy()
    return sum(setup), seconds, iterations, kept
'''
exec(LOOP)

OTHER = (
    LOOP
    + """
import json, sys
import petsc4py
petsc4py.init()
from petsc4py import PETSc
options = PETSc.Options()
viewer = PETSc.Viewer().createBinary(sys.argv[1], "r")
Ks = [PETSc.Mat().load(viewer) for _ in range(2)]
M, b = PETSc.Mat().load(viewer), PETSc.Vec().load(viewer)
rate, num = float(sys.argv[2]), int(sys.argv[3])
options["fine_pc_type"] = "hypre"
options["fine_pc_hypre_type"] = "boomeramg"
if len(sys.argv) > 6:
    options["fine_pc_hypre_boomeramg_strong_threshold"] = sys.argv[6]
setup, seconds, iterations, kept = fine_loop(PETSc, Ks, M, b, rate, num, float(sys.argv[4]))
np.save(sys.argv[5], kept)
print(json.dumps({"setup": setup, "seconds": seconds, "iterations": iterations}))
"""
)


class Problem:
    """Forms and fine matrices of one coefficient."""

    def __init__(self, dim: int, boxes: int, num: int, whole: int, kappa: Any) -> None:
        msh = kappa.function_space.mesh
        self.num, self.dim = num, dim
        self.V = V = fem.functionspace(msh, ("Lagrange", 1))
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        scale = float(np.exp(np.log(kappa.x.array).mean()))
        self.dt = 0.5 / scale / whole
        self.a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        self.m, self.s = u * v * ufl.dx, kappa * u * v * ufl.dx
        self.f = fem.Constant(msh, scale)
        self.L = self.f * v * ufl.dx
        self.bcs = [
            fem.dirichletbc(
                1.0 - end,
                fem.locate_dofs_geometrical(V, lambda x, end=end: np.isclose(x[0], end)),
                V,
            )
            for end in (0.0, 1.0)
        ]
        self.coarse = msnn.CoarseGrid(msh, (boxes,) * dim)
        self.g = fem.Function(V)
        for bc in self.bcs:
            bc.set(self.g.x.array)
        # As the fine solvers use them: Dirichlet rows and columns zero, the load with the lift.
        A, M = (assemble_matrix(fem.form(form)) for form in (self.a, self.m))
        A.assemble()
        M.assemble()
        self.A, self.M = A, M
        b = assemble_vector(fem.form(self.L))
        lift = b.duplicate()
        lift.array_w[:] = self.g.x.array
        A.mult(lift, b0 := b.duplicate())
        b.axpy(-1.0, b0)
        dofs = np.unique(np.concatenate([bc.dof_indices()[0] for bc in self.bcs]))
        b.array_w[dofs] = 0.0
        self.b, self.Ks = b, []
        for c in (1.0, 1.5):
            K = A.copy()
            K.axpy(c / self.dt, M, PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
            K.zeroRowsColumns(dofs.astype(PETSc.IntType), diag=1.0)
            K.setOption(PETSc.Mat.Option.SPD, True)
            self.Ks.append(K)
        self.M_zero = M.copy()
        self.M_zero.zeroRowsColumns(dofs.astype(PETSc.IntType), diag=0.0)

    def fine(self, options: dict[str, str], rtol: float) -> dict[str, Any]:
        """All steps by a fine solver in this process."""
        database = PETSc.Options("fine_")
        for name, value in options.items():
            database[name] = value
        found = fine_loop(PETSc, self.Ks, self.M_zero, self.b, 1 / self.dt, self.num, rtol)  # type: ignore[name-defined] # noqa: F821
        for name in options:
            database.delValue(name)
        return self.record(*found)

    def gamg(self, rtol: float) -> dict[str, Any]:
        """All steps by CG with GAMG."""
        return self.fine(GAMG, rtol)

    def record(
        self, setup: float, seconds: list[float], iterations: list[int], kept: Any
    ) -> dict[str, Any]:
        """What is kept of a run of a fine solver."""
        kept += self.g.x.array
        return {
            "setup": setup,
            "step": float(np.median(seconds)),
            "steps": float(np.sum(seconds)),
            "iterations": float(np.mean(iterations)),
            "kept": kept,
        }

    def boomer(self, rtol: float) -> dict[str, Any] | None:
        """All steps by BoomerAMG in a process of its own."""
        command = os.environ.get("PETSC_PYTHON")
        if not command:
            return None
        with tempfile.TemporaryDirectory() as folder:
            viewer = PETSc.Viewer().createBinary(f"{folder}/system", "w", comm=MPI.COMM_SELF)
            for item in (*self.Ks, self.M_zero, self.b):
                item.view(viewer)
            viewer.destroy()
            arguments = [f"{folder}/system", repr(1 / self.dt), str(self.num), repr(rtol)]
            arguments += [f"{folder}/kept.npy", *(["0.5"] if self.dim == 3 else [])]
            run = subprocess.run(
                [*shlex.split(command), "-c", OTHER, *arguments],
                capture_output=True,
                text=True,
                check=False,
            )
            lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
            if not lines:
                print(run.stderr[-500:])
                return None
            found = json.loads(lines[-1])
            kept = np.load(f"{folder}/kept.npy")
        return self.record(found["setup"], found["seconds"], found["iterations"], kept)

    def errors(self, kept: Any, exact: Any) -> dict[str, Any]:
        """Relative errors over time in L2 and energy, and their largest and last."""
        found: dict[str, Any] = {}
        x, y = self.b.duplicate(), self.b.duplicate()

        def norm(matrix: Any, values: Any) -> float:
            x.array_w[:] = values
            matrix.mult(x, y)
            return float(np.sqrt(abs(x.dot(y))))

        for name, matrix in (("L2", self.M), ("energy", self.A)):
            over = [norm(matrix, u - e) / norm(matrix, e) for u, e in zip(kept, exact, strict=True)]
            found[name] = {"max": max(over), "mean": float(np.mean(over)), "last": over[-1]}
            found[name]["over time"] = over[:: max(1, len(over) // 10)]
        x.destroy()
        y.destroy()
        return found

    def multiscale(self, basis: Any, exact: Any) -> dict[str, Any]:
        """All steps in a coarse space: times and errors."""
        start = time.process_time()
        W = msnn.multiscale_functionspace(self.V, self.coarse, basis, self.a, self.s, self.bcs)
        record: dict[str, Any] = {"space": time.process_time() - start, "N_c": W.num_dofs}

        def run(step: Callable[[Any], Any]) -> tuple[float, list[float]]:
            u = fem.Function(self.V)
            u.x.array[:] = self.g.x.array
            start = time.process_time()
            problem = TransientProblem(
                self.m,
                self.a,
                self.L,
                u,
                W,
                dt=self.dt,
                order=2,
                bcs=self.bcs,
                petsc_options_prefix="coarse_",
            )
            with problem:
                problem.assemble()
                # The first two steps factor a matrix each.
                setup, seconds = time.process_time() - start, []
                for _ in range(self.num):
                    start = time.process_time()
                    step(problem)
                    seconds.append(time.process_time() - start)
            median = float(np.median(seconds))
            return setup + sum(seconds[:2]) - 2 * median, seconds

        kept: list[Any] = []
        setup, seconds = run(lambda problem: problem.step(prolong=False))
        _, prolonged = run(lambda problem: kept.append(problem.step().x.array.copy()))
        scale = float(self.f.value)

        def changing(problem: Any) -> None:
            self.f.value = scale * (1 + problem.time)
            problem.step(prolong=False)

        _, loaded = run(changing)
        self.f.value = scale
        W.destroy()
        return record | {
            "setup": setup,
            "step": float(np.median(seconds)),
            "steps": float(np.median(seconds)) * self.num,
            "step with u": float(np.median(prolonged)),
            "step with new load": float(np.median(loaded)),
            "errors": self.errors(kept, exact),
        }

    def destroy(self) -> None:
        """Free the PETSc objects."""
        for item in (self.A, self.M, self.M_zero, self.b, *self.Ks):
            item.destroy()


def matched(
    problem: Problem,
    solve: Callable[[float], dict[str, Any] | None],
    exact: Any,
    target: float,
) -> dict[str, Any] | None:
    """The run with the largest tolerance that is as good as ours."""
    for rtol in 10.0 ** -np.arange(1, 8):
        found = solve(float(rtol))
        if found is None:
            return None
        errors = problem.errors(found.pop("kept"), exact)
        if errors["energy"]["max"] <= target:
            return found | {"rtol": float(rtol), "errors": errors}
    return None


def run_case(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All families of a case, one by one."""
    dim, cells, boxes, whole = (QUICK if options.quick else CASES)[name]
    num = options.steps or whole
    for family in options.families:
        kappa = FAMILIES[family](box(dim, cells), FIRST_SEED)
        problem = Problem(dim, boxes, num, whole, kappa)
        rows: dict[str, Any] = {}
        if dim == 2:
            rows["MUMPS"] = problem.fine(MUMPS, 0.0)
            exact = rows["MUMPS"].pop("kept")
            rows["GAMG 1e-8"] = problem.fine(GAMG, 1e-8)
            kept = rows["GAMG 1e-8"].pop("kept")
            rows["GAMG 1e-8"]["errors"] = problem.errors(kept, exact)
        else:
            rows["GAMG 1e-8"] = problem.fine(GAMG, 1e-8)
            exact = rows["GAMG 1e-8"].pop("kept")
        boomer = problem.boomer(1e-8)
        if boomer is not None:
            boomer["errors"] = problem.errors(boomer.pop("kept"), exact)
            rows["BoomerAMG 1e-8"] = boomer
        for modes in options.modes:
            rows[f"filtered, {modes} modes"] = problem.multiscale(msnn.FilteredBasis(modes), exact)
            if options.no_slepc:
                continue
            rows[f"SLEPc, {modes} modes"] = problem.multiscale(msnn.SpectralBasis(modes), exact)
        target = rows[f"filtered, {options.modes[0]} modes"]["errors"]["energy"]["max"]
        rows["GAMG as good as ours"] = matched(problem, problem.gamg, exact, target)
        rows["BoomerAMG as good as ours"] = matched(problem, problem.boomer, exact, target)
        rows = {key: row for key, row in rows.items() if row is not None}
        record = {
            "case": name,
            "family": family,
            "N_f": problem.A.getSize()[0],
            "cells": cells,
            "boxes": boxes,
            "steps": num,
            "of": whole,
            "load": os.getloadavg(),
            "rows": rows,
        }
        problem.destroy()
        gc.collect()
        print(table(record), flush=True)
        yield record


def breaks_even(ours: dict[str, Any], other: dict[str, Any]) -> str:
    """From how many steps on we take less time in all."""
    gain = other["step"] - ours["step"]
    lost = ours["space"] + ours["setup"] - other["setup"]
    if gain <= 0:
        return "never"
    return f"{max(1, int(np.ceil(lost / gain)))}"


def table(record: dict[str, Any]) -> str:
    """One record as Markdown."""
    rows = record["rows"]
    fine = [name for name in rows if "space" not in rows[name]]
    ours = [name for name in rows if "space" in rows[name]]
    shape = "x".join([str(record["cells"])] * int(record["case"][0]))
    lines = [
        f"## {record['case']}, {record['family']}",
        "",
        f"{shape} cells, {record['N_f']} dofs, {record['boxes']} boxes a side, the first "
        f"{record['steps']} of {record['of']} steps; load of the machine {record['load'][0]:.1f}.",
        "",
        "| | N_c | L2 max | L2 last | energy max | energy last | space | set-up | a step | with u |"
        " with new load | all steps |",
        "|" + " --- |" * 12,
    ]
    for name in (*ours, *fine):
        row = rows[name]
        found = row.get("errors")
        errors = [
            "" if found is None else f"{found[kind][when]:.2g}"
            for kind in ("L2", "energy")
            for when in ("max", "last")
        ]
        title = f"{name} (rtol {row['rtol']:.0e})" if "rtol" in row else name
        title += f", {row['iterations']:.1f} iterations" if row.get("iterations", 0) > 1 else ""
        extra = [row.get(key) for key in ("step with u", "step with new load")]
        total = row.get("space", 0.0) + row["setup"] + record["steps"] * row["step"]
        lines.append(
            f"| {title} | {row.get('N_c', '')} | {' | '.join(errors)} | "
            + (f"{row['space']:.2f}" if "space" in row else "")
            + f" | {row['setup']:.2f} | {1e3 * row['step']:.2f} ms | "
            + " | ".join("" if x is None else f"{1e3 * x:.2f} ms" for x in extra)
            + f" | {total:.2f} |"
        )
    lines += ["", "A step is faster by (and breaks even after so many steps):", ""]
    lines += ["| | " + " | ".join(fine) + " |", "|" + " --- |" * (len(fine) + 1)]
    for name in ours:
        cells = [
            f"{rows[other]['step'] / rows[name]['step']:.1f} "
            f"({breaks_even(rows[name], rows[other])})"
            for other in fine
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; default all")
    parser.add_argument("--families", nargs="+", default=CHOSEN, help="some of those; default all")
    parser.add_argument("--modes", nargs="+", type=int, default=MODES, help="default 8 16")
    parser.add_argument("--steps", type=int, help="only the first steps; default all")
    parser.add_argument("--no-slepc", action="store_true", help="filtered bases only")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--output", default=str(Path(__file__).parent / "results"))
    options = parser.parse_args(arguments)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    stem = "transient-quick" if options.quick else "transient"
    records: list[dict[str, Any]] = []
    if options.case and (output / f"{stem}.json").exists():
        # What is not run again stays.
        records = json.loads((output / f"{stem}.json").read_text())["records"]
    for name in options.case or CASES:
        if name not in CASES:
            raise SystemExit(f"Unknown case {name!r}; expected of {', '.join(CASES)}.")
        for found in run_case(name, options):
            same = [(r["case"], r["family"]) == (name, found["family"]) for r in records]
            records = [r for r, old in zip(records, same, strict=True) if not old] + [found]
            # After each: a long run that is stopped leaves what it has.
            text = "\n".join([__doc__.split("    python")[0], *map(table, records)])
            (output / f"{stem}.md").write_text(text)
            data = {"machine": machine(), "gamg": GAMG, "records": records}
            (output / f"{stem}.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
