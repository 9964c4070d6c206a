# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Predicted functions as they are, beside computed ones: errors for several loads, and set-up time.

"raw" are the functions of the model that was trained on solutions, all of them and nothing else,
also where they would give way to others (``max_jump``); "raw + filter" the same, filtered and
compressed; "harmonic, predicted" harmonic functions with their boundary values in place of those of
modes; "0" stands for neighbourhoods that are not oversampled. Fields have seeds that no training
saw. Loads that the model was trained on, with other numbers: "f = 1" (and a drop), "drop x", "drop
y", "smooth" (a product of slow waves). Others: "waves" (sin 5πx sin 5πy), "source" (of width 0.02),
"wells" (a source and a sink), "noise" (another number in each cell). With drops u is given on two
opposite sides, else all around; f = 0 but where the name says something else. Errors are relative
to the fine solution; ratios are over those of SLEPc's 8 modes of the same field. "cosines" know
nothing of the coefficient; "filtered once" is one round of the filter, whatever its tolerance.
Times are processor seconds: of the basis alone, and of the whole set-up of a space (mesh to
prolongation).

The model is that of "msnn sample configs/solutions-2d.toml" and "msnn train" of the same, unless
another is given or one comes with the package.

    python benchmarks/bench_learned.py [--quick] [--resume] [--show] [--cases CASE ...] [--fields N]
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness.bases import Polynomials
from harness.problems import FAMILIES, FIRST_SEED, MUMPS, NORMS, Diffusion, box, relative_errors
from harness.results import Parser, Records, Results, Shown, plain_ticks, tabulate
from harness.spaces import at_zero, solve_at_zero
from harness.timing import Clock

import numpy as np
from matplotlib.figure import Figure

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, mesh

#: name: dimension, fine cells, coarse boxes, fields, family
CASES = {
    "2d-100 log-normal": (2, 100, 5, 20, "log-normal"),
    "2d-100 two-phase 1e3": (2, 100, 5, 4, "two-phase 1e3"),
    "3d-50 log-normal": (3, 50, 5, 5, "log-normal"),
    "3d-50 two-phase 1e3": (3, 50, 5, 2, "two-phase 1e3"),
}
QUICK = {"2d-quick": (2, 40, 2, 1, "log-normal")}
LIKE, OTHERS = ("f = 1", "drop x", "drop y", "smooth"), ("waves", "source", "wells", "noise")
METHODS = ("SLEPc", "filtered", "filtered once", "harmonic", "raw", "raw + filter", "cosines")
METHODS += ("harmonic, predicted", "harmonic 0", "harmonic, predicted 0")
SECOND = "raw, second seed 8"
#: Fields on which all numbers of functions are run, by dimension; on others 8 functions are.
FEW = {2: 4, 3: 1}


def bases(kappa: Any, model: Any, second: Any = None) -> dict[str, Callable[[], Any]]:
    """Bases by name, which ends with the number of functions."""
    from dolfinx_msnn.nn.learned import LearnedBasis

    def raw(model: Any = model) -> Any:
        return LearnedBasis(model, kappa, refine=None, max_jump=np.inf)

    def harmonic(number: int, traces: Any = None, oversampling: float = 0.4) -> Any:
        basis = msnn.HarmonicBasis(number, traces=traces)
        basis.oversampling = oversampling
        return basis

    found: dict[str, Callable[[], Any]] = {
        "SLEPc 8": lambda: msnn.SpectralBasis(8),
        "cosines 8": Polynomials,
        "filtered once 8": lambda: msnn.FilteredBasis(8, max_rounds=1),
        "filtered 8": lambda: msnn.FilteredBasis(8),
        "harmonic 8": lambda: harmonic(8),
        "harmonic 0 8": lambda: harmonic(8, oversampling=0.0),
        "harmonic, predicted 8": lambda: harmonic(8, raw()),
        "harmonic, predicted 0 8": lambda: harmonic(8, raw(), 0.0),
        "raw 8": raw,
        "raw + filter 8": lambda: LearnedBasis(model, kappa, 8, refine="filter"),
        "SLEPc 4": lambda: msnn.SpectralBasis(4),
        "SLEPc 16": lambda: msnn.SpectralBasis(16),
        "harmonic 4": lambda: harmonic(4),
        "harmonic, predicted 4": lambda: harmonic(4, raw()),
    }
    if second is not None:
        found[SECOND] = partial(raw, second)
    return found


def problems(kappa: Any, boxes: int, seed: int) -> list[tuple[Diffusion, dict[str, Any]]]:
    """Problems, each of one set of Dirichlet sides, and their loads by name."""
    ends, other = Diffusion(kappa, boxes), Diffusion(kappa, boxes, axis=1, f=0.0)
    around = Diffusion(kappa, boxes)
    V = around.V
    msh, dim = V.mesh, V.mesh.topology.dim
    msh.topology.create_connectivity(dim - 1, dim)
    facets = mesh.exterior_facet_indices(msh.topology)
    dofs = fem.locate_dofs_topological(V, dim - 1, facets)
    around.bcs = [fem.dirichletbc(0.0, dofs, V)]
    x, v = ufl.SpatialCoordinate(msh), ufl.TestFunction(V)
    rng = np.random.default_rng(seed)
    noise = fem.Function(fem.functionspace(msh, ("DG", 0)))
    noise.x.array[:] = rng.standard_normal(len(noise.x.array))

    def product(wave: Callable[[Any], Any]) -> Any:
        out = wave(x[0])
        for k in range(1, dim):
            out = out * wave(x[k])
        return out

    def near(point: np.ndarray) -> Any:
        return ufl.exp(-sum((x[k] - point[k]) ** 2 for k in range(dim)) / (2 * 0.02**2))

    one, two = rng.uniform(0.2, 0.8, (2, dim))
    densities = {
        "smooth": product(lambda t: ufl.cos(3 * t + 0.7)),
        "waves": product(lambda t: ufl.sin(5 * ufl.pi * t)),
        "source": near(one),
        "wells": near(one) - near(two),
        "noise": noise,
    }
    loads = {name: f * v * ufl.dx for name, f in densities.items()}
    nothing = fem.Constant(msh, 0.0) * ufl.TestFunction(ends.V) * ufl.dx
    return [
        (ends, {"f = 1": ends.L, "drop x": nothing}),
        (other, {"drop y": other.L}),
        (around, loads),
    ]


def exact_solutions(problem: Diffusion, loads: dict[str, Any]) -> dict[str, fem.Function]:
    """Fine solutions by load, with one factor."""
    fine, zero = problem.fine_problem(MUMPS), at_zero(problem)
    first, exact = fine.solve().copy(), {}
    for name, L in loads.items():
        # What another load adds is zero on the boundary.
        exact[name] = solve_at_zero(fine, zero, L - problem.L)
        exact[name].x.array[:] += first.x.array
    return exact


def run(results: Results, options: Namespace) -> None:
    """All bases on all fields of all cases."""
    from dolfinx_msnn.nn.model import load_model
    from dolfinx_msnn.pretrained import pretrained_models

    for case in options.cases:
        dim, cells, boxes, count, family = {**CASES, **QUICK}[case]
        name = f"solutions-{dim}d"
        trained = Path("runs", name, f"{name}.safetensors")
        model = load_model(options.model or pretrained_models().get(name, trained))
        results.head["settings"][name] = model.card.sha256
        msh = box(dim, cells)
        for number in range(options.fields or count):
            seed = FIRST_SEED + number
            key = {"case": case, "seed": seed}
            kappa = FAMILIES[family](msh, seed)
            made = bases(kappa, model, options.second)
            names = [n for n in made if number < FEW[dim] or n.endswith(" 8")]
            names = [name for name in names if results.missing(**key, basis=name)]
            if not names:
                continue
            posed = problems(kappa, boxes, seed)
            for problem, loads in posed:
                exact = exact_solutions(problem, loads)
                for name in names:
                    basis = Clock(made[name]())
                    start = time.process_time()
                    with problem.space(basis) as W:
                        seconds = time.process_time() - start
                        found = {"dofs": W.num_dofs, "basis s": basis.seconds, "set-up s": seconds}
                        with problem.coarse_problem(W) as coarse:
                            for load, L in loads.items():
                                errors = relative_errors(coarse.solve(L), exact[load], kappa)
                                results.add(key | {"basis": name, "load": load} | errors | found)


def shown(case: str, records: Records) -> list[Shown]:
    """Errors over SLEPc's by load, and absolute errors and times."""
    eight = [name for name in records.by("basis") if name.endswith(" 8")]
    pair, to = ("seed", "load"), {"basis": "SLEPc 8"}
    fields = len(records.by("seed"))

    def ratio(load: str) -> Callable[[str], str]:
        def cell(name: str) -> str:
            parts = [records.ratios(n, pair, to, basis=name, load=load) for n in NORMS]
            middle = " / ".join(f"{np.exp(np.log(p).mean()):.2f}" for p in parts)
            return f"{middle} ({parts[1].max():.2f})"

        return cell

    columns = {"basis": str} | {load: ratio(load) for load in LIKE + OTHERS}
    title = f"{case}: errors over those of SLEPc's 8 modes, {fields} fields"
    notes = "L2 / energy / H1, geometric means; in brackets the worst field in energy."
    first = tabulate(title, [n for n in eight if n != "SLEPc 8"], columns, notes)
    times: dict[str, Callable[[str], str]] = {
        "basis": str,
        "coarse dofs": lambda name: f"{records.values('dofs', basis=name).mean():.0f}",
        **{load: partial(percent, records, load) for load in LIKE + OTHERS},
        "basis, s": lambda name: f"{np.median(records.values('basis s', basis=name)):.2g}",
        "set-up, s": lambda name: f"{np.median(records.values('set-up s', basis=name)):.2g}",
    }
    title = f"{case}: energy errors in per cent (geometric means) and processor seconds"
    return [first, tabulate(title, list(records.by("basis")), times)]


def mean(records: Records, basis: str, load: str | None = None) -> float:
    """Geometric mean of energy errors."""
    key = {"load": load} if load else {}
    return float(np.exp(np.log(records.values("energy", basis=basis, **key)).mean()))


def percent(records: Records, load: str, basis: str) -> str:
    """The same as text."""
    return f"{100 * mean(records, basis, load):.2g}"


def draw(figure: Figure, records: Records) -> None:
    """Energy error of the loads of training over the time of the basis, one line a method."""
    figure.set_size_inches(3.2 * len(records.by("case")), 4.4)
    axes = figure.subplots(1, len(records.by("case")), squeeze=False)[0]
    for ax, (case, part) in zip(axes, records.by("case").items(), strict=True):
        some = set(sorted(part.by("seed"))[: FEW[int(case[0])]])
        part = Records(
            r for r in part if r["seed"] in some and r["load"] in LIKE and r["basis"] != SECOND
        )
        lines: dict[str, list[tuple[float, float, str]]] = {}
        for name, rows in part.by("basis").items():
            method, number = name.rsplit(" ", 1)
            seconds = float(np.median(rows.values("basis s")))
            lines.setdefault(method, []).append((seconds, 100 * mean(part, name), number))
        for method, points in lines.items():
            points.sort(key=lambda p: int(p[2]))
            colour = f"C{METHODS.index(method) % 10}"
            ax.loglog(*zip(*[p[:2] for p in points], strict=True), "o-", color=colour, label=method)
            for seconds, error, number in points:
                if number != "8":
                    ax.annotate(number, (seconds, error), (4, 4), textcoords="offset points")
        ax.set(title=case, xlabel="basis, processor seconds")
        ax.title.set_fontsize(9)
        plain_ticks(ax)
    axes[0].set_ylabel("energy error, per cent")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


def main() -> None:
    """Run the cases and write tables and figure."""
    parser = Parser(__doc__, CASES, QUICK)
    parser.add_argument("--fields", type=int, help="fields of each case")
    parser.add_argument("--model", type=Path, help="another model")
    parser.add_argument("--second", type=Path, help="a model of the same training, other seed")
    options = parser.parse_args()
    results = Results("learned", options, {"first_seed": FIRST_SEED})
    if not options.show:
        run(results, options)
    tables = [t for case, group in results.records.by("case").items() for t in shown(case, group)]
    results.finish(tables, {"front": lambda figure: draw(figure, results.records)})


if __name__ == "__main__":
    main()
