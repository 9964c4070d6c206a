# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Time and memory of building a multiscale space, stage by stage, on 1 and 2 ranks.

The basis is the filtered one with 8 modes. Set-up is the space, A_0 and its factors; the measure is
DOLFINx's assembly of A in the same run, in processor seconds of all ranks. The largest case runs
once, on two ranks. Every figure comes from a fresh process (peak memory is then that of the case),
runs with different numbers of ranks alternate, and medians are taken. For comparison eigensolves
beside a loop of ``scipy.sparse.linalg.eigsh`` in shift-invert mode over the same local pencils,
with the fastest of several orderings of its LU factorisation, chosen on the largest one.

    python benchmarks/bench_space.py [--quick] [--resume] [--show] [--cases CASE ...]
        [--ranks 1 2] [--repeat N]

About half an hour.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from harness.building import CASES, LARGEST, QUICK, build, eigsh_loop
from harness.launch import launch, serve
from harness.problems import NUM_MODES
from harness.results import Parser, Record, Records, Results, Shown, tabulate, text

import dolfinx_msnn as msnn

CONTRAST = 1e3
SEED = 0
#: Runs of each case.
REPEAT = {
    "2d-100": 7,
    "2d-250": 5,
    "3d-50": 3,
    "3d-100": 1,
    "3d-180": 1,
    "2d-quick": 3,
    "3d-quick": 1,
}
#: Heads of the stages in the table.
STAGES = {
    "neighbourhoods": "neighb.",
    "exchange": "exchange",
    "element matrices": "elements",
    "local matrices": "local",
    "basis": "**basis**",
    "prolongation": "P",
    "A_0, factors": "A_0, factors",
    "solve": "a solution",
}


def work(what: str, case: str) -> Any:
    """What one process does."""

    def field(msh: Any) -> Any:
        return msnn.fields.channels(msh, contrast=CONTRAST, seed=SEED)

    if what == "scipy":
        return eigsh_loop(case, field)
    return build(case, field, lambda kappa: msnn.FilteredBasis(NUM_MODES), product=True)


def run(results: Results, options: Namespace) -> None:
    """All cases."""
    for case in options.cases:
        for repeat in range(options.repeat or REPEAT[case]):
            for ranks in [max(options.ranks)] if case in LARGEST else options.ranks:
                key = {"part": "space", "case": case, "ranks": ranks, "repeat": repeat}
                if results.missing(**key):
                    results.add(key | launch(__file__, "space", case, ranks=ranks))
        if case not in LARGEST and results.missing(part="scipy", case=case):
            for record in launch(__file__, "scipy", case):
                results.add(record)


def spent(record: Record, entry: str) -> float:
    """Processor seconds of all ranks, or another sum."""
    return float(sum(rank[entry] for rank in record["spent"]))


def rest(record: Record) -> float:
    """Share of the set-up that is neither the basis nor element matrices."""
    own = record["s basis"] + record["s element matrices"]
    return 1.0 - own / (record["s space"] + record["s A_0, factors"])


def median(runs: Records, entry: str) -> float:
    """Of an entry of some runs."""
    return statistics.median(r[entry] for r in runs)


def over(entry: str, base: str) -> Callable[[Records], str]:
    """Median of a ratio of processor times, where it was measured."""

    def text(runs: Records) -> str:
        known = [spent(r, entry) / spent(r, base) for r in runs if entry in r["spent"][0]]
        return f"{statistics.median(known):.2f}" if known else ""

    return text


def shown(records: Records) -> list[Shown]:
    """Stages, then eigensolves next to SciPy."""
    groups = records.select(part="space").by("case", "ranks")
    columns = {
        "case": lambda r: r[0]["case"],
        "ranks": lambda r: f"{r[0]['ranks']}",
        "N_f": lambda r: f"{r[0]['N_f']}",
        "N_c": lambda r: f"{r[0]['N_c']}",
        **{head: lambda r, k=k: f"{median(r, f's {k}'):.3g}" for k, head in STAGES.items()},
        # Within one run, so that a slow spell of the machine hits both sides of a ratio.
        "not basis or elements": lambda r: f"{statistics.median(map(rest, r)):.0%}",
        "set-up / A": over("set-up", "A"),
        "update / set-up": over("update", "set-up"),
        "system": over("system", "set-up"),
        "GiB": lambda r: f"{statistics.median(sum(x['peak_gib_by_rank']) for x in r):.2f}",
    }
    notes = [
        "Seconds, slowest rank, median of runs; ratios of processor time: of the set-up over that "
        "of DOLFINx's assembly of A, of an update of all neighbourhoods with A_0 and factors over "
        "the set-up, and the share of the operating system. GiB: peak resident memory of all ranks."
    ]
    for (case, ranks), group in groups.items():
        if ranks > 1 and (case, 1) in groups:
            whole = [
                statistics.median(r["s space"] + r["s A_0, factors"] for r in runs)
                for runs in (groups[case, 1], group)
            ]
            notes.append(f"{case}: set-up {whole[0] / whole[1]:.2f}x faster on {ranks} ranks.")
    scipy = {
        "case": text("case"),
        "largest, dofs": text("n"),
        "eigensolve, ms": lambda r: f"{1e3 * r['ours_s']:.3g}",
        "scipy eigsh, ms": lambda r: f"{1e3 * r['eigsh_s']:.3g}",
        "faster": lambda r: f"{r['ratio']:.2f}x",
        "faster than with SuperLU's default ordering": lambda r: (
            f"{r['ratio_default_ordering']:.2f}x"
        ),
    }
    return [
        tabulate("Stages of a space", groups.values(), columns, " ".join(notes)),
        tabulate(
            "Eigensolves, next to a loop of SciPy's eigsh",
            records.select(part="scipy"),
            scipy,
            "Means over all neighbourhoods.",
        ),
    ]


def main() -> None:
    """Run the cases and write the tables."""
    if serve(work):
        return
    parser = Parser(__doc__, CASES | LARGEST, QUICK)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, help="runs of each case instead of its default")
    options = parser.parse_args()
    settings = {"num_modes": NUM_MODES, "contrast": CONTRAST, "seed": SEED}
    results = Results("space", options, settings)
    if not options.show:
        run(results, options)
    results.finish(shown(results.records))


if __name__ == "__main__":
    main()
