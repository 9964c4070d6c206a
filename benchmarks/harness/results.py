# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Command line, records, and every form of a table.

A program makes flat records, one for each run of one method on one field; from them it makes
tables and figures. All is written to one folder: ``<name>.json`` (machine, settings, records, and
the tables as they are shown in the documentation), ``<name>.csv`` (the records), ``<name>.md`` (the
tables) and ``<name>-<figure>.png``. Records are written as they come; ``--resume`` goes on from
those that are there, after an interruption.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.machine import machine
from harness.sources import source_hash

import numpy as np
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent.parent / "results"
#: Data and models that are made on the way; not kept in the repository.
WORK = RESULTS.parent / "work"

type Record = dict[str, Any]


class Records(list[Record]):
    """Records, and what tables make of them."""

    def select(self, **key: Any) -> Records:
        """Those with these entries."""
        return Records(r for r in self if all(r.get(k) == _plain(v) for k, v in key.items()))

    def first(self, **key: Any) -> Record:
        """The first with these entries; empty if there is none."""
        return next(iter(self.select(**key)), {})

    def by(self, *names: str) -> dict[Any, Records]:
        """Those that have these entries, by them, in the order in which they come."""
        found: dict[Any, Records] = {}
        for record in self:
            if all(name in record for name in names):
                key = tuple(record[name] for name in names)
                found.setdefault(key[0] if len(names) == 1 else key, Records()).append(record)
        return found

    def values(self, entry: str, **key: Any) -> np.ndarray:
        """One entry of those selected; those without it are left out."""
        found = (r.get(entry) for r in self.select(**key))
        return np.array([v for v in found if v is not None], dtype=float)

    def spread(self, entry: str, scale: float = 1.0, unit: str = "", **key: Any) -> str:
        """Mean ± standard deviation of an entry of those selected."""
        return spread(self.values(entry, **key), scale, unit)

    def ratios(
        self, entry: str, pair: Sequence[str], to: Mapping[str, Any], **key: Any
    ) -> np.ndarray:
        """An entry of those selected over that of their partners.

        Args:
            entry: What to divide.
            pair: Entries, as case and seed, that partners have in common.
            to: What else tells the partner: say, ``{"basis": "SLEPc"}``.
            key: What selects.
        """
        partners = {tuple(r[p] for p in pair): r.get(entry) for r in self.select(**to)}
        found = []
        for record in self.select(**key):
            other = partners.get(tuple(record[p] for p in pair))
            if other and record.get(entry) is not None:
                found.append(record[entry] / other)
        return np.array(found, dtype=float)


class Shown(NamedTuple):
    """A table as it is shown: all cells are text."""

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: str = ""

    def markdown(self) -> str:
        """The table with its title and notes."""
        lines = [f"## {self.title}", "", _line(self.head), _line(["---"] * len(self.head))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *([self.notes, ""] if self.notes else [])])


type Columns[T] = Mapping[str, Callable[[T], str]] | Sequence[tuple[str, Callable[[T], str]]]


def tabulate[T](title: str, rows: Iterable[T], columns: Columns[T], notes: str = "") -> Shown:
    """A table from what its rows are about, and a head and a function for each column."""
    pairs = list(columns.items()) if isinstance(columns, Mapping) else list(columns)
    cells = [[cell(row) for _, cell in pairs] for row in rows]
    return Shown(title, [head for head, _ in pairs], cells, notes)


def mean(entry: str, scale: float = 1.0, unit: str = "", **key: Any) -> Callable[[Records], str]:
    """A column: mean ± standard deviation of an entry."""
    return lambda rows: rows.spread(entry, scale, unit, **key)


def over(
    entry: str, pair: Sequence[str], to: Mapping[str, Any], *, inverse: bool = False, **key: Any
) -> Callable[[Records], str]:
    """A column: the same of an entry over that of partners, or of theirs over it."""
    return lambda rows: spread(rows.ratios(entry, pair, to, **key) ** (-1 if inverse else 1))


def text(entry: str, form: str = "") -> Callable[[Record], str]:
    """A column: an entry of a record, or nothing where it has none."""
    return lambda record: format(record[entry], form) if record.get(entry) is not None else ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


class Parser(argparse.ArgumentParser):
    """A command line with what all programs know: quick, output, resume, show, cases.

    Args:
        doc: The program's.
        cases: Names to choose from.
        quick: Those of ``--quick``.
    """

    def __init__(self, doc: str | None, cases: Iterable[str] = (), quick: Iterable[str] = ()):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._depends: dict[str, tuple[Any, Any]] = {}
        self.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
        self.add_argument("--output", type=Path, help="folder of the results")
        self.add_argument("--resume", action="store_true", help="keep the records that are there")
        self.add_argument("--show", action="store_true", help="run nothing, write the tables anew")
        every, small = list(cases), list(quick) or list(cases)
        if every:
            choices = list(dict.fromkeys([*every, *small]))
            self.depends("--cases", every, small, nargs="+", choices=choices, help="default all")

    def depends(self, name: str, full: Any, quick: Any, **settings: Any) -> None:
        """An option whose default depends on ``--quick``."""
        self._depends[self.add_argument(name, **settings).dest] = full, quick

    def parse_args(self, *arguments: Any) -> argparse.Namespace:  # type: ignore[override]
        """The options, with all defaults."""
        options = super().parse_args(*arguments)
        for name, defaults in self._depends.items():
            if getattr(options, name) is None:
                setattr(options, name, defaults[options.quick])
        return options


class Results:
    """The records of a program, kept on disk, and the tables and figures made of them.

    Args:
        name: Of the files.
        options: From :class:`Parser`. Quick results go to ``work/quick`` unless told otherwise.
        settings: What was chosen: sizes, numbers of modes, tolerances, seeds.
    """

    def __init__(self, name: str, options: argparse.Namespace, settings: Mapping[str, Any]) -> None:
        folder = options.output or (WORK / "quick" if options.quick else RESULTS)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / name
        here = machine() | {"sources": source_hash(name)}
        self.head = {"quick": options.quick, "settings": dict(settings), "machine": here}
        self.records = Records()
        self.show = options.show
        if options.resume or options.show:
            self._read()

    def _read(self) -> None:
        file = self.path.with_suffix(".json")
        if not file.exists():
            if self.show:
                raise SystemExit(f"There is no {file}, of which tables could be made.")
            return
        found = json.loads(file.read_text())
        self.records = Records(found["records"])
        if self.show:
            self.head = {key: found[key] for key in self.head}
        else:
            # Who reads them should see that they are from several runs.
            self.head["machine"]["resumed"] = [
                *found["machine"].get("resumed", []),
                f"{found['machine'].get('date', '?')}, {found['machine'].get('processor', '?')}",
            ]
            if found["machine"].get("sources") != self.head["machine"]["sources"]:
                self.head["machine"]["sources"] = "several"

    def missing(self, **key: Any) -> bool:
        """Whether there is no record with these entries yet, and it is to be made."""
        return not self.show and not self.records.select(**key)

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a record, now."""
        self.records.append({k: _plain(v) for k, v in record.items()})
        self._write([], [])
        print("  ".join(f"{k}: {_short(v)}" for k, v in self.records[-1].items()), flush=True)

    def finish(
        self,
        tables: Sequence[Shown],
        figures: Mapping[str, Callable[[Figure], None]] | None = None,
    ) -> None:
        """Write everything.

        Args:
            tables: What to show.
            figures: Functions that draw on a Matplotlib figure, by the name of their file.
        """
        names = []
        for name, draw in (figures or {}).items():
            figure = Figure(figsize=(7.0, 4.2), layout="constrained")
            draw(figure)
            names.append(f"{self.path.name}-{name}.png")
            figure.savefig(self.path.parent / names[-1], dpi=130, metadata={"Software": None})
        self._write(tables, names)
        text = "\n".join(table.markdown() for table in tables)
        self.path.with_suffix(".md").write_text(text.rstrip() + "\n")
        keys = list(dict.fromkeys(key for record in self.records for key in record))
        with self.path.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, keys, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.records)
        print(text, flush=True)
        print(f"{self.path}.md, .csv, .json {' '.join(names)}", file=sys.stderr)

    def _write(self, tables: Sequence[Shown], figures: Sequence[str]) -> None:
        shown = {"tables": [table._asdict() for table in tables], "figures": list(figures)}
        text = json.dumps(self.head | shown | {"records": self.records}, indent=1)
        part = self.path.with_suffix(".json.part")
        part.write_text(text + "\n")
        part.replace(self.path.with_suffix(".json"))


def plain_ticks(axes: Any) -> None:
    """Numbers, and not powers of ten, on the y axis; on a logarithmic one also at 2 and 5."""
    axes.yaxis.set_major_formatter("{x:g}")
    if axes.get_yscale() == "log":
        axes.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "25" else "")


def spread(numbers: Sequence[float] | np.ndarray, scale: float = 1.0, unit: str = "") -> str:
    """Mean ± standard deviation (of a sample), or a dash."""
    found = scale * np.asarray(numbers, dtype=float)
    if not found.size:
        return "–"
    mean = f"{found.mean():.3g}"
    return f"{mean}{unit}" if found.size == 1 else f"{mean} ± {found.std(ddof=1):.2g}{unit}"


def _plain(value: Any) -> Any:
    """Numbers of NumPy as those of Python; what is not finite as None, which JSON can say."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
