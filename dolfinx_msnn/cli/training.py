# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""``msnn sample``, ``train``, ``info`` and ``export``: one's own models."""

import os
from typing import Annotated, Any

from mpi4py import MPI

import typer

from dolfinx_msnn.cli.bases import model_path
from dolfinx_msnn.cli.common import (
    AsJson,
    Progress,
    Quiet,
    errors,
    examples,
    installed,
    need,
    plain,
    print_json,
    rows,
)

SAMPLE_EXAMPLES = examples(
    "msnn sample configs/two-phase-2d.toml",
    "mpiexec -n 8 msnn sample mine.toml --fields 2000",
)
TRAIN_EXAMPLES = examples("msnn train mine.toml", "msnn train mine.toml --resume")
INFO_EXAMPLES = examples("msnn info runs/mine/mine.safetensors", "msnn info diffusion-2d --json")
EXPORT_EXAMPLES = examples(
    "msnn export diffusion-2d diffusion-2d.pt", "msnn export runs/mine/mine.safetensors mine.pt2"
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="Configuration, a TOML file.")]
ModelFile = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model file, or the name of a shipped model.")
]


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
    with errors(comm):
        from dolfinx_msnn import CoarseGrid
        from dolfinx_msnn.cli.problem import create_mesh
        from dolfinx_msnn.nn.config import Config
        from dolfinx_msnn.nn.dataset import generate

        settings = Config.read(config)
        data, wanted = settings.data, settings.problem
        _check(settings, fields or data.num_fields)
        size = ",".join(map(repr, wanted.upper or [1.0] * wanted.dim))
        cells = ",".join(map(str, wanted.cells))
        fine = create_mesh(MPI.COMM_SELF, wanted, cells=cells, size=size, cell=wanted.cell or None)
        with Progress(comm, quiet, "field") as progress:
            done = generate(
                data.path,
                CoarseGrid(fine, wanted.coarse, oversampling=wanted.oversampling),
                settings.families,
                num_fields=fields or data.num_fields,
                per_field=data.per_field,
                num_modes=data.num_modes,
                lattice=data.lattice,
                samples=data.samples,
                solutions=data.solutions,
                kinds=data.kinds,
                degree=settings.problem.degree,
                seed=settings.seed,
                comm=comm,
                progress=progress.show if progress.shown else None,
            )
        if comm.rank == 0:
            typer.echo(f"{data.path}: {done} new fields.")


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
    with errors(MPI.COMM_WORLD):
        need("torch", "msnn train", "nn")
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
        figure = "energy defect"
        if "solutions" in settings.training.terms:
            figure = "error of solutions over that of the modes"
        for name, value in result.validation.items():
            typer.echo(f"{figure}, {name}: {value:.4g}")
        typer.echo(f"model: {result.model or 'none yet, there was no validation'}")
    if result.interrupted:
        raise typer.Exit(130)


def info(
    model: ModelFile,
    as_json: AsJson = False,
) -> None:
    """Show the card of a model file; loads no network and needs no torch."""
    comm = MPI.COMM_WORLD
    with errors(comm):
        from dataclasses import asdict

        from dolfinx_msnn.nn.model import read_card

        card = asdict(read_card(model_path(model)))
        if comm.rank == 0:
            if as_json:
                print_json(card)
            else:
                typer.echo(rows((key, plain(value)) for key, value in card.items()))


def export(
    model: ModelFile,
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="TorchScript (.pt) or torch.export (.pt2).")
    ],
) -> None:
    """Write a model as a program of torch, to be used without this package."""
    comm = MPI.COMM_WORLD
    with errors(comm):
        need("torch", "msnn export", "nn")
        from dolfinx_msnn._utils.mpi import collective_errors
        from dolfinx_msnn.nn.model import export_model

        with collective_errors(comm):
            if comm.rank == 0:
                card = export_model(model_path(model), output)
                typer.echo(f"{output}: {card.n_out} functions in {card.dim}D.")


def _check(settings: Any, num_fields: int) -> None:
    """Refuse now what training would refuse when hours of sampling are over."""
    from dolfinx_msnn.nn.dataset import split_of

    data, outputs = settings.data, settings.network.outputs
    if outputs < data.num_modes:
        raise ValueError(
            f"network.outputs must be at least data.num_modes, {data.num_modes}, got {outputs}."
        )
    parts = [
        split_of(settings.seed, k, validation=data.validation, test=data.test)
        for k in range(num_fields)
    ]
    for part in ("train", "validation"):
        if part not in parts:
            raise ValueError(
                f"None of {num_fields} fields is for {part} (data.validation {data.validation:g}, "
                f"data.test {data.test:g}); expected more fields, or another share."
            )
    if installed("torch"):
        from dolfinx_msnn.nn.ffno import lowest_frequencies

        least = 1 + max(max(a) for a in lowest_frequencies(settings.problem.dim, outputs))
        if data.lattice < least:
            raise ValueError(
                f"data.lattice must be at least {least} for {outputs} network.outputs, got "
                f"{data.lattice}."
            )
