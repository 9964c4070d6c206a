# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Two-level preconditioner: iterations over the contrast, and time next to GAMG and MUMPS.

-div(kappa grad u) = 1 with u = 0 on two opposite sides, or linear elasticity under its own weight,
clamped on one side. CG from zero until the natural norm (r, M^-1 r)^(1/2) has fallen by 1e-8; the
error in energy relative to MUMPS is measured. Wall-clock seconds of one process.

    python benchmarks/bench_two_level.py [--quick] [case ...]

SPE10=path adds layers of SPE10 Model 2. PETSC_PYTHON=command of another Python with petsc4py and
hypre adds BoomerAMG, in a process of its own. Tables and JSON go to ``benchmarks/results/``.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
from common import box
from tables import machine

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix, assemble_vector
from dolfinx_msnn import fields
from dolfinx_msnn.algebra.preconditioner import TwoLevelPreconditioner
from dolfinx_msnn.algebra.subdomains import subdomains

RTOL = 1e-8
SEED = 10**6
CONTRASTS = (1.0, 1e2, 1e4, 1e6, 1e8)
#: name: dimension, cells, boxes, families
CASES: dict[str, tuple[int, int, int, Sequence[str]]] = {
    "2d": (2, 100, 5, ("two_phase", "channels")),
    "3d": (3, 20, 2, ("two_phase", "channels")),
}
QUICK: dict[str, tuple[int, int, int, Sequence[str]]] = {
    "2d": (2, 32, 2, ("two_phase",)),
    "3d": (3, 10, 2, ("two_phase",)),
}
GAMG = {"pc_type": "gamg", "pc_gamg_threshold": 0.02}
MUMPS = {
    "ksp_type": "preonly",
    "pc_type": "cholesky",
    "pc_factor_mat_solver_type": "mumps",
    "ksp_norm_type": "none",
}
#: What GAMG's parameters are tuned over in the elasticity case.
TUNING: list[dict[str, object]] = [
    {"pc_type": "gamg", "pc_gamg_threshold": threshold} | smoother
    for threshold in (0.0, 0.01, 0.02, 0.05, 0.1)
    for smoother in (
        {},
        {"mg_levels_esteig_ksp_max_it": 50, "mg_levels_ksp_max_it": 4},
        {"mg_levels_ksp_type": "richardson", "mg_levels_pc_type": "sor"},
        {"pc_gamg_agg_nsmooths": 0, "mg_coarse_pc_type": "svd"},
    )
]

BOOMER = """
import json, sys, time
import petsc4py
petsc4py.init()
from petsc4py import PETSc
viewer = PETSc.Viewer().createBinary(sys.argv[1], "r")
A, b, exact = PETSc.Mat().load(viewer), PETSc.Vec().load(viewer), PETSc.Vec().load(viewer)
ksp = PETSc.KSP().create()
ksp.setOperators(A)
ksp.setType("cg")
ksp.setNormType(PETSc.KSP.NormType.NATURAL)
ksp.setTolerances(rtol=float(sys.argv[2]), max_it=500)
ksp.getPC().setType("hypre")
ksp.setFromOptions()
start = time.perf_counter()
ksp.setUp()
setup = time.perf_counter() - start
x = b.duplicate()
start = time.perf_counter()
ksp.solve(b, x)
solve = time.perf_counter() - start
x.axpy(-1.0, exact)
y, z = b.duplicate(), b.duplicate()
A.mult(x, y)
A.mult(exact, z)
error = (abs(x.dot(y)) / exact.dot(z)) ** 0.5
print(json.dumps({"iterations": ksp.getIterationNumber(), "reason": int(ksp.getConvergedReason()),
    "setup": setup, "solve": solve, "error": error}))
"""


class Problem:
    """A matrix and a right-hand side, and MUMPS's solution."""

    def __init__(self, a: Any, L: Any, bcs: Any, kappa: Any, s: Any, coarse: Any) -> None:
        self.a, self.bcs, self.kappa, self.s, self.coarse = a, bcs, kappa, s, coarse
        self.V = a.arguments()[0].ufl_function_space()
        self.A = assemble_matrix(fem.form(a), bcs=bcs)
        self.A.assemble()
        self.A.setBlockSize(self.V.dofmap.index_map_bs)
        self.b = assemble_vector(fem.form(L))
        for bc in bcs:
            bc.set(self.b.array_w, alpha=0.0)
        self.direct = self.solve(MUMPS)
        self.exact = self.direct.pop("x")

    def solve(
        self, options: dict[str, object], M: TwoLevelPreconditioner | None = None
    ) -> dict[str, Any]:
        """Time and iterations of a solver; two right-hand sides, the second is timed."""
        ksp = PETSc.KSP().create(self.A.comm)
        ksp.setOperators(self.A)
        ksp.setType("cg")
        ksp.setNormType(PETSc.KSP.NormType.NATURAL)
        ksp.setTolerances(rtol=RTOL, max_it=500)
        ksp.setOptionsPrefix("bench_")
        database = PETSc.Options("bench_")
        for name, value in options.items():
            database[name] = value
        start = time.perf_counter()
        if M is None:
            ksp.setFromOptions()
            ksp.setUp()
            ksp.setUpOnBlocks()
        else:
            M.attach(ksp)
        setup = time.perf_counter() - start
        for name in options:
            database.delValue(name)
        x = self.b.duplicate()
        times = []
        for _ in range(2):
            x.set(0.0)
            start = time.perf_counter()
            ksp.solve(self.b, x)
            times.append(time.perf_counter() - start)
        found: dict[str, Any] = {
            "iterations": ksp.getIterationNumber(),
            "reason": int(ksp.getConvergedReason()),
            "setup": setup,
            "solve": min(times),
        }
        ksp.destroy()
        if hasattr(self, "exact"):
            found["error"] = self.energy_error(x)
            x.destroy()
        else:
            found["x"] = x
        return found

    def energy_error(self, x: PETSc.Vec) -> float:
        """Relative to MUMPS's solution."""
        y = x.duplicate()
        self.A.mult(self.exact, y)
        whole = y.dot(self.exact)
        x.axpy(-1.0, self.exact)
        self.A.mult(x, y)
        part = y.dot(x)
        y.destroy()
        return float(np.sqrt(abs(part) / whole))

    def two_level(self, basis: Any, **settings: Any) -> dict[str, Any]:
        """Build the space, then solve."""
        start = time.perf_counter()
        with msnn.multiscale_functionspace(
            self.V, self.coarse, basis, self.a, self.s, self.bcs
        ) as W:
            space = time.perf_counter() - start
            with TwoLevelPreconditioner(W, petsc_options_prefix="two_level_", **settings) as M:
                found = self.solve({}, M)
            sizes = [len(dofs) for _, dofs in subdomains(W)]
            last = [values[-1] for values in W.eigenvalues.values()]
            found |= {"space": space, "num_coarse": W.num_dofs, "largest": max(sizes)}
            found["last_eigenvalue"] = float(min(last))
        return found

    def boomer(self) -> dict[str, Any] | None:
        """BoomerAMG in a process of its own, from a PETSc binary file."""
        command = os.environ.get("PETSC_PYTHON")
        if not command:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/system"
            viewer = PETSc.Viewer().createBinary(path, "w", comm=MPI.COMM_SELF)
            for item in (self.A, self.b, self.exact):
                item.view(viewer)
            viewer.destroy()
            options = ["-pc_hypre_type", "boomeramg"]
            if self.A.getSize()[0] > 0 and self.V.mesh.topology.dim == 3:
                options += ["-pc_hypre_boomeramg_strong_threshold", "0.5"]
            run = subprocess.run(
                [*shlex.split(command), "-c", BOOMER, path, str(RTOL), *options],
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
        lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
        if not lines:
            print(run.stderr[-500:])
            return None
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def destroy(self) -> None:
        """Free the PETSc objects."""
        for item in (self.A, self.b, self.exact):
            item.destroy()


def diffusion(kappa: Any, boxes: Sequence[int], axis: int = 0) -> Problem:
    """A scalar problem on the mesh of a coefficient."""
    msh = kappa.function_space.mesh
    V = fem.functionspace(msh, ("Lagrange", 1))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    x = msh.geometry.x[:, axis]
    ends = x.min(), x.max()
    dofs = fem.locate_dofs_geometrical(
        V, lambda y: np.isclose(y[axis], ends[0]) | np.isclose(y[axis], ends[1])
    )
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    L = fem.Constant(msh, 1.0) * v * ufl.dx
    bcs = [fem.dirichletbc(0.0, dofs, V)]
    return Problem(a, L, bcs, kappa, kappa * u * v * ufl.dx, msnn.CoarseGrid(msh, boxes))


def elasticity(E: Any, boxes: Sequence[int], nu: float = 0.3) -> Problem:
    """Linear elasticity, isotropic, clamped at x = 0; rigid motions as near null space."""
    msh = E.function_space.mesh
    V = fem.functionspace(msh, ("Lagrange", 1, (3,)))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)

    def strain(w: Any) -> Any:
        return ufl.sym(ufl.grad(w))

    mu, lam = E / (2 * (1 + nu)), E * nu / ((1 + nu) * (1 - 2 * nu))
    stress = 2 * mu * strain(u) + lam * ufl.tr(strain(u)) * ufl.Identity(3)
    a, s = ufl.inner(stress, strain(v)) * ufl.dx, E * ufl.inner(u, v) * ufl.dx
    L = ufl.inner(fem.Constant(msh, np.array([0.0, 0.0, -1.0])), v) * ufl.dx
    dofs = fem.locate_dofs_geometrical(V, lambda y: np.isclose(y[0], 0.0))
    bcs = [fem.dirichletbc(np.zeros(3), dofs, V)]
    problem = Problem(a, L, bcs, E, s, msnn.CoarseGrid(msh, boxes))
    x = V.tabulate_dof_coordinates()[: V.dofmap.index_map.size_local]
    motions = np.zeros((6, *x.shape))
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        motions[k, :, k] = 1.0
        motions[3 + k, :, i], motions[3 + k, :, j] = -x[:, j], x[:, i]
    Q, _ = np.linalg.qr(motions.reshape(6, -1).T)
    vectors = []
    for column in Q.T:
        vectors.append(problem.A.createVecLeft())
        vectors[-1].array_w[:] = column
    problem.A.setNearNullSpace(PETSc.NullSpace().create(vectors=vectors))
    return problem


class Bad:
    """Random functions in place of modes, or the constant alone."""

    def __init__(self, num_random: int) -> None:
        self.num = num_random

    def modes(self, problems: Any) -> list[msnn.LocalModes]:
        """Not modes."""
        rng = np.random.default_rng(0)
        return [
            msnn.LocalModes(
                np.zeros(max(self.num, 1)),
                rng.standard_normal((self.num, p.num_dofs))
                if self.num
                else np.ones((1, p.num_dofs)),
            )
            for p in problems
        ]


def bases(kappa: Any, dim: int) -> dict[str, Any]:
    """Eight modes from each source."""
    return {
        "computed": lambda: msnn.SpectralBasis(8),
        "filtered": lambda: msnn.FilteredBasis(8),
        "learned": lambda: msnn.LearnedBasis.pretrained(f"diffusion-{dim}d", kappa, 8),
        "constant only": lambda: Bad(0),
        "random": lambda: Bad(8),
    }


def run_diffusion(problem: Problem, dim: int, full: bool) -> dict[str, Any]:
    """All rows for one coefficient."""
    rows: dict[str, Any] = {}
    for name, make in bases(problem.kappa, dim).items():
        rows[name] = problem.two_level(make())

    def learned(num: int) -> Any:
        return msnn.LearnedBasis.pretrained(f"diffusion-{dim}d", problem.kappa, num)

    # As many as the most complicated neighbourhoods need.
    rows["computed, 16 modes"] = problem.two_level(msnn.SpectralBasis(16))
    rows["filtered, 16 modes"] = problem.two_level(msnn.FilteredBasis(16))
    rows["learned, 16 modes"] = problem.two_level(learned(16))
    rows["learned, guarded, 16 modes"] = problem.two_level(msnn.GuardedBasis(learned(16)))
    if dim == 3:
        rows["filtered, 48 modes"] = problem.two_level(msnn.FilteredBasis(48))
        rows["filtered, hybrid, 16 modes"] = problem.two_level(
            msnn.FilteredBasis(16), kind="hybrid"
        )
    if full:
        for kind in ("hybrid", "additive"):
            rows[f"computed, {kind}"] = problem.two_level(msnn.SpectralBasis(8), kind=kind)
    rows["GAMG"] = problem.solve(GAMG)
    rows["BoomerAMG"] = problem.boomer()
    rows["MUMPS"] = problem.direct
    return {name: row for name, row in rows.items() if row is not None}


def run_case(name: str, quick: bool) -> list[dict[str, Any]]:
    """All families and contrasts of a case."""
    dim, cells, boxes, families = (QUICK if quick else CASES)[name]
    records = []
    for family in families:
        for contrast in CONTRASTS[::2] if quick else CONTRASTS:
            msh = box(dim, cells)
            kappa = getattr(fields, family)(msh, contrast, seed=SEED)
            problem = diffusion(kappa, (boxes,) * dim)
            rows = run_diffusion(problem, dim, full=dim == 2)
            label = f"{dim}D, {cells} cells a side, {boxes} boxes, {family}"
            records.append({"case": label, "column": f"{contrast:.0e}", "rows": rows})
            records[-1]["num_fine"] = problem.A.getSize()[0]
            print(label, contrast, {k: r["iterations"] for k, r in rows.items()}, flush=True)
            problem.destroy()
            gc.collect()
    return records


def run_spe10(path: str, layers: Sequence[int]) -> list[dict[str, Any]]:
    """Layers of SPE10, boxes of 10 x 10 cells, flow along y."""
    records = []
    for layer in layers:
        field = fields.read_spe10(path, layer)
        msh = field.create_mesh(MPI.COMM_SELF)
        kappa = field.interpolate(msh)
        problem = diffusion(kappa, tuple(k // 10 for k in field.shape), axis=1)
        rows = run_diffusion(problem, 2, full=True)
        contrast = kappa.x.array.max() / kappa.x.array.min()
        column = f"layer {layer} ({contrast:.0e})"
        records.append({"case": "SPE10", "column": column, "rows": rows})
        records[-1]["num_fine"] = problem.A.getSize()[0]
        print(column, {k: r["iterations"] for k, r in rows.items()}, flush=True)
        problem.destroy()
    return records


def run_elasticity(quick: bool) -> list[dict[str, Any]]:
    """3D elasticity at high contrast against GAMG with the best of many settings."""
    records = []
    cells, boxes = (6, 2) if quick else (12, 3)
    for contrast in (1e2, 1e6):
        msh = box(3, cells)
        E = fields.two_phase(msh, contrast, seed=SEED, correlation_length=0.3)
        problem = elasticity(E, (boxes,) * 3)
        rows = {}
        for num in (12,) if quick else (12, 24):
            rows[f"{num} modes"] = problem.two_level(msnn.SpectralBasis(num))
        tried = [(problem.solve(options), options) for options in TUNING]
        good = [t for t in tried if t[0]["reason"] > 0]
        best = min(good or tried, key=lambda t: t[0]["iterations"])
        rows[f"GAMG, best of {len(TUNING)} settings"] = best[0]
        diverged = f", {len(tried) - len(good)} settings diverge"
        best[0].update({"options": best[1], "note": diverged})
        rows["BoomerAMG"] = problem.boomer()
        rows["MUMPS"] = problem.direct
        label = f"3D elasticity, {cells} cells a side, {boxes} boxes, two_phase (length 0.3)"
        rows = {name: row for name, row in rows.items() if row is not None}
        records.append({"case": label, "column": f"{contrast:.0e}", "rows": rows})
        records[-1]["num_fine"] = problem.A.getSize()[0]
        print(label, contrast, {k: r["iterations"] for k, r in rows.items()}, flush=True)
        problem.destroy()
    return records


def tables(records: list[dict[str, Any]]) -> str:
    """Markdown: iterations over the columns, then times."""
    lines = [
        f"CG from zero to a fall of {RTOL:g} in the natural norm; one process, wall-clock seconds.",
        "Iterations; (d): diverged or not converged in 500. spread: largest deviation of the",
        "iterations from the middle of their range. error: largest relative error in energy.",
        "space: basis and P. set-up: A_0, its factors, smoother. solve: one right-hand side.",
        "wins: number of right-hand sides from which on we take less time in all.",
    ]
    for case in dict.fromkeys(r["case"] for r in records):
        group = [r for r in records if r["case"] == case]
        columns = [r["column"] for r in group]
        names = list(dict.fromkeys(name for r in group for name in r["rows"]))
        lines += ["", f"## {case}, {group[0]['num_fine']} dofs", ""]
        lines += ["| | " + " | ".join(columns) + " | spread | error |"]
        lines += ["|" + " --- |" * (len(columns) + 3)]
        for name in names:
            if name == "MUMPS":
                continue
            found = [r["rows"].get(name) for r in group]
            cells = [
                ""
                if f is None
                else f"{f['iterations']}{'' if f['reason'] > 0 else ' (d)'}{f.get('note', '')}"
                for f in found
            ]
            counts = [f["iterations"] for f in found if f is not None]
            middle = (max(counts) + min(counts)) / 2
            error = max(f["error"] for f in found if f is not None)
            lines += [
                f"| {name} | {' | '.join(cells)} | {(max(counts) - middle) / middle:.0%} | "
                f"{error:.0e} |"
            ]
        last = group[-1]
        lines += ["", f"Seconds, {last['column']}:", ""]
        lines += ["| | N_c | space | set-up | solve | wins over GAMG | over MUMPS after |"]
        lines += ["|" + " --- |" * 7]
        rivals = {key: row for key, row in last["rows"].items() if key.startswith("GAMG")}
        rival = next(iter(rivals.values()))
        for name, f in last["rows"].items():
            ours = "space" in f
            ahead = [after(f, other) if ours else "" for other in (rival, last["rows"]["MUMPS"])]
            lines += [
                f"| {name} | {f.get('num_coarse', '')} | "
                + (f"{f['space']:.2f}" if ours else "")
                + f" | {f['setup']:.2f} | {f['solve']:.3f} | {ahead[0]} | {ahead[1]} |"
            ]
    return "\n".join(lines) + "\n"


def after(ours: dict[str, Any], other: dict[str, Any]) -> str:
    """Right-hand sides until we win."""
    if ours["reason"] <= 0:
        return "never"
    if other["reason"] <= 0:
        return "1 (it fails)"
    gain = other["solve"] - ours["solve"]
    lost = ours["space"] + ours["setup"] - other["setup"]
    if lost <= 0 and gain >= 0:
        return "1"
    return "never" if gain <= 0 else f"{max(1, int(np.ceil(lost / gain)))}"


def main() -> None:
    """Run the cases and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", help="from 2d, 3d, elasticity, spe10")
    parser.add_argument("--quick", action="store_true", help="small and few")
    parser.add_argument("--output", default=str(Path(__file__).parent / "results"))
    options = parser.parse_args()
    spe10 = os.environ.get("SPE10")
    chosen = options.cases or ["2d", "elasticity", "3d", *(["spe10"] if spe10 else [])]
    records: list[dict[str, Any]] = []
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    name = "two-level-quick" if options.quick else "two-level"
    if options.cases and (output / f"{name}.json").exists():
        # What is not run again stays.
        records = json.loads((output / f"{name}.json").read_text())["records"]
    settings = {"rtol": RTOL, "seed": SEED, "gamg": GAMG, "tuning": TUNING}
    for case in chosen:
        found: list[dict[str, Any]]
        if case == "spe10":
            if spe10 is None:
                raise SystemExit("The case spe10 needs SPE10=path of the data.")
            found = run_spe10(spe10, (10,) if options.quick else (10, 30, 45))
        elif case == "elasticity":
            found = run_elasticity(options.quick)
        elif case in CASES:
            found = run_case(case, options.quick)
        else:
            raise SystemExit(f"Unknown case {case!r}; expected 2d, 3d, elasticity or spe10.")
        labels = {record["case"] for record in found}
        records = [r for r in records if r["case"] not in labels] + found
        # After every case: a long run that is stopped leaves what it has.
        (output / f"{name}.md").write_text(tables(records))
        record = {
            "settings": settings,
            "machine": machine() | {"load": os.getloadavg()},
            "records": records,
        }
        (output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(tables(records))


if __name__ == "__main__":
    main()
