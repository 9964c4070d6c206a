# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Time and memory of building a multiscale space, stage by stage, on 1 and 2 ranks.

Run it without arguments for everything (about half an hour), with ``--quick`` for a check, or with
the names of cases. Every figure comes from a fresh process (peak memory is then that of the case),
runs with different numbers of ranks alternate, and medians are taken. The baseline for the
eigensolves is a loop of ``scipy.sparse.linalg.eigsh`` in shift-invert mode over the same local
pencils, with the fastest of several orderings of its LU factorisation, chosen on the largest one.

    python benchmarks/bench_space.py [--quick] [--ranks 1 2] [--repeat N] [case ...]

A table goes to the terminal, and with JSON beside it to ``benchmarks/results/space.*``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables import machine

os.environ.setdefault("OMP_NUM_THREADS", "1")

NUM_MODES = 8
CONTRAST = 1e3
SEED = 0

#: name: dimension, fine cells in each direction, coarse boxes in each direction, repetitions
CASES: dict[str, tuple[int, int, int, int]] = {
    "2d-100": (2, 100, 5, 7),
    "2d-250": (2, 250, 10, 5),
    "3d-50": (3, 50, 5, 3),
    "3d-100": (3, 100, 8, 1),
}
QUICK: dict[str, tuple[int, int, int, int]] = {
    "2d-quick": (2, 60, 4, 3),
    "3d-quick": (3, 16, 2, 1),
}
#: Neighbourhoods of each size that the scipy loop is timed on in 3D (2D: all).
SAMPLE = 3


def worker(
    case: str,
    make_basis: Callable[[int, Any], Any] | None = None,
    field: Callable[[Any], Any] | None = None,
    *,
    product: bool = True,
) -> dict[str, Any] | None:
    """Build one space on the ranks of this process; the record is on rank 0.

    Args:
        case: Of :data:`CASES` or :data:`QUICK`.
        make_basis: Gives the basis for the dimension and the coefficient; default SLEPc's modes.
        field: Gives the coefficient on a mesh; default channels.
        product: Whether A and PᵀAP are timed, too.
    """
    from mpi4py import MPI

    import numpy as np
    from common import Clock

    import dolfinx_msnn as msnn
    import ufl
    from dolfinx import fem, mesh
    from dolfinx.fem.petsc import assemble_matrix
    from dolfinx_msnn.algebra.product import GalerkinProduct

    comm = MPI.COMM_WORLD
    dim, cells, boxes, _ = {**CASES, **QUICK}[case]
    if dim == 2:
        msh = mesh.create_unit_square(comm, cells, cells, mesh.CellType.quadrilateral)
    else:
        msh = mesh.create_unit_cube(comm, cells, cells, cells, mesh.CellType.hexahedron)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = channels(msh) if field is None else field(msh)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    s = kappa * u * v * ufl.dx
    ends = [
        fem.locate_dofs_geometrical(V, lambda x, at=at: np.isclose(x[0], at)) for at in (0.0, 1.0)
    ]
    bcs = [fem.dirichletbc(1.0 - k, dofs, V) for k, dofs in enumerate(ends)]
    coarse = msnn.CoarseGrid(msh, (boxes,) * dim)

    start = time.perf_counter()
    basis = Clock(msnn.SpectralBasis(NUM_MODES) if make_basis is None else make_basis(dim, kappa))
    stages = {"creation of the basis": time.perf_counter() - start}

    def build() -> msnn.MultiscaleFunctionSpace:
        return msnn.multiscale_functionspace(V, coarse, basis, a, s, bcs)

    if cells**dim <= 10**5:
        build().destroy()  # warm up: form compilation, first use of libraries
    basis.seconds = 0.0

    def stage(name: str, start: float) -> float:
        comm.Barrier()
        stages[name] = time.perf_counter() - start
        return time.perf_counter()

    comm.Barrier()
    start = time.perf_counter()
    if product:
        A = assemble_matrix(fem.form(a), bcs=bcs)
        A.assemble()
        start = stage("fine matrix (DOLFINx)", start)
    cpu = time.process_time()
    W = build()
    cpu = time.process_time() - cpu
    start = stage("space", start)
    if product:
        galerkin = GalerkinProduct(A, W)
        start = stage("PtAP, first", start)
        galerkin.assemble(A)
        stage("PtAP, again", start)
        galerkin.A0.destroy()
        A.destroy()
    # Each stage's figure is that of the slowest rank.
    keys = sorted(W.timings)
    slowest = np.array([W.timings[key] for key in keys])
    comm.Allreduce(MPI.IN_PLACE, slowest, op=MPI.MAX)
    eigen = comm.gather(W.timings["basis"])
    peak = comm.gather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    count = comm.gather(len(W.eigenvalues))
    eigen_cpu, space_cpu = comm.gather(basis.seconds), comm.gather(cpu)
    num_dofs, num_fine = W.num_dofs, V.dofmap.index_map.size_global
    W.destroy()
    if comm.rank != 0:
        return None
    return {
        "case": case,
        "ranks": comm.size,
        "N_f": num_fine,
        "N_c": num_dofs,
        "neighbourhoods": count,
        "stages_s": stages | dict(zip(keys, slowest.tolist(), strict=True)),
        "eigensolves_by_rank_s": eigen,
        "eigensolves_by_rank_cpu_s": eigen_cpu,
        "space_by_rank_cpu_s": space_cpu,
        "peak_gib_by_rank": peak,
    }


def channels(msh: Any) -> Any:
    """The coefficient of the table of stages."""
    import dolfinx_msnn as msnn

    return msnn.fields.channels(msh, contrast=CONTRAST, seed=SEED)


def scipy_worker(case: str, field: Callable[[Any], Any] = channels) -> dict[str, Any]:
    """Time the eigsh loop and our own eigensolves on the same pencils, in turn, on one core."""
    from mpi4py import MPI

    import numpy as np
    import scipy.sparse.linalg as sla

    import dolfinx_msnn as msnn
    import ufl
    from dolfinx import fem, mesh
    from dolfinx_msnn._utils.timings import Timings
    from dolfinx_msnn.local.assembly import LocalProblems

    dim, cells, boxes, _ = {**CASES, **QUICK}[case]
    comm, whole = MPI.COMM_SELF, boxes
    # Of the largest case, an eighth with neighbourhoods of the same size tells as much.
    if cells**dim > 10**5 and boxes > 5:
        cells, boxes = cells * 4 // boxes, 4
    if dim == 2:
        msh = mesh.create_unit_square(comm, cells, cells, mesh.CellType.quadrilateral)
    else:
        msh = mesh.create_unit_cube(comm, cells, cells, cells, mesh.CellType.hexahedron)
    V = fem.functionspace(msh, ("Lagrange", 1))
    kappa = field(msh)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    s = kappa * u * v * ufl.dx
    problems: list[msnn.LocalProblem] = []
    sizes: dict[int, int] = {}
    for problem in LocalProblems(V, msnn.CoarseGrid(msh, (boxes,) * dim), a, s, [], Timings()):
        sizes[problem.num_dofs] = sizes.get(problem.num_dofs, 0) + 1
        if dim == 2 or sizes[problem.num_dofs] <= SAMPLE:
            problems.append(problem)
    basis = msnn.SpectralBasis(NUM_MODES)

    def eigsh(problem: msnn.LocalProblem, ordering: str, symmetric: bool) -> np.ndarray:
        A, S = problem.A.tocsc(), problem.S.tocsc()
        shift = -1e-2 * problem.A.diagonal().sum() / problem.S.diagonal().sum() / cells**2
        options = {"SymmetricMode": symmetric}
        lu = sla.splu(
            (A - shift * S).tocsc(),
            permc_spec=ordering,
            diag_pivot_thresh=0.0 if symmetric else 1.0,
            options=options,
        )
        inverse = sla.LinearOperator(A.shape, matvec=lu.solve, dtype=float)
        return sla.eigsh(A, NUM_MODES, M=S, sigma=shift, OPinv=inverse)[0]

    def clock(function: Any, *arguments: Any) -> float:
        # Processor time of this one process: neither side waits for anything.
        start = time.process_time()
        function(*arguments)
        return time.process_time() - start

    largest = max(problems, key=lambda problem: problem.num_dofs)
    choices = [("COLAMD", False), ("MMD_AT_PLUS_A", False), ("MMD_AT_PLUS_A", True)]
    tried = {
        f"{name}{', symmetric mode' if symmetric else ''}": clock(eigsh, largest, name, symmetric)
        for name, symmetric in choices
    }
    best = choices[min(range(len(choices)), key=lambda k: list(tried.values())[k])]
    ours, theirs, plain, whole_ours, whole_theirs = 0.0, 0.0, 0.0, 0.0, 0.0
    per_size: dict[int, dict[str, float]] = {}
    basis.modes(problems[:1])
    by_size: dict[int, list[msnn.LocalProblem]] = {}
    for problem in problems:
        by_size.setdefault(problem.num_dofs, []).append(problem)
    for size, group in by_size.items():
        mine = clock(basis.modes, group) / len(group)
        eigsh_s = sum(clock(eigsh, problem, *best) for problem in group) / len(group)
        plain_s = sum(clock(eigsh, problem, *choices[0]) for problem in group) / len(group)
        per_size[size] = {
            "ours_s": mine,
            "eigsh_s": eigsh_s,
            "eigsh_default_ordering_s": plain_s,
            "neighbourhoods": sizes[size],
        }
        plain += sizes[size] * plain_s
        ours += sizes[size] * mine
        theirs += sizes[size] * eigsh_s
        # On how many sides of the domain: there are so many in the whole grid for each in this one.
        inside = int(np.sum((group[0].place > 1e-9) & (group[0].place < 1 - 1e-9)))
        share = ((whole - 1) / (boxes - 1)) ** inside * sizes[size]
        whole_ours += share * mine
        whole_theirs += share * eigsh_s
    number = sum(sizes.values())
    return {
        "case": case,
        "ordering_trials_s": tried,
        "timed_neighbourhoods": len(problems),
        "largest_n": largest.num_dofs,
        "ours_per_neighbourhood_s": ours / number,
        "eigsh_per_neighbourhood_s": theirs / number,
        "ours_s": whole_ours,
        "eigsh_s": whole_theirs,
        "ratio": theirs / ours,
        "ratio_default_ordering": plain / ours,
        "by_size": per_size,
    }


def launch(arguments: list[str], ranks: int, program: str = __file__) -> dict[str, Any]:
    """Run a program, this one if no other is given, as a worker on some ranks; its record."""
    mpiexec = Path(sys.executable).parent / "mpiexec"
    command = [str(mpiexec) if mpiexec.exists() else shutil.which("mpiexec") or "mpiexec"]
    command += ["-n", str(ranks), sys.executable, program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of every figure over runs of the same case and number of ranks."""
    first = runs[0]
    stages = {
        key: statistics.median(run["stages_s"][key] for run in runs) for key in first["stages_s"]
    }
    # Within one run, so that a slow spell of the machine hits both sides of the ratio.
    besides = statistics.median(
        (run["stages_s"]["space"] + run["stages_s"]["PtAP, first"] - run["stages_s"]["basis"])
        / run["stages_s"]["basis"]
        for run in runs
    )
    return {
        **{key: first[key] for key in ("case", "ranks", "N_f", "N_c", "neighbourhoods")},
        "runs": len(runs),
        "stages_s": stages,
        "all_but_eigensolves_over_eigensolves": besides,
        "peak_gib": statistics.median(sum(run["peak_gib_by_rank"]) for run in runs),
    }


def table(records: list[dict[str, Any]], scipy_records: list[dict[str, Any]]) -> str:
    """Markdown."""
    names = {
        "neighbourhoods": "neighb.",
        "exchange": "exchange",
        "element matrices": "elements",
        "local matrices": "local",
        "basis": "**eigen**",
        "prolongation": "P",
        "PtAP, first": "PtAP",
        "PtAP, again": "PtAP again",
    }
    lines = [
        "| case | ranks | N_f | N_c | " + " | ".join(names.values()) + " | rest/eigen | GiB |",
        "|" + " --- |" * (6 + len(names)),
    ]
    for r in records:
        stages = " | ".join(f"{r['stages_s'][key]:.3g}" for key in names)
        ratio = r["all_but_eigensolves_over_eigensolves"]
        lines.append(
            f"| {r['case']} | {r['ranks']} | {r['N_f']} | {r['N_c']} | {stages} | "
            f"{ratio:.0%} | {r['peak_gib']:.2f} |"
        )
    lines += ["", "Seconds, slowest rank, median of runs; GiB: peak resident memory of all ranks."]
    one = {r["case"]: r for r in records if r["ranks"] == 1}
    for r in records:
        if r["ranks"] > 1 and r["case"] in one:
            gain = one[r["case"]]["stages_s"]["basis"] / r["stages_s"]["basis"]
            lines.append(f"{r['case']}: eigensolves {gain:.2f}x faster on {r['ranks']} ranks.")
    lines.append("")
    for r in scipy_records:
        lines.append(
            f"{r['case']}: eigensolve {1e3 * r['ours_per_neighbourhood_s']:.3g} ms a neighbourhood,"
            f" scipy eigsh {1e3 * r['eigsh_per_neighbourhood_s']:.3g} ms: {r['ratio']:.2f}x, "
            f"{r['ratio_default_ordering']:.2f}x faster with SuperLU's default ordering (largest: "
            f"{r['largest_n']} dofs)."
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cases and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", help=f"from {', '.join([*CASES, *QUICK])}")
    parser.add_argument("--quick", action="store_true", help="small cases only")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, help="runs of each case instead of its default")
    parser.add_argument("--output", default=str(Path(__file__).parent / "results"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--scipy-worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker or options.scipy_worker:
        record = worker(options.worker) if options.worker else scipy_worker(options.scipy_worker)
        if record is not None:
            print(json.dumps(record))
        return

    known = {**CASES, **QUICK}
    cases = options.cases or list(QUICK if options.quick else CASES)
    for case in cases:
        if case not in known:
            raise SystemExit(f"Unknown case {case!r}; expected some of {', '.join(known)}.")
    records, scipy_records, raw = [], [], []
    for case in cases:
        runs: dict[int, list[dict[str, Any]]] = {ranks: [] for ranks in options.ranks}
        for _ in range(options.repeat or known[case][3]):
            for ranks in options.ranks:
                runs[ranks].append(launch(["--worker", case], ranks))
                seconds = runs[ranks][-1]["stages_s"]["space"]
                print(f"{case} on {ranks} ranks: {seconds:.2f} s", file=sys.stderr, flush=True)
        raw += [run for group in runs.values() for run in group]
        records += [summarise(group) for group in runs.values()]
        scipy_records.append(launch(["--scipy-worker", case], 1))
    text = table(records, scipy_records)
    print(text)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    name = "space-quick" if options.quick else "space"
    (output / f"{name}.md").write_text(text + "\n")
    settings = {"num_modes": NUM_MODES, "contrast": CONTRAST, "seed": SEED}
    (output / f"{name}.json").write_text(
        json.dumps(
            {
                "settings": settings,
                "machine": machine(),
                "summary": records,
                "scipy": scipy_records,
                "runs": raw,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
