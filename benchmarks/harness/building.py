# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""One space, stage by stage, on the ranks of this process, and a loop of SciPy's eigsh."""

from __future__ import annotations

from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage
from time import perf_counter, process_time
from typing import Any

from harness.machine import peak_gib
from harness.problems import NUM_MODES, Diffusion, box
from harness.results import Record
from harness.timing import Clock

from mpi4py import MPI

import numpy as np
import scipy.sparse.linalg as sla

import dolfinx_msnn as msnn
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix

#: name: dimension, fine cells in each direction, coarse boxes in each direction
CASES = {"2d-100": (2, 100, 5), "2d-250": (2, 250, 10), "3d-50": (3, 50, 5), "3d-100": (3, 100, 8)}
#: What this machine has memory for, on all ranks that are asked for.
LARGEST = {"3d-180": (3, 180, 18)}
QUICK = {"2d-quick": (2, 60, 4), "3d-quick": (3, 16, 2)}
#: Cells from which on nothing is built twice.
LARGE = 10**5
#: Neighbourhoods of each size that the loop of eigsh is timed on in 3D (2D: all).
SAMPLE = 3


def build(
    case: str,
    field: Callable[[Any], Any],
    make_basis: Callable[[Any], Any],
    *,
    product: bool = False,
) -> Record | None:
    """Build one space on the ranks of this process; the record is on rank 0.

    Args:
        case: Of :data:`CASES` or :data:`QUICK`.
        field: Gives the coefficient on a mesh.
        make_basis: Gives the basis for a coefficient.
        product: Whether DOLFINx's assembly of A, A_0 with its factors, a solution and an update
            for a new coefficient are timed, too.

    Returns:
        Sizes; ``"s STAGE"``, wall-clock seconds of the slowest rank; and, in lists with an entry
        for each rank, neighbourhoods, wall-clock and processor time, and peak memory.
    """
    comm = MPI.COMM_WORLD
    dim, cells, boxes = {**CASES, **LARGEST, **QUICK}[case]
    kappa = field(box(dim, cells, comm))
    problem = Diffusion(kappa, boxes)
    start = perf_counter()
    basis = Clock(make_basis(kappa))
    stages = {"creation of the basis": perf_counter() - start}
    if cells**dim <= LARGE:
        problem.space(basis).destroy()  # warm up: form compilation, first use of libraries
    basis.seconds = 0.0

    def stage(name: str, start: float) -> float:
        comm.Barrier()
        stages[name] = perf_counter() - start
        return perf_counter()

    comm.Barrier()
    start, spent = perf_counter(), {}
    if product:
        form = fem.form(problem.a)
        cpu = process_time()
        A = assemble_matrix(form, bcs=problem.bcs)
        A.assemble()
        spent["A"] = process_time() - cpu
        start = stage("fine matrix (DOLFINx)", start)
        A.destroy()
    used, cpu = getrusage(RUSAGE_SELF), process_time()
    with problem.space(basis, updatable=product and cells**dim <= LARGE) as W:
        spent["space"] = process_time() - cpu
        start = stage("space", start)
        stages |= W.timings
        if product:
            with problem.coarse_problem(W) as coarse:
                coarse.assemble()
                spent["set-up"] = process_time() - cpu
                now = getrusage(RUSAGE_SELF)
                spent["system"] = now.ru_stime - used.ru_stime
                spent["page faults"] = now.ru_minflt - used.ru_minflt
                start = stage("A_0, factors", start)
                coarse.solve()
                start, cpu = stage("solve, first", start), process_time()
                coarse.solve()
                spent["solve"] = process_time() - cpu
                start, cpu = stage("solve", start), process_time()
                if cells**dim <= LARGE:
                    # Another number in each cell: all neighbourhoods change.
                    kappa.x.array[:] *= 1.0 + np.random.default_rng(1).random(len(kappa.x.array))
                    W.update()
                    coarse.assemble()
                    spent["update"] = process_time() - cpu
                    stage("update", start)
        by_rank = {
            "neighbourhoods": len(W.eigenvalues),
            "eigensolves_by_rank_s": W.timings["basis"],
            "eigensolves_by_rank_cpu_s": basis.seconds,
            "space_by_rank_cpu_s": spent["space"],
            "spent": spent,
            "peak_gib_by_rank": peak_gib(),
        }
        made: Record = {"case": case, "ranks": comm.size}
        made |= {"N_f": problem.V.dofmap.index_map.size_global, "N_c": W.num_dofs}
    made |= {f"s {k}": comm.allreduce(stages[k], MPI.MAX) for k in sorted(stages)}
    made |= {name: comm.gather(value) for name, value in by_rank.items()}
    return made if comm.rank == 0 else None


def eigsh(problem: msnn.LocalProblem, cells: int, ordering: str, symmetric: bool) -> np.ndarray:
    """The lowest eigenvalues by SciPy, in shift-invert mode."""
    A, S = problem.A.tocsc(), problem.S.tocsc()
    shift = -1e-2 * problem.A.diagonal().sum() / problem.S.diagonal().sum() / cells**2
    lu = sla.splu(
        (A - shift * S).tocsc(),
        permc_spec=ordering,
        diag_pivot_thresh=0.0 if symmetric else 1.0,
        options={"SymmetricMode": symmetric},
    )
    inverse = sla.LinearOperator(A.shape, matvec=lu.solve, dtype=float)
    return sla.eigsh(A, NUM_MODES, M=S, sigma=shift, OPinv=inverse)[0]


def eigsh_loop(case: str, field: Callable[[Any], Any]) -> list[Record]:
    """Time the loop of eigsh and our own eigensolves on the same pencils, in turn, on one core.

    The fastest of several orderings of the LU factorisation is chosen on the largest pencil.

    Returns:
        Means over all neighbourhoods (``part`` "scipy"), and over those of each size.
    """
    dim, cells, boxes = {**CASES, **QUICK}[case]
    whole = boxes
    # Of the largest case, an eighth with neighbourhoods of the same size tells as much.
    if cells**dim > LARGE and boxes > 5:
        cells, boxes = cells * 4 // boxes, 4
    kappa = field(box(dim, cells))
    problem = Diffusion(kappa, boxes)
    groups: dict[int, list[msnn.LocalProblem]] = {}
    counts: dict[int, int] = {}
    for local in problem.local_problems():
        n = local.num_dofs
        counts[n] = counts.get(n, 0) + 1
        if dim == 2 or counts[n] <= SAMPLE:
            groups.setdefault(n, []).append(local)
    basis = msnn.SpectralBasis(NUM_MODES)

    def clock(function: Any, *arguments: Any) -> float:
        # Processor time of this one process: neither side waits for anything.
        start = process_time()
        function(*arguments)
        return process_time() - start

    largest = groups[max(groups)][0]
    choices = [("COLAMD", False), ("MMD_AT_PLUS_A", False), ("MMD_AT_PLUS_A", True)]
    tried = [clock(eigsh, largest, cells, *choice) for choice in choices]
    best = choices[int(np.argmin(tried))]
    names = [f"{name}{', symmetric mode' if symmetric else ''}" for name, symmetric in choices]
    basis.modes([largest])
    sizes: list[Record] = []
    for n, group in groups.items():
        solvers = {"ours": clock(basis.modes, group)}
        for name, choice in (("eigsh", best), ("eigsh_default_ordering", choices[0])):
            solvers[name] = sum(clock(eigsh, local, cells, *choice) for local in group)
        # On how many sides of the domain: there are so many in the whole grid for each in this one.
        inside = int(np.sum((group[0].place > 1e-9) & (group[0].place < 1 - 1e-9)))
        share = ((whole - 1) / (boxes - 1)) ** inside
        sizes.append(
            {"case": case, "part": "scipy, by size", "n": n, "neighbourhoods": counts[n]}
            | {"in_whole": share * counts[n]}
            | {f"{name}_s": seconds / len(group) for name, seconds in solvers.items()}
        )

    def mean(entry: str, count: str = "neighbourhoods") -> float:
        return sum(r[entry] * r[count] for r in sizes) / sum(r[count] for r in sizes)

    ours, theirs, plain = (mean(f"{k}_s") for k in ("ours", "eigsh", "eigsh_default_ordering"))
    total = {
        "timed_neighbourhoods": sum(map(len, groups.values())),
        "n": largest.num_dofs,
        "ordering": names[choices.index(best)],
        **{f"trial of {name}, s": s for name, s in zip(names, tried, strict=True)},
        "ours_s": ours,
        "eigsh_s": theirs,
        "ours_in_all_s": sum(r["ours_s"] * r["in_whole"] for r in sizes),
        "eigsh_in_all_s": sum(r["eigsh_s"] * r["in_whole"] for r in sizes),
        "ratio": theirs / ours,
        "ratio_default_ordering": plain / ours,
    }
    return [{"case": case, "part": "scipy"} | total, *sizes]
