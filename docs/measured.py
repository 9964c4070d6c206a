# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Tables from measured results.

Numbers on the pages that were measured are read from ``benchmarks/results`` when the pages are
built; nobody types them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
sys.path.append(str(RESULTS.parent))
from harness.sources import source_hash  # noqa: E402


def load(name: str) -> Any:
    """A file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def earlier(name: str) -> str:
    """A sentence if the records of a name were not made with the package as it is now."""
    made = load(name)["machine"]
    if made.get("sources") == source_hash(name):
        return ""
    date = f" ({made['date']})" if "date" in made else ""
    return f"Made with an earlier version of the package{date}."


def groups(records: list[Any], *names: str) -> dict[tuple[Any, ...], list[Any]]:
    """Records by some of their entries, in the order in which they come."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for record in records:
        found.setdefault(tuple(record[name] for name in names), []).append(record)
    return found


def bases_table() -> Iterator[list[str]]:
    """Energy error, and time a neighbourhood, of each basis for each kind of field."""
    columns = ("SLEPc", "filtered", "learned, raw", "harmonic, predicted", "harmonic")
    meshes = {"2d-100": "100²", "2d-250": "250²", "3d-50": "50³", "spe10": "60 x 220"}
    yield ["mesh", "coefficient", *columns]
    for (case, family), records in groups(load("bases")["records"], "case", "family").items():
        row = [meshes[case], "SPE10" if case == "spe10" else family]
        for column in columns:
            runs = [record for record in records if record["basis"] == column]
            if not runs:
                row.append("–")
                continue
            error = 100 * statistics.mean(run["energy"] for run in runs)
            time = statistics.median(run["basis_ms"] for run in runs)
            row.append(f"{error:.3g} %, {time:.3g} ms")
        yield row


def map_table() -> Iterator[list[str]]:
    """Time to equal error over the width of a neighbourhood."""
    yield ["dimension", "cells across", "contrast", "computed", "filtered", "learned"]
    for record in load("map")["records"]:
        wide = record["width"] >= (40 if record["dim"] == 2 else 16)
        if wide and record["contrast"] in (1e3, 1e6):
            times = [record[f"{key}_ms"] for key in ("SLEPc", "cosine", "learned")]
            shown = [f"{t:.3g} ms" for t in times]
            shown[times.index(min(times))] += " ←"
            yield [str(record["dim"]), str(record["width"]), f"{record['contrast']:.0e}", *shown]


def space_table() -> Iterator[list[str]]:
    """Time and memory of a space with filtered modes."""
    yield [
        "mesh",
        "ranks",
        "fine dofs",
        "coarse dofs",
        "space",
        "its basis",
        "A_0, factors",
        "memory",
    ]
    records = [record for record in load("space")["records"] if record["part"] == "space"]
    for (case, ranks), runs in groups(records, "case", "ranks").items():
        stages = [
            f"{statistics.median(run[f's {stage}'] for run in runs):.3g} s"
            for stage in ("space", "basis", "A_0, factors")
        ]
        memory = statistics.median(sum(run["peak_gib_by_rank"]) for run in runs)
        yield [
            case.replace("2d-", "2D, ").replace("3d-", "3D, "),
            str(ranks),
            f"{runs[0]['N_f']:,}",
            f"{runs[0]['N_c']:,}",
            *stages,
            f"{memory:.2f} GiB",
        ]


def spaces_table() -> Iterator[list[str]]:
    """Energy errors of spaces of equal size, and time, with eight functions around each vertex."""
    kinds = ("SLEPc", "harmonic", "harmonic, overlap", "harmonic, overlap, local solutions")
    meshes = {"2d-100": "100²", "2d-250": "250²", "rock": "SPE10, 60 x 220", "3d-40": "40³"}
    loads = ("f = 1", "smooth", "drop", "well", "rough")
    yield ["mesh", "load", "eigenmodes", *kinds[1:]]
    records = [record for record in load("spaces")["records"] if record["number"] == 8]
    for (case,), runs in groups(records, "case").items():
        if case not in meshes:
            continue
        # The name of a space ends with its number of functions.
        mine = [[run for run in runs if run["space"].rpartition(" ")[0] == kind] for kind in kinds]
        dofs = [f"{run[0]['dofs']:.0f} dofs" for run in mine]
        yield [meshes[case], "", *dofs]
        for name in loads:
            errors = (statistics.geometric_mean(run[name] for run in part) for part in mine)
            # Two digits, and not as a power of ten: 100 %.
            yield ["", name, *(f"{float(f'{100 * error:.2g}'):g} %" for error in errors)]
        times = (statistics.median(run["time"] for run in part) for part in mine)
        yield ["", "time of the basis", *(f"{time:.2g}" for time in times)]


TABLES: dict[str, Callable[[], Iterator[list[str]]]] = {
    "bases": bases_table,
    "map": map_table,
    "space": space_table,
    "spaces": spaces_table,
}


class Result(SphinxDirective):
    """``{result} NAME``: tables and figures of a benchmark, as the program wrote them.

    Tables are folded, and figures but for the first. With ``:first: N`` only so many tables; all
    are on the page of results.
    """

    required_arguments = 1
    option_spec: ClassVar[Any] = {"first": directives.nonnegative_int}

    def run(self) -> list[nodes.Node]:
        """Read the results and show them."""
        name = self.arguments[0]
        self.env.note_dependency(str(RESULTS / f"{name}.json"))
        try:
            found = load(name)
        except FileNotFoundError:
            raise self.error(f"no results {name!r}") from None
        shown: list[nodes.Node] = []
        for entry in found["tables"][: self.options.get("first")]:
            summary = f"<details><summary>{escape(entry['title'])}</summary>"
            shown.append(nodes.raw("", summary, format="html"))
            shown.append(table(entry["head"], entry["rows"]))
            shown += [nodes.paragraph(text=text) for text in entry["notes"].split("\n") if text]
            shown.append(nodes.raw("", "</details>", format="html"))
        for number, file in enumerate(found["figures"]):
            if number == 1:
                more = "<details><summary>More figures</summary>"
                shown.append(nodes.raw("", more, format="html"))
            alt = f"Figure of the benchmark {name}: {file.removesuffix('.png')}"
            source = Path(self.env.doc2path(self.env.docname)).parent
            path = os.path.relpath(RESULTS / file, source)
            shown.append(nodes.image(uri=path, alt=alt, classes=["measured"]))
        if len(found["figures"]) > 1:
            shown.append(nodes.raw("", "</details>", format="html"))
        where = found["machine"]
        text = f"{where['date']}, {where['processor']}, {where['cores']} cores."
        if "resumed" in where:
            text += f" Some rows are of runs before: {'; '.join(where['resumed'])}."
        text = f"{text} {earlier(name)}".rstrip()
        return [*shown, nodes.paragraph("", "", nodes.emphasis(text=text))]


class Measured(SphinxDirective):
    """``{measured} NAME``: one of :data:`TABLES`, from the results of that name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Read the results and make the table."""
        name = self.arguments[0]
        if name not in TABLES:
            raise self.error(f"no table {name!r}, expected one of {', '.join(TABLES)}")
        self.env.note_dependency(str(RESULTS / f"{name}.json"))
        head, *rows = TABLES[name]()
        notes = [nodes.emphasis(text=said) for said in [earlier(name)] if said]
        return [table(head, rows), *(nodes.paragraph("", "", note) for note in notes)]


def table(head: list[str], rows: list[list[str]]) -> nodes.table:
    """A table of text."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", table_row(head))
    group += nodes.tbody("", *(table_row(row) for row in rows))
    return nodes.table("", group, classes=["measured"])


def table_row(cells: list[str]) -> nodes.row:
    """A row of a table."""
    return nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in cells))
