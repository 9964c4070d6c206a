# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Fine solvers of a linear system, in memory or in a file: MUMPS, GAMG, BoomerAMG and PyAMG.

It needs no DOLFINx: another Python, with a PETSc that has hypre, can run it as a worker.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any

# The wheel of PETSc finds its MPI through it; where PETSc is a distribution's it may be missing.
with contextlib.suppress(ImportError):
    from mpi4py import MPI  # noqa: F401

from harness.launch import serve
from harness.machine import peak_gib

from petsc4py import PETSc

import numpy as np

RTOL = 1e-8
MAX_ITERATIONS = 500
#: Right-hand sides in a block.
BLOCK = 10
#: Which of several settings is the best: that of the least time for so many right-hand sides.
CHOICE = 30
BOOMER: dict[str, Any] = {"pc_type": "hypre", "pc_hypre_type": "boomeramg"}


THRESHOLD = {"pc_hypre_boomeramg_strong_threshold": 0.5}
#: Fewer entries on coarse levels in 3D.
LEAN = {
    "pc_hypre_boomeramg_coarsen_type": "HMIS",
    "pc_hypre_boomeramg_P_max": 4,
    "pc_hypre_boomeramg_interp_type": "ext+i",
}


def boomer(dim: int) -> dict[str, Any]:
    """BoomerAMG as its manual advises for a dimension: the best of what ``solvers`` tries."""
    return BOOMER | (THRESHOLD | LEAN if dim == 3 else {})


def write(path: str | Path, *items: Any) -> None:
    """Write matrices and vectors to a file."""
    viewer = PETSc.Viewer().createBinary(str(path), "w", comm=PETSc.COMM_SELF)
    for item in items:
        item.view(viewer)
    viewer.destroy()


def read(path: str | Path, matrices: int, vectors: int) -> list[Any]:
    """Read so many matrices, and then so many vectors."""
    viewer = PETSc.Viewer().createBinary(str(path), "r", comm=PETSc.COMM_SELF)
    kinds = [PETSc.Mat] * matrices + [PETSc.Vec] * vectors
    found = [kind().create(PETSc.COMM_SELF).load(viewer) for kind in kinds]
    viewer.destroy()
    return found


@contextlib.contextmanager
def database(prefix: str, options: dict[str, Any]) -> Iterator[None]:
    """Options in PETSc's database, for a while."""
    petsc_options = PETSc.Options(prefix)
    for name, value in options.items():
        petsc_options[name] = value
    try:
        yield
    finally:
        for name in options:
            petsc_options.delValue(name)


class System:
    """Linear systems with one matrix, and their exact solutions.

    Attributes:
        A: Matrix; M: mass matrix.
        b: Right-hand sides; exact: their solutions.
        norms: L2 and energy norm of each solution, with its boundary values.
    """

    def __init__(
        self, A: Any, M: Any, b: Any, exact: Any, norms: Sequence[Sequence[float]]
    ) -> None:
        self.A, self.M, self.b, self.exact, self.norms = A, M, list(b), list(exact), norms
        self._e, self._y = self.b[0].duplicate(), self.b[0].duplicate()

    @classmethod
    def read(cls, folder: str | Path) -> System:
        """From a folder; PETSc is told that A is positive definite."""
        norms = json.loads((Path(folder) / "system.json").read_text())["norms"]
        A, M, *pairs = read(f"{folder}/system", 2, 2 * len(norms))
        A.setOption(PETSc.Mat.Option.SPD, True)
        return cls(A, M, pairs[::2], pairs[1::2], norms)

    def write(self, folder: str | Path) -> None:
        """To a folder."""
        pairs = [v for pair in zip(self.b, self.exact, strict=True) for v in pair]
        write(f"{folder}/system", self.A, self.M, *pairs)
        (Path(folder) / "system.json").write_text(json.dumps({"norms": self.norms}))

    def errors(self, k: int, x: Any) -> list[float]:
        """Relative errors in L2 and energy of a solution to right-hand side k."""
        x.copy(self._e)
        self._e.axpy(-1.0, self.exact[k])
        found = []
        for matrix, norm in zip((self.M, self.A), self.norms[k], strict=True):
            matrix.mult(self._e, self._y)
            found.append(float(np.sqrt(abs(self._e.dot(self._y)))) / norm)
        return found

    def destroy(self) -> None:
        """Free the PETSc objects."""
        for item in (self.A, self.M, *self.b, *self.exact, self._e, self._y):
            item.destroy()


def dense(bs: list[Any]) -> Any:
    """Vectors as the columns of a dense matrix, which the caller destroys."""
    B = PETSc.Mat().createDense((bs[0].getSize(), len(bs)), comm=bs[0].comm)
    B.setUp()
    array = B.getDenseArray()
    for k, b in enumerate(bs):
        array[:, k] = b.getArray(readonly=True)
    return B


class PetscSolver:
    """CG from zero to a fall of the natural norm, or what options say.

    Args:
        A: Matrix.
        options: Of PETSc.
        preconditioner: To be attached in place of what options say.
        strict: Raise where there is no convergence.
        max_it: Most iterations.
    """

    def __init__(
        self,
        A: Any,
        options: dict[str, Any],
        preconditioner: Any = None,
        *,
        strict: bool = True,
        max_it: int = MAX_ITERATIONS,
    ) -> None:
        self.strict = strict
        start = process_time()
        self.ksp = ksp = PETSc.KSP().create(A.comm)
        ksp.setOptionsPrefix("fine_")
        ksp.setOperators(A)
        ksp.setType("cg")
        ksp.setNormType(PETSc.KSP.NormType.NATURAL)
        ksp.setTolerances(rtol=RTOL, atol=0.0, max_it=max_it)
        with database("fine_", options):
            try:
                if preconditioner is None:
                    ksp.setFromOptions()
                    ksp.setUp()
                    ksp.setUpOnBlocks()
                else:
                    preconditioner.attach(ksp)
            finally:
                self.direct = ksp.getType() == "preonly"
                self.setup = process_time() - start
        self.x, self.y = A.createVecs()

    def solve(self, b: Any) -> tuple[float, int]:
        """Solve to the tolerance; seconds and iterations."""
        self.x.set(0.0)
        start = process_time()
        self.ksp.solve(b, self.x)
        seconds = process_time() - start
        if self.strict and not self.solved:
            raise RuntimeError(f"PETSc's reason {self.ksp.getConvergedReason()}")
        return seconds, self.ksp.getIterationNumber()

    @property
    def solved(self) -> bool:
        """Whether the last solve converged."""
        return bool(self.ksp.getConvergedReason() > 0)

    def history(self, b: Any, look: Callable[[int, Any], None]) -> None:
        """Solve, and call a function with each iterate."""

        def monitor(ksp: Any, iteration: int, norm: float) -> None:
            if iteration:
                look(iteration, ksp.buildSolution(self.y))

        self.ksp.setMonitor(monitor)
        self.solve(b)
        (self.ksp.monitorCancel if hasattr(self.ksp, "monitorCancel") else self.ksp.cancelMonitor)()

    def stop_after(self, iterations: int) -> None:
        """Iterate so often, without a test."""
        self.strict = False
        self.ksp.setNormType(PETSc.KSP.NormType.NONE)
        self.ksp.setTolerances(rtol=RTOL, max_it=iterations)

    def block(self, bs: list[Any]) -> float:
        """Seconds for several right-hand sides at once."""
        B = dense(bs)
        X = B.duplicate()
        start = process_time()
        self.ksp.matSolve(B, X)
        seconds = process_time() - start
        B.destroy()
        X.destroy()
        return seconds

    def extra(self) -> dict[str, float]:
        """MUMPS's own figures."""
        if not self.direct:
            return {}
        F = self.ksp.getPC().getFactorMatrix()
        return {"factor_gflop": F.getMumpsRinfog(1) / 1e9, "factor_gib": F.getMumpsInfog(17) / 1024}

    def destroy(self) -> None:
        """Free the PETSc objects."""
        for item in (self.ksp, self.x, self.y):
            item.destroy()


class PyamgSolver:
    """CG with a hierarchy of PyAMG, by the same test as PETSc's in its natural norm."""

    direct = False

    def __init__(self, A: Any, options: dict[str, Any]) -> None:
        import pyamg
        import scipy.sparse as sp

        indptr, indices, data = A.getValuesCSR()
        options = dict(options)
        build = getattr(pyamg, options.pop("solver"))
        strength = (options.pop("strength"), {"theta": options.pop("theta")})
        self.A = sp.csr_matrix((data, indices, indptr), shape=A.getSize())
        start = process_time()
        hierarchy = build(self.A, strength=strength, **options)
        self.M = hierarchy.aspreconditioner(cycle="V")
        self.setup = process_time() - start
        self.x, self.limit, self.look = A.createVecRight(), 0, None

    def solve(self, b: Any) -> tuple[float, int]:
        """Solve to the tolerance, or as often as was asked for; seconds and iterations."""
        start = process_time()
        r = b.getArray(readonly=True).copy()
        x = np.zeros_like(r)
        z = self.M @ r
        p, rho = z.copy(), r @ z
        first, iteration = rho, 0
        while iteration < (self.limit or MAX_ITERATIONS):
            q = self.A @ p
            alpha = rho / (p @ q)
            x += alpha * p
            r -= alpha * q
            iteration += 1
            if self.look is not None:
                self.x.array_w[:] = x
                self.look(iteration, self.x)
            if iteration == self.limit:
                break
            z = self.M @ r
            rho, old = r @ z, rho
            if not self.limit and rho <= RTOL**2 * first:
                break
            p *= rho / old
            p += z
        else:
            raise RuntimeError(f"no convergence in {MAX_ITERATIONS} iterations")
        seconds = process_time() - start
        self.x.array_w[:] = x
        return seconds, iteration

    def history(self, b: Any, look: Any) -> None:
        """Solve, and call a function with each iterate."""
        self.look = look
        try:
            self.solve(b)
        finally:
            self.look = None

    def stop_after(self, iterations: int) -> None:
        """Iterate so often, without a test."""
        self.limit = iterations

    def extra(self) -> dict[str, float]:
        """Nothing more is known."""
        return {}

    def destroy(self) -> None:
        """Free the PETSc object."""
        self.x.destroy()


def timed(
    solver: Any, system: System, repeat: int, limits: list[int] | None = None
) -> dict[str, float]:
    """Seconds of a solve (median), iterations and errors (means over the right-hand sides)."""
    seconds, iterations, errors = [], [], []
    for k, b in enumerate(system.b):
        if limits:
            solver.stop_after(limits[k])
        for _ in range(repeat):
            found = solver.solve(b)
            seconds.append(found[0])
        iterations.append(found[1])
        errors.append(system.errors(k, solver.x))
    L2, energy = np.mean(errors, axis=0)
    return {
        "solve_s": float(np.median(seconds)),
        "iterations": float(np.mean(iterations)),
        "L2": float(L2),
        "energy": float(energy),
    }


def warm(solver: Any, b: Any) -> tuple[float, float]:
    """Seconds that the first solve takes longer, which belong to the set-up, and of the second."""
    first, again = solver.solve(b)[0], solver.solve(b)[0]
    return max(0.0, first - again), again


def fewest(solver: Any, system: System, k: int, target: list[float]) -> int:
    """Iterations after which both errors are no larger than they should be."""
    found = []

    def look(iteration: int, x: Any) -> None:
        if not found and all(e <= t for e, t in zip(system.errors(k, x), target, strict=True)):
            found.append(iteration)

    solver.history(system.b[k], look)
    return found[0] if found else MAX_ITERATIONS


def run(folder: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of one kind of solver: the best of its settings, to the tolerance and as ours.

    Args:
        folder: With the system.
        spec: ``solver`` (its name), ``settings`` (options by name), ``repeat``, ``targets``
            (largest L2 and energy error for each right-hand side, or nothing).
    """
    system = System.read(folder)
    create = PyamgSolver if spec["solver"] == "PyAMG" else PetscSolver
    tried: dict[str, Any] = {}
    best: tuple[float, str, Any, float] | None = None
    for name, options in spec["settings"].items():
        solver: Any = None
        try:
            solver = create(system.A, options)
            more, again = warm(solver, system.b[0])
        except (RuntimeError, PETSc.Error, MemoryError) as error:
            text = (str(error).splitlines() or [""])[-1][:200] or type(error).__name__
            if solver is not None and (extra := solver.extra()):
                # By MUMPS's analysis.
                text = f"needs {extra['factor_gib']:.1f} GiB, {extra['factor_gflop']:.0f} GFlop"
            tried[name] = text
            continue
        setup = solver.setup + more
        tried[name] = [setup, again]
        score = setup + CHOICE * again
        if best is None or score < best[0]:
            if best is not None:
                best[2].destroy()
            best = (score, name, solver, setup)
        else:
            solver.destroy()
    if best is None:
        return [{"over": next(iter(tried.values())), "tried": json.dumps(tried)}]
    _, name, solver, setup = best
    common = {"setting": name, "tried": json.dumps(tried), "setup_s": setup}
    record = common | timed(solver, system, spec["repeat"]) | solver.extra()
    if solver.direct:
        bs = [system.b[k % len(system.b)] for k in range(BLOCK)]
        solver.block(bs)
        record["block_s"] = solver.block(bs) / BLOCK
    records = [record | {"goal": "solver"}]
    if spec["targets"] and not solver.direct:
        limits = [fewest(solver, system, k, target) for k, target in enumerate(spec["targets"])]
        records.append(common | timed(solver, system, spec["repeat"], limits) | {"goal": "space"})
    return [found | {"gib": peak_gib()} for found in records]


if __name__ == "__main__":
    serve(run)
