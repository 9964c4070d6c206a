# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Fine solvers on a linear system in a file: MUMPS, GAMG, BoomerAMG and PyAMG.

Run by ``bench_solvers.py`` in a process of its own. It needs no DOLFINx, so that another Python
with another PETSc, one that has hypre, can run it.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from typing import Any

# The wheel of PETSc finds its MPI through it; where PETSc is a distribution's it may be missing.
with contextlib.suppress(ImportError):
    from mpi4py import MPI  # noqa: F401

from petsc4py import PETSc

import numpy as np

RTOL = 1e-8
MAX_ITERATIONS = 500
#: Right-hand sides in a block.
BLOCK = 10
#: Which of several settings is the best: that of the least time for so many right-hand sides.
CHOICE = 30


class System:
    """A, mass matrix M, right-hand sides with their exact solutions, and what goes with them."""

    def __init__(self, folder: str) -> None:
        viewer = PETSc.Viewer().createBinary(f"{folder}/system", "r", comm=PETSc.COMM_SELF)
        with open(f"{folder}/system.json") as file:
            self.meta = json.load(file)
        self.A, self.M = (PETSc.Mat().load(viewer) for _ in range(2))
        self.A.setOption(PETSc.Mat.Option.SPD, True)
        pairs = [[PETSc.Vec().load(viewer) for _ in range(2)] for _ in self.meta["norms"]]
        self.b, self.exact = zip(*pairs, strict=True)
        viewer.destroy()
        self._e, self._y = self.b[0].duplicate(), self.b[0].duplicate()

    def errors(self, k: int, x: Any) -> list[float]:
        """Relative errors in L2 and energy of a solution to right-hand side k."""
        x.copy(self._e)
        self._e.axpy(-1.0, self.exact[k])
        found = []
        for matrix, norm in zip((self.M, self.A), self.meta["norms"][k], strict=True):
            matrix.mult(self._e, self._y)
            found.append(float(np.sqrt(abs(self._e.dot(self._y)))) / norm)
        return found


def dense(bs: list[Any]) -> Any:
    """Vectors as the columns of a dense matrix, which the caller destroys."""
    B = PETSc.Mat().createDense((bs[0].getSize(), len(bs)), comm=bs[0].comm)
    B.setUp()
    array = B.getDenseArray()
    for k, b in enumerate(bs):
        array[:, k] = b.getArray(readonly=True)
    return B


class PetscSolver:
    """A KSP with some options."""

    def __init__(self, system: System, options: dict[str, Any]) -> None:
        self.A = system.A
        database = PETSc.Options("fine_")
        for name, value in options.items():
            database[name] = value
        start = time.process_time()
        self.ksp = ksp = PETSc.KSP().create(self.A.comm)
        ksp.setOptionsPrefix("fine_")
        ksp.setOperators(self.A)
        ksp.setType("cg")
        ksp.setNormType(PETSc.KSP.NormType.NATURAL)
        ksp.setTolerances(rtol=RTOL, atol=0.0, max_it=MAX_ITERATIONS)
        ksp.setFromOptions()
        self.direct, self.limited = ksp.getType() == "preonly", False
        try:
            ksp.setUp()
        finally:
            self.setup = time.process_time() - start
            for name in options:
                database.delValue(name)
        self.x, self.y = system.b[0].duplicate(), system.b[0].duplicate()

    def solve(self, b: Any) -> tuple[float, int]:
        """Solve to the tolerance; seconds and iterations."""
        self.x.set(0.0)
        start = time.process_time()
        self.ksp.solve(b, self.x)
        seconds = time.process_time() - start
        if self.ksp.getConvergedReason() <= 0 and not self.limited:
            raise RuntimeError(f"PETSc's reason {self.ksp.getConvergedReason()}")
        return seconds, self.ksp.getIterationNumber()

    def history(self, b: Any, look: Any) -> None:
        """Solve, and call a function with each iterate."""

        def monitor(ksp: Any, iteration: int, norm: float) -> None:
            if iteration:
                look(iteration, ksp.buildSolution(self.y))

        self.ksp.setMonitor(monitor)
        self.solve(b)
        (self.ksp.monitorCancel if hasattr(self.ksp, "monitorCancel") else self.ksp.cancelMonitor)()

    def stop_after(self, iterations: int) -> None:
        """Iterate so often, without a test."""
        self.limited = True
        self.ksp.setNormType(PETSc.KSP.NormType.NONE)
        self.ksp.setTolerances(rtol=RTOL, max_it=iterations)

    def block(self, bs: list[Any]) -> float:
        """Seconds for several right-hand sides at once."""
        B = dense(bs)
        X = B.duplicate()
        start = time.process_time()
        self.ksp.matSolve(B, X)
        seconds = time.process_time() - start
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
        """Free the KSP."""
        self.ksp.destroy()


class PyamgSolver:
    """CG with a hierarchy of PyAMG, by the same test as PETSc's in its natural norm."""

    direct = False

    def __init__(self, system: System, options: dict[str, Any]) -> None:
        import pyamg
        import scipy.sparse as sp

        indptr, indices, data = system.A.getValuesCSR()
        options = dict(options)
        build = getattr(pyamg, options.pop("solver"))
        strength = (options.pop("strength"), {"theta": options.pop("theta")})
        self.A = sp.csr_matrix((data, indices, indptr), shape=system.A.getSize())
        start = time.process_time()
        hierarchy = build(self.A, strength=strength, **options)
        self.M = hierarchy.aspreconditioner(cycle="V")
        self.setup = time.process_time() - start
        self.x, self.limit, self.look = system.b[0].duplicate(), 0, None

    def solve(self, b: Any) -> tuple[float, int]:
        """Solve to the tolerance, or as often as was asked for; seconds and iterations."""
        start = time.process_time()
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
        seconds = time.process_time() - start
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
        """Nothing to free."""


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
    system = System(folder)
    create = PyamgSolver if spec["solver"] == "PyAMG" else PetscSolver
    tried: dict[str, Any] = {}
    best: tuple[float, str, Any, float] | None = None
    for name, options in spec["settings"].items():
        solver = None
        try:
            solver = create(system, options)
            # What a solver puts off until its first use belongs to the set-up.
            first, again = solver.solve(system.b[0])[0], solver.solve(system.b[0])[0]
        except (RuntimeError, PETSc.Error, MemoryError) as error:
            text = (str(error).splitlines() or [""])[-1][:200] or type(error).__name__
            if solver is not None and (extra := solver.extra()):
                # By MUMPS's analysis.
                text = f"needs {extra['factor_gib']:.1f} GiB, {extra['factor_gflop']:.0f} GFlop"
            tried[name] = text
            continue
        setup = solver.setup + max(0.0, first - again)
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
    return records


def peak_gib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    found = run(sys.argv[1], json.loads(sys.argv[2]))
    print(json.dumps([record | {"gib": peak_gib()} for record in found]))
