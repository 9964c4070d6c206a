# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""``msnn doctor``: what is installed, whether it works, and what to do if not."""

from collections.abc import Iterable, Iterator
from typing import Annotated

from mpi4py import MPI

import typer

from dolfinx_msnn.cli import checks
from dolfinx_msnn.cli.checks import Finding
from dolfinx_msnn.cli.common import AsJson, Progress, Quiet, errors, examples, print_json

EXAMPLES = examples("msnn doctor", "mpiexec -n 4 msnn doctor", "msnn doctor --json")


def doctor(
    as_json: AsJson = False,
    verbose: Annotated[
        bool, typer.Option("--problems", help="Show warnings and problems only.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Look at what is installed, and solve a small problem.

    Each line is ok, a warning (something optional is missing or slow) or a problem, with what to do
    about it. Exit code 1 if there is a problem.
    """
    comm = MPI.COMM_WORLD
    with errors(comm):
        findings: list[Finding] = []
        with Progress(comm, quiet, "check") as progress:
            progress.stage("checks", len(checks.ALONE + checks.CHECKS) + 2)
            # PETSc starts on all ranks together.
            lacks = max(comm.allgather(checks.check_environment()))
            # On rank 0 only: check_ranks compares the versions on all ranks.
            for check in checks.ALONE + checks.CHECKS * (not lacks) if comm.rank == 0 else ():
                findings += _examine(check.__name__.removeprefix("check_"), check())
                progress.advance()
            findings += _examine("ranks", checks.check_ranks(comm))
            progress.advance()
            if lacks:
                findings.append(Finding("DOLFINx", lacks, "problem", "Then run msnn doctor again."))
            else:
                findings += _examine("small problem", checks.check_solve(comm))
        findings = comm.bcast(findings)
        bad = sum(f.status == "problem" for f in findings)
        if comm.rank == 0:
            if as_json:
                print_json({"problems": bad, "findings": [f._asdict() for f in findings]})
            else:
                typer.echo(_text([f for f in findings if not (verbose and f.status == "ok")], bad))
    if bad:
        raise typer.Exit(1)


def _examine(name: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings of a check; an exception becomes one, too."""
    try:
        yield from findings
    except Exception as error:
        text = f"The check failed: {' '.join(str(error).split()) or type(error).__name__}"
        yield Finding(name, text, "problem", "Please report this with all lines.")


def _text(findings: list[Finding], bad: int) -> str:
    width = max((len(f.name) for f in findings), default=0)
    lines = []
    for f in findings:
        lines.append(f"{f.status:<7}  {f.name:<{width}}  {f.text}")
        if f.advice:
            lines.append(f"{'':7}  {'':{width}}  -> {f.advice}")
    lines.append(f"{bad} problem{'s' * (bad != 1)}.")
    return "\n".join(lines)
