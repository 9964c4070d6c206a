# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Perspective views of 3D functions with pyvista, where it works."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from functools import cache

import numpy as np

from dolfinx import plot
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import Function
from dolfinx_msnn.plot.gather import check_function

#: Seconds after which the trial counts as failed.
TIMEOUT = 60.0

_PROBE = """
import pyvista
plotter = pyvista.Plotter(off_screen=True, window_size=(32, 32))
plotter.add_mesh(pyvista.Sphere())
image = plotter.screenshot(return_img=True)
assert image.shape[:2] == (32, 32) and image.std() > 0
"""


def pyvista_works(timeout: float = TIMEOUT) -> bool:
    """Whether pyvista can draw off screen here; tried in another process.

    Without OpenGL in software (Mesa, EGL) VTK does not raise an error, it ends the process. Not
    collective; the answer is remembered.

    Args:
        timeout: Seconds after which the trial counts as failed.
    """
    return not _trial(timeout)


@cache
def _trial(timeout: float) -> str:
    """Why pyvista cannot be used; empty if it can."""
    if importlib.util.find_spec("pyvista") is None:
        return 'pyvista is not installed: pip install "dolfinx-msnn[viz]"'
    # Inside mpiexec the trial must not join the MPI run.
    private = ("PMI", "MPI", "OMPI", "HYDRA", "PMIX")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(private)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return f"pyvista did not draw off screen within {timeout:.0f} s"
    if done.returncode < 0:
        return (
            f"pyvista cannot draw off screen here (signal {-done.returncode} ends it; without "
            "OpenGL VTK does that): install Mesa or EGL"
        )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2].rstrip(".")
        return f"pyvista cannot draw off screen here ({said or f'exit code {done.returncode}'})"
    return ""


@checked
def render(
    u: Function,
    file: str | os.PathLike[str],
    *,
    log: bool = False,
    cmap: str = "viridis",
    size: tuple[int, int] = (1000, 800),
) -> None:
    """Write a perspective view of a scalar function into a picture file, with pyvista.

    The upper half along the second axis is cut away, so that the inside is seen.

    Args:
        u: Scalar function in a Lagrange space (or constant on cells) on a mesh of dimension 3.
        file: Picture to write, PNG.
        log: Whether colours follow the logarithm.
        cmap: Colour map.
        size: Width and height in pixels.

    Raises:
        ValueError: If the function is not scalar or the mesh not three-dimensional.
        RuntimeError: If pyvista is not installed or cannot draw here.

    Note:
        Collective. The whole function is gathered on rank 0, which draws.
    """
    V = check_function(u)
    msh, comm = V.mesh, V.mesh.comm
    with collective_errors(comm) as checks:
        if msh.topology.dim != 3 or V.dofmap.index_map_bs != 1:
            raise ValueError(
                f"The function has {V.dofmap.index_map_bs} components on a mesh of dimension "
                f"{msh.topology.dim}; expected a scalar one in 3D."
            )
        checks.agree(file=os.fspath(file), log=log)
    with collective_errors(comm):
        if comm.rank == 0 and (reason := _trial(TIMEOUT)):
            raise RuntimeError(f"{reason}; expected it to work, or draw_function for a slice.")
    constant = V.ufl_element().degree == 0
    if constant:
        num = msh.topology.index_map(3).size_local
        cells, types, x = plot.vtk_mesh(msh, 3, np.arange(num, dtype=np.int32))
        values = u.x.array[V.dofmap.list[:num, 0]]
    else:
        # vtk_mesh takes a function space and cells, which its annotations do not say.
        own = np.arange(msh.topology.index_map(3).size_local, dtype=np.int32)
        cells, types, x = plot.vtk_mesh(V, own)  # type: ignore[arg-type]
        values = u.x.array
    parts = comm.gather((cells, types, x, values))
    with collective_errors(comm):
        if parts is not None:
            pyvista = importlib.import_module("pyvista")
            blocks = []
            for part in parts:
                grid = pyvista.UnstructuredGrid(*part[:3])
                (grid.cell_data if constant else grid.point_data)["u"] = part[3]
                blocks.append(grid)
            whole = pyvista.merge(blocks) if len(blocks) > 1 else blocks[0]
            plotter = pyvista.Plotter(off_screen=True, window_size=list(size))
            plotter.add_mesh(
                whole.clip("y", crinkle=constant), scalars="u", cmap=cmap, log_scale=log
            )
            plotter.add_mesh(whole.outline(), color="black")
            plotter.screenshot(os.fspath(file))
            plotter.close()
