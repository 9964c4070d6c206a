# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Multiscale coarse spaces for DOLFINx: computed, filtered or predicted local bases.

What is here is imported when it is first used, and in one process DOLFINx with it: ``msnn --help``
waits for neither, and ``msnn doctor`` runs where DOLFINx does not load.
"""

import importlib
import importlib.util
from contextlib import suppress
from typing import TYPE_CHECKING

# The binary wheel of DOLFINx needs it loaded, whichever is imported first. It says what lacks.
with suppress(ImportError, RuntimeError):
    from mpi4py import MPI as _MPI

    # PETSc starts on all ranks together, and what is here may be used on some of them only.
    if _MPI.COMM_WORLD.size > 1:
        importlib.import_module("dolfinx_msnn._utils.environment")

from dolfinx_msnn._version import __version__

if TYPE_CHECKING:
    from dolfinx_msnn import fields
    from dolfinx_msnn.algebra.preconditioner import TwoLevelPreconditioner
    from dolfinx_msnn.bases import (
        FilteredBasis,
        GuardedBasis,
        HarmonicBasis,
        LocalBasis,
        LocalModes,
        SpectralBasis,
    )
    from dolfinx_msnn.local.grid import CoarseGrid
    from dolfinx_msnn.local.problem import LocalProblem
    from dolfinx_msnn.space.build import multiscale_functionspace
    from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

__all__ = [
    "CoarseGrid",
    "FilteredBasis",
    "GuardedBasis",
    "HarmonicBasis",
    "LocalBasis",
    "LocalModes",
    "LocalProblem",
    "MultiscaleFunctionSpace",
    "SpectralBasis",
    "TwoLevelPreconditioner",
    "__version__",
    "fields",
    "multiscale_functionspace",
]

_HOME = {
    "CoarseGrid": "local.grid",
    "LearnedBasis": "nn.learned",
    "LocalProblem": "local.problem",
    "MultiscaleFunctionSpace": "space.functionspace",
    "TwoLevelPreconditioner": "algebra.preconditioner",
    "multiscale_functionspace": "space.build",
} | dict.fromkeys(
    ("FilteredBasis", "GuardedBasis", "HarmonicBasis", "LocalBasis", "LocalModes", "SpectralBasis"),
    "bases",
)
_MODULES = ("bases", "estimate", "fields", "petsc", "plot", "richards")


def __getattr__(name: str) -> object:
    """Import a public name at its first use, and say what is missing."""
    if name in _MODULES:
        return importlib.import_module(f"dolfinx_msnn.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'dolfinx_msnn' has no attribute {name!r}")
    if name == "LearnedBasis" and importlib.util.find_spec("torch") is None:
        raise ImportError(
            f"dolfinx_msnn.{name} needs torch, which is not installed: "
            'pip install "dolfinx-msnn[nn]".',
            name="torch",
        )
    importlib.import_module("dolfinx_msnn._utils.environment")
    return getattr(importlib.import_module(f"dolfinx_msnn.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_HOME, *_MODULES})
