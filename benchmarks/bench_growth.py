# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Growth: time and memory over neighbourhoods, width and ranks; peaks; a cost model.

- *Number*: 36 to 3,600 neighbourhoods of the same size in 2D, 27 to 343 in 3D: time of every stage
  and memory, for one neighbourhood. Each size in a process of its own.
- *Width*: neighbourhoods of 10 to 60 cells across in 2D, 8 to 24 in 3D, their number fixed, with
  fitted exponents of the time.
- *Ranks*: the same problem on 1, 2 and 4 ranks (strong), and one that grows with them (weak).
- *Peaks*: what of the speed of this core's matrix products and memory the filter and Rayleigh-Ritz
  reach; operations are counted, bytes are those that have to move once.
- *Model*: `growth/cost_model.py`, with rates of one measured size, against the other runs, and for
  1e9 dofs on up to 1e4 ranks.

Fields are two-phase, contrast 1e3. Times are processor time, of the slowest rank where there are
several (waiting in MPI counts: it spins), so that other jobs on the machine hardly matter.

    python benchmarks/bench_growth.py [--quick] [--resume] [--show] [--cases number width ...]
        [--ranks 1 2 4] [--repeat N] [--latency S] [--bandwidth B] [--crowding X]

About half an hour.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from growth.cost_model import Cluster
from growth.figures import figures
from growth.tables import Sizes, tables
from harness.bases import FILTERED, LEARNED, SLEPC, make, usable
from harness.fine_solvers import PetscSolver
from harness.launch import launch, serve
from harness.machine import peak_gib
from harness.problems import FIRST_SEED, NUM_MODES, Diffusion, box
from harness.results import Parser, Record, Records, Results
from harness.timing import least

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx import fem
from dolfinx.fem.petsc import assemble_vector
from dolfinx_msnn import fields
from dolfinx_msnn.algebra.fine import FineOperator
from dolfinx_msnn.algebra.product import CoarseOperator
from dolfinx_msnn.bases.chebyshev import chebyshev_filter
from dolfinx_msnn.bases.cosines import cosines, num_start
from dolfinx_msnn.bases.kernels import project
from dolfinx_msnn.bases.pencil import Pencil
from dolfinx_msnn.petsc import create_coarse_solver

CONTRAST = 1e3
#: Calls of a kernel, of which the least time is taken.
REPEATS = 7
SIZES: dict[str, Sizes] = {
    "number": {
        2: [(5, 10), (10, 10), (20, 10), (40, 10), (59, 10)],
        3: [(k, 8) for k in range(2, 7)],
    },
    "width": {2: [(4, k) for k in (5, 10, 15, 20, 30)], 3: [(2, k) for k in (4, 6, 8, 10, 12)]},
    "strong": {2: [(20, 10)], 3: [(4, 8)]},
    "weak": {2: [(14, 10), (20, 10), (28, 10)], 3: [(3, 8), (4, 8), (5, 8)]},
}
QUICK: dict[str, Sizes] = {
    "number": {2: [(3, 6), (5, 6)], 3: [(2, 3), (3, 3)]},
    "width": {2: [(2, 5), (2, 10)], 3: [(2, 3), (2, 4)]},
    "strong": {2: [(4, 6)]},
    "weak": {2: [(3, 6)]},
}
#: Cells across a neighbourhood, where peaks are compared.
KERNEL = {2: (20, 40), 3: (16,)}


def pose(comm: MPI.Comm, dim: int, boxes: int, cells: int) -> Diffusion:
    """The problem on boxes of so many cells a side."""
    msh = box(dim, boxes * cells, comm)
    # As many features in each neighbourhood, whatever their number.
    kappa = fields.two_phase(msh, CONTRAST, seed=FIRST_SEED, correlation_length=0.3 / boxes)
    return Diffusion(kappa, boxes, ends=(0.0, 0.0))


def build(comm: MPI.Comm, dim: int, boxes: int, cells: int, basis: str) -> Record:
    """One space and one solve on the ranks of a communicator: seconds and memory."""
    problem = pose(comm, dim, boxes, cells)
    chosen = make(basis, problem.kappa)
    before = 1024 * peak_gib()
    found: Record = {}

    def stage(name: str, start: float) -> float:
        found[f"s {name}"] = comm.allreduce(time.process_time() - start, MPI.MAX)
        return time.process_time()

    with problem.space(chosen) as W:
        for name in sorted(W.timings):
            found[f"s {name}"] = comm.allreduce(W.timings[name], MPI.MAX)
        peak = 1024 * peak_gib()
        A = FineOperator(fem.form(problem.a), W, problem.bcs, None, "growth_fine_")
        b = assemble_vector(fem.form(problem.L))
        start = time.process_time()
        galerkin = CoarseOperator(W)
        galerkin.assemble(A)
        start = stage("product", start)
        solver = create_coarse_solver(galerkin.A0, "growth_")
        start = stage("factor", start)
        b0, x0 = galerkin.A0.createVecRight(), galerkin.A0.createVecRight()
        W.P.multTranspose(b, b0)
        solver.solve(b0, x0)
        W.prolong(x0)
        stage("solve", start)
        factor = solver.getPC().getFactorMatrix()
        if factor and factor.getType() == "mumps":
            found |= {"flops": factor.getMumpsRinfog(3), "entries": factor.getMumpsInfog(29)}
        if comm.size == 1:
            found |= multigrid(W, galerkin.A0, b0)
        found |= {"N_f": W.V.dofmap.index_map.size_global, "N_c": W.num_dofs}
        found |= {"mib": comm.allreduce(peak - before), "peak_mib": comm.allreduce(peak)}
        for item in (solver, b0, x0, b, galerkin, A):
            item.destroy()
    stages = ("total", "product", "factor", "solve")
    return found | {"s all": sum(found[f"s {name}"] for name in stages)}


def multigrid(W: Any, A0: PETSc.Mat, b0: PETSc.Vec) -> Record:
    """What could take the place of coarse factors: CG with GAMG, told of the constant."""
    one = fem.Function(W.V)
    one.x.array[:] = 1.0
    constant = W.coefficients(one)
    constant.normalize()
    near = PETSc.NullSpace().create(vectors=[constant])
    matrix = A0.copy()
    if W.num_dofs == NUM_MODES * W.num_neighbourhoods:
        matrix.setBlockSize(NUM_MODES)
    matrix.setNearNullSpace(near)
    # PETSc's own norm: the natural one would need another product.
    options = {"pc_type": "gamg", "mg_levels_pc_type": "sor", "ksp_rtol": 1e-6}
    options["ksp_norm_type"] = "preconditioned"
    solver = PetscSolver(matrix, options, strict=False, max_it=300)
    seconds, iterations = solver.solve(b0)
    found: Record = {"s multigrid": solver.setup + seconds, "iterations": iterations}
    found["solved"] = solver.solved
    for item in (solver, matrix, near, constant):
        item.destroy()
    return found


def work(*configurations: Sequence[Any]) -> Records | None:
    """Build spaces, one after the other, after a small one: the first compiles the forms."""
    # The stages of a space are timed by this clock.
    time.perf_counter = time.process_time
    comm = MPI.COMM_WORLD
    for dim, basis in {(c[0], c[3]) for c in configurations}:
        build(comm, dim, 2, 4, basis)
    found = [build(comm, *configuration) for configuration in configurations]
    return found if comm.rank == 0 else None


def peaks(n: int, mib: int) -> Records:
    """Matrix products and memory of one core, by NumPy."""
    rng = np.random.default_rng(0)
    found = []
    for name, kind in (("GEMM, double", np.float64), ("GEMM, single", np.float32)):
        x, y = (rng.standard_normal((n, n)).astype(kind) for _ in range(2))
        out = np.empty_like(x)
        seconds = least(lambda x=x, y=y, out=out: np.matmul(x, y, out=out), REPEATS)
        found.append({"name": name, "gflops": 2e-9 * n**3 / seconds})
    a, b, c = (np.ones(mib * 2**17) for _ in range(3))
    found.append(
        {"name": "copy", "gbytes": 2e-9 * a.nbytes / least(lambda: np.copyto(a, b), REPEATS)}
    )
    seconds = least(lambda: np.add(b, c, out=a), REPEATS)
    found.append({"name": "sum of two arrays", "gbytes": 3e-9 * a.nbytes / seconds})
    return found


def kernels(dim: int, width: int) -> Records:
    """Operations and bytes a second of the filter and of Rayleigh-Ritz's Gram matrices."""
    # Of an inner vertex: large ones come first.
    problem = next(pose(MPI.COMM_SELF, dim, 3, width // 2).local_problems())
    inside = Pencil.create(problem, "single")
    y, lower = cosines(inside, num_start(NUM_MODES, inside.jump))
    y = np.ascontiguousarray(y, dtype=np.float32)
    (n, m), nnz, degree = y.shape, problem.A.nnz, 20
    lower = min(lower, 0.5 * inside.upper)
    chebyshev_filter(inside, y, degree, lower)
    sweep = least(lambda: chebyshev_filter(inside, y, degree, lower), REPEATS) / degree
    ritz = least(lambda: project(problem.A, problem.S, y), REPEATS)
    whole = {"dim": dim, "width": width, "n": n, "m": m, "nnz": nnz, "block_kib": y.nbytes / 1024}
    return [
        whole
        | {
            "name": "filter, one sweep",
            "gflops": 1e-9 * (2 * nnz + 5 * n) * m / sweep,
            "gbytes": 1e-9 * (8 * nnz + 8 * n + 12 * n * m) / sweep,
            "ms": 1e3 * sweep,
        },
        whole
        | {
            "name": "Gram matrices",
            "gflops": 1e-9 * (4 * nnz * m + 2 * n * m * (m + 1)) / ritz,
            "gbytes": 1e-9 * (20 * nnz + 4 * n + 4 * n * m) / ritz,
            "ms": 1e3 * ritz,
        },
    ]


def run_spaces(results: Results, part: str, sizes: Sizes, options: Any) -> None:
    """The runs of one part, in processes of their own unless quick."""
    # Filtered first: the memory of a process is that of its first space.
    bases = usable([FILTERED, SLEPC, *[LEARNED] * (part == "width")])
    repeats = range(1 if options.quick else options.repeat)
    each = [
        (repeat, dim, *size, ranks)
        for repeat in repeats
        for dim, of_dim in sizes.items()
        for k, size in enumerate(of_dim)
        for ranks in {"strong": options.ranks, "weak": options.ranks[k : k + 1]}.get(part, [1])
    ]
    for repeat, dim, boxes, cells, ranks in each:
        size = {"part": part, "dim": dim, "boxes": boxes, "cells": cells}
        size |= {"ranks": ranks, "repeat": repeat}
        left = [b for b in bases if results.missing(**size, basis=b)]
        # Where memory counts each run has a process of its own.
        for group in [[b] for b in left] if part == "number" else [left]:
            runs = [(dim, boxes, cells, b) for b in group]
            try:
                if options.quick and ranks == 1:
                    found = work(*runs)
                else:
                    found = launch(__file__, *runs, ranks=ranks) if runs else []
            except FileNotFoundError as error:
                print(error)
                continue
            for b, record in zip(group, found or [], strict=True):
                results.add(size | {"basis": b} | record)


def main() -> None:
    """Run the parts and write the tables."""
    if serve(work):
        return
    parser = Parser(__doc__, ["peaks", *SIZES])
    parser.depends("--ranks", [1, 2, 4], [1, 2], type=int, nargs="+")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each size")
    defaults = Cluster()
    for name, attribute, text in (
        ("--latency", "latency", "assumed of the network, seconds"),
        ("--bandwidth", "node_bandwidth", "assumed of a node, bytes a second"),
        ("--crowding", "crowding", "assumed slow-down of a core on a full node"),
    ):
        default = getattr(defaults, attribute)
        parser.add_argument(name, dest=attribute, type=float, default=default, help=text)
    options = parser.parse_args()
    settings = {"num_modes": NUM_MODES, "contrast": CONTRAST, "seed": FIRST_SEED}
    results = Results("growth", options, settings)
    sizes = QUICK if options.quick else SIZES
    for part in [] if options.show else options.cases:
        if part in sizes:
            run_spaces(results, part, sizes[part], options)
        elif results.missing(part="peaks"):
            found = peaks(*((256, 32) if options.quick else (1536, 256)))
            for dim, widths in KERNEL.items():
                for width in widths[:1] if options.quick else widths:
                    found += kernels(dim, width)
            for record in found:
                results.add({"part": "peaks"} | record)
    records = results.records
    assumed = Cluster(options.latency, options.node_bandwidth, crowding=options.crowding)
    cores = results.head["machine"]["cores"]
    results.finish(tables(records, assumed, cores), figures(records, assumed))


if __name__ == "__main__":
    main()
