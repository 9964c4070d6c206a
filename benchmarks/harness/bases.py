# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The local bases that programs compare, by name, and what they report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from harness.machine import installed
from harness.problems import NUM_MODES
from harness.results import Record

import numpy as np

import dolfinx_msnn as msnn
from dolfinx_msnn.bases.cosines import cosines
from dolfinx_msnn.bases.pencil import Pencil

SLEPC, FILTERED, HARMONIC = "SLEPc", "filtered", "harmonic"
LEARNED, RAW, GUARDED = "learned + filter", "learned, raw", "guarded learned"
#: Harmonic functions with boundary values of the raw ones.
PREDICTED = "harmonic, predicted"
BASES = (SLEPC, FILTERED, LEARNED, RAW, GUARDED, HARMONIC)
_COLOURS = ("black", "tab:blue", "tab:orange", "tab:red", "tab:green", "tab:purple")
COLOURS = dict(zip(BASES, _COLOURS, strict=True))


def line(name: str) -> dict[str, Any]:
    """How a basis is drawn: open marks, as several lines lie on each other."""
    marker = dict(zip(BASES, "os^xvD", strict=True))[name]
    return {"color": COLOURS[name], "marker": marker, "label": name, "markerfacecolor": "none"}


def make(name: str, kappa: Any, model: Any = None, num_modes: int = NUM_MODES) -> Any:
    """One of the names above for a coefficient; without a model, by those that come with us."""
    if name == SLEPC:
        return msnn.SpectralBasis(num_modes)
    if name == FILTERED:
        return msnn.FilteredBasis(num_modes)
    if name == HARMONIC:
        return msnn.HarmonicBasis(num_modes)
    dim = kappa.function_space.mesh.topology.dim
    if name in (RAW, PREDICTED):
        model = model or pretrained(f"solutions-{dim}d")
        raw = msnn.LearnedBasis(model, kappa, refine=None, max_jump=np.inf)
        return raw if name == RAW else msnn.HarmonicBasis(num_modes, traces=raw)
    learned = msnn.LearnedBasis(model or pretrained(f"diffusion-{dim}d"), kappa, num_modes)
    return msnn.GuardedBasis(learned) if name == GUARDED else learned


@cache
def pretrained(name: str) -> Any:
    """A model that comes with the package, warmed up."""
    from dolfinx_msnn.nn.lattice import num_channels
    from dolfinx_msnn.nn.model import load_model
    from dolfinx_msnn.pretrained import pretrained_models

    model = load_model(pretrained_models()[name])
    # The first passes of a scripted model compile it.
    card = model.card
    channels = num_channels(card.dim, card.samples, card.input_convention)
    for _ in range(3):
        model(np.zeros((1, channels, *[card.lattice] * card.dim), dtype=np.float32))
    return model


def usable(bases: Sequence[str]) -> list[str]:
    """The bases that can be made: those of a network need torch."""
    if installed("torch"):
        return list(bases)
    print("torch is missing: no rows of learned bases")
    return [name for name in bases if name in (SLEPC, FILTERED, HARMONIC)]


class Polynomials:
    """Products of cosines as they are: no look at the coefficient."""

    def modes(self, problems: Sequence[msnn.LocalProblem]) -> list[msnn.LocalModes]:
        """The first cosines on each neighbourhood."""
        found = []
        for problem in problems:
            functions, _ = cosines(Pencil.create(problem), NUM_MODES)
            found.append(msnn.LocalModes(np.zeros(NUM_MODES), functions.T.copy()))
        return found


class WithConstant:
    """A basis and the constant function."""

    def __init__(self, basis: Any) -> None:
        self.basis, self.wrapped = basis, (basis,)
        self.num_modes = basis.num_modes + 1

    def modes(self, problems: Sequence[msnn.LocalProblem]) -> list[msnn.LocalModes]:
        """The basis' modes, after the constant."""
        return [
            msnn.LocalModes(
                np.append(0.0, m.values), np.vstack([np.ones_like(m.vectors[:1]), m.vectors])
            )
            for m in self.basis.modes(problems)
        ]


def reports(basis: Any, count: int) -> Record:
    """What filter, network and guard report: means and shares of the neighbourhoods."""
    found: Record = {}
    if isinstance(basis, msnn.GuardedBasis):
        for outcome in ("repaired", "recomputed"):
            found[outcome] = sum(r.outcome == outcome for r in basis.reports) / count
        found["guard_sweeps"] = float(np.mean([r.sweeps for r in basis.reports]))
        basis = basis.primary
    mine = getattr(basis, "reports", [])
    if mine and hasattr(mine[0], "filtered"):
        found["fallbacks"] = sum(r.source == "fallback" for r in mine) / count
        found["out_of_range"] = sum(not r.in_range for r in mine) / count
        mine = [r.filtered for r in mine if r.filtered is not None]
    if mine and hasattr(mine[0], "sweeps"):
        found["sweeps"] = float(np.mean([r.sweeps for r in mine]))
        found["rounds"] = float(np.mean([r.rounds for r in mine]))
        found["converged"] = sum(r.converged for r in mine) / count
    return found
