# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What a space of so many functions a neighbourhood can hold: eigenmodes beside harmonic functions.

Loads: "f = 1", "smooth" (a product of waves), "rough" (another number in each cell), "well" (a
small source and a small sink), with u = 0 on two opposite sides; "drop": f = 0 and a pressure drop
between them. Errors are energy errors of the multiscale solution against the fine one, in per cent:
geometric means over all fields of a family, and the worst over all. The time of a basis is
processor time of one core over that of SLEPc's modes of the same number in the same run.

    python benchmarks/bench_spaces.py [--quick] [--resume] [--show] [--cases CASE ...] [--fields N]
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

from harness.problems import FAMILIES, FIRST_SEED, Diffusion, box, relative_errors
from harness.results import Parser, Records, Results, Shown, tabulate
from harness.timing import Clock

import numpy as np

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem

#: name: dimension, fine cells, coarse boxes, fields, functions a neighbourhood
CASES = {"2d-100": (2, 100, 5, 4, (4, 8, 12, 16)), "3d-24": (3, 24, 4, 1, (8, 16))}
QUICK = {"2d-quick": (2, 40, 4, 1, (8,)), "3d-quick": (3, 8, 2, 1, (8,))}
SPACES: dict[str, Callable[[int], Any]] = {
    "SLEPc": msnn.SpectralBasis,
    "filtered": msnn.FilteredBasis,
    "harmonic": msnn.HarmonicBasis,
}
TOLERANCES = (1e-1, 1e-2)


def loads(V: Any, seed: int) -> dict[str, Any]:
    """Linear forms by name."""
    x, v, d = ufl.SpatialCoordinate(V.mesh), ufl.TestFunction(V), V.mesh.geometry.dim
    waves = [ufl.cos((2 * k + 1) * ufl.pi * x[k] + 0.7) for k in range(d)]
    smooth = waves[0]
    for wave in waves[1:]:
        smooth = smooth * wave
    rough = fem.Function(fem.functionspace(V.mesh, ("DG", 0)))
    rough.x.array[:] = np.random.default_rng(seed).standard_normal(len(rough.x.array))

    def near(*point: float) -> Any:
        return ufl.exp(-sum(((x[k] - point[k]) / 0.02) ** 2 for k in range(d)))

    well = near(0.3, 0.4, 0.3) - near(0.7, 0.6, 0.7)
    densities = {"f = 1": 1.0, "smooth": smooth, "rough": rough, "well": well}
    return {name: f * v * ufl.dx for name, f in densities.items()}


def run(results: Results, options: Namespace) -> None:
    """All spaces on all fields of all cases."""
    for case in options.cases:
        dim, cells, boxes, count, numbers = {**CASES, **QUICK}[case]
        msh = box(dim, cells)
        chosen = [(f"{space} {n}", make, n) for n in numbers for space, make in SPACES.items()]
        for tolerance in TOLERANCES:
            make = partial(msnn.HarmonicBasis, tolerance=tolerance)
            chosen.append((f"harmonic, tolerance {tolerance:g}", make, None))
        for family, make_field in FAMILIES.items():
            for seed in range(FIRST_SEED, FIRST_SEED + (options.fields or count)):
                key = {"case": case, "family": family, "seed": seed}
                if not any(results.missing(**key, space=name) for name, *_ in chosen):
                    continue
                kappa = make_field(msh, seed)
                problems = {"zero": Diffusion(kappa, boxes, ends=(0.0, 0.0))}
                problems["drop"] = Diffusion(kappa, boxes, f=0.0)
                forms = loads(problems["zero"].V, seed)
                exact = {name: fine_solution(problems["zero"], L) for name, L in forms.items()}
                seconds: dict[int, float] = {}
                for name, make, n in chosen:
                    basis = Clock(make(n))
                    found = measure(problems, forms, exact, basis)
                    if make is msnn.SpectralBasis:
                        seconds[n] = basis.seconds
                    # A tolerance is compared with the least number.
                    found["time"] = basis.seconds / seconds.get(n, seconds[numbers[0]])
                    results.add(key | {"space": name, "number": n} | found)


def fine_solution(problem: Diffusion, L: Any) -> fem.Function:
    """The fine solution for a load."""
    problem.L = L
    problem.__dict__.pop("fine", None)
    return problem.fine.copy()


def measure(
    problems: dict[str, Diffusion], forms: dict[str, Any], exact: dict[str, Any], basis: Clock
) -> dict[str, float]:
    """Energy errors by load, and coarse dofs."""
    zero, drop = problems["zero"], problems["drop"]
    errors: dict[str, float] = {}
    with zero.space(basis) as W, zero.coarse_problem(W) as coarse:
        dofs = W.num_dofs
        for name, L in forms.items():
            errors[name] = relative_errors(coarse.solve(L), exact[name], zero.kappa)["energy"]
    # One build of a space is timed, not two.
    errors["drop"] = drop.errors(basis.basis)["energy"]
    return errors | {"dofs": float(dofs)}


def shown(case: str, records: Records) -> Shown:
    """All spaces of a case, one load a column."""

    def get(load: str) -> Callable[[Records], str]:
        def text(r: Records) -> str:
            values = 100 * r.values(load)
            return f"{np.exp(np.log(values).mean()):.2g} ({values.max():.2g})"

        return text

    names = ("f = 1", "smooth", "drop", "well", "rough")
    columns = {
        "space": lambda r: str(r[0]["space"]),
        "coarse dofs": lambda r: f"{r.values('dofs').mean():.0f}",
        **{name: get(name) for name in names},
        "time / SLEPc's": lambda r: f"{np.median(r.values('time')):.2f}",
    }
    fields = len(records.by("family", "seed"))
    title = f"{case}: energy error in per cent, geometric mean and worst of {fields} fields"
    return tabulate(title, records.by("space").values(), columns)


def main() -> None:
    """Run the cases and write the tables."""
    parser = Parser(__doc__, CASES, QUICK)
    parser.add_argument("--fields", type=int, help="fields of each family")
    options = parser.parse_args()
    results = Results("spaces", options, {"first_seed": FIRST_SEED})
    if not options.show:
        run(results, options)
    groups = results.records.by("case")
    results.finish([shown(case, group) for case, group in groups.items()])


if __name__ == "__main__":
    main()
