# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Multiscale coarse spaces for DOLFINx: computed, filtered or predicted local bases."""

import importlib.util

# mpi4py comes first: the binary wheel of DOLFINx needs it loaded.
from mpi4py import MPI as _MPI  # noqa: F401

from dolfinx_msnn._utils.compat import check_environment as _check_environment

_check_environment()

from dolfinx_msnn import fields  # noqa: E402
from dolfinx_msnn._version import __version__  # noqa: E402
from dolfinx_msnn.algebra.preconditioner import TwoLevelPreconditioner  # noqa: E402
from dolfinx_msnn.bases import (  # noqa: E402
    FilteredBasis,
    GuardedBasis,
    LocalBasis,
    LocalModes,
    SpectralBasis,
)
from dolfinx_msnn.local.grid import CoarseGrid  # noqa: E402
from dolfinx_msnn.local.problem import LocalProblem  # noqa: E402
from dolfinx_msnn.space.build import multiscale_functionspace  # noqa: E402
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace  # noqa: E402

__all__ = [
    "CoarseGrid",
    "FilteredBasis",
    "GuardedBasis",
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

#: Features that need torch, which is an optional dependency.
_LEARNED = ("LearnedBasis",)


def __getattr__(name: str) -> object:
    """Say what is missing when a learned feature is asked for."""
    if name in _LEARNED:
        if importlib.util.find_spec("torch") is None:
            raise ImportError(
                f"dolfinx_msnn.{name} needs torch, which is not installed: "
                'pip install "dolfinx-msnn[nn]".',
                name="torch",
            )
        from dolfinx_msnn.nn import learned

        return getattr(learned, name)
    raise AttributeError(f"module 'dolfinx_msnn' has no attribute {name!r}")
