# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The checks of ``msnn doctor``: each yields what it finds; only the last two are collective."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mpi4py import MPI
from petsc4py import PETSc
from slepc4py import SLEPc

import numpy as np

import dolfinx
import dolfinx_msnn
from dolfinx.jit import get_options
from dolfinx_msnn._utils.compat import TESTED
from dolfinx_msnn.bases import compiled
from dolfinx_msnn.cli.common import installed
from dolfinx_msnn.pretrained import pretrained_models

#: PETSc's packages that are listed.
PACKAGES = (
    *("mumps", "superlu_dist", "hypre", "scotch", "ptscotch", "metis", "parmetis", "hdf5"),
    *("cuda", "hip", "kokkos"),
)
#: Largest energy error of the small problem; 0.091 with correct modes.
SMALL_ERROR = 0.12


class Finding(NamedTuple):
    """One line: what was looked at, how it is, and what to do.

    Attributes:
        name: What was looked at.
        status: ``"ok"``, ``"warning"`` or ``"problem"``.
        text: What was found.
        advice: What to do; empty if nothing.
    """

    name: str
    status: str
    text: str
    advice: str = ""


def ok(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", text)


def warning(name: str, text: str, advice: str) -> Finding:
    """Something optional is missing or slow."""
    return Finding(name, "warning", text, advice)


def problem(name: str, text: str, advice: str) -> Finding:
    """Something does not work."""
    return Finding(name, "problem", text, advice)


def check_python() -> Iterator[Finding]:
    """This package and Python."""
    here = os.path.dirname(dolfinx_msnn.__file__)
    yield ok("dolfinx_msnn", f"{dolfinx_msnn.__version__} in {here}")
    yield ok("python", f"{platform.python_version()}, {platform.platform()}")


def check_dolfinx() -> Iterator[Finding]:
    """DOLFINx and what it was built with."""
    version, tested = dolfinx.__version__, ".".join(map(str, TESTED))
    if version.split(".")[:2] == tested.split("."):
        yield ok("DOLFINx", version)
    else:
        advice = f"dolfinx_msnn is tested with {tested}; run its tests."
        yield warning("DOLFINx", version, advice)
    if dolfinx.has_adios2:
        yield ok("ADIOS2", "VTX output (.bp)")
    else:
        yield warning("ADIOS2", "not built in: no VTX output (.bp)", "Write .xdmf instead.")


def check_petsc() -> Iterator[Finding]:
    """PETSc, SLEPc, numbers and packages."""
    version = ".".join(map(str, PETSc.Sys.getVersion()))
    scalar, integer = np.dtype(PETSc.ScalarType), np.dtype(PETSc.IntType)
    text = f"{version}, scalars {scalar.name}, integers {integer.name}"
    if scalar.kind == "c":
        yield problem("PETSc", text, "Install a real build of DOLFINx and petsc4py.")
    else:
        yield ok("PETSc", text)
    yield ok("SLEPc", ".".join(map(str, SLEPc.Sys.getVersion())))
    present = [name for name in PACKAGES if PETSc.Sys.hasExternalPackage(name)]
    text = ", ".join(present) or "none"
    if "mumps" in present:
        yield ok("PETSc packages", text)
    else:
        lost = "no direct solver in parallel, and eigenvalues are not counted"
        yield warning("PETSc packages", text, f"Missing mumps: {lost}.")


def check_mpi() -> Iterator[Finding]:
    """The MPI library."""
    library = " ".join(MPI.Get_library_version().split("\n")[0].split())
    yield ok("MPI", f"{library}, mpi4py {importlib.metadata.version('mpi4py')}")


def check_packages() -> Iterator[Finding]:
    """Python packages, needed and optional."""
    needed = [f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "h5py")]
    yield ok("packages", ", ".join(needed))
    for name, loss, install in (
        ("tqdm", "no progress bars", '"dolfinx-msnn[nn]"'),
        ("matplotlib", "no pictures", '"dolfinx-msnn[viz]"'),
        ("Pillow", "no coefficients from images (arrays can be read)", "pillow"),
    ):
        try:
            yield ok(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield warning(name, f"missing: {loss}", f"pip install {install}")


def check_pyvista() -> Iterator[Finding]:
    """pyvista, tried in another process: without OpenGL it crashes."""
    from dolfinx_msnn.plot import pyvista_works

    if not installed("pyvista"):
        yield ok("pyvista", "not installed; 3D pictures are slices")
        return
    version = importlib.metadata.version("pyvista")
    if pyvista_works():
        yield ok("pyvista", f"{version}, draws off screen")
    else:
        advice = "Install Mesa or EGL (libgl1, libegl1), or draw slices."
        yield warning("pyvista", f"{version}, cannot draw off screen here", advice)


def check_gpu() -> Iterator[Finding]:
    """Matrix types of PETSc that live on a device; nothing is started there."""
    found = []
    for name in ("aijcusparse", "aijhipsparse", "aijkokkos"):
        trial = PETSc.Mat().create(MPI.COMM_SELF)
        try:
            trial.setType(name)
            found.append(name)
        except PETSc.Error:
            pass
        finally:
            trial.destroy()
    yield ok("GPU matrix types", ", ".join(found) or "none in this PETSc: host only")


def check_kernel() -> Iterator[Finding]:
    """C compiler, and the compiled kernel of the filter."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        advice = "Install one, as by apt-get install gcc: DOLFINx compiles forms with it."
        yield problem("C compiler", "none (cc, gcc or what CC names)", advice)
        return
    folder = os.path.expanduser(str(get_options()["cache_dir"]))
    yield ok("C compiler", f"{compiler}; compiled forms are kept in {folder}")
    if compiled.library() is not None:
        yield ok("kernel", "compiled")
    elif os.environ.get("MSNN_NO_KERNEL"):
        yield warning("kernel", "switched off: filters are slower", "Unset MSNN_NO_KERNEL.")
    else:
        advice = f"Check that {compiler} works with -march=native and that {folder} can be written."
        yield warning("kernel", "does not compile: filters are several times slower", advice)


def check_torch() -> Iterator[Finding]:
    """Torch and its devices."""
    if not installed("torch"):
        advice = 'pip install "dolfinx-msnn[nn]"'
        yield warning("torch", "missing: no learned bases", advice)
        return
    import torch

    devices = [str(torch.cuda.get_device_name(k)) for k in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    text = f"{torch.__version__}, {', '.join(devices) or 'CPU only'}"
    if sys.version_info >= (3, 14):
        yield warning("torch", text, "TorchScript is not supported here: programs must be .pt2.")
    else:
        yield ok("torch", text)


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
            yield problem(f"model {name}", str(error), advice)
        else:
            yield ok(f"model {name}", f"{card.n_out} functions, weights {verified}")
    if not models:
        yield problem("models", "none", advice)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_dolfinx,
    check_petsc,
    check_mpi,
    check_packages,
    check_pyvista,
    check_gpu,
    check_kernel,
    check_torch,
    check_models,
)


def check_ranks(comm: MPI.Intracomm) -> Iterator[Finding]:
    """Threads for the ranks of each machine, and whether all ranks run the same. Collective."""
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    ranks = local.size
    local.Free()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = max(1, cores or 1)
    mine = dolfinx.__version__, PETSc.Sys.getVersion(), np.__version__, dolfinx_msnn.__version__
    text = f"{comm.size} in all, {ranks} on this machine with {cores} cores"
    if len(set(comm.allgather(mine))) > 1:
        advice = "Use one environment on all machines."
        yield problem("ranks", "run different versions", advice)
    elif ranks > cores:
        yield warning("ranks", text, f"Start at most {cores} on this machine.")
    else:
        yield ok("ranks", text)
    given = os.environ.get("OMP_NUM_THREADS", "")
    count = given.split(",")[0]
    if not count.isdigit() and cores > 1:
        state = repr(given) if given else "not set"
        text = f"OMP_NUM_THREADS is {state}: BLAS takes all cores, a learned basis one thread"
        advice = "export OMP_NUM_THREADS=1: with MPI, the ranks are the threads."
        yield warning("threads", text, advice) if comm.size > 1 else ok("threads", text)
    elif count.isdigit() and ranks * int(count) > max(ranks, cores):
        text = f"{ranks} ranks of {count} threads on {cores} cores"
        yield warning("threads", text, "export OMP_NUM_THREADS=1")
    else:
        yield ok("threads", f"OMP_NUM_THREADS is {given or 'not set'}")


def check_solve(comm: MPI.Intracomm) -> Iterator[Finding]:
    """A small multiscale problem against the fine one. Collective."""
    from dolfinx_msnn.cli import problem as problems
    from dolfinx_msnn.cli import result

    advice = "Please report this with all lines."
    try:
        field = problems.generator("inclusions", 2, 100.0, 0, [])
        msh = problems.create_mesh(comm, field, cells="16")
        p = problems.pose(msh, field.interpolate(msh), source=1.0)
        coarse, basis = dolfinx_msnn.CoarseGrid(msh, (4, 4)), dolfinx_msnn.SpectralBasis(4)
        with p.space(coarse, basis) as W, p.within(W, "msnn_doctor_") as solved:
            error = result.errors(p, solved.solve(), result.solve_fine(p))["energy"]
    except (ValueError, RuntimeError, OSError, MemoryError) as exc:
        yield problem("small problem", " ".join(str(exc).split()), advice)
        return
    text = f"{W.num_neighbourhoods} neighbourhoods, relative energy error {error:.2g}"
    right = error < SMALL_ERROR
    yield ok("small problem", text) if right else problem("small problem", text, advice)
