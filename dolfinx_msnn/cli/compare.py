# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The bases of ``msnn evaluate`` on one field."""

import time
from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

import numpy as np

import dolfinx_msnn as msnn
from dolfinx_msnn._utils.linalg import whiten
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.cli import problem as problems
from dolfinx_msnn.cli import result

BASES = ("computed", "model", "filtered")


class _Compared:
    """A basis whose modes are compared with the computed ones, and timed."""

    def __init__(self, basis: Any, truth: dict[int, msnn.LocalModes]) -> None:
        self.basis, self.truth = basis, truth
        self.wrapped = (basis,)
        self.defects: list[float] = []
        self.seconds = 0.0

    def modes(self, problems: Sequence[msnn.LocalProblem]) -> list[msnn.LocalModes]:
        """The modes of the basis."""
        begin = time.process_time()
        found: list[msnn.LocalModes] = self.basis.modes(problems)
        self.seconds += time.process_time() - begin
        for problem, modes in zip(problems, found, strict=True):
            truth = self.truth.setdefault(problem.vertex, modes)
            self.defects.append(energy_defect(problem, truth, modes.vectors))
        return found


def energy_defect(
    problem: msnn.LocalProblem, truth: msnn.LocalModes, functions: FloatArray
) -> float:
    """Mean relative squared error of the modes' projections onto a space, in A_i + λ S_i.

    Args:
        problem: Local problem.
        truth: Its modes; λ is the largest of their eigenvalues.
        functions: Functions that span the space, shape ``(num, n_i)``.
    """
    M = problem.A + truth.values[-1] * problem.S
    orthonormal = whiten(functions @ (M @ functions.T)).T @ functions
    image = M @ truth.vectors.T
    caught = ((orthonormal @ image) ** 2).sum(axis=0)
    whole = np.einsum("jn,nj->j", truth.vectors, image)
    return float(np.mean(np.maximum(1 - caught / whole, 0.0)))


def one_field(
    label: str, field: Any, cells: Sequence[int], boxes: Sequence[int], model: Any, modes: int
) -> list[dict[str, Any]]:
    """Errors and times of all bases on one field, on this rank alone."""
    from dolfinx_msnn.nn.learned import LearnedBasis

    text = ",".join(map(str, cells))
    msh = problems.create_mesh(MPI.COMM_SELF, field, cells=text)
    kappa = field.interpolate(msh)
    p = problems.pose(msh, kappa, source=1.0)
    fine = result.solve_fine(p)
    coarse = msnn.CoarseGrid(msh, boxes)
    truth: dict[int, msnn.LocalModes] = {}
    bases: dict[str, Any] = {
        "computed": msnn.SpectralBasis(modes),
        "model": LearnedBasis(model, kappa, modes),
        "filtered": msnn.FilteredBasis(modes),
    }
    records = []
    for name in BASES:
        basis = _Compared(bases[name], truth)
        with p.space(coarse, basis) as W, p.within(W, "msnn_evaluate_") as problem:
            found = result.errors(p, problem.solve(), fine)
        records.append(
            {
                "family": label,
                "basis": name,
                "defect": float(np.mean(basis.defects)),
                "milliseconds": 1e3 * basis.seconds / len(basis.defects),
                "fallbacks": getattr(bases[name], "num_fallbacks", 0),
                **{norm: found[norm] for norm in result.NORMS},
            }
        )
    return records


def summarise(records: Sequence[dict[str, Any]], families: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the fields of a family; fallbacks are counted."""
    summary = []
    for family in dict.fromkeys(families):
        for basis in BASES:
            part = [r for r in records if (r["family"], r["basis"]) == (family, basis)]
            row: dict[str, Any] = {"family": family, "basis": basis}
            for key in ("defect", *result.NORMS, "milliseconds"):
                row[key] = float(np.mean([r[key] for r in part]))
            summary.append(row | {"fallbacks": sum(r["fallbacks"] for r in part)})
    return summary
