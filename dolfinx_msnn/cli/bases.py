# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Local bases by name, with a progress bar, and their reports."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

import dolfinx_msnn as msnn
from dolfinx_msnn.cli.common import Progress, WrongCommandLine, need
from dolfinx_msnn.pretrained import pretrained_models

if TYPE_CHECKING:
    from dolfinx_msnn._utils.typing import Function

#: Neighbourhoods that a basis is given at a time if there is a progress bar.
CHUNK = 16
#: Left-out functions of a harmonic basis have at most this width, or there are too few functions.
FEW_WIDTH = 0.2
#: Largest jump of the coefficient for predicted boundary values; training has jumps by up to 1000.
TRACES_JUMP = 2000.0


def model_path(name: str) -> str:
    """The file of a model: of this name, or of the shipped model of this name.

    Raises:
        FileNotFoundError: If there is neither.
    """
    if os.path.exists(name):
        return name
    known = pretrained_models()
    if name not in known:
        raise FileNotFoundError(
            f"There is no model file {name}, and the shipped models are {', '.join(known)}."
        )
    return str(known[name])


def check_basis(text: str, threshold: float | None, tolerance: float | None, guard: bool) -> None:
    """Refuse a basis that :func:`create_basis` does not know."""
    kind, _, model = text.partition(":")
    known = ("computed", "filtered", "harmonic", "learned")
    if kind not in known or (model and kind not in ("harmonic", "learned")):
        raise WrongCommandLine(
            "--basis must be computed, filtered, harmonic, harmonic:MODEL, learned or "
            f"learned:MODEL, got {text!r}."
        )
    if kind == "harmonic" and guard:
        raise WrongCommandLine("--guard is for modes; expected another basis than harmonic.")
    if threshold is not None and (kind not in ("computed", "filtered") or guard):
        raise WrongCommandLine(
            "--threshold is for --basis computed or filtered without --guard; expected --modes "
            "otherwise."
        )
    if tolerance is not None and kind != "harmonic":
        raise WrongCommandLine(
            f"--tolerance is for --basis harmonic; expected --modes with {kind}."
        )
    if kind == "learned" or model:
        need("torch", "A learned basis", "nn")
        if model:
            model_path(model)


def create_basis(
    text: str,
    kappa: Function,
    dim: int,
    modes: int,
    *,
    threshold: float | None,
    tolerance: float | None,
    guard: bool,
    trust: bool = False,
) -> msnn.LocalBasis:
    """A basis by the name that :func:`check_basis` knows."""
    kind, _, model = text.partition(":")
    basis: msnn.LocalBasis

    def learned(model: str, num_modes: int | None, **options: Any) -> msnn.LocalBasis:
        from dolfinx_msnn.nn.learned import LearnedBasis

        # Also for functions that are used as they are.
        options |= {"fallback": msnn.FilteredBasis(modes), "trust": trust}
        return LearnedBasis(model_path(model), kappa, num_modes, **options)

    if kind in ("computed", "filtered"):
        make = msnn.SpectralBasis if kind == "computed" else msnn.FilteredBasis
        if threshold is None:
            basis = make(modes)
        else:
            basis = make(threshold=threshold, max_modes=max(modes, 32))
    elif kind == "harmonic":
        traces = learned(model, None, max_jump=TRACES_JUMP) if model else None
        number: dict[str, Any] = {"num_modes": modes}
        if tolerance is not None:
            number = {"tolerance": tolerance, "max_modes": max(modes, 40)}
        basis = msnn.HarmonicBasis(**number, traces=traces)
    else:
        basis = learned(model or f"diffusion-{dim}d", modes)
    return msnn.GuardedBasis(basis) if guard else basis


class Watched:
    """A basis that is given a few neighbourhoods at a time, so that progress can be shown."""

    def __init__(self, basis: msnn.LocalBasis, progress: Progress) -> None:
        self._basis, self._progress = basis, progress
        self.wrapped = (basis,)

    def modes(self, problems: Sequence[msnn.LocalProblem]) -> list[msnn.LocalModes]:
        """The modes of the basis."""
        if not self._progress.shown:
            return list(self._basis.modes(problems))
        self._progress.stage("local bases", len(problems))
        found: list[msnn.LocalModes] = []
        for first in range(0, len(problems), CHUNK):
            part = problems[first : first + CHUNK]
            found += self._basis.modes(part)
            self._progress.advance(len(part))
        return found


def reports(comm: MPI.Intracomm, basis: msnn.LocalBasis) -> dict[str, Any]:
    """A summary of the reports of a basis over all ranks. Collective."""
    said: dict[str, Any] = {}
    if isinstance(basis, msnn.GuardedBasis):
        said["guard"] = _count(comm, [report.outcome for report in basis.reports])
        basis = basis.primary
    found = getattr(basis, "reports", [])
    if isinstance(basis, msnn.FilteredBasis):
        said["filter"] = _filtered(comm, found)
    elif isinstance(basis, msnn.HarmonicBasis):
        widths = [w for part in comm.allgather([r.width for r in found]) for w in part]
        said["harmonic"] = {
            "largest_width": max(widths, default=0.0),
            "neighbourhoods_with_too_few": sum(width > FEW_WIDTH for width in widths),
        }
    elif not isinstance(basis, msnn.SpectralBasis):
        said["source"] = _count(comm, [report.source for report in found])
        outside = comm.allreduce(sum(not report.in_range for report in found))
        said["contrast_outside_training"] = outside
        said["filter"] = _filtered(comm, [r.filtered for r in found if r.filtered is not None])
    return said


def _count(comm: MPI.Intracomm, names: list[str]) -> dict[str, int]:
    return dict(Counter(name for part in comm.allgather(names) for name in part))


def _filtered(comm: MPI.Intracomm, found: Sequence[Any]) -> dict[str, Any]:
    every = [pair for part in comm.allgather([(r.sweeps, r.error) for r in found]) for pair in part]
    if not every:
        return {}
    return {
        "mean_sweeps": sum(sweeps for sweeps, _ in every) / len(every),
        "largest_estimated_error": max(error for _, error in every),
    }
