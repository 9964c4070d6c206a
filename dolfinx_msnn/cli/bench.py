# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""``msnn bench``: the programs that made the tables of the documentation."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from mpi4py import MPI

import typer

import dolfinx_msnn
from dolfinx_msnn.cli.common import AsJson, errors, examples, print_json, rows

EXAMPLES = examples(
    "msnn bench",
    "msnn bench bases --quick",
    "msnn bench guard --cases 2d-100 --fields 2 --output results",
)


def bench(
    context: typer.Context,
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="Which program; without, list them.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small cases only: minutes.")] = False,
    checkout: Annotated[
        str | None, typer.Option(help="Folder of the checkout, if it is not found by itself.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List or run the benchmarks of a checkout.

    They are not installed with the package. Further arguments go to the program; its own --help
    comes after two dashes, as in: msnn bench bases -- --help.
    """
    comm = MPI.COMM_WORLD
    with errors(comm):
        programs = find_programs(checkout)
        if table is None:
            if context.args:
                raise ValueError(f"Expected a table before {context.args[0]}.")
            listed = {name: description(path) for name, path in programs.items()}
            if comm.rank == 0:
                if as_json:
                    print_json(listed)
                else:
                    typer.echo(rows(listed.items()))
            return
        if comm.size > 1:
            raise ValueError(
                f"The benchmarks start mpiexec themselves; expected one process, got {comm.size}."
            )
        name = table.removesuffix(".py").removeprefix("bench_").replace("-", "_")
        if name not in programs:
            raise ValueError(f"There is no benchmark {table!r}; expected {', '.join(programs)}.")
        command = [sys.executable, str(programs[name]), *["--quick"] * quick, *context.args]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise RuntimeError(f"The benchmark {name} failed with exit code {done.returncode}.")


def find_programs(checkout: str | None = None) -> dict[str, Path]:
    """The programs of a checkout by name.

    Args:
        checkout: Folder of the checkout; by default the one that the package was imported from, or
            the current folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    package = Path(dolfinx_msnn.__file__).parent.parent
    for folder in (package, Path.cwd()) if checkout is None else (Path(checkout),):
        found = sorted((folder / "benchmarks").glob("bench_*.py"))
        if found and (folder / "dolfinx_msnn").is_dir():
            return {path.stem.removeprefix("bench_"): path for path in found}
    where = "here" if checkout is None else f"in {checkout}"
    raise FileNotFoundError(
        f"There are no benchmarks {where}: they are in the source code and not in the installed "
        "package; expected a checkout as the current folder or in --checkout."
    )


def description(path: Path) -> str:
    """First line of the docstring of a program."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
