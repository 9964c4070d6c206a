# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""BDF2 with a fine solver, set up once for each matrix.

Like ``fine_solvers.py`` it needs no DOLFINx, and another Python can run it as a worker.
"""

from __future__ import annotations

from time import process_time
from typing import Any

# First, as it finds MPI for PETSc.
from harness.fine_solvers import PETSc, database, read
from harness.launch import serve

import numpy as np


def time_loop(
    Ks: Any, M: Any, b: Any, rate: float, num: int, rtol: float, options: dict[str, Any]
) -> dict[str, Any]:
    """All steps, from zero; the first by implicit Euler.

    Args:
        Ks: Matrices of the first step and of the others.
        M: Mass matrix, Dirichlet rows zero.
        b: Load.
        rate: One over the time step.
        num: Steps.
        rtol: Relative tolerance of CG, which starts from the extrapolated last two solutions; 0
            for a direct solver.
        options: Of PETSc.

    Returns:
        ``setup``, ``seconds`` and ``iterations`` of each step, ``kept``: the solutions, one a row.
    """
    solvers = []
    start = process_time()
    for K in Ks:
        ksp = PETSc.KSP().create(K.comm)
        ksp.setOperators(K)
        ksp.setType("cg" if rtol else "preonly")
        if rtol:
            ksp.setTolerances(rtol=rtol, max_it=1000)
            ksp.setInitialGuessNonzero(True)
        ksp.setOptionsPrefix("fine_")
        with database("fine_", options):
            ksp.setFromOptions()
            ksp.setUp()
        solvers.append(ksp)
    found: dict[str, Any] = {"setup": process_time() - start, "seconds": [], "iterations": []}
    x, r, last, before, history = (b.duplicate() for _ in range(5))
    for vector in (x, r, last, before):
        vector.set(0.0)
    kept = np.empty((num, b.getLocalSize()))
    for k in range(num):
        ksp, start = solvers[min(k, 1)], process_time()
        history.set(0.0)
        if k == 0:
            history.axpy(rate, last)
        else:
            history.axpy(2 * rate, last)
            history.axpy(-0.5 * rate, before)
        M.multAdd(history, b, r)
        if rtol:
            x.set(0.0)
            x.axpy(2.0 if k > 1 else 1.0, last)
            x.axpy(-1.0 if k > 1 else 0.0, before)
        ksp.solve(r, x)
        if ksp.getConvergedReason() < 0:
            raise RuntimeError("the fine solver did not converge")
        last.copy(before)
        x.copy(last)
        found["seconds"].append(process_time() - start)
        found["iterations"].append(ksp.getIterationNumber())
        kept[k] = x.getArray(readonly=True)
    for item in (*solvers, x, r, last, before, history):
        item.destroy()
    return found | {"kept": kept}


def run(folder: str, *arguments: Any) -> dict[str, Any]:
    """The loop for a system in a folder, where the solutions are left."""
    *Ks, M, b = read(f"{folder}/system", 3, 1)
    found = time_loop(Ks, M, b, *arguments)
    np.save(f"{folder}/kept.npy", found.pop("kept"))
    return found


if __name__ == "__main__":
    serve(run)
