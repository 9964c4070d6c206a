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
- *Model*: `cost_model.py`, with rates of one measured size, against the other runs, and for 1e9
  dofs on up to 1e4 ranks.

Fields are two-phase, contrast 1e3. Times are processor time, of the slowest rank where there are
several (waiting in MPI counts: it spins), so that other jobs on the machine hardly matter.

    python benchmarks/bench_growth.py [--quick] [--resume] [--show] [--cases number width ...]
        [--ranks 1 2 4] [--repeat N] [--latency S] [--bandwidth B] [--crowding X]

About half an hour.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
from common import FIRST_SEED, NUM_MODES, clock
from cost_model import Cluster
from growth_figures import figures
from growth_tables import Sizes, tables
from tables import Record, Results, parser
from trials import FILTERED, LEARNED, SLEPC, make, pretrained

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import assemble_matrix, assemble_vector
from dolfinx_msnn import fields
from dolfinx_msnn._utils.petsc import temporary_options
from dolfinx_msnn._utils.timings import Timings
from dolfinx_msnn.algebra.product import GalerkinProduct
from dolfinx_msnn.bases import chebyshev, cosines, pencil
from dolfinx_msnn.bases.kernels import project
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.problem import LocalProblem
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


def pose(comm: MPI.Comm, dim: int, boxes: int, cells: int) -> tuple[Any, ...]:
    """Space, coefficient, forms and conditions of -div(kappa grad u) = 1."""
    n = boxes * cells
    if dim == 2:
        msh = mesh.create_unit_square(comm, n, n, mesh.CellType.quadrilateral)
    else:
        msh = mesh.create_unit_cube(comm, n, n, n, mesh.CellType.hexahedron)
    V = fem.functionspace(msh, ("Lagrange", 1))
    # As many features in each neighbourhood, whatever their number.
    kappa = fields.two_phase(msh, CONTRAST, seed=FIRST_SEED, correlation_length=0.3 / boxes)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    dofs = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0], 0) | np.isclose(x[0], 1))
    bcs = [fem.dirichletbc(0.0, dofs, V)]
    return V, kappa, a, kappa * u * v * ufl.dx, fem.Constant(msh, 1.0) * v * ufl.dx, bcs


def memory() -> float:
    """Largest memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike getrusage, not that of the process that started this one.
        lines = status.read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build(comm: MPI.Comm, dim: int, boxes: int, cells: int, basis: str) -> Record:
    """One space and one solve on the ranks of a communicator: seconds and memory."""
    V, kappa, a, s, L, bcs = pose(comm, dim, boxes, cells)
    chosen = make(basis, kappa, pretrained(dim) if basis == LEARNED else None)
    coarse = msnn.CoarseGrid(V.mesh, (boxes,) * dim)
    before = memory()
    found: Record = {}

    def stage(name: str, start: float) -> float:
        found[f"s {name}"] = comm.allreduce(time.process_time() - start, MPI.MAX)
        return time.process_time()

    with msnn.multiscale_functionspace(V, coarse, chosen, a, s, bcs) as W:
        for name in sorted(W.timings):
            found[f"s {name}"] = comm.allreduce(W.timings[name], MPI.MAX)
        peak = memory()
        A = assemble_matrix(fem.form(a), bcs=bcs)
        A.assemble()
        b = assemble_vector(fem.form(L))
        start = time.process_time()
        galerkin = GalerkinProduct(A, W)
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
            found |= multigrid(W, galerkin.A0, b0, x0)
        found |= {"N_f": V.dofmap.index_map.size_global, "N_c": W.num_dofs}
        found |= {"mib": comm.allreduce(peak - before), "peak_mib": comm.allreduce(peak)}
        for item in (solver, b0, x0, b, galerkin.A0, A):
            item.destroy()
    stages = ("total", "product", "factor", "solve")
    return found | {"s all": sum(found[f"s {name}"] for name in stages)}


def multigrid(W: Any, A0: PETSc.Mat, b0: PETSc.Vec, x0: PETSc.Vec) -> Record:
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
    ksp = PETSc.KSP().create(A0.comm)
    ksp.setOperators(matrix)
    ksp.setTolerances(rtol=1e-6, max_it=300)
    ksp.setOptionsPrefix("growth_multigrid_")
    options = {"ksp_type": "cg", "pc_type": "gamg", "mg_levels_pc_type": "sor"}
    with temporary_options("growth_multigrid_", options):
        ksp.setFromOptions()
        start = time.process_time()
        ksp.solve(b0, x0)
    found: Record = {
        "s multigrid": time.process_time() - start,
        "iterations": ksp.getIterationNumber(),
        "solved": ksp.getConvergedReason() > 0,
    }
    for item in (ksp, matrix, near, constant):
        item.destroy()
    return found


def worker(comm: MPI.Comm, configurations: Sequence[Sequence[Any]]) -> list[Record]:
    """Build spaces, one after the other, after a small one: the first compiles the forms."""
    for dim, basis in {(c[0], c[3]) for c in configurations}:
        build(comm, dim, 2, 4, basis)
    return [build(comm, *configuration) for configuration in configurations]


def launch(configurations: Sequence[Sequence[Any]], ranks: int) -> list[Record] | None:
    """The same in processes of their own; ``None`` where there is no mpiexec."""
    if not configurations:
        return []
    here = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(here) if here.exists() else shutil.which("mpiexec")
    if ranks > 1 and mpiexec is None:
        return None
    command = [] if ranks == 1 else [str(mpiexec), "-n", str(ranks)]
    command += [sys.executable, __file__, "--worker", json.dumps(configurations)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{configurations} on {ranks} ranks failed:\n{done.stderr}")
    found: list[Record] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peaks(n: int, mib: int) -> list[Record]:
    """Matrix products and memory of one core, by NumPy."""
    rng = np.random.default_rng(0)
    found = []
    for name, kind in (("GEMM, double", np.float64), ("GEMM, single", np.float32)):
        x, y = (rng.standard_normal((n, n)).astype(kind) for _ in range(2))
        out = np.empty_like(x)
        seconds = clock(lambda x=x, y=y, out=out: np.matmul(x, y, out=out), REPEATS)
        found.append({"name": name, "gflops": 2e-9 * n**3 / seconds})
    a, b, c = (np.ones(mib * 2**17) for _ in range(3))
    found.append(
        {"name": "copy", "gbytes": 2e-9 * a.nbytes / clock(lambda: np.copyto(a, b), REPEATS)}
    )
    seconds = clock(lambda: np.add(b, c, out=a), REPEATS)
    found.append({"name": "sum of two arrays", "gbytes": 3e-9 * a.nbytes / seconds})
    return found


def inner(dim: int, width: int) -> LocalProblem:
    """The local problem of an inner vertex."""
    V, kappa, a, s, _, bcs = pose(MPI.COMM_SELF, dim, 3, width // 2)
    coarse = msnn.CoarseGrid(V.mesh, (3,) * dim)
    # Large ones come first.
    return next(iter(LocalProblems(V, coarse, a, s, bcs, Timings(), coefficient=kappa)))


def kernels(dim: int, width: int) -> list[Record]:
    """Operations and bytes a second of the filter and of Rayleigh-Ritz's Gram matrices."""
    problem = inner(dim, width)
    inside = pencil.Pencil.create(problem, "single")
    y, lower = cosines.cosines(inside, cosines.num_start(NUM_MODES, inside.jump))
    y = np.ascontiguousarray(y, dtype=np.float32)
    (n, m), nnz, degree = y.shape, problem.A.nnz, 20
    lower = min(lower, 0.5 * inside.upper)
    chebyshev.chebyshev_filter(inside, y, degree, lower)
    sweep = clock(lambda: chebyshev.chebyshev_filter(inside, y, degree, lower), REPEATS) / degree
    ritz = clock(lambda: project(problem.A, problem.S, y), REPEATS)
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
    bases = [FILTERED, SLEPC]
    if part == "width" and pretrained(2) is not None:
        bases.append(LEARNED)
    for repeat in range(1 if options.quick else options.repeat):
        for dim, each in sizes.items():
            for k, (boxes, cells) in enumerate(each):
                several = {"strong": options.ranks, "weak": options.ranks[k : k + 1]}
                for ranks in several.get(part, [1]):
                    size = {"part": part, "dim": dim, "boxes": boxes, "cells": cells}
                    size |= {"ranks": ranks, "repeat": repeat}
                    left = [b for b in bases if results.missing(**size, basis=b)]
                    # Where memory counts each run has a process of its own.
                    for group in [[b] for b in left] if part == "number" else [left]:
                        runs = [(dim, boxes, cells, b) for b in group]
                        alone = options.quick and ranks == 1
                        found = worker(MPI.COMM_SELF, runs) if alone else launch(runs, ranks)
                        if found is None:
                            print(f"There is no mpiexec: nothing on {ranks} ranks.")
                        for b, record in zip(group, found or [], strict=False):
                            results.add(size | {"basis": b} | record)


def cluster(options: Any) -> Cluster:
    """The assumptions, with what the command line says."""
    given: Mapping[str, float | None] = {
        "latency": options.latency,
        "node_bandwidth": options.bandwidth,
        "crowding": options.crowding,
    }
    return Cluster(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


def main() -> None:
    """Run the parts and write the tables."""
    made = parser(__doc__ or "")
    parts = ["peaks", *SIZES]
    made.add_argument("--cases", nargs="+", choices=parts, default=parts)
    made.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    made.add_argument("--repeat", type=int, default=1, help="runs of each size")
    made.add_argument("--latency", type=float, help="assumed of the network, seconds")
    made.add_argument("--bandwidth", type=float, help="assumed of a node, bytes a second")
    made.add_argument("--crowding", type=float, help="assumed slow-down of a core on a full node")
    made.add_argument("--worker", help="used by the program itself")
    options = made.parse_args()
    # The stages of a space are timed by this clock.
    time.perf_counter = time.process_time
    if options.worker:
        records = worker(MPI.COMM_WORLD, json.loads(options.worker))
        if MPI.COMM_WORLD.rank == 0:
            print(json.dumps(records))
        return
    if options.quick:
        options.ranks = [1, 2]
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
    assumed, cores = cluster(options), results.head["machine"]["cores"]
    results.finish(tables(records, assumed, cores), figures(records, assumed))


if __name__ == "__main__":
    main()
