# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Can the error control be trusted? Random problems, every bound against the true error.

Each case draws a field (log-normal, two-phase, channels; contrast 1 to 1e6), a mesh (2D, some 3D),
a coarse grid, a basis, a right-hand side, and Dirichlet and Neumann data. For the multiscale
solution the script computes

- the true error against the fine solution (sparse direct solve), and its bounds by conjugate
  gradients (`bound_fine_error`);
- a lower bound of the true error against the exact solution (energies on a finer mesh with the
  same coefficient), and its guaranteed bound (`bound_error`, on coarse patches and globally);
- the rank correlation of the local indicators with the true local errors.

Then adaptive enrichment is compared with uniform spaces on three fields.

    python benchmarks/bench_trust.py [--quick] [--cases N] [--output FOLDER]

A report goes to ``benchmarks/results/trust.md``, with JSON beside it (``--quick`` only prints). The
exit status is 1 if any bound is below the true error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mpi4py import MPI

import numpy as np
from scipy.stats import spearmanr

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import estimate
from dolfinx_msnn.petsc import LinearProblem
from dolfinx_msnn.space.enrichment import position_in_vertex

DIRECT = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}
#: What rounding errors may do to a comparison of two energies.
SLACK = 1e-6
CELLS = {2: ("quadrilateral", "triangle"), 3: ("hexahedron", "tetrahedron")}


def field(name: str, dim: int, contrast: float, seed: int) -> Any:
    if name == "channels":
        return msnn.fields.Channels(dim, contrast=contrast, seed=seed)
    if name == "two_phase":
        return msnn.fields.TwoPhase(dim, contrast=contrast, seed=seed)
    # Six standard deviations span the contrast.
    return msnn.fields.LogNormal(dim, variance=max((np.log(contrast) / 6) ** 2, 1e-9), seed=seed)


class Problem:
    """A random diffusion problem that can be put on meshes of several sizes."""

    def __init__(self, seed: int, dim: int) -> None:
        rng = np.random.default_rng(seed)
        self.dim, self.seed = dim, seed
        self.cell = str(rng.choice(CELLS[dim]))
        choices = [(32, 8), (40, 8), (36, 6), (48, 6)] if dim == 2 else [(8, 2), (9, 3)]
        self.n, self.boxes = choices[rng.integers(len(choices))]
        self.refine = 4 if dim == 2 else 2
        self.kind = str(rng.choice(["log_normal", "two_phase", "channels"]))
        self.contrast = float(10 ** rng.uniform(0, 6)) if seed % 8 else 1.0
        self.field = field(self.kind, dim, max(self.contrast, 1.0), seed)
        self.waves = rng.standard_normal((3, dim)) * 4
        self.amplitudes = rng.standard_normal(4)
        self.flux = float(rng.standard_normal())
        self.boundary = rng.standard_normal(1 + dim) * (rng.random() < 0.7)
        self.sides = int(rng.integers(3))
        self.modes = int(rng.integers(1, 9))
        self.basis = str(rng.choice(["SpectralBasis", "FilteredBasis"]))

    def source(self, x: np.ndarray) -> np.ndarray:
        """Right-hand side at points, shape ``(dim, num)``."""
        return self.amplitudes[0] + self.amplitudes[1:] @ np.cos(self.waves @ x)

    def on(self, refine: int) -> dict[str, Any]:
        """Mesh, space, forms and conditions; the data are constant on the cells of an n-grid."""
        d, n = self.dim, self.n * refine
        kind = mesh.CellType[self.cell]
        create = mesh.create_unit_square if d == 2 else mesh.create_unit_cube
        msh = create(MPI.COMM_SELF, *[n] * d, kind)
        V = fem.functionspace(msh, ("Lagrange", 1))
        kappa, f = (fem.Function(fem.functionspace(msh, ("DG", 0))) for _ in range(2))
        num = msh.topology.index_map(d).size_local
        middle = mesh.compute_midpoints(msh, d, np.arange(num, dtype=np.int32))[:, :d]
        place = (np.floor(middle * self.n) + 0.5) / self.n
        kappa.x.array[:] = self.field(place)
        f.x.array[:] = self.source(place.T)
        g = fem.Function(V)
        g.interpolate(lambda x: self.boundary[0] + self.boundary[1:] @ x[:d])

        def where(x: np.ndarray) -> np.ndarray:
            inside = x[:d] * (1 - x[:d])
            if self.sides == 0:
                return np.isclose(inside, 0).any(axis=0)
            return np.isclose(x[0], 0) if self.sides == 1 else np.isclose(inside[0], 0)

        bcs = [fem.dirichletbc(g, fem.locate_dofs_geometrical(V, where))]
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        flux = fem.Constant(msh, self.flux)
        L = f * v * ufl.dx + flux * v * ufl.ds
        return {"V": V, "kappa": kappa, "f": f, "g": flux, "a": a, "L": L, "bcs": bcs}


def solve_fine(p: dict[str, Any]) -> fem.Function:
    problem = FineProblem(
        p["a"], p["L"], bcs=p["bcs"], petsc_options=DIRECT, petsc_options_prefix="trust_fine_"
    )
    return problem.solve()


def energy(p: dict[str, Any], u: fem.Function) -> float:
    """a(u, u)/2 - L(u)."""
    a = ufl.replace(p["a"], dict.fromkeys(p["a"].arguments(), u))
    L = ufl.replace(p["L"], {p["L"].arguments()[0]: u})
    return float(fem.assemble_scalar(fem.form(0.5 * a - L)))


def norm(p: dict[str, Any], u: fem.Function) -> float:
    a = ufl.replace(p["a"], dict.fromkeys(p["a"].arguments(), u))
    return float(np.sqrt(fem.assemble_scalar(fem.form(a))))


def difference(u: fem.Function, v: fem.Function) -> fem.Function:
    e = fem.Function(u.function_space)
    e.x.array[:] = u.x.array - v.x.array
    return e


def local_errors(p: dict[str, Any], e: fem.Function, coarse: msnn.CoarseGrid) -> np.ndarray:
    """Energy norms of e on the cells of each neighbourhood."""
    V = p["V"]
    w = ufl.TestFunction(p["kappa"].function_space)
    density = p["kappa"] * ufl.inner(ufl.grad(e), ufl.grad(e)) * w * ufl.dx
    cells = fem.assemble_vector(fem.form(density)).array
    hats = coarse.hats(V.tabulate_dof_coordinates())
    sums = np.zeros(coarse.num_vertices)
    for cell, dofs in enumerate(V.dofmap.list):
        sums[np.unique(hats.vertices[dofs][hats.values[dofs] > 0])] += cells[cell]
    return np.sqrt(sums)


def space(problem: Problem, p: dict[str, Any], coarse: msnn.CoarseGrid) -> Any:
    u, v = ufl.TrialFunction(p["V"]), ufl.TestFunction(p["V"])
    basis = getattr(msnn, problem.basis)(num_modes=problem.modes)
    s = p["kappa"] * u * v * ufl.dx
    return msnn.multiscale_functionspace(p["V"], coarse, basis, p["a"], s, p["bcs"])


def run_case(seed: int, dim: int) -> dict[str, Any]:
    """Everything about one random problem."""
    problem = Problem(seed, dim)
    p = problem.on(1)
    coarse = msnn.CoarseGrid(p["V"].mesh, [problem.boxes] * dim)
    fine, finer = solve_fine(p), problem.on(problem.refine)
    least = energy(finer, solve_fine(finer))
    times = {}
    with (
        space(problem, p, coarse) as W,
        LinearProblem(
            p["a"], p["L"], W, bcs=p["bcs"], petsc_options_prefix="trust_"
        ) as coarse_problem,
    ):
        u = coarse_problem.solve()
        e = difference(fine, u)
        true = norm(p, e)
        start = time.perf_counter()
        constants = estimate.stability_constants(W, coarse, p["a"], p["bcs"])
        lambda_min = estimate.schwarz_lambda_min(W, coarse, constants)
        times["constants"] = time.perf_counter() - start
        start = time.perf_counter()
        found = estimate.local_indicators(coarse_problem)
        weighted = estimate.local_indicators(coarse_problem, constants=constants)
        times["indicators"] = (time.perf_counter() - start) / 2
        errors = local_errors(p, e, coarse)[found.vertex]
        start = time.perf_counter()
        with estimate.SchwarzPreconditioner(coarse_problem) as pc:
            # No bound where a basis misses its constant; λ_min = 1 is a guess, and not reported.
            guess = lambda_min or 1.0
            fine_bound = estimate.bound_fine_error(coarse_problem, pc, guess, steps=10)
            times["cg"] = time.perf_counter() - start
            step = fem.Function(p["V"])
            estimate.bound_fine_error(coarse_problem, pc, guess, steps=2, error=step)
        stepped = estimate.local_energies(p["a"], step, coarse)[found.vertex]
        num_dofs = W.num_dofs
    exact = float(np.sqrt(max(2 * (energy(p, u) - least), 0.0)))
    data = (u, p["kappa"], p["f"])
    start = time.perf_counter()
    bound = estimate.bound_error(*data, coarse, bcs=p["bcs"], g=p["g"])
    times["patches"] = time.perf_counter() - start
    start = time.perf_counter()
    sharpest = estimate.bound_error(*data, None, bcs=p["bcs"], g=p["g"])
    times["global"] = time.perf_counter() - start
    shared = 2**dim
    return {
        "seed": seed,
        "dim": dim,
        "cell": problem.cell,
        "n": problem.n,
        "boxes": problem.boxes,
        "field": problem.kind,
        "contrast": problem.contrast,
        "basis": problem.basis,
        "modes": problem.modes,
        "sides": problem.sides,
        "num_dofs": num_dofs,
        "relative error": true / norm(p, fine),
        "error (fine)": true,
        "lambda_min": lambda_min,
        "cg steps": fine_bound.steps,
        "cg lower": fine_bound.lower / true,
        "cg": fine_bound.upper / true if lambda_min > 0 else float("inf"),
        "indicators, guaranteed": float(np.sqrt(shared)) * weighted.total / true,
        "indicators": found.total / true,
        "error (exact)": exact,
        "patches": bound.upper / exact,
        "global": sharpest.upper / exact,
        "correction": bound.correction / exact,
        "rank correlation": float(spearmanr(found.values, errors).statistic),
        "rank correlation, weighted": float(spearmanr(weighted.values, errors).statistic),
        "rank correlation, two steps": float(spearmanr(stepped, errors).statistic),
        "seconds": times,
    }


def first(rounds: list[tuple[int, float]], level: float) -> int | None:
    """The fewest dofs whose error is at most ``level``."""
    return min((n for n, e in rounds if e <= level), default=None)


def run_adaptive(kind: str, contrast: float, quick: bool) -> dict[str, Any]:
    """Uniform and adaptive spaces on one field."""
    problem = Problem(3, 2)
    problem.cell, problem.n, problem.boxes = "quadrilateral", 32 if quick else 64, 8
    problem.kind, problem.contrast = kind, contrast
    problem.field = field(kind, 2, contrast, 3)
    problem.modes, problem.basis = 12 if quick else 24, "SpectralBasis"
    p = problem.on(1)
    coarse = msnn.CoarseGrid(p["V"].mesh, (8, 8))
    fine = solve_fine(p)
    size = norm(p, fine)
    record: dict[str, Any] = {"field": kind, "contrast": contrast, "N_f": len(fine.x.array)}
    with space(problem, p, coarse) as W:
        rounds = []
        for num in range(1, problem.modes + 1):
            with (
                estimate.enrich(W, keep=position_in_vertex(W.vertex) < num) as smaller,
                LinearProblem(
                    p["a"], p["L"], smaller, bcs=p["bcs"], petsc_options_prefix="trust_u_"
                ) as uniform,
            ):
                error = norm(p, difference(fine, uniform.solve())) / size
                rounds.append((smaller.num_dofs, error))
        record["uniform"] = rounds
        variants: dict[str, dict[str, Any]] = {
            "modes": {"kind": "modes", "marking": 0.5, "initial_modes": 1},
            "both": {"kind": "both", "marking": 0.7, "initial_modes": 2, "max_rounds": 60},
            "online": {},
            "online, fewest": {"marking": 0.6, "initial_modes": 1, "max_rounds": 40},
            "online, all at once": {"colours": False, "marking": 1.0, "initial_modes": 4},
        }
        for name, options in variants.items():
            options = {"max_rounds": 20, "tol": 1e-3} | options
            start = time.perf_counter()
            with estimate.adapt(
                p["a"],
                p["L"],
                W,
                coarse,
                bcs=p["bcs"],
                petsc_options_prefix="trust_a_",
                **options,
            ) as result:
                last = result.rounds[-1]
                true = norm(p, difference(fine, result.u))
                reductions = [
                    r.lower / s.lower
                    for r, s in zip(result.rounds, result.rounds[1:], strict=False)
                ]
                record[name] = {
                    "rounds": [(r.num_dofs, r.upper / size) for r in result.rounds],
                    "effectivity": last.upper / true,
                    "reductions": reductions,
                    "seconds": time.perf_counter() - start,
                }
    return record


def quantiles(values: list[float]) -> str:
    values = [v for v in values if np.isfinite(v)]
    low, middle, high = (float(q) for q in np.quantile(values, [0.0, 0.5, 1.0]))
    return f"{low:.3f} | {middle:.3f} | {high:.3f}"


def report(cases: list[dict[str, Any]], adaptive: list[dict[str, Any]]) -> tuple[str, int]:
    """The Markdown report and the number of violations."""
    lines = [
        "# Error control on random problems",
        "",
        "Written by `python benchmarks/bench_trust.py`; nothing here is typed by hand.",
        "",
        f"{len(cases)} cases, {sum(c['dim'] == 3 for c in cases)} of them in 3D; contrasts from "
        f"{min(c['contrast'] for c in cases):.3g} to {max(c['contrast'] for c in cases):.3g}; "
        f"relative errors from {min(c['relative error'] for c in cases):.2%} to "
        f"{max(c['relative error'] for c in cases):.2%}.",
        "",
        "## Bounds",
        "",
        "Effectivity: bound over true error; a value below one (less rounding errors) is a "
        "violation. The true error against the exact solution is bounded from below by energies "
        "on a finer mesh, so those effectivities are bounds from above.",
        "",
        "| bound | of the error against | violations | least | median | largest |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    violations = 0
    rows = [
        ("cg", "fine solution"),
        ("indicators, guaranteed", "fine solution"),
        ("patches", "exact solution"),
        ("global", "exact solution"),
    ]
    for key, what in rows:
        values = [c[key] for c in cases]
        bad = sum(v < 1 - SLACK for v in values)
        violations += bad
        lines.append(f"| {key} | {what} | {bad} | {quantiles(values)} |")
    above = sum(c["cg lower"] > 1 + SLACK for c in cases)
    violations += above
    for dim in (2, 3):
        for key in ("cg", "patches", "global"):
            values = [c[key] for c in cases if c["dim"] == dim]
            if values:
                lines.append(f"| {key}, {dim}D only | | | {quantiles(values)} |")
    lines += [
        "",
        f"Cases without a bound against the fine solution (λ_min bound of zero): "
        f"{sum(not np.isfinite(c['cg']) for c in cases)}.",
        f"Lower bound by conjugate gradients: {above} violations; over the true error "
        f"{quantiles([c['cg lower'] for c in cases])} (least, median, largest).",
        f"Conjugate gradient steps: {quantiles([c['cg steps'] for c in cases])}; "
        f"λ_min bound: {quantiles([c['lambda_min'] for c in cases])}.",
        "",
        "## Indicators",
        "",
        "Spearman's rank correlation with the true local errors, over the neighbourhoods of one "
        "case (2D, where there are at least 49).",
        "",
        "| indicator | least | median | largest | cases with at least 0.8 |",
        "| --- | --- | --- | --- | --- |",
    ]
    plane = [c for c in cases if c["dim"] == 2]
    names = {
        "rank correlation": "η_i (`local_indicators`)",
        "rank correlation, weighted": "√τ_i η_i",
        "rank correlation, two steps": "`local_energies` after two CG steps",
    }
    for key, name in names.items():
        values = [c[key] for c in plane]
        good = sum(v >= 0.8 for v in values)
        lines.append(f"| {name} | {quantiles(values)} | {good} of {len(values)} |")
    lines += [
        "",
        f"√(Σ η_i²) over the true error: {quantiles([c['indicators'] for c in cases])}.",
        "",
        "## Seconds (median over 2D cases, one core)",
        "",
        "| " + " | ".join(plane[0]["seconds"]) + " |",
        "| " + " | ".join("---" for _ in plane[0]["seconds"]) + " |",
        "| "
        + " | ".join(
            f"{np.median([c['seconds'][k] for c in plane]):.2f}" for k in plane[0]["seconds"]
        )
        + " |",
        "",
        "## Adaptive enrichment",
        "",
        "Coarse dofs needed for a relative energy error (uniform: true error; adaptive: guaranteed "
        "bound). A dash: not reached with all the modes or rounds allowed.",
        "",
        "| field | contrast | space | 5 % | 1 % | 0.1 % | error divided by, per round "
        "(least, median) | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in adaptive:
        for name in ("uniform", *(k for k in r if isinstance(r[k], dict))):
            rounds = r["uniform"] if name == "uniform" else r[name]["rounds"]
            reached = " | ".join(str(first(rounds, t) or "–") for t in (0.05, 0.01, 0.001))
            extra = "| |"
            if name != "uniform":
                factors = r[name]["reductions"]
                extra = (
                    f"| {min(factors):.1f}, {np.median(factors):.1f} | {r[name]['seconds']:.1f} |"
                )
                violations += r[name]["effectivity"] < 1 - SLACK
            else:
                best = min(e for _, e in rounds)
                name = f"uniform (to {max(n for n, _ in rounds)} dofs: {best:.1%})"
            lines.append(f"| {r['field']} | {r['contrast']:.0e} | {name} | {reached} {extra}")
    lines += ["", f"Violations in all: {violations}.", ""]
    return "\n".join(lines), violations


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases, print only")
    parser.add_argument("--cases", type=int, help="number of random cases")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    count = options.cases or (6 if options.quick else 102)
    cases = []
    for k in range(count):
        start = time.perf_counter()
        case = run_case(k, 3 if k % 6 == 5 else 2)
        cases.append(case)
        print(
            f"{k:4d} {case['field']:10s} {case['contrast']:8.1e} cg {case['cg']:.3f} "
            f"patches {case['patches']:.3f} rank {case['rank correlation']:.2f} "
            f"{time.perf_counter() - start:.1f} s",
            flush=True,
        )
    fields = [("channels", 1e4)] if options.quick else []
    fields = fields or [("log_normal", 1e3), ("two_phase", 1e4), ("channels", 1e6)]
    adaptive = [run_adaptive(kind, contrast, options.quick) for kind, contrast in fields]
    text, violations = report(cases, adaptive)
    print(text)
    if not options.quick:
        options.output.mkdir(exist_ok=True)
        (options.output / "trust.md").write_text(text)
        (options.output / "trust.json").write_text(
            json.dumps({"cases": cases, "adaptive": adaptive}, indent=1)
        )
    return int(violations > 0)


if __name__ == "__main__":
    sys.exit(main())
