# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Where, when and with what figures were measured, and the memory of a process."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import resource
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGES = (
    "dolfinx-msnn",
    "dolfinx-solver-real",
    "fenics-dolfinx",
    "numpy",
    "scipy",
    "torch",
    "neuraloperator",
    "nvidia-physicsnemo",
    "pyamg",
    "mpich",
)


@cache
def installed(*packages: str) -> bool:
    """Whether these packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in packages)


def peak_gib() -> float:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike getrusage, without that of the process that started this one.
        lines = status.read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def machine() -> dict[str, Any]:
    """Where, when and with what figures are measured; no names."""
    # MPI first: the wheel of PETSc finds its library through it.
    from mpi4py import MPI  # noqa: F401
    from petsc4py import PETSc

    import dolfinx

    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "dolfinx": dolfinx.__version__,
        "petsc": ".".join(map(str, PETSc.Sys.getVersion())),
        "packages": {name: v for name in _PACKAGES if (v := _version(name))},
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        # Names of files only: folders are private.
        "command": " ".join(Path(argument).name for argument in sys.argv),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
