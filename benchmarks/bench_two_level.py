# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Two-level preconditioner: iterations over the contrast, and time next to GAMG and MUMPS.

-div(kappa grad u) = 1 with u = 0 on two opposite sides, or linear elasticity under its own weight,
clamped on one side. CG from zero until the natural norm (r, M^-1 r)^(1/2) has fallen by 1e-8; the
error in energy relative to MUMPS is measured. Processor time of one core.

    python benchmarks/bench_two_level.py [--quick] [--resume] [--show]
        [--cases 2d elasticity 3d spe10]

SPE10=path adds layers of SPE10 Model 2. PETSC_PYTHON=command of another Python with petsc4py and
hypre adds BoomerAMG, in a process of its own.
"""

from __future__ import annotations

import math
import os
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from harness.bases import FILTERED, GUARDED, LEARNED, SLEPC, make, usable
from harness.coarse_solvers import assemble, solve_two_level
from harness.fine_solvers import RTOL, PetscSolver, System, boomer, timed
from harness.launch import WorkerError, launch, other_python
from harness.problems import FIRST_SEED, GAMG, MUMPS, Diffusion, Problem, box
from harness.results import Parser, Record, Records, Results, Shown
from harness.timing import Stopwatch

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx_msnn import fields
from dolfinx_msnn.algebra.subdomains import subdomains

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
LAYERS = (10, 30, 45)
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
BEST = f"GAMG, best of {len(TUNING)} settings"


class Bad:
    """Random functions in place of modes, or the constant alone."""

    def __init__(self, num_random: int) -> None:
        self.num = num_random

    def modes(self, problems: Any) -> list[msnn.LocalModes]:
        """Not modes."""
        rng, found = np.random.default_rng(0), []
        for p in problems:
            vectors = rng.standard_normal((self.num, p.num_dofs))
            vectors = vectors if self.num else np.ones((1, p.num_dofs))
            found.append(msnn.LocalModes(np.zeros(len(vectors)), vectors))
        return found


def elasticity(E: Any, boxes: int, nu: float = 0.3) -> Problem:
    """Linear elasticity, isotropic, clamped at x = 0."""
    msh = E.function_space.mesh
    V = fem.functionspace(msh, ("Lagrange", 1, (3,)))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)

    def strain(w: Any) -> Any:
        return ufl.sym(ufl.grad(w))

    mu, lam = E / (2 * (1 + nu)), E * nu / ((1 + nu) * (1 - 2 * nu))
    stress = 2 * mu * strain(u) + lam * ufl.tr(strain(u)) * ufl.Identity(3)
    L = ufl.inner(fem.Constant(msh, np.array([0.0, 0.0, -1.0])), v) * ufl.dx
    dofs = fem.locate_dofs_geometrical(V, lambda y: np.isclose(y[0], 0.0))
    bcs = [fem.dirichletbc(np.zeros(3), dofs, V)]
    return Problem(E, ufl.inner(stress, strain(v)) * ufl.dx, L, bcs, boxes)


def set_rigid_motions(A: PETSc.Mat, V: Any) -> None:
    """Rigid motions as the near null space of a matrix, for GAMG."""
    x = V.tabulate_dof_coordinates()[: V.dofmap.index_map.size_local]
    motions = np.zeros((6, *x.shape))
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        motions[k, :, k] = 1.0
        motions[3 + k, :, i], motions[3 + k, :, j] = -x[:, j], x[:, i]
    Q, _ = np.linalg.qr(motions.reshape(6, -1).T)
    vectors = []
    for column in Q.T:
        vectors.append(A.createVecLeft())
        vectors[-1].array_w[:] = column
    A.setNearNullSpace(PETSc.NullSpace().create(vectors=vectors))


def two_level(problem: Problem, system: System, basis: Any, **settings: Any) -> Record:
    """Build the space, then solve."""
    watch = Stopwatch()
    with problem.space(basis) as W:
        seconds = watch.book("space")
        found = solve_two_level(system, W, 1, **settings)
        return found | {
            "space_s": seconds,
            "N_c": W.num_dofs,
            "largest": max(len(dofs) for _, dofs in subdomains(W)),
            "last_eigenvalue": float(min(values[-1] for values in W.eigenvalues.values())),
        }


def fine(system: System, options: dict[str, Any]) -> Record:
    """A solver by PETSc's options; the second solve is timed."""
    solver = PetscSolver(system.A, options, strict=False)
    solver.solve(system.b[0])
    found = timed(solver, system, 1) | {"setup_s": solver.setup, "solved": solver.solved}
    solver.destroy()
    return found


def boomer_amg(system: System, dim: int) -> Record | None:
    """BoomerAMG by another PETSc."""
    python = other_python()
    if python is None:
        return None
    spec = {"solver": "BoomerAMG", "settings": {"": boomer(dim)}, "repeat": 1, "targets": None}
    with tempfile.TemporaryDirectory() as folder:
        system.write(folder)
        try:
            (found,) = launch("harness.fine_solvers", folder, spec, python=python)
        except WorkerError as error:
            print(error)
            return None
    return found if "over" in found else found | {"solved": True}


def spaces(problem: Problem, quick: bool) -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Names, bases and settings of the preconditioner for one coefficient."""
    if len(problem.L.arguments()[0].ufl_shape):
        for num in (12,) if quick else (12, 24):
            yield f"{num} modes", msnn.SpectralBasis(num), {}
        return
    names = {SLEPC: "computed", FILTERED: "filtered", LEARNED: "learned"}
    kinds, basis = usable([*names, GUARDED]), partial(make, kappa=problem.kappa)
    for kind in kinds[:3]:
        yield names[kind], basis(kind), {}
    yield "constant only", Bad(0), {}
    yield "random", Bad(8), {}
    # As many as the most complicated neighbourhoods need.
    for kind in kinds:
        name = names.get(kind, "learned, guarded")
        yield f"{name}, 16 modes", basis(kind, num_modes=16), {}
    if problem.V.mesh.topology.dim == 3:
        yield "filtered, 48 modes", basis(FILTERED, num_modes=48), {}
        yield "filtered, hybrid, 16 modes", basis(FILTERED, num_modes=16), {"kind": "hybrid"}
    else:
        for variant in ("hybrid", "additive"):
            yield f"computed, {variant}", basis(SLEPC), {"kind": variant}


def tuned(system: System) -> Record:
    """GAMG at the best of many settings."""
    tried = [fine(system, options) | {"options": str(options)} for options in TUNING]
    good = [r for r in tried if r["solved"]]
    best = min(good or tried, key=lambda r: r["iterations"])
    return best | {"diverged": len(tried) - len(good)}


def posed(
    case: str, quick: bool, path: str | None
) -> Iterator[tuple[str, str, Callable[[], Problem]]]:
    """Title and column in the table, and a function for the problem, of a case."""
    if case == "spe10":
        for layer in LAYERS[:1] if quick else LAYERS:
            field = fields.read_spe10(str(path), layer)
            kappa = field.interpolate(field.create_mesh(MPI.COMM_SELF))
            boxes = [k // 10 for k in field.shape]
            column = f"layer {layer} ({kappa.x.array.max() / kappa.x.array.min():.0e})"
            yield "SPE10", column, partial(Diffusion, kappa, boxes, 1, f=1.0, ends=(0.0, 0.0))
    elif case == "elasticity":
        cells, boxes = (6, 2) if quick else (12, 3)
        for contrast in (1e2, 1e6):
            E = fields.two_phase(box(3, cells), contrast, seed=FIRST_SEED, correlation_length=0.3)
            title = f"3D elasticity, {cells} cells a side, {boxes} boxes, two_phase (length 0.3)"
            yield title, f"{contrast:.0e}", partial(elasticity, E, boxes)
    else:
        dim, cells, boxes, families = (QUICK if quick else CASES)[case]
        for family in families:
            for contrast in CONTRASTS[::2] if quick else CONTRASTS:
                kappa = getattr(fields, family)(box(dim, cells), contrast, seed=FIRST_SEED)
                title = f"{dim}D, {cells} cells a side, {boxes} boxes, {family}"
                yield title, f"{contrast:.0e}", partial(Diffusion, kappa, boxes, ends=(0.0, 0.0))


def run(results: Results, options: Namespace) -> None:
    """All problems of all cases."""
    for case in options.cases:
        for title, column, create in posed(case, options.quick, options.spe10):
            key: Record = {"case": title, "column": column}
            if not results.missing(**key, method="MUMPS"):
                continue
            problem = create()
            system = assemble(problem, [problem.L], MUMPS)
            key["N_f"] = system.A.getSize()[0]
            rows: dict[str, Callable[[], Record | None]] = {
                name: partial(two_level, problem, system, basis, **settings)
                for name, basis, settings in spaces(problem, options.quick)
            }
            if case == "elasticity":
                set_rigid_motions(system.A, problem.V)
                rows[BEST] = partial(tuned, system)
            else:
                rows["GAMG"] = partial(fine, system, GAMG)
            rows["BoomerAMG"] = partial(boomer_amg, system, problem.V.mesh.topology.dim)
            rows["MUMPS"] = partial(fine, system, MUMPS)
            for method, solve in rows.items():
                if results.missing(**key, method=method) and (found := solve()) is not None:
                    results.add(key | {"method": method} | found)
            system.destroy()


def tables(case: str, records: Records, clock: str) -> list[Shown]:
    """Iterations over the columns, then times in the last of them."""
    columns = [column for column in records.by("column")]
    head, rows = ["", *columns, "spread", "error"], []
    for method, found in records.by("method").items():
        if method == "MUMPS":
            continue
        cells = {r["column"]: count(r) for r in found}
        counts = [r["iterations"] for r in found if "iterations" in r]
        middle = (max(counts) + min(counts)) / 2 if counts else np.nan
        error = max((r["energy"] for r in found if "energy" in r), default=np.nan)
        row = [method, *(cells.get(column, "") for column in columns)]
        rows.append(
            [*row, f"{(max(counts) - middle) / middle:.0%}" if counts else "", f"{error:.0e}"]
        )
    notes = (
        f"CG from zero to a fall of {RTOL:g} in the natural norm. (d): diverged or not converged. "
        "Spread: largest deviation of the iterations from the middle of their range. Error: "
        "largest relative error in energy. GAMG sees the matrix as DOLFINx leaves it, not marked "
        "as positive definite."
    )
    first = Shown(f"{case}, {records[0]['N_f']} dofs: iterations", head, rows, notes)
    last = [r for r in records if r["column"] == columns[-1] and "setup_s" in r]
    rivals = [
        next(r for r in last if r["method"] in names) for names in (("GAMG", BEST), ("MUMPS",))
    ]
    rows = []
    for r in last:
        ours = "space_s" in r
        row = [r["method"], f"{r.get('N_c', '')}", f"{r['space_s']:.2f}" if ours else ""]
        row += [f"{r['setup_s']:.2f}", f"{r['solve_s']:.3f}"]
        rows.append([*row, *(after(r, rival) if ours else "" for rival in rivals)])
    head = ["", "N_c", "space", "set-up", "solve", "wins over GAMG", "over MUMPS after"]
    notes = (
        f"Seconds of one core, {clock}. Space: basis and P. Set-up: A_0, its factors, smoother. "
        "Solve: one right-hand side. Wins: number of right-hand sides from which on we take less "
        "time in all."
    )
    return [first, Shown(f"{case}, {columns[-1]}: seconds", head, rows, notes)]


def count(record: Record) -> str:
    """Iterations, and whether they were enough."""
    if "iterations" not in record:
        return f"– ({record['over']})"
    text = f"{record['iterations']:.0f}" + ("" if record["solved"] else " (d)")
    diverged = record.get("diverged")
    return text if diverged is None else f"{text}, {diverged} settings diverge"


def after(ours: Record, other: Record) -> str:
    """Right-hand sides until we win."""
    if not ours["solved"]:
        return "never"
    if not other["solved"]:
        return "1 (it fails)"
    gain = other["solve_s"] - ours["solve_s"]
    lost = ours["space_s"] + ours["setup_s"] - other["setup_s"]
    if lost <= 0 and gain >= 0:
        return "1"
    return "never" if gain <= 0 else f"{max(1, math.ceil(lost / gain))}"


def main() -> None:
    """Run the cases and write the tables."""
    spe10 = os.environ.get("SPE10")
    parser = Parser(__doc__, ["2d", "elasticity", "3d", *["spe10"] * bool(spe10)])
    options = parser.parse_args()
    options.spe10 = spe10
    settings = {"rtol": RTOL, "seed": FIRST_SEED, "gamg": GAMG, "tuning": TUNING}
    results = Results("two-level", options, settings | {"clock": "processor time"})
    if not options.show:
        run(results, options)
    clock = results.head["settings"]["clock"]
    groups = results.records.by("case")
    results.finish([t for case, group in groups.items() for t in tables(case, group, clock)])


if __name__ == "__main__":
    main()
