# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Shared by the commands: errors, progress, parsing of options, and output."""

import contextlib
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from mpi4py import MPI

import typer

#: Families of random coefficients.
FAMILIES = ("channels", "inclusions", "two_phase", "log_normal")
PICTURES = (".png", ".pdf", ".svg")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Load a model that is a program (.pt, .pt2), and run it.")
]


class WrongCommandLine(ValueError):
    """An invalid argument: exit code 2."""


def examples(*commands: str) -> str:
    """The examples at the end of a help text; the first character keeps their lines apart."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {command}" for command in commands)])


@contextlib.contextmanager
def errors(comm: MPI.Intracomm) -> Iterator[None]:
    """Turn the library's errors into one sentence and exit code 1 (2 for the command line).

    The library raises the same error on all ranks. If one fails alone nevertheless, it ends the run
    (:mod:`dolfinx_msnn._utils.alone`).
    """
    try:
        yield
    except KeyboardInterrupt:
        _fail(comm, "Interrupted.", 130)
    except WrongCommandLine as exc:
        _fail(comm, str(exc), 2)
    except (ValueError, RuntimeError, OSError, ImportError, MemoryError) as exc:
        if isinstance(exc, typer.Exit):
            raise
        _fail(comm, " ".join(str(exc).split()) or f"{type(exc).__name__}.", 1)


def _fail(comm: MPI.Intracomm, message: str, code: int) -> None:
    if comm.rank == 0:
        typer.echo(f"msnn: {message}", err=True)
    if comm.size > 1:
        # It takes DOLFINx with it, for which one rank need not wait.
        from dolfinx_msnn._utils.alone import end_together

        end_together(f"msnn: {message} (Only rank {comm.rank} of {comm.size}.)\n", code)
    raise typer.Exit(code)


class Progress:
    """Progress bar on standard error, and timings of the stages.

    The line is shown on rank 0 only, if standard error is a terminal and tqdm is installed.

    Attributes:
        seconds: Wall-clock seconds of the stages that were timed, on the slowest rank.
    """

    def __init__(self, comm: MPI.Intracomm, quiet: bool, unit: str = "it") -> None:
        self._comm, self._bar = comm, None
        self.seconds: dict[str, float] = {}
        if not quiet and comm.rank == 0 and sys.stderr.isatty() and installed("tqdm"):
            from tqdm import tqdm

            self._bar = tqdm(unit=unit, dynamic_ncols=True, leave=False)

    @property
    def shown(self) -> bool:
        """Whether there is a progress bar."""
        return self._bar is not None

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage of ``total`` steps, or of unknown length."""
        if self._bar is not None:
            # A stage that is not counted shows its name, and no bar.
            self._bar.bar_format = None if total else "{desc}"
            self._bar.total = total
            self._bar.reset(total)
            self._bar.set_description(name if total else f"{name} ...")

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """A stage whose time is kept; collective if the body succeeds."""
        self.stage(name)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self._comm.allreduce(time.perf_counter() - begin, MPI.MAX)

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        if self._bar is not None:
            self._bar.update(steps)

    def show(self, done: int, total: int) -> None:
        """Set the number of steps done, and of all steps."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def installed(module: str) -> bool:
    """Whether a module can be found."""
    return importlib.util.find_spec(module) is not None


def need(module: str, what: str, extra: str) -> None:
    """Refuse to go on without a module, and say how to install it.

    Raises:
        ImportError: In one sentence.
    """
    if not installed(module):
        raise ImportError(
            f'{what} needs {module}, which is not installed: pip install "dolfinx-msnn[{extra}]".'
        )


def family_name(text: str) -> str:
    """The name of a family of coefficients."""
    name = text.replace("-", "_")
    if name not in FAMILIES:
        raise WrongCommandLine(f"There is no family {text!r}; expected {', '.join(FAMILIES)}.")
    return name


def check_outputs(names: Sequence[str]) -> None:
    """Refuse files that cannot be written, before anything is computed. Not collective.

    Raises:
        WrongCommandLine: If the ending of a name says nothing.
        ImportError: If matplotlib is needed, and not there.
        ValueError: If ADIOS2 is needed, and not there.
        FileNotFoundError: If the folder is not there.
    """
    for name in names:
        ending, folder = Path(name).suffix, Path(name).parent
        if ending not in (".bp", ".xdmf", *PICTURES):
            raise WrongCommandLine(
                f"--output must end in .bp, .xdmf, {', '.join(PICTURES)}, got {name!r}."
            )
        if ending in PICTURES:
            need("matplotlib", name, "viz")
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder} to write {name} to.")
        if ending == ".bp":
            from dolfinx import has_adios2

            if not has_adios2:
                raise ValueError(
                    f"{name} needs ADIOS2, which this DOLFINx was built without; expected .xdmf."
                )


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print JSON; NaN and infinity become null."""
    typer.echo(json.dumps(finite(value), indent=2, allow_nan=False))


def finite(value: Any) -> Any:
    """Plain Python values, without NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers[T: (int, float)](
    option: str, text: str, kind: Callable[[str], T], dim: int
) -> tuple[T, ...]:
    """Numbers from ``"3"`` (the same in each direction), ``"3,4"`` or ``"3x4"``."""
    parts = text.replace("x", ",").split(",")
    try:
        found = tuple(kind(part) for part in parts)
    except ValueError:
        found = ()
    if len(found) not in (1, dim) or not all(math.isfinite(n) and n > 0 for n in found):
        what = "integer" if kind is int else "number"
        raise WrongCommandLine(
            f"{option} must be a positive {what}, or {dim} of them as in "
            f"{','.join(['10'] * dim)}, got {text!r}."
        )
    return found * dim if len(found) == 1 else found


def pairs(option: str, texts: Iterable[str], expected: str) -> list[tuple[str, str]]:
    """Names and values from ``NAME=VALUE``."""
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise WrongCommandLine(f"{option} must be {expected}, got {text!r}.")
        found.append((name.strip(), value.strip()))
    return found


def number(option: str, text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise WrongCommandLine(f"{option} must be a finite number, got {text!r}.")
    return value


def plain(value: object) -> str:
    """A value as text for people."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rows(entries: Iterable[tuple[str, str]]) -> str:
    """Two columns."""
    listed = list(entries)
    width = max(len(name) for name, _ in listed)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in listed)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Columns below their heads; the first is flush left, the others right."""
    whole = [list(head), *map(list, lines)]
    widths = [max(len(line[k]) for line in whole) for k in range(len(head))]
    return "\n".join(
        "  ".join(
            f"{text:<{width}}" if k == 0 else f"{text:>{width}}"
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in whole
    )
