# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""``msnn evaluate``: how good a model is on fields that it has not seen."""

from collections.abc import Sequence
from typing import Annotated, Any

from mpi4py import MPI

import typer

from dolfinx_msnn.cli.bases import model_path
from dolfinx_msnn.cli.common import (
    AsJson,
    Progress,
    Quiet,
    Trust,
    errors,
    examples,
    family_name,
    need,
    number,
    numbers,
    print_json,
    table,
)

EXAMPLES = examples(
    "msnn evaluate diffusion-2d",
    "msnn evaluate runs/mine/mine.safetensors --fields 10 --family channels:1e3",
    "mpiexec -n 4 msnn evaluate diffusion-3d --cells 20 --boxes 3 --json",
)
#: Seeds from here on are not used in training.
FIRST_SEED = 10**6
DEFAULT_FAMILIES = ("log_normal", "two_phase:1e3", "channels:1e3", "inclusions:1e3")
DEFAULT_GRID = {2: (60, 3), 3: (16, 2)}


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model file, or the name of a shipped model.")
    ],
    num_fields: Annotated[int, typer.Option("--fields", min=1, help="Fields of each family.")] = 3,
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:CONTRAST]", help="Family of fields; default four of them."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first field.")] = FIRST_SEED,
    cells: Annotated[str | None, typer.Option(help="Cells in each direction.")] = None,
    boxes: Annotated[str | None, typer.Option(help="Coarse boxes in each direction.")] = None,
    modes: Annotated[int, typer.Option(min=1, help="Modes of each neighbourhood.")] = 8,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a model with SLEPc and with filtered cosines on unseen fields.

    The energy defect is the part of the computed modes' energy that a basis misses; 0 is as good as
    SLEPc. Errors are relative, of the multiscale against the fine solution (-div(kappa grad u) = 1,
    u = 1 on the left and 0 on the right). With mpiexec each rank takes whole fields.
    """
    comm = MPI.COMM_WORLD
    with errors(comm):
        families = [_family(text) for text in family or DEFAULT_FAMILIES]
        need("torch", "msnn evaluate", "nn")
        path = model_path(model)
        from dolfinx_msnn._utils.mpi import collective_errors
        from dolfinx_msnn.cli import compare
        from dolfinx_msnn.cli import problem as problems
        from dolfinx_msnn.nn.model import load_model

        loaded: Any = None
        with collective_errors(comm):
            loaded = load_model(path, trust=trust)
        dim = loaded.card.dim
        default = DEFAULT_GRID[dim]
        counts = numbers("--cells", cells or str(default[0]), int, dim)
        coarse = numbers("--boxes", boxes or str(default[1]), int, dim)
        jobs = [(f, seed + k) for f in families for k in range(num_fields)]
        records = []
        with Progress(comm, quiet, "field") as progress:
            mine = jobs[comm.rank :: comm.size]
            progress.stage("fields", len(mine))
            # Each rank works on its own fields, without communication.
            with collective_errors(comm):
                for (label, name, contrast), field_seed in mine:
                    field = problems.generator(name, dim, contrast, field_seed, [])
                    records += compare.one_field(label, field, counts, coarse, loaded, modes)
                    progress.advance()
        everything = comm.gather(records)
        if everything is not None:
            summary = compare.summarise(
                [r for part in everything for r in part], [f[0] for f in families]
            )
            if as_json:
                said = {"model": model, "cells": counts, "boxes": coarse, "modes": modes}
                print_json(said | {"fields": num_fields, "seed": seed, "results": summary})
            else:
                typer.echo(_text(summary))


def _family(text: str) -> tuple[str, str, float | None]:
    """The text, the family's name and its contrast."""
    name, _, contrast = text.partition(":")
    family_name(name)
    return text, name, number(f"--family {name}", contrast) if contrast else None


def _text(summary: Sequence[dict[str, Any]]) -> str:
    from dolfinx_msnn.cli.result import NORMS

    head = ("family", "basis", "energy defect", *(f"{n} error" for n in NORMS), "CPU ms")
    lines = [
        [
            record["family"] * (record["basis"] == "computed"),
            record["basis"],
            *(f"{v:.2g}" if v >= 1e-9 else "0" for v in (record[k] for k in ("defect", *NORMS))),
            f"{record['milliseconds']:.1f}",
        ]
        for record in summary
    ]
    text = table(head, lines)
    fallbacks = sum(record["fallbacks"] for record in summary)
    if fallbacks:
        text += f"\n{fallbacks} neighbourhoods were not the model's: it had no usable answer there."
    return text
