# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""``msnn example``: small files to try ``msnn solve`` with."""

from pathlib import Path
from typing import Annotated

from mpi4py import MPI

import typer

from dolfinx_msnn.cli.common import errors, examples

EXAMPLES = examples("msnn example", "msnn example data")


def example(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to write them.")] = ".",
) -> None:
    """Write the files that the documentation's commands read.

    rock.npy (grey values, 0 and 255), slices/ (the same, six times), layer.npz (a random layer in
    the form of SPE10) and plate.msh (a mesh of Gmsh with five discs: tag 1 the plate, 2 the discs).
    """
    comm = MPI.COMM_WORLD
    with errors(comm):
        if comm.rank == 0:
            root = Path(folder)
            (root / "slices").mkdir(parents=True, exist_ok=True)
            typer.echo(", ".join(str(path) for path in write(root)))
        comm.barrier()


def write(root: Path) -> list[Path]:
    """Write them into a folder that is there; their names."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    grey = np.zeros((12, 12))
    grey[4:8] = 255.0
    np.save(root / "rock.npy", grey)
    for k in range(6):
        np.save(root / "slices" / f"{k}.npy", grey)
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(60, 220)), 3.0)
    np.savez(
        root / "layer.npz",
        k=np.exp(2.5 * smooth / smooth.std())[:, :, None],
        source="drawn at random, not SPE10: layers 85",
    )
    n, m = 60, 30  # squares of two triangles, on [0, 2] x [0, 1]
    y, x = np.mgrid[0 : m + 1, 0 : n + 1].reshape(2, -1)
    corner = 1 + np.flatnonzero((x < n) & (y < m))
    shifts = np.array([[0, 1, n + 2], [0, n + 2, n + 1]])
    triangles = (corner[:, None, None] + shifts).reshape(-1, 3)
    middle = np.stack([2 * x / n, y / m], axis=1)[triangles - 1].mean(axis=1)
    discs = np.array([[0.3, 0.3], [0.7, 0.7], [1.1, 0.35], [1.5, 0.7], [1.75, 0.25]])
    apart = np.linalg.norm(middle[:, None] - discs, axis=2).min(axis=1)
    tags = np.where(apart < 0.18, 2, 1)
    nodes = [
        f"{k} {2 * a / n:.6f} {b / m:.6f} 0"
        for k, a, b in zip(range(1, len(x) + 1), x, y, strict=True)
    ]
    cells = [
        f"{k} 2 2 {tag} {tag} {' '.join(map(str, corners))}"
        for k, tag, corners in zip(range(1, len(tags) + 1), tags, triangles, strict=True)
    ]
    text = "$MeshFormat\n2.2 0 8\n$EndMeshFormat\n"
    for name, lines in (("Nodes", nodes), ("Elements", cells)):
        text += "\n".join([f"${name}", str(len(lines)), *lines, f"$End{name}", ""])
    (root / "plate.msh").write_text(text)
    return [root / name for name in ("rock.npy", "slices", "layer.npz", "plate.msh")]
