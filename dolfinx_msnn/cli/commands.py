# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The typer application: which commands there are."""

from typing import Annotated

import typer

from dolfinx_msnn import __version__
from dolfinx_msnn.cli import doctor, evaluate, example, solve, training
from dolfinx_msnn.cli.common import examples

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Multiscale coarse spaces for DOLFINx: computed, filtered or predicted local bases.",
    epilog=examples(
        "msnn doctor",
        "msnn solve --generator channels --compare -o channels.png",
        "mpiexec -n 4 msnn solve spe_perm.dat --layers 85 --dirichlet bottom=1 --dirichlet top=0",
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def whole(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What comes before a command."""


for function, epilog in (
    (solve.solve, solve.EXAMPLES),
    (example.example, example.EXAMPLES),
    (evaluate.evaluate, evaluate.EXAMPLES),
    (training.sample, training.SAMPLE_EXAMPLES),
    (training.train, training.TRAIN_EXAMPLES),
    (training.info, training.INFO_EXAMPLES),
    (training.export, training.EXPORT_EXAMPLES),
    (doctor.doctor, doctor.EXAMPLES),
):
    app.command(epilog=epilog)(function)
