# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""``msnn evaluate``: how good a model is on fields that it has not seen."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from mpi4py import MPI

import numpy as np
import typer

import dolfinx_msnn as msnn
from dolfinx_msnn._utils.linalg import whiten
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.cli import problem as problems
from dolfinx_msnn.cli import result
from dolfinx_msnn.cli.bases import model_path
from dolfinx_msnn.cli.common import (
    AsJson,
    Progress,
    Quiet,
    Trust,
    WrongCommandLine,
    errors,
    examples,
    need,
    number,
    numbers,
    print_json,
    table,
)
from dolfinx_msnn.fields import Field

EXAMPLES = examples(
    "msnn evaluate diffusion-2d",
    "msnn evaluate runs/mine/mine.safetensors --fields 10 --family channels:1e3",
    "mpiexec -n 4 msnn evaluate diffusion-3d --cells 20 --boxes 3 --json",
)
BASES = ("computed", "model", "filtered")
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
        need("torch", "msnn evaluate", "nn")
        from dolfinx_msnn.nn.model import load_model

        families = [_family(text) for text in family or DEFAULT_FAMILIES]
        loaded: Any = None
        with collective_errors(comm):
            loaded = load_model(model_path(model), trust=trust)
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
                for (label, make), number_ in mine:
                    records += one_field(label, make(dim, number_), counts, coarse, loaded, modes)
                    progress.advance()
        everything = comm.gather(records)
        if everything is not None:
            summary = summarise([r for part in everything for r in part], [f[0] for f in families])
            if as_json:
                print_json(
                    {
                        "model": model,
                        "cells": counts,
                        "boxes": coarse,
                        "modes": modes,
                        "fields": num_fields,
                        "seed": seed,
                        "results": summary,
                    }
                )
            else:
                typer.echo(_text(summary))


def _family(text: str) -> tuple[str, Callable[[int, int], Field]]:
    name, _, contrast = text.partition(":")
    given = number(f"--family {name}", contrast) if contrast else None
    if name.replace("-", "_") not in problems.FAMILIES:
        raise WrongCommandLine(
            f"--family must be one of {', '.join(problems.FAMILIES)}, got {text!r}."
        )
    return text, lambda dim, seed: problems.generator(name, dim, given, seed, [])


class _Compared:
    """A basis whose modes are compared with the computed ones, and timed."""

    def __init__(self, basis: msnn.LocalBasis, truth: dict[int, msnn.LocalModes]) -> None:
        self.basis, self.truth = basis, truth
        self.wrapped = (basis,)
        self.defects: list[float] = []
        self.seconds = 0.0

    def modes(self, problems: Sequence[msnn.LocalProblem]) -> list[msnn.LocalModes]:
        """The modes of the basis."""
        begin = time.process_time()
        found = list(self.basis.modes(problems))
        self.seconds += time.process_time() - begin
        for problem, modes in zip(problems, found, strict=True):
            truth = self.truth.setdefault(problem.vertex, modes)
            self.defects.append(energy_defect(problem, truth, modes.vectors))
        return found


def energy_defect(
    problem: msnn.LocalProblem, truth: msnn.LocalModes, functions: FloatArray
) -> float:
    """Mean relative squared error of the modes' projections onto a space, in A_i + λ S_i.

    Args:
        problem: Local problem.
        truth: Its modes; λ is the largest of their eigenvalues.
        functions: Functions that span the space, shape ``(num, n_i)``.
    """
    M = problem.A + truth.values[-1] * problem.S
    orthonormal = whiten(functions @ (M @ functions.T)).T @ functions
    image = M @ truth.vectors.T
    caught = ((orthonormal @ image) ** 2).sum(axis=0)
    whole = np.einsum("jn,nj->j", truth.vectors, image)
    return float(np.mean(np.maximum(1 - caught / whole, 0.0)))


def one_field(
    label: str, field: Field, cells: Sequence[int], boxes: Sequence[int], model: Any, modes: int
) -> list[dict[str, Any]]:
    """Errors and times of all bases on one field, on this rank alone."""
    from dolfinx_msnn.nn.learned import LearnedBasis

    text = ",".join(map(str, cells))
    msh = problems.create_mesh(MPI.COMM_SELF, field, cells=text)
    kappa = field.interpolate(msh)
    p = problems.pose(msh, kappa, source=1.0)
    fine = result.solve_fine(p)
    coarse = msnn.CoarseGrid(msh, boxes)
    truth: dict[int, msnn.LocalModes] = {}
    bases: dict[str, Any] = {
        "computed": msnn.SpectralBasis(modes),
        "model": LearnedBasis(model, kappa, modes),
        "filtered": msnn.FilteredBasis(modes),
    }
    records = []
    for name in BASES:
        basis = _Compared(bases[name], truth)
        with p.space(coarse, basis) as W, p.within(W, "msnn_evaluate_") as problem:
            found = result.errors(p, problem.solve(), fine)
        records.append(
            {
                "family": label,
                "basis": name,
                "defect": float(np.mean(basis.defects)),
                "milliseconds": 1e3 * basis.seconds / len(basis.defects),
                "fallbacks": getattr(bases[name], "num_fallbacks", 0),
                **{norm: found[norm] for norm in result.NORMS},
            }
        )
    return records


def summarise(records: Sequence[dict[str, Any]], families: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the fields of a family; fallbacks are counted."""
    summary = []
    for family in dict.fromkeys(families):
        for basis in BASES:
            part = [r for r in records if (r["family"], r["basis"]) == (family, basis)]
            means = {
                key: float(np.mean([r[key] for r in part]))
                for key in ("defect", *result.NORMS, "milliseconds")
            }
            count = sum(r["fallbacks"] for r in part)
            summary.append({"family": family, "basis": basis, **means, "fallbacks": count})
    return summary


def _text(summary: Sequence[dict[str, Any]]) -> str:
    head = ("family", "basis", "energy defect", *(f"{n} error" for n in result.NORMS), "CPU ms")
    lines = []
    for k, record in enumerate(summary):
        first = k == 0 or summary[k - 1]["family"] != record["family"]
        figures = [record[key] for key in ("defect", *result.NORMS)]
        lines.append(
            [
                record["family"] * first,
                record["basis"],
                *(f"{value:.2g}" if value >= 1e-9 else "0" for value in figures),
                f"{record['milliseconds']:.1f}",
            ]
        )
    text = table(head, lines)
    fallbacks = sum(record["fallbacks"] for record in summary)
    if fallbacks:
        text += f"\n{fallbacks} neighbourhoods were not the model's: it had no usable answer there."
    return text
