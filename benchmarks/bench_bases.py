# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Accuracy and time of local bases: computed, filtered, predicted, and polynomials.

Each case is a mesh and a coarse grid, each family a set of coefficient fields that no model has
seen (seeds from 10^6 on). Errors are those of the multiscale solution against the fine one, for
-div(kappa grad u) = 1 with u = 1 and 0 on two opposite sides; times are processor seconds of one
core for the basis stage, all rows on the same core, one after the other on each field.

    python benchmarks/bench_bases.py [--quick] [--fields N] [case ...]
    python benchmarks/bench_bases.py --map          where does the network win over the cosines?

Models: ``--model-2d``, ``--model-3d`` (default: the pretrained ones), and ``--raw-2d``,
``--raw-3d`` for models trained the way of Rudikov et al. (as many outputs as modes, subspace
alignment loss, used without filter). SPE10=path adds layers of SPE10 Model 2. Tables go to the
terminal and, with JSON beside them, to ``benchmarks/results/bases-*``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mpi4py import MPI

import numpy as np
from common import FAMILIES, FIRST_SEED, NUM_MODES, Clock, box, multiscale_error, pose
from tables import machine

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx_msnn import fields
from dolfinx_msnn._utils.timings import Timings
from dolfinx_msnn.bases import cosines, pencil
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.problem import LocalProblem

#: name: dimension, fine cells, coarse boxes, fields of each family
CASES: dict[str, tuple[int, int, int, int]] = {
    "2d-100": (2, 100, 5, 20),
    "2d-250": (2, 250, 3, 20),
    "3d-50": (3, 50, 5, 5),
}
QUICK: dict[str, tuple[int, int, int, int]] = {
    "2d-quick": (2, 40, 2, 2),
    "3d-quick": (3, 12, 2, 1),
}
#: Layers of SPE10 Model 2, from both formations.
LAYERS = tuple(range(1, 51, 2))


class Polynomials:
    """Products of cosines as they are: no look at the coefficient."""

    def modes(self, problems: Sequence[LocalProblem]) -> list[msnn.LocalModes]:
        """The first cosines on each neighbourhood."""
        found = []
        for problem in problems:
            functions, _ = cosines.cosines(pencil.Pencil.create(problem), NUM_MODES)
            found.append(msnn.LocalModes(np.zeros(NUM_MODES), functions.T.copy()))
        return found


def rows(kappa: Any, models: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The bases to compare for one coefficient."""
    made: dict[str, Callable[[], Any]] = {
        "SLEPc": lambda: msnn.SpectralBasis(NUM_MODES),
        "filtered cosines": lambda: msnn.FilteredBasis(NUM_MODES),
    }
    if models.get("raw") is not None:
        made["learned raw"] = lambda: msnn.LearnedBasis(
            models["raw"], kappa, NUM_MODES, sweeps=0, max_rounds=1
        )
    if models.get("model") is not None:
        made["learned + filter"] = lambda: msnn.LearnedBasis(models["model"], kappa, NUM_MODES)
        made["learned + filter + guard"] = lambda: msnn.GuardedBasis(made["learned + filter"]())
    made["polynomials"] = Polynomials
    return made


def one_field(
    msh: Any, n: Sequence[int], kappa: Any, models: dict[str, Any], axis: int
) -> dict[str, dict[str, float]]:
    """Errors and times of all bases for one coefficient."""
    problem, coarse = pose(msh, kappa, axis), msnn.CoarseGrid(msh, n)
    found: dict[str, dict[str, float]] = {}
    for name, make in rows(kappa, models).items():
        basis = Clock(make())
        errors = multiscale_error(problem, coarse, basis)
        reports = getattr(basis.basis, "reports", [])
        if isinstance(basis.basis, msnn.GuardedBasis):
            reports = basis.basis.primary.reports
        filtered = [getattr(r, "filtered", r) for r in reports]
        sweeps = [r.sweeps for r in filtered if r is not None]
        found[name] = {
            "L2": errors[0],
            "energy": errors[1],
            "H1": errors[2],
            "ms": 1e3 * basis.seconds / basis.count,
            "sweeps": float(np.mean(sweeps)) if sweeps else 0.0,
            "fallbacks": getattr(basis.basis, "num_fallbacks", 0) / basis.count,
        }
    return found


def run_case(
    name: str, num_fields: int | None, models: dict[str, Any], families: Sequence[str]
) -> list[dict[str, Any]]:
    """All families of a case."""
    dim, cells, boxes, count = {**CASES, **QUICK}[name]
    msh = box(dim, cells)
    records = []
    for family in families:
        samples = []
        for k in range(num_fields or count):
            kappa = FAMILIES[family](msh, FIRST_SEED + k)
            samples.append(one_field(msh, (boxes,) * dim, kappa, models, 0))
            gc.collect()
        records.append({"case": name, "family": family, "fields": samples})
        print(table([records[-1]]), flush=True)
    return records


def run_spe10(path: str, models: dict[str, Any], layers: Sequence[int]) -> list[dict[str, Any]]:
    """Layers of SPE10 with boxes of 10 x 10 cells, pressure drop along y."""
    samples = []
    for layer in layers:
        field = fields.read_spe10(path, layer)
        msh = field.create_mesh(MPI.COMM_SELF)
        kappa = field.interpolate(msh)
        n = tuple(k // 10 for k in field.shape)
        samples.append(one_field(msh, n, kappa, models, 1))
        gc.collect()
    records = [{"case": "spe10", "family": f"layers {layers}", "fields": samples}]
    print(table(records), flush=True)
    return records


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: mean and standard deviation over fields, and ratios to SLEPc field by field."""
    lines = []
    for record in records:
        lines += [
            "",
            f"{record['case']}, {record['family']}, {len(record['fields'])} fields",
            "",
            "| basis | L2 % | energy % | L2 / SLEPc | energy / SLEPc | ms | faster than SLEPc | "
            "sweeps | fallbacks |",
            "|" + " --- |" * 9,
        ]
        for name in record["fields"][0]:
            get = {
                key: np.array([sample[name][key] for sample in record["fields"]])
                for key in ("L2", "energy", "ms", "sweeps", "fallbacks")
            }
            base = {
                key: np.array([sample["SLEPc"][key] for sample in record["fields"]])
                for key in ("L2", "energy", "ms")
            }
            lines.append(
                f"| {name} | {100 * get['L2'].mean():.3g} ± {100 * get['L2'].std():.2g} | "
                f"{100 * get['energy'].mean():.3g} ± {100 * get['energy'].std():.2g} | "
                f"{(get['L2'] / base['L2']).mean():.3f} | "
                f"{(get['energy'] / base['energy']).mean():.3f} | {np.median(get['ms']):.3g} | "
                f"{np.median(base['ms'] / get['ms']):.1f}x | {get['sweeps'].mean():.0f} | "
                f"{get['fallbacks'].mean():.0%} |"
            )
    return "\n".join(lines)


# ---- where the network wins ----

#: dimension, cells across a neighbourhood
WIDTHS = {2: (10, 20, 40, 80, 120, 160), 3: (10, 16, 20, 26)}
CONTRASTS = (1e1, 1e3, 1e6)
#: Mean squared energy error of the modes that both sides have to reach.
DEFECT = 0.01


def neighbourhoods(dim: int, width: int, contrast: float, count: int) -> list[LocalProblem]:
    """Interior neighbourhoods of two-phase fields, the features in proportion to the width."""
    found: list[LocalProblem] = []
    seed = FIRST_SEED
    msh = box(dim, width)
    V = fem.functionspace(msh, ("Lagrange", 1))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    while len(found) < count:
        kappa = fields.two_phase(msh, contrast, seed=seed, correlation_length=0.15)
        a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        # One box of the coarse grid, twice as large as the mesh: the vertex in the middle sees all.
        coarse = msnn.CoarseGrid(msh, (2,) * dim)
        problems = LocalProblems(
            V, coarse, a, kappa * u * v * ufl.dx, [], Timings(), coefficient=kappa
        )
        found += [p for p in problems if np.allclose(p.place, 0.5)]
        seed += 1
    return found


def defect(problem: LocalProblem, modes: np.ndarray, values: np.ndarray, found: Any) -> float:
    """Mean relative squared energy error of the modes' projection onto a space (rows)."""
    M = problem.A + values[-1] * problem.S
    gram = found @ (M @ found.T)
    energy, directions = np.linalg.eigh(gram)
    keep = energy > 1e-12 * energy[-1]
    white = (directions[:, keep] / np.sqrt(energy[keep])).T @ found
    target = M @ modes.T
    caught = ((white @ target) ** 2).sum(axis=0)
    return float(np.mean(1 - caught / np.einsum("jn,nj->j", modes, target)))


def least_sweeps(
    make: Callable[[int], Any], problems: list[LocalProblem], truth: list[Any]
) -> tuple[int, float]:
    """Fewest sweeps with which a basis reaches :data:`DEFECT` on average, and its time then."""

    def mean(sweeps: int) -> float:
        modes = make(sweeps).modes(problems)
        return float(
            np.mean(
                [
                    defect(p, t.vectors, t.values, m.vectors)
                    for p, t, m in zip(problems, truth, modes, strict=True)
                ]
            )
        )

    low, high = 0, 1
    while mean(high) > DEFECT:
        low, high = high, 2 * high
        if high > 600:
            return -1, np.nan
    while high - low > max(1, high // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if mean(middle) <= DEFECT else (middle, high)
    basis = make(high)
    basis.modes(problems)
    times = []
    for _ in range(5):
        start = time.process_time()
        basis.modes(problems)
        times.append(time.process_time() - start)
    return high, 1e3 * float(np.median(times)) / len(problems)


def run_map(models: dict[int, Any], quick: bool) -> list[dict[str, Any]]:
    """Sweeps and time at equal defect over width, dimension and contrast."""
    records = []
    for dim, widths in WIDTHS.items():
        if models.get(dim) is None:
            continue
        for width in widths[:2] if quick else widths:
            for contrast in CONTRASTS[:1] if quick else CONTRASTS:
                problems = neighbourhoods(dim, width, contrast, 2 if quick else 4)
                start = time.process_time()
                truth = msnn.SpectralBasis(NUM_MODES).modes(problems)
                slepc = 1e3 * (time.process_time() - start) / len(problems)
                record: dict[str, Any] = {
                    "dim": dim,
                    "width": width,
                    "contrast": contrast,
                    "stride": width / (models[dim].card.lattice - 1),
                    "SLEPc_ms": slepc,
                }
                # Both sides with the better of two settings.
                cosine = fastest(
                    least_sweeps(
                        lambda k, num=num: msnn.FilteredBasis(
                            NUM_MODES, degree=k, max_rounds=1, num_start=num
                        ),
                        problems,
                        truth,
                    )
                    for num in (24, 32)
                )
                learned = fastest(
                    least_sweeps(
                        lambda k, model=models[dim], p=p: msnn.LearnedBasis(
                            model, 1.0, NUM_MODES, sweeps=k, max_rounds=1, lattice=p
                        ),
                        problems,
                        truth,
                    )
                    for p in lattices(models[dim].card.lattice, width)
                )
                record |= {"cosine_sweeps": cosine[0], "cosine_ms": cosine[1]}
                record |= {"learned_sweeps": learned[0], "learned_ms": learned[1]}
                record["network_ms"] = network_time(models[dim], len(problems))
                nnz = problems[0].A.nnz
                record["mflop_per_sweep"] = 2e-6 * nnz * cosines.num_start(NUM_MODES)
                records.append(record)
                print(map_table(records[-1:]).splitlines()[-1], flush=True)
    return records


def fastest(trials: Iterable[tuple[int, float]]) -> tuple[int, float]:
    """The trial of least time; failures have none."""
    return min(trials, key=lambda trial: np.inf if np.isnan(trial[1]) else trial[1])


def lattices(p: int, width: int) -> list[int]:
    """The lattice of training, and one of half its stride where the mesh has that many cells."""
    return [p, 2 * p - 1] if 4 * (p - 1) <= width else [p]


def network_time(model: Any, count: int) -> float:
    """Milliseconds of a forward pass a neighbourhood."""
    card = model.card
    inputs = np.zeros((count, card.in_channels, *(card.lattice,) * card.dim), dtype=np.float32)
    from dolfinx_msnn.nn.learned import torch_threads

    times = []
    with torch_threads(1):
        for _ in range(5):
            start = time.process_time()
            model(inputs)
            times.append(time.process_time() - start)
    return 1e3 * float(np.median(times)) / count


def map_table(records: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| d | cells across | contrast | stride | SLEPc ms | cosines: sweeps | ms | learned: "
        "sweeps | ms | network ms | learned faster |",
        "|" + " --- |" * 11,
    ]
    for r in records:
        lines.append(
            f"| {r['dim']} | {r['width']} | {r['contrast']:.0e} | {r['stride']:.2g} | "
            f"{r['SLEPc_ms']:.3g} | {r['cosine_sweeps']} | {r['cosine_ms']:.3g} | "
            f"{r['learned_sweeps']} | {r['learned_ms']:.3g} | {r['network_ms']:.2g} | "
            f"{r['cosine_ms'] / r['learned_ms']:.2f}x |"
        )
    return "\n".join(lines)


def load(path: str | None, name: str) -> Any:
    """A model from a file, or the pretrained one if there is one."""
    from dolfinx_msnn.nn.model import load_model
    from dolfinx_msnn.pretrained import pretrained_models

    if path is None and name in pretrained_models():
        path = str(pretrained_models()[name])
    return None if path is None else load_model(path)


def main() -> None:
    """Run the cases and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", help=f"from {', '.join([*CASES, *QUICK])}, spe10")
    parser.add_argument("--quick", action="store_true", help="small cases only")
    parser.add_argument("--map", action="store_true", help="sweeps and times over the width")
    parser.add_argument("--fields", type=int, help="fields of each family")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    for option in ("model-2d", "model-3d", "raw-2d", "raw-3d"):
        parser.add_argument(f"--{option}", help="model file")
    parser.add_argument("--output", default=str(Path(__file__).parent / "results"))
    options = parser.parse_args()
    models = {
        2: {"model": load(options.model_2d, "diffusion-2d"), "raw": load(options.raw_2d, "-")},
        3: {"model": load(options.model_3d, "diffusion-3d"), "raw": load(options.raw_3d, "-")},
    }
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    if options.map:
        found = run_map({dim: models[dim]["model"] for dim in models}, options.quick)
        text, name = map_table(found), "bases-map"
        write(output, name + ("-quick" if options.quick else ""), text, found)
        return
    known = {**CASES, **QUICK}
    spe10 = os.environ.get("SPE10")
    chosen = options.cases or [*(QUICK if options.quick else CASES), *(["spe10"] if spe10 else [])]
    for case in chosen:
        if case not in known and case != "spe10":
            raise SystemExit(f"Unknown case {case!r}; expected some of {', '.join(known)}, spe10.")
        if case == "spe10":
            if spe10 is None:
                raise SystemExit("The case spe10 needs SPE10=path of the data.")
            found = run_spe10(spe10, models[2], LAYERS[: options.fields])
        else:
            found = run_case(case, options.fields, models[known[case][0]], options.families)
        write(output, f"bases-{case}", table(found).strip(), found)


def write(output: Path, name: str, text: str, found: Any) -> None:
    """The table and, beside it, all figures."""
    print(text if "map" in name else f"{output / name}.md", file=sys.stderr)
    (output / f"{name}.md").write_text(text + "\n")
    settings = {"num_modes": NUM_MODES, "first_seed": FIRST_SEED, "defect": DEFECT}
    record = {"settings": settings, "machine": machine(), "records": found}
    (output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
