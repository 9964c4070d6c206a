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

    python benchmarks/bench_parametric.py [--quick] [--samples N] [CASE ...]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import FAMILIES, FIRST_SEED, NUM_MODES, box, norms
from tables import machine

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import fields
from dolfinx_msnn.petsc import LinearProblem, assemble_coarse_vector

#: name: dimension, fine cells, coarse boxes, samples
CASES = {"2d-100": (2, 100, 5, 100), "2d-250": (2, 250, 10, 10), "3d-40": (3, 40, 4, 3)}
QUICK = {"2d-quick": (2, 40, 2, 2), "3d-quick": (3, 12, 2, 1)}
#: fine cells, coarse boxes, steps
FRONT, FRONT_QUICK = (100, 10, 40), (40, 4, 4)
TOLERANCES = (0.0, 0.05, 0.2, 0.5, 1.0, float("inf"))


class Stopwatch:
    """Processor seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._start = 0.0

    def start(self) -> None:
        """Start, or start again."""
        self._start = time.process_time()

    def book(self, name: str) -> None:
        """Book what has passed since the start, and start again."""
        now = time.process_time()
        self.seconds.setdefault(name, []).append(now - self._start)
        self._start = time.process_time()

    def medians(self) -> dict[str, float]:
        """The median of each name."""
        return {name: float(np.median(values)) for name, values in self.seconds.items()}


class Model:
    """Pressure drop along x through a coefficient that is to be filled in."""

    def __init__(self, dim: int, cells: int, boxes: int) -> None:
        self.dim = dim
        self.mesh = box(dim, cells)
        self.V = V = fem.functionspace(self.mesh, ("Lagrange", 1))
        self.kappa = fem.Function(fem.functionspace(self.mesh, ("DG", 0)))
        self.kappa.x.array[:] = 1.0
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        self.a = self.kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        self.s = self.kappa * u * v * ufl.dx
        self.L = fem.Constant(self.mesh, 0.0) * v * ufl.dx
        self.bcs = [
            fem.dirichletbc(
                1.0 - at, fem.locate_dofs_geometrical(V, lambda x, at=at: np.isclose(x[0], at)), V
            )
            for at in (0.0, 1.0)
        ]
        self.grid = msnn.CoarseGrid(self.mesh, (boxes,) * dim)
        self.w = fem.Function(V)
        self._energy = fem.form(self.kappa * ufl.inner(ufl.grad(self.w), ufl.grad(self.w)) * ufl.dx)

    def space(self, basis: Any, **options: Any) -> msnn.MultiscaleFunctionSpace:
        """A space on this problem."""
        return msnn.multiscale_functionspace(
            self.V, self.grid, basis, self.a, self.s, self.bcs, **options
        )

    def problem(self, W: msnn.MultiscaleFunctionSpace) -> LinearProblem:
        """The coarse problem."""
        return LinearProblem(self.a, self.L, W, bcs=self.bcs, petsc_options_prefix="bench_")

    def fine(self, solver: str) -> FineProblem:
        """The fine problem."""
        options: dict[str, Any] = {"ksp_type": "preonly", "pc_type": "cholesky"}
        options["pc_factor_mat_solver_type"] = "mumps"
        if solver == "GAMG":
            options = {"ksp_type": "cg", "pc_type": "gamg", "pc_gamg_threshold": 0.02}
            options["ksp_rtol"] = 1e-6
        return FineProblem(
            self.a,
            self.L,
            bcs=self.bcs,
            petsc_options_prefix=f"fine_{solver}_",
            petsc_options=options,
        )

    def permeability(self, u: Any) -> float:
        """The energy of a solution."""
        self.w.x.array[:] = u.x.array
        return float(fem.assemble_scalar(self._energy))


def bases(model: Model) -> dict[str, Any]:
    """Bases by name."""
    found: dict[str, Any] = {
        "SLEPc": msnn.SpectralBasis(NUM_MODES),
        "filtered": msnn.FilteredBasis(NUM_MODES),
    }
    if importlib.util.find_spec("torch"):
        found["learned"] = msnn.LearnedBasis.pretrained(
            f"diffusion-{model.dim}d", model.kappa, NUM_MODES
        )
    return found


def training_seconds(dim: int) -> float | None:
    """What the training of the pretrained model took, by its card."""
    if not importlib.util.find_spec("torch"):
        return None
    from dolfinx_msnn.nn.model import read_card
    from dolfinx_msnn.pretrained import pretrained_models

    return read_card(pretrained_models()[f"diffusion-{dim}d"]).training_time_s


def run_samples(name: str, num_samples: int | None) -> dict[str, Any]:
    """All bases on all samples of a case."""
    dim, cells, boxes, count = {**CASES, **QUICK}[name]
    model = Model(dim, cells, boxes)
    count = num_samples or count
    samples = []
    for k in range(count):
        field = FAMILIES["log-normal"](model.mesh, FIRST_SEED + k)
        samples.append(field.x.array.copy())

    fine: dict[str, Any] = {}
    exact = np.zeros(count)
    for solver in ("MUMPS", "GAMG"):
        clock, problem = Stopwatch(), model.fine(solver)
        problem.solve()
        iterations = []
        for k, values in enumerate(samples):
            model.kappa.x.array[:] = values
            clock.start()
            problem.solve()
            clock.book("first")
            problem.solver.solve(problem.b, problem.x)
            clock.book("again")
            iterations.append(problem.solver.getIterationNumber())
            if solver == "MUMPS":
                exact[k] = model.permeability(problem.u)
        fine[solver] = clock.medians() | {"iterations": float(np.median(iterations))}
        del problem

    rows: dict[str, Any] = {}
    for label, basis in bases(model).items():
        model.kappa.x.array[:] = samples[0]
        clock, errors = Stopwatch(), []
        with model.space(basis, updatable=True) as W, model.problem(W) as problem:
            problem.solve()
            b0, x0 = problem.A0.createVecs()
            for k, values in enumerate(samples):
                # The first is that of the space: a field like no other, so all is computed again.
                model.kappa.x.array[:] = values if k else values[::-1]
                if k == 0:
                    W.update()
                    model.kappa.x.array[:] = values
                clock.start()
                rebuilt = W.update()
                clock.book("update")
                assert len(rebuilt) == W.num_neighbourhoods
                problem.assemble()
                clock.book("assemble")
                problem.solve()
                clock.book("rhs, fine")
                assemble_coarse_vector(problem.b, W, b0)
                clock.start()
                problem.solver.solve(b0, x0)
                clock.book("rhs, coarse")
                errors.append(model.permeability(problem.u) / exact[k] - 1)
            b0.destroy()
            x0.destroy()
        for values in samples[:5]:
            model.kappa.x.array[:] = values
            clock.start()
            with model.space(basis) as W, model.problem(W) as problem:
                problem.assemble()
            clock.book("anew")
        rows[label] = clock.medians() | {
            "error, median": float(np.median(errors)),
            "error, largest": float(np.max(errors)),
        }
    return {
        "case": name,
        "samples": count,
        "dofs": model.V.dofmap.index_map.size_global,
        "training": training_seconds(dim),
        "fine": fine,
        "rows": rows,
    }


def even(extra: float, saved: float) -> str:
    """How many it takes until what is saved each time makes up for what is spent before."""
    if extra <= 0:
        return "1" if saved >= 0 else f"1 to {int(extra / saved)}"
    return f"{int(np.ceil(extra / saved))}" if saved > 0 else "never"


def samples_table(record: dict[str, Any]) -> str:
    """One record as Markdown."""
    lines = [
        f"{record['case']}, {record['samples']} samples, {record['dofs']} fine dofs; milliseconds",
        "",
        "| solver | update | A, PᵀAP, factors | anew | rhs, fine | rhs, coarse | error of k, "
        "median (largest) | break-even rhs, fine, MUMPS / GAMG | rhs, coarse, MUMPS / GAMG |",
        "| " + "--- | " * 9,
    ]
    fine = record["fine"]
    for name, row in record["rows"].items():
        breaks = []
        for rhs in ("rhs, fine", "rhs, coarse"):
            pair = []
            for solver in ("MUMPS", "GAMG"):
                setup = fine[solver]["first"] - fine[solver]["again"]
                extra = row["update"] + row["assemble"] - setup
                pair.append(even(extra, fine[solver]["again"] - row[rhs]))
            breaks.append(" / ".join(pair))
        times = [
            f"{1e3 * row[k]:.3g}"
            for k in ("update", "assemble", "anew", "rhs, fine", "rhs, coarse")
        ]
        error = f"{row['error, median']:.2%} ({row['error, largest']:.2%})"
        lines.append("| " + " | ".join([name, *times, error, *breaks]) + " |")
    for solver, row in fine.items():
        first, again = 1e3 * (row["first"] - row["again"]), 1e3 * row["again"]
        note = "" if solver == "MUMPS" else f", {row['iterations']:.0f} iterations"
        lines.append(f"| fine, {solver}{note} | | {first:.3g} | | {again:.3g} | | 0 | | |")
    if record["training"] is not None and "learned" in record["rows"]:
        rows, text = record["rows"], []
        for other in ("SLEPc", "filtered"):
            saved = rows[other]["update"] - rows["learned"]["update"]
            text.append(f"{even(record['training'], saved)} against {other}")
        lines += [
            "",
            f"Training took {record['training']:.0f} s. Samples until it has paid: "
            + ", ".join(text)
            + ".",
        ]
    return "\n".join(lines) + "\n"


def run_front(quick: bool) -> dict[str, Any]:
    """A front through a field."""
    cells, boxes, steps = FRONT_QUICK if quick else FRONT
    model = Model(2, cells, boxes)
    rock = fields.log_normal(model.mesh, seed=FIRST_SEED, variance=4.0, correlation_length=0.06)
    rock = rock.x.array.copy()
    dofs = model.kappa.function_space.dofmap.list[:, 0]
    x = np.empty(len(rock))
    x[dofs] = model.kappa.function_space.tabulate_dof_coordinates()[dofs, 0]

    def mobility(step: int) -> Any:
        at = (step + 1) / (steps + 2)
        return 1.0 + 9.0 / (1.0 + np.exp((x - at) / 0.01))

    fine = model.fine("MUMPS")
    rows = {}
    for tolerance in TOLERANCES:
        model.kappa.x.array[:] = rock * mobility(0)
        clock, shares, errors = Stopwatch(), [], []
        with (
            model.space(msnn.FilteredBasis(NUM_MODES), updatable=True) as W,
            model.problem(W) as problem,
        ):
            problem.solve()
            for step in range(1, steps + 1):
                model.kappa.x.array[:] = rock * mobility(step)
                clock.start()
                rebuilt = W.update(tolerance)
                clock.book("update")
                shares.append(len(rebuilt) / W.num_neighbourhoods)
                problem.assemble()
                problem.solve()
                exact = fine.solve()
                whole = norms(exact, model.kappa)
                difference = fem.Function(model.V)
                difference.x.array[:] = problem.u.x.array - exact.x.array
                found = norms(difference, model.kappa)
                errors.append((found[0] / whole[0], found[1] / whole[1]))
        rows[str(tolerance)] = clock.medians() | {
            "share": float(np.mean(shares)),
            "L2": float(np.mean([e[0] for e in errors])),
            "energy": float(np.mean([e[1] for e in errors])),
            "worst energy": float(np.max([e[1] for e in errors])),
        }
    return {"cells": cells, "boxes": boxes, "steps": steps, "rows": rows}


def front_table(record: dict[str, Any]) -> str:
    """The front as Markdown."""
    lines = [
        f"A front through {record['cells']} x {record['cells']} cells in {record['steps']} steps, "
        f"{record['boxes']} x {record['boxes']} boxes, filtered bases",
        "",
        "| tolerance | modes renewed a step | update, ms | L2 error | energy error, mean (worst) |",
        "| " + "--- | " * 5,
    ]
    for tolerance, row in record["rows"].items():
        lines.append(
            f"| {'never' if tolerance == 'inf' else tolerance} | {row['share']:.0%} | "
            f"{1e3 * row['update']:.3g} | {row['L2']:.3%} | {row['energy']:.2%} "
            f"({row['worst energy']:.2%}) |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--samples", type=int, help="samples of each case")
    parser.add_argument(
        "--out", default=str(Path(__file__).parent / "results"), help="folder of the results"
    )
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}, front; default all")
    args = parser.parse_args(arguments)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.case or [*(QUICK if args.quick else CASES), "front"]:
        if name == "front":
            record = run_front(args.quick)
            text = front_table(record)
        else:
            record = run_samples(name, args.samples)
            text = samples_table(record)
        print(text, flush=True)
        (folder / f"parametric-{name}.md").write_text(text)
        data = {"machine": machine(), "record": record}
        (folder / f"parametric-{name}.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
