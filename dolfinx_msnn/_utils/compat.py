# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The environment that dolfinx_msnn runs in.

This is the only module that knows DOLFINx versions: which are tested, and where they differ.
"""

import importlib
import re
import warnings

import numpy as np

TESTED = (0, 11)
"""The DOLFINx release series that dolfinx_msnn is tested with: (major, minor)."""

OLDEST = (0, 10)
"""The oldest that is not refused."""

_HOW_TO_INSTALL = (
    'pip install "dolfinx-msnn[wheels]" (Linux x86_64), '
    "conda install -c conda-forge fenics-dolfinx slepc4py, or the Docker image dolfinx/dolfinx"
)

_checked = False


def check_environment() -> None:
    """Check that DOLFINx, petsc4py and slepc4py are there, and that DOLFINx is a tested version.

    Not collective. ``mpi4py.MPI`` is imported before anything that is linked to MPI: the libraries
    of the binary wheel find theirs only once it is loaded. Nothing happens from the second call on.

    Raises:
        ImportError: If a package is missing or cannot be loaded, or if DOLFINx was built without
            petsc4py or is older than :data:`OLDEST`. The message says what to install.
    """
    global _checked
    if _checked:
        return
    for name in ("mpi4py.MPI", "dolfinx", "petsc4py.PETSc", "slepc4py.SLEPc"):
        _import(name)
    _check_version(importlib.import_module("dolfinx").__version__)
    _checked = True


def require_real() -> None:
    """Check that PETSc was built for real numbers.

    Not collective.

    Raises:
        RuntimeError: If PETSc's scalars are complex.
    """
    from petsc4py import PETSc

    if np.issubdtype(PETSc.ScalarType, np.complexfloating):
        raise RuntimeError(
            f"dolfinx_msnn needs PETSc built for real numbers, and the scalars of this PETSc are "
            f"{np.dtype(PETSc.ScalarType).name}: use a real build of DOLFINx and petsc4py."
        )


def _import(name: str) -> None:
    """Import a required module, or raise an ImportError that says what to install."""
    package = name.partition(".")[0]
    try:
        importlib.import_module(name)
    # RuntimeError is what the mpi4py wheel raises if it finds no MPI library, AssertionError how
    # DOLFINx 0.11 answers when petsc4py is there and it was built without.
    except (ImportError, RuntimeError, AssertionError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (package, name):
            what = f"DOLFINx with mpi4py, petsc4py and slepc4py, and {package} is not installed"
        elif isinstance(error, AssertionError):
            what = "a DOLFINx that was built with petsc4py, and this one was not"
        else:
            reason = str(error).partition("\n")[0]
            what = f"{package}, which is installed but does not load ({reason})"
        raise ImportError(f"dolfinx_msnn needs {what}: {_HOW_TO_INSTALL}.", name=package) from error


def _check_version(version: str) -> None:
    """Refuse an old DOLFINx, and warn of one that is not tested."""
    match = re.match(r"(\d+)\.(\d+)", version)
    series = match and (int(match[1]), int(match[2]))
    if series == TESTED:
        return
    tested, oldest = (".".join(map(str, s)) for s in (TESTED, OLDEST))
    if series and series < OLDEST:
        raise ImportError(
            f"dolfinx_msnn needs DOLFINx {tested} ({oldest} at the least), and this is DOLFINx "
            f"{version}: {_HOW_TO_INSTALL}.",
            name="dolfinx",
        )
    warnings.warn(
        f"dolfinx_msnn is tested with DOLFINx {tested}.x, and this is DOLFINx {version}.",
        UserWarning,
        stacklevel=3,
    )
