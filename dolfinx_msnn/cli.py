# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The command ``msnn``: sample neighbourhoods, train a network on them, look at a model.

Exit codes: 0 if all went well, 1 for an error (one sentence on standard error), 2 for a wrong
command line, 130 if it was interrupted (and, for training, can be resumed).
"""

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from mpi4py import MPI

try:
    import typer
except ImportError as exc:
    raise ImportError(
        'The command msnn needs typer, which is not installed: pip install "dolfinx-msnn[nn]".',
        name="typer",
    ) from exc

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Multiscale coarse spaces for DOLFINx: samples, training, models.",
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="Configuration, a TOML file.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


@app.command()
def sample(
    config: ConfigFile,
    fields: Annotated[
        int | None, typer.Option(min=1, help="Number of fields, instead of data.num_fields.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compute the set of samples of a configuration; goes on with one that is there.

    Runs in parallel with mpiexec: each rank computes whole fields.
    """
    comm = MPI.COMM_WORLD
    with _errors(comm):
        from dolfinx_msnn.nn.config import Config
        from dolfinx_msnn.nn.dataset import generate

        settings = Config.read(config)
        data = settings.data
        with _progress(comm, quiet) as show:
            done = generate(
                data.path,
                _coarse_grid(settings),
                settings.families,
                num_fields=fields or data.num_fields,
                per_field=data.per_field,
                num_modes=data.num_modes,
                lattice=data.lattice,
                samples=data.samples,
                degree=settings.problem.degree,
                seed=settings.seed,
                comm=comm,
                progress=show,
            )
        if comm.rank == 0:
            typer.echo(f"{data.path}: {done} new fields.")


@app.command()
def train(
    config: ConfigFile,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Folder for the results; default runs/NAME."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on the samples of a configuration."""
    with _errors(MPI.COMM_WORLD):
        _need_torch("msnn train")
        from dolfinx_msnn.nn.config import Config
        from dolfinx_msnn.nn.train import train as run

        if MPI.COMM_WORLD.size > 1:
            raise ValueError(
                f"msnn train runs in one process, got {MPI.COMM_WORLD.size}; set training.threads "
                "to use more cores."
            )
        settings = Config.read(config)
        folder = output or os.path.join("runs", settings.name)
        result = run(settings, output=folder, resume=resume, progress=not quiet)
        typer.echo(f"{result.steps} steps, {result.reason}.")
        for name, value in result.validation.items():
            typer.echo(f"energy defect, {name}: {value:.4g}")
        typer.echo(f"model: {result.model or 'none yet, there was no validation'}")
    if result.interrupted:
        raise typer.Exit(130)


@app.command()
def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Show the card of a model file; loads no network."""
    with _errors(MPI.COMM_WORLD):
        from dataclasses import asdict

        from dolfinx_msnn.nn.model import read_card

        card = asdict(read_card(model))
        if as_json:
            typer.echo(json.dumps(card, indent=2))
            return
        width = max(map(len, card))
        for key, value in card.items():
            typer.echo(f"{key:<{width}}  {_plain(value)}")


def main() -> None:
    """Entry point of the command."""
    app()


def _coarse_grid(settings: Any) -> Any:
    """Mesh and coarse grid of a configuration, on this rank alone."""
    import numpy as np

    from dolfinx import mesh
    from dolfinx_msnn.coarse import CoarseGrid

    problem = settings.problem
    dim = problem.dim
    cell = mesh.CellType[problem.cell or {2: "quadrilateral", 3: "hexahedron"}[dim]]
    create: Any = mesh.create_rectangle if dim == 2 else mesh.create_box
    corners = [np.zeros(dim), np.array(problem.upper or [1.0] * dim)]
    fine = create(MPI.COMM_SELF, corners, list(problem.cells), cell)
    return CoarseGrid(fine, problem.coarse, oversampling=problem.oversampling)


@contextlib.contextmanager
def _errors(comm: MPI.Comm) -> Iterator[None]:
    """Turn what a user can cause into one sentence and exit code 1."""
    try:
        yield
    except KeyboardInterrupt:
        _complain(comm, "Interrupted.")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError, ImportError, MemoryError) as exc:
        _complain(comm, " ".join(str(exc).split()) or f"{type(exc).__name__}.")
        raise typer.Exit(1) from None


def _complain(comm: MPI.Comm, message: str) -> None:
    """One line on standard error; errors are the same on all ranks."""
    if comm.rank == 0:
        typer.echo(f"msnn: {message}", err=True)


@contextlib.contextmanager
def _progress(comm: MPI.Comm, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar over the fields of rank 0, if standard error is a terminal."""
    if quiet or comm.rank or not sys.stderr.isatty() or not importlib.util.find_spec("tqdm"):
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="field", dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _need_torch(what: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise ImportError(
            f'{what} needs torch, which is not installed: pip install "dolfinx-msnn[nn]".'
        )


def _plain(value: object) -> str:
    """A value of a card for reading."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
