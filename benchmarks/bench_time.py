# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Time: construction of the basis, computed, filtered and predicted; what a model has cost.

Cases are meshes of the unit square and cube with two-phase fields of contrast 1e3 that no model
has seen, 8 modes. Each run is a process of its own, on one field: time of the stage that computes
the modes and of the whole space (with element matrices, local matrices, P), and peak memory. Times
are processor time, on two ranks that of the slower one for its share of the neighbourhoods, since
other jobs may run on the machine; the wall-clock time and the load are in the records. The loop of
scipy's eigsh is that of ``bench_space.py``, in 3D on some neighbourhoods of each size, with the
fastest of three orderings. "learned raw" is the pretrained network without filter, for its time
only: see its error.

The cost of a model is the training of the pretrained one, by its card, and the sampling of its
data, measured on some fields and scaled to all of them.

    python benchmarks/bench_time.py [--quick] [--resume] [--show] [--cases CASE ...] [--ranks 1 2]
        [--fields N] [--bases BASIS ...]
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from bench_space import CASES, QUICK, launch, scipy_worker, worker
from matplotlib.figure import Figure
from tables import Record, Results, Shown, parser, ratios, select, spread, values

FAMILY = "two-phase 1e3"
SLEPC, SCIPY, FILTERED = "SLEPc", "scipy loop", "filtered"
RAW, LEARNED = "learned raw", "learned + filter"
BASES = (FILTERED, RAW, LEARNED, SLEPC)
ROWS = (SLEPC, SCIPY, FILTERED, RAW, LEARNED)
#: Fields of each case.
FIELDS = {"2d-100": 3, "2d-250": 3, "3d-50": 3, "3d-100": 1, "2d-quick": 1, "3d-quick": 1}
#: Fields that sampling is timed on, by dimension.
SAMPLED, SAMPLED_QUICK = {2: 10, 3: 5}, {2: 1, 3: 1}
#: Seconds of the paper, on an H100 with JAX: basis of GMsFEM, and learned.
PAPER = {
    "2d-100": (16.87, 0.28),
    "2d-250": (210.5, 0.31),
    "3d-50": (935.4, 0.84),
    "3d-100": (10547.0, 1.33),
}


def field(seed: int) -> Any:
    """The coefficient of a field's number, as a function of the mesh."""

    def create(msh: Any) -> Any:
        from common import FAMILIES, FIRST_SEED

        return FAMILIES[FAMILY](msh, FIRST_SEED + seed)

    return create


def basis(name: str) -> Any:
    """One of :data:`BASES`, as a function of dimension and coefficient."""

    def create(dim: int, kappa: Any) -> Any:
        from common import NUM_MODES

        import dolfinx_msnn as msnn

        if name == SLEPC:
            return msnn.SpectralBasis(NUM_MODES)
        if name == FILTERED:
            return msnn.FilteredBasis(NUM_MODES)
        options: dict[str, Any] = {"sweeps": 0, "max_rounds": 1} if name == RAW else {}
        return msnn.LearnedBasis.pretrained(f"diffusion-{dim}d", kappa, NUM_MODES, **options)

    return create


def construct(case: str, seed: int, names: Sequence[str]) -> list[Record]:
    """Records of some bases on one field, on the ranks of this process."""
    found = []
    dim, cells = {**CASES, **QUICK}[case][:2]
    for name in names:
        if name in (RAW, LEARNED) and not importlib.util.find_spec("torch"):
            continue
        if cells**dim > 10**5:
            # First use of libraries and compiled forms; smaller cases are built twice.
            worker(f"{dim}d-quick", basis(name), field(seed), product=False)
        made = worker(case, basis(name), field(seed), product=False)
        if made is None:
            continue
        found.append(
            {
                "case": case,
                "basis": name,
                "ranks": made["ranks"],
                "seed": seed,
                "seconds": max(made["eigensolves_by_rank_cpu_s"]),
                "wall_s": made["stages_s"]["basis"],
                # A rank that waits for another one is busy, too.
                "space_s": made["space_by_rank_cpu_s"][0] if made["ranks"] == 1 else None,
                "load_s": made["stages_s"]["creation of the basis"],
                "gib": sum(made["peak_gib_by_rank"]),
                "N_f": made["N_f"],
                "N_c": made["N_c"],
                "neighbourhoods": sum(made["neighbourhoods"]),
                "load": os.getloadavg()[0],
            }
        )
    return found


def scipy_loop(case: str, seed: int) -> Record:
    """The loop of eigsh, and SLEPc on the same pencils."""
    made = scipy_worker(case, field(seed))
    return {
        "case": case,
        "basis": SCIPY,
        "ranks": 1,
        "seed": seed,
        "seconds": made["eigsh_s"],
        "same_pencils": made["ratio"],
        "timed": made["timed_neighbourhoods"],
        "ordering": min(made["ordering_trials_s"], key=made["ordering_trials_s"].__getitem__),
        "load": os.getloadavg()[0],
    }


def accuracy(case: str) -> list[Record]:
    """Errors of the multiscale solution with each basis, on the first field."""
    from common import box, multiscale_error, pose

    import dolfinx_msnn as msnn

    dim, cells, boxes = {**CASES, **QUICK}[case][:3]
    msh = box(dim, cells)
    kappa = field(0)(msh)
    problem, grid = pose(msh, kappa, 0), msnn.CoarseGrid(msh, (boxes,) * dim)
    found = []
    for name in BASES:
        if name not in (RAW, LEARNED) or importlib.util.find_spec("torch"):
            L2, energy, _ = multiscale_error(problem, grid, basis(name)(dim, kappa))
            found.append({"case": case, "errors_of": name, "L2": L2, "energy": energy})
    return found


def model_cost(dim: int, num_fields: int) -> Record:
    """Seconds of sampling, scaled to the whole set, and of training, of the pretrained model."""
    from mpi4py import MPI

    import dolfinx_msnn as msnn
    from dolfinx import mesh
    from dolfinx_msnn.nn import dataset
    from dolfinx_msnn.nn.config import Config
    from dolfinx_msnn.nn.model import read_card
    from dolfinx_msnn.pretrained import pretrained_models

    config = Config.read(Path(__file__).parent.parent / "configs" / f"diffusion-{dim}d.toml")
    data, problem = config.data, config.problem
    kind = mesh.CellType.quadrilateral if dim == 2 else mesh.CellType.hexahedron
    create = mesh.create_unit_square if dim == 2 else mesh.create_unit_cube
    grid = msnn.CoarseGrid(create(MPI.COMM_SELF, *problem.cells, kind), problem.coarse)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        dataset.generate(
            f"{folder}/set.h5",
            grid,
            config.families,
            num_fields=num_fields,
            per_field=data.per_field,
            num_modes=data.num_modes,
            lattice=data.lattice,
            samples=data.samples,
            seed=config.seed,
            comm=MPI.COMM_SELF,
        )
        sampling = (time.process_time() - start) * data.num_fields / num_fields
    card = read_card(pretrained_models()[f"diffusion-{dim}d"])
    return {
        "model": f"diffusion-{dim}d",
        "dim": dim,
        "sampling_s": sampling,
        "training_s": card.training_time_s,
        "sampled": num_fields,
        "fields": data.num_fields,
        "load": os.getloadavg()[0],
    }


def pays(cost: float, saved: np.ndarray) -> str:
    """Problems after which a cost is made up for, by what each saves.

    The median, as a spell of load must not decide it.
    """
    if not saved.size:
        return "–"
    gain = float(np.median(saved))
    return f"{math.ceil(cost / gain):,}" if gain > 0 else "never"


def main_table(records: list[Record], cases: Sequence[str]) -> Shown:
    """Times and memory."""
    head = ["case", "basis", "basis, s", "ms a neighbourhood", "whole space, s", "SLEPc / this"]
    head += ["filtered / this"]
    head += ["2 ranks: basis, s", "1 rank / 2 ranks", "GiB", "GiB on 2", "energy error"]
    head += ["paper: s, H100, JAX"]
    rows = []
    pair = ("case", "seed")
    for case in cases:
        counts = values(records, "neighbourhoods", case=case)
        number = int(counts[0]) if counts.size else 0
        for name in ROWS:
            one = {"case": case, "basis": name, "ranks": 1}
            seconds = values(records, "seconds", **one)
            theirs = PAPER.get(case, ("", ""))
            if not seconds.size and name in (RAW, LEARNED):
                rows.append([case, name, "no PyTorch", *[""] * (len(head) - 3)])
                continue
            gain = 1 / ratios(records, "seconds", pair, {"basis": SLEPC, "ranks": 1}, **one)
            over = 1 / ratios(records, "seconds", pair, {"basis": FILTERED, "ranks": 1}, **one)
            if name == SCIPY:
                gain = 1 / values(records, "same_pencils", **one)
            two = {"case": case, "basis": name, "ranks": 2}
            speed = 1 / ratios(records, "seconds", pair, {"basis": name, "ranks": 1}, **two)
            error = values(records, "energy", case=case, errors_of=name)
            rows.append(
                [
                    f"{case}, {number} neighbourhoods",
                    name,
                    spread(seconds),
                    spread(seconds, 1e3 / number) if number else "–",
                    spread(values(records, "space_s", **one)),
                    "1" if name == SLEPC else spread(gain),
                    "1" if name == FILTERED else spread(over),
                    spread(values(records, "seconds", **two)),
                    spread(speed),
                    spread(values(records, "gib", **one)),
                    spread(values(records, "gib", **two)),
                    f"{error[0]:.1%}" if error.size else "–",
                    str({SLEPC: theirs[0], RAW: theirs[1]}.get(name, "")),
                ]
            )
    timed = {r["case"]: f"{r['timed']} ({r['ordering']})" for r in select(records, basis=SCIPY)}
    notes = (
        f"Fields: {FAMILY}; mean ± standard deviation over fields, or one field alone, in "
        "processor time. The scipy loop was timed on so many neighbourhoods, with the ordering "
        "that was the fastest: "
        + "; ".join(f"{k}: {v}" for k, v in timed.items())
        + ", and scaled to all of them; its ratio is that to SLEPc on the same pencils in the same "
        "process. GiB: peak resident memory of all ranks together, DOLFINx "
        "and, where a network is used, PyTorch among it. Energy error: of the multiscale solution "
        "on the first field (not solved in the largest case); what is fast there and far off is "
        "of no use. On two ranks: processor time of the slower rank for its share. Other jobs were "
        "running, so a gain may come out above 2, and memory bandwidth limits it less than alone. "
        "The paper's seconds are those of GMsFEM's basis and of its network, on another machine: "
        "not compared."
    )
    return Shown("Construction of the basis", head, rows, notes)


def cost_table(records: list[Record], cases: Sequence[str]) -> Shown:
    """When a model has paid for itself."""
    head = ["case", "basis", "data, s", "training, s", "pays after, against SLEPc"]
    head += ["against the scipy loop", "against filtered"]
    rows, lines = [], []
    for case in cases:
        dim = {**CASES, **QUICK}[case][0]
        cost = next(select(records, model=f"diffusion-{dim}d"), None)
        if cost is None:
            rows.append([case, LEARNED, "no PyTorch", *[""] * 4])
            continue
        text = f"{dim}D: {cost['sampled']} of {cost['fields']} fields sampled"
        if text not in lines:
            lines.append(text)
        for name in (LEARNED, RAW):
            ours = {
                r["seed"]: r["seconds"] for r in select(records, case=case, basis=name, ranks=1)
            }
            row = [case, name, f"{cost['sampling_s']:.0f}", f"{cost['training_s']:.0f}"]
            for other in (SLEPC, SCIPY, FILTERED):
                found = select(records, case=case, basis=other, ranks=1)
                saved = [r["seconds"] - ours[r["seed"]] for r in found if r["seed"] in ours]
                row.append(pays(cost["sampling_s"] + cost["training_s"], np.array(saved)))
            rows.append(row)
    notes = (
        "Problems (one coefficient field each, one rank) after which the time saved on the basis, "
        "field by field, the median, has made up for data and training. Training: by the "
        "model's card. "
        + "; ".join(lines)
        + ". The space from the network without filter is not comparable with the others: see its "
        "error; its row only bounds what a model could save at best."
    )
    return Shown("What a model has cost, and when it has paid", head, rows, notes)


def draw(records: list[Record], cases: Sequence[str], figure: Figure) -> None:
    """Bars of the time for the basis."""
    axes = figure.subplots()
    at = np.arange(len(cases))
    width = 0.8 / len(ROWS)
    for k, name in enumerate(ROWS):
        means = [values(records, "seconds", case=c, basis=name, ranks=1) for c in cases]
        heights = [m.mean() if m.size else np.nan for m in means]
        label = f"{name} (no filter, far off)" if name == RAW else name
        axes.bar(at + (k - 2) * width, heights, width, label=label, color=f"C{k}")
    for which, label, marker in ((0, "GMsFEM basis", "_"), (1, "learned", "x")):
        points = [PAPER[c][which] if c in PAPER else np.nan for c in cases]
        if np.isfinite(points).any():
            text = f"paper, {label} (H100, JAX)"
            axes.plot(at, points, marker, color="black", ms=12 - 4 * which, label=text)
    axes.set_yscale("log")
    axes.set_xticks(at, [f"{c}³" if c.startswith("3d") else f"{c}²" for c in cases])
    axes.set_ylabel("basis construction, one core, s")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)


def run(results: Results, options: Any, cases: Sequence[str]) -> None:
    """Make the records that are missing: one rank first, as that is what most columns need."""

    def start(arguments: list[str], ranks: int) -> None:
        # In a process each, for its peak memory, but for the quick check.
        alone = options.quick and ranks == 1
        made: Any = make(arguments) if alone else launch(["--worker", *arguments], ranks, __file__)
        for record in made:
            results.add(record)

    torch = importlib.util.find_spec("torch") is not None
    for case in cases:
        if case != "3d-100" and results.missing(case=case, errors_of=SLEPC):
            start(["errors", case], 1)
    names = [n for n in BASES if n in options.bases and (torch or n not in (RAW, LEARNED))]
    sampled = SAMPLED_QUICK if options.quick else SAMPLED
    for dim in {{**CASES, **QUICK}[case][0] for case in cases}:
        if torch and results.missing(model=f"diffusion-{dim}d"):
            start(["model", str(dim), str(sampled[dim])], 1)
    for case in cases:
        for seed in range(options.fields or FIELDS[case]):
            for name in names:
                # One after the other, so that the load of the machine is the same to both.
                for ranks in options.ranks:
                    key = {"case": case, "ranks": ranks, "seed": seed, "basis": name}
                    # To start PyTorch twice more takes longer than all else in the quick check.
                    twice = case == "2d-quick" and name == FILTERED
                    if (options.quick and ranks > 1 and not twice) or not results.missing(**key):
                        continue
                    start(["basis", case, str(seed), name], ranks)
            # In 3D one field is sampled, and that takes long enough.
            once = case.startswith("2d") or seed == 0
            key = {"case": case, "ranks": 1, "seed": seed, "basis": SCIPY}
            if 1 in options.ranks and once and results.missing(**key):
                start(["scipy", case, str(seed)], 1)


def make(arguments: Sequence[str]) -> list[Record]:
    """The work of one process of a run."""
    kind, *rest = arguments
    if kind == "basis":
        return construct(rest[0], int(rest[1]), rest[2:])
    if kind == "scipy":
        return [scipy_loop(rest[0], int(rest[1]))]
    if kind == "errors":
        return accuracy(rest[0])
    return [model_cost(int(rest[0]), int(rest[1]))]


def main() -> None:
    """Run from the command line."""
    if sys.argv[1:2] == ["--worker"]:
        if found := make(sys.argv[2:]):
            print(json.dumps(found))
        return
    arguments = parser(__doc__)
    arguments.add_argument("--cases", nargs="+", choices=[*CASES, *QUICK], help="of the meshes")
    arguments.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    arguments.add_argument("--fields", type=int, help="fields of each case")
    arguments.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    options = arguments.parse_args()
    cases = options.cases or list(QUICK if options.quick else CASES)
    settings = {"family": FAMILY, "fields": FIELDS, "num_modes": 8}
    results = Results("time", options, settings)
    if not options.show:
        run(results, options, cases)
    found = {r["case"] for r in results.records if "basis" in r}
    cases = [case for case in {**CASES, **QUICK} if case in found]
    shown = [main_table(results.records, cases), cost_table(results.records, cases)]
    results.finish(shown, {"bars": lambda figure: draw(results.records, cases, figure)})


if __name__ == "__main__":
    main()
