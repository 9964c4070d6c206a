# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Steady Richards' equation in coarse spaces of computed, filtered and learned bases.

-div(kappa k_r(p) grad p) = f on the unit square or cube with k_r = 1/(1 + |p|), by Newton and by
Picard, on the fine mesh and in the coarse space; 8 modes for each vertex, from kappa alone. Two
sets of data: "drop" (p = 0 at x = 0 and p = -5 at x = 1, f = 1, unit inflow at the upper end of
the last axis, no flow through the other sides) and "source" (p = 0 on the whole boundary, f = 1).
Errors are relative to the fine Newton solution, in L2 and in the energy norm of kappa; times are
processor time of one core. Newton's steps are counted until the residual has fallen by 1e-8; as
residuals on the two levels are not measured in the same norm, and Picard's fall slowly, Picard's
steps are counted until nodal values change by less than 1e-6 (relative, Euclidean).

    python benchmarks/bench_richards.py [--quick] [--fields N] [case ...]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import FAMILIES, FIRST_SEED, NUM_MODES, box, clock, norms
from tables import machine

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import NonlinearProblem as FineProblem
from dolfinx_msnn.algebra.product import CoarseProduct
from dolfinx_msnn.petsc import NonlinearProblem, PicardProblem
from dolfinx_msnn.richards import Haverkamp

#: name: dimension, fine cells, coarse boxes, fields, families, sets of data
CASES: dict[str, tuple[int, int, int, int, tuple[str, ...], tuple[str, ...]]] = {
    "2d-100": (2, 100, 5, 10, ("log-normal",), ("drop", "source")),
    "2d-250": (2, 250, 10, 10, ("log-normal",), ("drop", "source")),
    "3d-50": (3, 50, 5, 3, ("log-normal",), ("drop",)),
    "3d-100": (3, 100, 8, 1, ("log-normal",), ("drop",)),
}
QUICK = {
    "2d-quick": (2, 30, 2, 1, ("log-normal",), ("drop", "source")),
    "3d-quick": (3, 12, 2, 1, ("log-normal",), ("drop",)),
}
#: L2 errors in per cent of Rudikov et al. (ICLR 2026), their Richards' problems: GMsFEM, learned.
PAPER = {"2d-100": (2.03, 1.87), "2d-250": (1.79, 1.72), "3d-100": (2.54, 2.57)}
TOLERANCES = {"snes_rtol": 1e-8, "snes_stol": 0.0, "snes_atol": 1e-12}
#: Far enough for nodal values to have settled, whatever the norm of the residual.
PICARD = {"snes_rtol": 1e-10}
LAW = Haverkamp()
#: Two Gauss points in each direction. UFL's own choice for a rational k_r has many more.
DX = ufl.dx(metadata={"quadrature_degree": 3})


class Forms(NamedTuple):
    """The problem for one unknown p: residual, Picard's two forms, and conditions."""

    p: Any
    F: Any
    a: Any
    L: Any
    bcs: list[Any]


def pose(V: Any, kappa: Any, data: str) -> Forms:
    """Richards' equation with one of the sets of data."""
    msh = V.mesh
    p, q, v = fem.Function(V), ufl.TrialFunction(V), ufl.TestFunction(V)
    conductivity = kappa * LAW.relative_permeability(p)
    L = fem.Constant(msh, 1.0) * v * ufl.dx
    if data == "source":
        msh.topology.create_connectivity(msh.topology.dim - 1, msh.topology.dim)
        facets = mesh.exterior_facet_indices(msh.topology)
        dofs = fem.locate_dofs_topological(V, msh.topology.dim - 1, facets)
        bcs = [fem.dirichletbc(0.0, dofs, V)]
    else:
        bcs = [
            fem.dirichletbc(
                value, fem.locate_dofs_geometrical(V, lambda x, at=at: np.isclose(x[0], at)), V
            )
            for at, value in ((0.0, 0.0), (1.0, -5.0))
        ]
        top = ufl.conditional(
            ufl.gt(ufl.SpatialCoordinate(msh)[msh.topology.dim - 1], 1 - 1e-9), 1.0, 0.0
        )
        L += top * v * ufl.ds
    a = conductivity * ufl.inner(ufl.grad(q), ufl.grad(v)) * DX
    return Forms(p, ufl.action(a, p) - L, a, L, bcs)


def start(forms: Forms) -> None:
    """The start of all iterations: boundary values, zero inside."""
    forms.p.x.array[:] = 0.0
    for bc in forms.bcs:
        bc.set(forms.p.x.array)


class Changes:
    """A monitor of SNES: the step at which nodal values no longer change by more than 1e-6."""

    def __init__(self, values: Callable[[Any], Any]) -> None:
        self.values, self.last, self.step = values, np.zeros(0), 0

    def __call__(self, snes: Any, step: int, _: float) -> None:
        """Called by SNES before the first and after each step."""
        new = self.values(snes.getSolution())
        change = np.linalg.norm(new - self.last) if step else np.inf
        if change <= 1e-6 * np.linalg.norm(new) and not self.step:
            self.step = step
        self.last = new


def fine_options(dim: int, symmetric: bool) -> dict[str, Any]:
    """A direct solver in 2D, multigrid in 3D."""
    if dim == 2:
        return {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    options = {"pc_type": "gamg", "pc_gamg_threshold": 0.02, "ksp_rtol": 1e-8}
    return options | {"ksp_type": "cg" if symmetric else "bcgs"}


def solve_fine(forms: Forms, dim: int, *, picard: bool) -> tuple[int, float, dict[str, float]]:
    """Iterations, seconds and, for Newton, the seconds of the parts of a step."""
    options = TOLERANCES | fine_options(dim, picard)
    if picard:
        options |= PICARD | {"snes_linesearch_type": "basic", "snes_max_it": 200}
    problem = FineProblem(
        forms.F,
        forms.p,
        bcs=forms.bcs,
        J=forms.a if picard else None,
        petsc_options_prefix="fine_",
        petsc_options=options,
    )
    start(forms)
    snes = problem.solver
    changes = Changes(lambda x: x.array_r.copy())
    if picard:
        snes.setMonitor(changes)
    begin = time.process_time()
    problem.solve()
    seconds = time.process_time() - begin
    assert snes.getConvergedReason() > 0, snes.getConvergedReason()
    assert changes.step or not picard
    count, parts = changes.step if picard else snes.getIterationNumber(), {}
    if not picard:
        A, x, b = problem.A, problem.x, problem.b
        ksp = snes.getKSP()

        def linear_solve() -> None:
            A.setValue(0, 0, A.getValue(0, 0))
            A.assemble()
            ksp.setOperators(A)
            ksp.solve(b, x)

        snes.computeFunction(x, b)
        parts["F"] = clock(lambda: snes.computeFunction(x, b))
        parts["J"] = clock(lambda: snes.computeJacobian(x, A))
        rest = x.duplicate()
        x, b = rest, b.duplicate()
        b.setRandom()
        parts["linear solve"] = clock(linear_solve, 2)
    return count, seconds, parts


def solve_coarse(forms: Forms, W: Any, *, picard: bool) -> tuple[int, float, dict[str, float]]:
    """As :func:`solve_fine`, in the coarse space."""
    settings: dict[str, Any] = {
        "petsc_options_prefix": "coarse_",
        "bcs": forms.bcs,
        "petsc_options": TOLERANCES | (PICARD if picard else {}),
    }
    with (
        PicardProblem(forms.a, forms.L, forms.p, W, **settings)
        if picard
        else NonlinearProblem(forms.F, forms.p, W, **settings)
    ) as problem:
        start(forms)
        fine = W.P.createVecLeft()

        def prolong(x: Any) -> Any:
            W.P.mult(x, fine)
            return fine.array_r + boundary

        boundary = forms.p.x.array.copy()
        changes = Changes(prolong)
        if picard:
            problem.solver.setMonitor(changes)
        begin = time.process_time()
        problem.solve()
        seconds = time.process_time() - begin
        count = changes.step if picard else problem.solver.getIterationNumber()
        problem.solver.cancelMonitor()
        fine.destroy()
        parts: dict[str, float] = {}
        if not picard:
            A, A0, snes = problem.A, problem.A0, problem.solver
            x, f = A0.createVecRight(), A0.createVecLeft()
            f.setRandom()
            ksp = snes.getKSP()

            def linear_solve() -> None:
                ksp.setOperators(A0)
                ksp.solve(f, x)

            parts["F"] = clock(lambda: snes.computeFunction(snes.getSolution(), x))
            parts["J"] = clock(problem._assemble_jacobian)

            product = CoarseProduct.create(A, W)
            assert product is not None
            parts["PtAP"] = clock(lambda: product.assemble(A))
            product.A0.destroy()
            times = []
            for _ in range(2):
                # As after new values: to be factored anew.
                A0.stateIncrease()
                times.append(clock(linear_solve, 1))
            parts["linear solve"] = min(times)
            x.destroy()
            f.destroy()
    return count, seconds, parts


def run_field(V: Any, kappa: Any, data: str, boxes: int, timed: bool) -> dict[str, Any]:
    """All bases on one field."""
    msh, dim = V.mesh, V.mesh.topology.dim
    forms = pose(V, kappa, data)
    picard, picard_seconds, _ = solve_fine(forms, dim, picard=True)
    newton, seconds, parts = solve_fine(forms, dim, picard=False)
    fine = forms.p.x.array.copy()
    # Each problem below starts anew, so keep the solution.
    forms.p.x.array[:] = fine
    whole = norms(forms.p, kappa)
    rows: dict[str, Any] = {
        "fine": {"Newton": newton, "Picard": picard, "seconds": seconds, "step": parts}
        | {"Picard seconds": picard_seconds, "largest |p|": float(np.abs(fine).max())}
    }
    print(f"  fine: {rows['fine']}", flush=True)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    coarse = msnn.CoarseGrid(msh, (boxes,) * dim)
    bases: dict[str, Callable[[], Any]] = {
        "learned": lambda: msnn.LearnedBasis.pretrained(f"diffusion-{dim}d", kappa, NUM_MODES),
        "filtered": lambda: msnn.FilteredBasis(NUM_MODES),
        "computed": lambda: msnn.SpectralBasis(NUM_MODES),
    }
    for name, basis in bases.items():
        begin = time.process_time()
        with msnn.multiscale_functionspace(
            V, coarse, basis(), a, s=kappa * u * v * ufl.dx, bcs=forms.bcs
        ) as W:
            build = time.process_time() - begin
            picard, picard_seconds, _ = solve_coarse(forms, W, picard=True)
            newton, seconds, parts = solve_coarse(forms, W, picard=False)
            dofs = W.num_dofs
        forms.p.x.array[:] -= fine
        l2, energy, _ = (e / n for e, n in zip(norms(forms.p, kappa), whole, strict=True))
        rows[name] = {"L2": l2, "energy": energy, "Newton": newton, "Picard": picard}
        rows[name] |= {"seconds": seconds, "Picard seconds": picard_seconds, "step": parts}
        rows[name] |= {"build": build, "coarse dofs": dofs}
        print(f"  {name}: {rows[name]}", flush=True)
        gc.collect()
    return rows


def run_case(
    name: str, num_fields: int | None, wanted: Sequence[str], save: Callable[[Any], None]
) -> None:
    """All families and the wanted sets of data of a case."""
    dim, cells, boxes, count, families, sets = {**CASES, **QUICK}[name]
    sets = tuple(data for data in sets if data in wanted)
    msh = box(dim, cells)
    V = fem.functionspace(msh, ("Lagrange", 1))
    records: list[dict[str, Any]] = []
    for family in families:
        for data in sets:
            record: dict[str, Any] = {"case": name, "family": family, "data": data, "fields": []}
            records.append(record)
            for k in range(num_fields or count):
                seed = FIRST_SEED + k
                kappa = FAMILIES[family](msh, seed)
                print(f"{name}, {family}, {data}, seed {seed}", flush=True)
                record["fields"].append(run_field(V, kappa, data, boxes, k == 0))
                gc.collect()
                save(records)
            print(table(record), flush=True)


def table(record: dict[str, Any]) -> str:
    """One record as Markdown."""
    rows = record["fields"]

    def mean(basis: str, key: str, scale: float = 1.0) -> str:
        values = [scale * row[basis][key] for row in rows]
        return f"{np.mean(values):.3g} ± {np.std(values):.2g}"

    def counts(basis: str, key: str) -> str:
        values = sorted({row[basis][key] for row in rows})
        return f"{values[0]}" if len(values) == 1 else f"{values[0]}-{values[-1]}"

    largest = np.mean([row["fine"]["largest |p|"] for row in rows])
    lines = [
        f"## {record['case']}, {record['family']}, {record['data']}, {len(rows)} fields, "
        f"largest |p| {largest:.2g} (mean)",
        "",
        "| basis | L2 % | median | energy % | L2 / computed (worst) | energy / computed | Newton |"
        " Picard | Newton s | build s |",
        "| " + "--- | " * 10,
    ]
    for basis in ("computed", "filtered", "learned"):
        ratios = [row[basis]["L2"] / row["computed"]["L2"] for row in rows]
        energies = [row[basis]["energy"] / row["computed"]["energy"] for row in rows]
        median = 100 * np.median([row[basis]["L2"] for row in rows])
        lines.append(
            f"| {basis} | {mean(basis, 'L2', 100)} | {median:.3g} | {mean(basis, 'energy', 100)} | "
            f"{np.mean(ratios):.3f} ({max(ratios):.3f}) | {np.mean(energies):.3f} | "
            f"{counts(basis, 'Newton')} | {counts(basis, 'Picard')} | "
            f"{mean(basis, 'seconds')} | {mean(basis, 'build')} |"
        )
    lines.append(
        f"| fine mesh | | | | | | {counts('fine', 'Newton')} | {counts('fine', 'Picard')} | "
        f"{mean('fine', 'seconds')} | |"
    )
    if record["case"] in PAPER:
        computed, learned = PAPER[record["case"]]
        lines.append(
            f"| paper's own problem and machine: GMsFEM {computed}, learned {learned} "
            "| | | | | | | | | |"
        )
    lines += ["", "One Newton step, median milliseconds of processor time:", ""]
    lines += ["| | F | J | PtAP | linear solve |", "| --- | --- | --- | --- | --- |"]
    for basis in ("fine", "computed"):
        cells = []
        for part in ("F", "J", "PtAP", "linear solve"):
            values = [row[basis]["step"][part] for row in rows if part in row[basis]["step"]]
            cells.append(f"{1e3 * np.median(values):.3g}" if values else "")
        lines.append(f"| {'fine' if basis == 'fine' else 'coarse'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--fields", type=int, help="fields of each family")
    parser.add_argument(
        "--data", nargs="+", default=["drop", "source"], help="sets of data; default both"
    )
    parser.add_argument(
        "--out", default=str(Path(__file__).parent / "results"), help="folder of the results"
    )
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; default all")
    args = parser.parse_args(arguments)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.case or (QUICK if args.quick else CASES):

        def save(records: list[dict[str, Any]], name: str = name) -> None:
            # After every field: long runs may be cut short.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            text = "\n".join(table(record) for record in records)
            (folder / f"richards-{name}.md").write_text(text)
            data = {"machine": machine(), "peak GiB": peak, "records": records}
            (folder / f"richards-{name}.json").write_text(json.dumps(data, indent=1) + "\n")

        run_case(name, args.fields, args.data, save)


if __name__ == "__main__":
    main()
