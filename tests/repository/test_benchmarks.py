# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What the benchmarks share: records that survive, and tables made of them alone."""

from __future__ import annotations

import csv
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
    import tables

    yield tables
    sys.modules.pop("tables")


def options(tables, tmp_path, *arguments):
    return tables.parser("Doc.").parse_args(["--output", str(tmp_path), *arguments])


def records():
    return [
        {"case": "a", "seed": k, "basis": basis, "L2": scale * (1 + k)}
        for k in range(3)
        for basis, scale in (("SLEPc", 1.0), ("filtered", 2.0))
    ]


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


def test_numbers(tables):
    assert tables.values(records(), "L2", basis="SLEPc").tolist() == [1, 2, 3]
    assert tables.spread([1, 2, 3], 100, " %") == "200 ± 1e+02 %"
    assert tables.spread([0.1234]) == "0.123"
    assert tables.spread([]) == "–"
    found = tables.ratios(records(), "L2", ("case", "seed"), {"basis": "SLEPc"}, basis="filtered")
    np.testing.assert_allclose(found, [2, 2, 2])
    # A field that only one of them solved has no ratio.
    found = tables.ratios(
        records()[1:], "L2", ("case", "seed"), {"basis": "SLEPc"}, basis="filtered"
    )
    assert len(found) == 2
