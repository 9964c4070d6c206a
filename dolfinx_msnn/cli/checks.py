# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The checks of ``msnn doctor``. Each returns what it found; none but the last two communicate."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
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
from dolfinx_msnn.pretrained import pretrained_models

NN = 'pip install "dolfinx-msnn[nn]"'

#: PETSc's packages, and what is lost without; empty if they only may be useful.
PACKAGES = {
    "mumps": "no direct solver in parallel, and eigenvalues are not counted",
    "superlu_dist": "",
    "hypre": "",
    "scotch": "",
    "ptscotch": "",
    "metis": "",
    "parmetis": "",
    "hdf5": "",
    "cuda": "",
    "hip": "",
    "kokkos": "",
}
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


def check_python() -> list[Finding]:
    """This package and Python."""
    here = os.path.dirname(dolfinx_msnn.__file__)
    return [
        Finding("dolfinx_msnn", "ok", f"{dolfinx_msnn.__version__} in {here}"),
        Finding("python", "ok", f"{platform.python_version()}, {platform.platform()}"),
    ]


def check_dolfinx() -> list[Finding]:
    """DOLFINx and what it was built with."""
    version = dolfinx.__version__
    tested = ".".join(map(str, TESTED))
    known = version.split(".")[:2] == [str(n) for n in TESTED]
    found = [
        Finding("DOLFINx", "ok", version)
        if known
        else Finding(
            "DOLFINx", "warning", version, f"dolfinx_msnn is tested with {tested}; run its tests."
        )
    ]
    if dolfinx.has_adios2:
        found.append(Finding("ADIOS2", "ok", "VTX output (.bp)"))
    else:
        found.append(
            Finding(
                "ADIOS2", "warning", "not built in: no VTX output (.bp)", "Write .xdmf instead."
            )
        )
    return found


def check_petsc() -> list[Finding]:
    """PETSc, SLEPc, numbers and packages."""
    text = ".".join(map(str, PETSc.Sys.getVersion()))
    scalar, integer = np.dtype(PETSc.ScalarType), np.dtype(PETSc.IntType)
    found = [
        Finding("PETSc", "ok", f"{text}, scalars {scalar.name}, integers {integer.name}"),
        Finding("SLEPc", "ok", ".".join(map(str, SLEPc.Sys.getVersion()))),
    ]
    if scalar.kind == "c":
        found[0] = found[0]._replace(
            status="problem", advice="Install a real build of DOLFINx and petsc4py."
        )
    present = [name for name in PACKAGES if PETSc.Sys.hasExternalPackage(name)]
    lost = [f"{name}: {loss}" for name, loss in PACKAGES.items() if loss and name not in present]
    found.append(
        Finding("PETSc packages", "warning", ", ".join(present) or "none", f"Missing {lost[0]}.")
        if lost
        else Finding("PETSc packages", "ok", ", ".join(present))
    )
    return found


def check_mpi() -> list[Finding]:
    """The MPI library."""
    library = MPI.Get_library_version().split("\n")[0].replace("\t", " ")
    version = importlib.metadata.version("mpi4py")
    return [Finding("MPI", "ok", f"{' '.join(library.split())}, mpi4py {version}")]


def check_packages() -> list[Finding]:
    """Python packages, needed and optional."""
    needed = [f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "h5py")]
    found = [Finding("packages", "ok", ", ".join(needed))]
    for name, what, extra in (
        ("tqdm", "no progress bars", "nn"),
        ("matplotlib", "no pictures", "viz"),
        ("Pillow", "no coefficients from images (arrays can be read)", ""),
    ):
        try:
            found.append(Finding(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            install = f'"dolfinx-msnn[{extra}]"' if extra else name.lower()
            found.append(Finding(name, "warning", f"missing: {what}", f"pip install {install}"))
    return found


def check_pyvista() -> list[Finding]:
    """pyvista, tried in another process: without OpenGL it ends the one it runs in."""
    from dolfinx_msnn.plot import pyvista_works

    if importlib.util.find_spec("pyvista") is None:
        return [Finding("pyvista", "ok", "not installed; 3D pictures are slices")]
    version = importlib.metadata.version("pyvista")
    if pyvista_works():
        return [Finding("pyvista", "ok", f"{version}, draws off screen")]
    return [
        Finding(
            "pyvista",
            "warning",
            f"{version}, cannot draw off screen here",
            "Install Mesa or EGL (libgl1, libegl1), or draw slices.",
        )
    ]


def check_gpu() -> list[Finding]:
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
    return [Finding("GPU matrix types", "ok", ", ".join(found) or "none in this PETSc: host only")]


def check_kernel() -> list[Finding]:
    """C compiler, and the kernel of the filter."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        return [
            Finding(
                "C compiler",
                "problem",
                "none (cc, gcc or what CC names)",
                "Install one, as by apt-get install gcc: DOLFINx compiles forms with it.",
            )
        ]
    folder = os.path.expanduser(str(get_options()["cache_dir"]))
    found = [Finding("C compiler", "ok", f"{compiler}; compiled forms are kept in {folder}")]
    if compiled.library() is not None:
        return [*found, Finding("kernel", "ok", "compiled")]
    if os.environ.get("MSNN_NO_KERNEL"):
        return [
            *found,
            Finding(
                "kernel", "warning", "switched off: filters are slower", "Unset MSNN_NO_KERNEL."
            ),
        ]
    advice = f"Check that {compiler} works with -march=native and that {folder} can be written."
    text = "does not compile: filters are several times slower"
    return [*found, Finding("kernel", "warning", text, advice)]


def check_torch() -> list[Finding]:
    """Torch and its devices."""
    if importlib.util.find_spec("torch") is None:
        return [Finding("torch", "warning", "missing: no learned bases", NN)]
    import torch

    devices = [str(torch.cuda.get_device_name(k)) for k in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    where = ", ".join(devices) or "CPU only"
    found = [Finding("torch", "ok", f"{torch.__version__}, {where}")]
    if sys.version_info >= (3, 14):
        found[0] = found[0]._replace(
            status="warning", advice="TorchScript is not supported here: use .pt2 models."
        )
    return found


def check_models() -> list[Finding]:
    """The models that come with the package, by their hashes."""
    from dolfinx_msnn.nn.model import load_model, read_card

    found = []
    whole = importlib.util.find_spec("torch") is not None
    for name, path in pretrained_models().items():
        try:
            card = load_model(path).card if whole else read_card(path)
        except (ValueError, RuntimeError, OSError) as exc:
            found.append(
                Finding(f"model {name}", "problem", str(exc), "Install dolfinx-msnn anew.")
            )
            continue
        text = (
            f"{card.n_out} functions, weights {'verified' if whole else 'not verified: no torch'}"
        )
        found.append(Finding(f"model {name}", "ok", text))
    if not found:
        found.append(Finding("models", "problem", "none", "Install dolfinx-msnn anew."))
    return found


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
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


def check_ranks(comm: MPI.Intracomm) -> list[Finding]:
    """Threads for the ranks of each machine, and whether all ranks run the same. Collective."""
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = max(1, cores or 1)
    ranks = local.size
    local.Free()
    versions = (
        dolfinx.__version__,
        PETSc.Sys.getVersion(),
        np.__version__,
        dolfinx_msnn.__version__,
    )
    everywhere = comm.allgather(versions)
    text = f"{comm.size} in all, {ranks} on this machine with {cores} cores"
    found = [Finding("ranks", "ok", text)]
    if len(set(everywhere)) > 1:
        found[0] = Finding(
            "ranks", "problem", "run different versions", "Use one environment on all machines."
        )
    elif ranks > cores:
        found[0] = Finding("ranks", "warning", text, f"Start at most {cores} on this machine.")
    count = given.split(",")[0]
    if not count.isdigit() and cores > 1:
        state = "not set" if not given else f"{given!r}"
        advice = "export OMP_NUM_THREADS=1: with MPI, the ranks are the threads."
        status = "warning" if comm.size > 1 else "ok"
        text = f"OMP_NUM_THREADS is {state}: BLAS takes all cores, a learned basis one thread"
        found.append(Finding("threads", status, text, advice if comm.size > 1 else ""))
    elif count.isdigit() and ranks * int(count) > max(ranks, cores):
        text = f"{ranks} ranks of {count} threads on {cores} cores"
        found.append(Finding("threads", "warning", text, "export OMP_NUM_THREADS=1"))
    else:
        found.append(Finding("threads", "ok", f"OMP_NUM_THREADS is {given or 'not set'}"))
    return found


def check_solve(comm: MPI.Intracomm) -> list[Finding]:
    """A small multiscale problem against the fine one. Collective."""
    from dolfinx_msnn.cli import problem as problems
    from dolfinx_msnn.cli import result
    from dolfinx_msnn.petsc import LinearProblem

    try:
        field = problems.generator("inclusions", 2, 100.0, 0, [])
        msh = problems.create_mesh(comm, field, file=None, cells="16", size=None, cell=None)
        p = problems.pose(msh, field.interpolate(msh), degree=1, dirichlet=[], flux=[], source=1.0)
        coarse = dolfinx_msnn.CoarseGrid(msh, (4, 4))
        basis = dolfinx_msnn.SpectralBasis(4)
        with (
            dolfinx_msnn.multiscale_functionspace(p.V, coarse, basis, p.a, s=p.s, bcs=p.bcs) as W,
            LinearProblem(p.a, p.L, W, bcs=p.bcs, petsc_options_prefix="msnn_doctor_") as problem,
        ):
            error = result.errors(p, problem.solve(), result.solve_fine(p))["energy"]
    except (ValueError, RuntimeError, OSError, MemoryError) as exc:
        reason = " ".join(str(exc).split())
        return [Finding("small problem", "problem", reason, "Please report this with all lines.")]
    text = f"{W.num_neighbourhoods} neighbourhoods, relative energy error {error:.2g}"
    if not error < SMALL_ERROR:
        return [Finding("small problem", "problem", text, "Please report this with all lines.")]
    return [Finding("small problem", "ok", text)]
