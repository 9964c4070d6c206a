# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The checks of ``msnn doctor``: each yields what it finds; only the last two are collective.

They import what they look at, so that one that fails does not keep the others from being made.
"""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import singledispatchmethod
from typing import NamedTuple

from mpi4py import MPI

import dolfinx_msnn
from dolfinx_msnn.cli.common import installed
from dolfinx_msnn.pretrained import pretrained_models

#: Distributions that are needed; DOLFINx's wheel is one with PETSc and SLEPc.
NEEDED = (
    *("fenics-dolfinx", "dolfinx-solver-real", "petsc4py", "slepc4py", "mpi4py"),
    *("numpy", "scipy", "h5py"),
)
#: PETSc's packages that are listed.
PACKAGES = (
    *("mumps", "superlu_dist", "hypre", "scotch", "ptscotch", "metis", "parmetis", "hdf5"),
    *("cuda", "hip", "kokkos"),
)
#: Largest energy error of the small problem; 0.091 with correct modes.
SMALL_ERROR = 0.12


class Finding(NamedTuple):
    """One line: what was looked at, what was found, how it is, and what to do.

    Attributes:
        name: What was looked at.
        text: What was found.
        status: ``"ok"``, ``"warning"`` (something optional is missing or slow) or ``"problem"``.
        advice: What to do; empty if nothing.
    """

    name: str
    text: str
    status: str = "ok"
    advice: str = ""


def version_of(name: str) -> str:
    """Version of a distribution, or an empty string."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_versions() -> Iterator[Finding]:
    """Versions, without importing anything."""
    here = os.path.dirname(dolfinx_msnn.__file__)
    yield Finding("dolfinx_msnn", f"{dolfinx_msnn.__version__} in {here}")
    yield Finding("python", f"{platform.python_version()}, {platform.platform()}")
    found = [f"{name} {version}" for name in NEEDED if (version := version_of(name))]
    yield Finding("packages", ", ".join(found))
    yield Finding("MPI", " ".join(MPI.Get_library_version().split("\n")[0].split()))
    if hasattr(singledispatchmethod(print), "_method_cache"):
        text = "this Python never frees the mesh of a form that UFL has looked at"
        yield Finding("meshes", text, "warning", "Update to Python 3.13.2 or newer.")


def check_dolfinx() -> Iterator[Finding]:
    """DOLFINx and what it was built with."""
    import dolfinx
    from dolfinx_msnn._utils.compat import TESTED

    version, tested = dolfinx.__version__, ".".join(map(str, TESTED))
    if version.split(".")[:2] == tested.split("."):
        yield Finding("DOLFINx", version)
    else:
        advice = f"dolfinx_msnn is tested with {tested}; run its tests."
        yield Finding("DOLFINx", version, "warning", advice)
    if dolfinx.has_adios2:
        yield Finding("ADIOS2", "VTX output (.bp)")
    else:
        text = "not built in: no VTX output (.bp)"
        yield Finding("ADIOS2", text, "warning", "Write .xdmf instead.")


def check_petsc() -> Iterator[Finding]:
    """PETSc, SLEPc, numbers, packages and types of matrices on a device (none is started)."""
    from petsc4py import PETSc
    from slepc4py import SLEPc

    import numpy as np

    version = ".".join(map(str, PETSc.Sys.getVersion()))
    scalar, integer = np.dtype(PETSc.ScalarType), np.dtype(PETSc.IntType)
    text = f"{version}, scalars {scalar.name}, integers {integer.name}"
    if scalar.kind == "c":
        advice = "Install a real build of DOLFINx and petsc4py."
        yield Finding("PETSc", text, "problem", advice)
    else:
        yield Finding("PETSc", text)
    yield Finding("SLEPc", ".".join(map(str, SLEPc.Sys.getVersion())))
    present = [name for name in PACKAGES if PETSc.Sys.hasExternalPackage(name)]
    lost = "Missing mumps: no direct solver in parallel, and eigenvalues are not counted."
    some = ("ok", "") if "mumps" in present else ("warning", lost)
    yield Finding("PETSc packages", ", ".join(present) or "none", *some)
    kinds = [name for name in ("cuda", "hip", "kokkos") if name in present]
    yield Finding("GPU matrix types", ", ".join(kinds) or "none in this PETSc: host only")


def check_packages() -> Iterator[Finding]:
    """Optional Python packages."""
    for name, loss, install in (
        ("tqdm", "no progress bars", '"dolfinx-msnn[nn]"'),
        ("matplotlib", "no pictures", '"dolfinx-msnn[viz]"'),
        ("Pillow", "no coefficients from images (arrays can be read)", "pillow"),
    ):
        if version := version_of(name):
            yield Finding(name, version)
        else:
            yield Finding(name, f"missing: {loss}", "warning", f"pip install {install}")


def check_pyvista() -> Iterator[Finding]:
    """Tried in another process: without OpenGL it crashes."""
    from dolfinx_msnn.plot import pyvista_works

    version = version_of("pyvista")
    if not version:
        yield Finding("pyvista", "not installed; 3D pictures are slices")
    elif pyvista_works():
        yield Finding("pyvista", f"{version}, draws off screen")
    else:
        advice = "Install Mesa or EGL (libgl1, libegl1), or draw slices."
        yield Finding("pyvista", f"{version}, cannot draw off screen here", "warning", advice)


def check_kernel() -> Iterator[Finding]:
    """C compiler, and the compiled kernel of the filter."""
    from dolfinx.jit import get_options
    from dolfinx_msnn.bases.kernels import SWEEPS

    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        advice = "Install one, as by apt-get install gcc: DOLFINx compiles forms with it."
        yield Finding("C compiler", "none (cc, gcc or what CC names)", "problem", advice)
        return
    folder = os.path.expanduser(str(get_options()["cache_dir"]))
    yield Finding("C compiler", f"{compiler}; compiled forms are kept in {folder}")
    if SWEEPS.module is not None:
        yield Finding("kernel", "compiled")
        return
    text = "does not compile: filters are several times slower"
    advice = f"Check that {compiler} works with -march=native and that {folder} can be written."
    if os.environ.get("MSNN_NO_KERNEL"):
        text, advice = "switched off: filters are slower", "Unset MSNN_NO_KERNEL."
    yield Finding("kernel", text, "warning", advice)


def check_torch() -> Iterator[Finding]:
    """Torch and its devices."""
    if not installed("torch"):
        advice = 'pip install "dolfinx-msnn[nn]"'
        yield Finding("torch", "missing: no learned bases", "warning", advice)
        return
    import torch

    devices = [str(torch.cuda.get_device_name(k)) for k in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    text, advice = f"{torch.__version__}, {', '.join(devices) or 'CPU only'}", ""
    if sys.version_info >= (3, 14):
        advice = "TorchScript is not supported here: programs must be .pt2."
    yield Finding("torch", text, "warning" if advice else "ok", advice)


def check_models() -> Iterator[Finding]:
    """The models that come with the package, by their hashes."""
    from dolfinx_msnn.nn.model import load_model, read_card

    advice, whole = "Install dolfinx-msnn anew.", installed("torch")
    verified = "verified" if whole else "not verified: no torch"
    models = pretrained_models()
    for name, path in models.items():
        try:
            card = load_model(path).card if whole else read_card(path)
        except (ValueError, RuntimeError, OSError) as error:
            yield Finding(f"model {name}", str(error), "problem", advice)
        else:
            yield Finding(f"model {name}", f"{card.n_out} functions, weights {verified}")
    if not models:
        yield Finding("models", "none", "problem", advice)


#: Checks that need no DOLFINx, and those that do.
ALONE = (check_versions, check_packages, check_torch)
CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    *(check_dolfinx, check_petsc, check_kernel, check_pyvista, check_models),
)


def check_environment() -> str:
    """What keeps DOLFINx and its companions from loading, or an empty string."""
    try:
        importlib.import_module("dolfinx_msnn._utils.environment")
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def check_ranks(comm: MPI.Intracomm) -> Iterator[Finding]:
    """Threads for the ranks of each machine, and whether all ranks run the same. Collective."""
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    ranks = local.size
    local.Free()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = max(1, cores or 1)
    mine = (dolfinx_msnn.__version__, *map(version_of, NEEDED))
    text = f"{comm.size} in all, {ranks} on this machine with {cores} cores"
    if len(set(comm.allgather(mine))) > 1:
        advice = "Use one environment on all machines."
        yield Finding("ranks", "run different versions", "problem", advice)
    elif ranks > cores:
        yield Finding("ranks", text, "warning", f"Start at most {cores} on this machine.")
    else:
        yield Finding("ranks", text)
    given = os.environ.get("OMP_NUM_THREADS", "")
    count, advice = given.split(",")[0], "export OMP_NUM_THREADS=1"
    if not count.isdigit() and cores > 1:
        state = repr(given) if given else "not set"
        text = f"OMP_NUM_THREADS is {state}: BLAS takes all cores, a learned basis one thread"
        advice = f"{advice}: with MPI, the ranks are the threads." if comm.size > 1 else ""
    elif count.isdigit() and ranks * int(count) > max(ranks, cores):
        text = f"{ranks} ranks of {count} threads on {cores} cores"
    else:
        text, advice = f"OMP_NUM_THREADS is {given or 'not set'}", ""
    yield Finding("threads", text, "warning" if advice else "ok", advice)


def check_solve(comm: MPI.Intracomm) -> Iterator[Finding]:
    """A small multiscale problem against the fine one. Collective."""
    from dolfinx_msnn.cli import problem as problems
    from dolfinx_msnn.cli import result

    field = problems.generator("inclusions", 2, 100.0, 0, [])
    msh = problems.create_mesh(comm, field, cells="16")
    p = problems.pose(msh, field.interpolate(msh), source=1.0)
    coarse, basis = dolfinx_msnn.CoarseGrid(msh, (4, 4)), dolfinx_msnn.SpectralBasis(4)
    with p.space(coarse, basis) as W, p.within(W, "msnn_doctor_") as solved:
        error = result.errors(p, solved.solve(), result.solve_fine(p))["energy"]
    text = f"{W.num_neighbourhoods} neighbourhoods, relative energy error {error:.2g}"
    advice = "" if error < SMALL_ERROR else "Please report this with all lines."
    yield Finding("small problem", text, "problem" if advice else "ok", advice)
