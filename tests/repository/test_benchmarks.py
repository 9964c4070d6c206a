# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What the benchmarks share: records that survive, and tables made of them alone."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no checkout"),
]


@pytest.fixture
def tables(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("harness.results")
    for name in [name for name in sys.modules if name.partition(".")[0] == "harness"]:
        sys.modules.pop(name)


def options(tables, tmp_path, *arguments):
    return tables.Parser("Doc.").parse_args(["--output", str(tmp_path), *arguments])


def records():
    return [
        {"case": "a", "seed": k, "basis": basis, "L2": scale * (1 + k)}
        for k in range(3)
        for basis, scale in (("SLEPc", 1.0), ("filtered", 2.0))
    ]


def imported(path):
    """Modules that a file imports, wherever it does, as far as they are in the benchmarks."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if (FOLDER / name.partition(".")[0]).is_dir()} | {
        name for name in found if (FOLDER / f"{name}.py").exists()
    }


def test_no_program_imports_another():
    programs = {path.stem for path in FOLDER.glob("*.py")}
    assert all(name.startswith("bench_") for name in programs - {"gpu", "gate"})
    # What is shared, and the parts of one program.
    packages = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    assert packages == {"harness", "growth"}
    for path in [*FOLDER.glob("*.py"), *FOLDER.glob("*/*.py")]:
        found = {name.partition(".")[0] for name in imported(path)}
        assert not found & programs, path.name
        inside = path.parent.name
        allowed = {"harness": {"harness"}, "growth": {"harness", "growth"}}
        alone = {"harness", "growth"} if path.name == "bench_growth.py" else {"harness"}
        assert found <= allowed.get(inside, alone), path.name


def test_harness_is_imported_by_itself(tables):
    # Without a circle, in any order.
    for path in sorted((FOLDER / "harness").glob("*.py"), reverse=True):
        if path.stem != "networks" or importlib.util.find_spec("torch"):
            importlib.import_module(f"harness.{path.stem}".removesuffix(".__init__"))


def test_every_program_is_made_by_make():
    text = (FOLDER.parent / "Makefile").read_text(encoding="utf-8")
    listed = {
        name
        for line in text.splitlines()
        if line.startswith(("TABLES ?=", "DETAILS ?="))
        for name in line.partition("=")[2].split()
    }
    assert listed == {p.stem.removeprefix("bench_") for p in FOLDER.glob("bench_*.py")}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`bench_{name}.py`" in readme for name in listed)


def test_results_have_the_form_of_all_programs():
    for name in {p.stem.removeprefix("bench_") for p in FOLDER.glob("bench_*.py")}:
        found = json.loads((FOLDER / "results" / f"{name.replace('_', '-')}.json").read_text())
        assert set(found) == {"quick", "settings", "machine", "tables", "figures", "records"}
        assert found["records"] and found["tables"] and not found["quick"]
        for kind in ("md", "csv"):
            assert (FOLDER / "results" / f"{name.replace('_', '-')}.{kind}").exists()


def test_every_form_says_the_same(tables, tmp_path):
    results = tables.Results("some", options(tables, tmp_path), {"modes": 8})
    for record in records():
        results.add(record)
    results.add({"case": "a", "seed": np.int64(9), "basis": "new", "L2": np.float32("nan")})
    shown = tables.Shown("Errors", ["basis", "L2"], [["SLEPc", "2"]], "A note.")
    results.finish([shown], {"bars": lambda figure: figure.subplots().plot([1, 2])})

    found = json.loads((tmp_path / "some.json").read_text())
    assert found["records"][:6] == records()
    assert found["records"][6] == {"case": "a", "seed": 9, "basis": "new", "L2": None}
    assert found["settings"] == {"modes": 8}
    assert not found["quick"]
    assert found["tables"] == [shown._asdict()]
    assert found["figures"] == ["some-bars.png"]
    assert (tmp_path / "some-bars.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "some.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["L2"]) for row in rows[:6]] == [r["L2"] for r in records()]
    text = (tmp_path / "some.md").read_text()
    assert "| SLEPc | 2 |" in text
    assert text.rstrip().endswith("A note.")
    # Nobody's folders.
    assert str(FOLDER.parent) not in json.dumps(found["machine"])


def test_goes_on_after_an_interruption(tables, tmp_path):
    first = tables.Results("some", options(tables, tmp_path), {})
    first.add(records()[0])
    again = tables.Results("some", options(tables, tmp_path, "--resume"), {})
    assert not again.missing(case="a", seed=0, basis="SLEPc")
    assert again.missing(case="a", seed=0, basis="filtered")
    again.add(records()[1])
    assert json.loads((tmp_path / "some.json").read_text())["machine"]["resumed"]
    anew = tables.Results("some", options(tables, tmp_path), {})
    assert anew.missing(case="a", seed=0, basis="SLEPc")


def test_shows_without_running(tables, tmp_path):
    with pytest.raises(SystemExit, match="There is no"):
        tables.Results("some", options(tables, tmp_path, "--show"), {})
    first = tables.Results("some", options(tables, tmp_path), {"modes": 8})
    first.add(records()[0])
    shown = tables.Results("some", options(tables, tmp_path, "--show"), {"modes": 4})
    assert shown.records == records()[:1]
    assert shown.head == first.head
    assert not shown.missing(case="b")


def test_options_depend_on_quick(tables):
    parser = tables.Parser("Doc.", ["a", "b"], ["small"])
    parser.depends("--steps", 600, 3, type=int)
    full, quick = parser.parse_args([]), parser.parse_args(["--quick"])
    assert (full.cases, full.steps) == (["a", "b"], 600)
    assert (quick.cases, quick.steps) == (["small"], 3)
    assert parser.parse_args(["--quick", "--steps", "9", "--cases", "b"]).steps == 9


def test_groups(tables):
    every = tables.Records([*records(), {"case": "training"}])
    groups = every.by("case", "basis")
    assert list(groups) == [("a", "SLEPc"), ("a", "filtered")]
    assert [r["seed"] for r in groups["a", "filtered"]] == [0, 1, 2]
    # One name alone is a key by itself.
    assert list(every.by("basis")) == ["SLEPc", "filtered"]
    assert every.first(basis="filtered", seed=1)["L2"] == 4
    assert every.first(basis="none") == {}
    # Heads may be equal, as in a table with two columns of one kind.
    columns = [("basis", lambda rows: rows[0]["basis"]), ("L2", tables.mean("L2", 100, " %"))]
    columns.append(("L2", tables.mean("L2", seed=0)))
    to = {"basis": "SLEPc"}
    shown = tables.tabulate("T", every.by("basis").values(), columns, "N")
    assert shown.head == ["basis", "L2", "L2"]
    assert shown.rows == [["SLEPc", "200 ± 1e+02 %", "1"], ["filtered", "400 ± 2e+02 %", "2"]]
    cells = [tables.over("L2", ("seed",), to, inverse=k, basis="filtered")(every) for k in (0, 1)]
    assert cells == ["2 ± 0", "0.5 ± 0"]
    assert [tables.text("L2", ".1f")(r) for r in ({"L2": 1.25}, {"L2": None}, {})] == [
        "1.2",
        "",
        "",
    ]


def test_numbers(tables):
    every = tables.Records(records())
    assert every.values("L2", basis="SLEPc").tolist() == [1, 2, 3]
    assert tables.spread([1, 2, 3], 100, " %") == "200 ± 1e+02 %"
    assert tables.spread([0.1234]) == "0.123"
    assert tables.spread([]) == "–"
    found = every.ratios("L2", ("case", "seed"), {"basis": "SLEPc"}, basis="filtered")
    np.testing.assert_allclose(found, [2, 2, 2])
    # A field that only one of them solved has no ratio.
    fewer = tables.Records(every[1:])
    found = fewer.ratios("L2", ("case", "seed"), {"basis": "SLEPc"}, basis="filtered")
    assert len(found) == 2
