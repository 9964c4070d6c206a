# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The pages in docs/: what a reader would copy runs, prints what it says, and points somewhere."""

import doctest
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mpi4py import MPI  # noqa: F401  # before DOLFINx
from petsc4py import PETSc

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
TORCH = importlib.util.find_spec("torch") is not None

#: A block: language, text, and what a text block right behind it says that it prints.
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)

#: Pages with sketches, which leave out what the reader has: only read by the compiler.
SKETCHES = {"time"}

#: What pages that show fragments take for granted.
PRELUDE = """
from mpi4py import MPI
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
import dolfinx_msnn as msnn
from dolfinx_msnn.petsc import LinearProblem

msh = mesh.create_unit_square(MPI.COMM_WORLD, 30, 30, mesh.CellType.quadrilateral)
V = fem.functionspace(msh, ("Lagrange", 1))
kappa = msnn.fields.channels(msh, contrast=1e3, seed=0, axis=1)
u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
a, s = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx, kappa * u * v * ufl.dx
bottom = fem.locate_dofs_geometrical(V, lambda x: abs(x[1]) < 1e-10)
bcs = [fem.dirichletbc(0.0, bottom, V)]
L, coarse = fem.Constant(msh, 1.0) * v * ufl.dx, msnn.CoarseGrid(msh, (3, 3))
W = msnn.multiscale_functionspace(V, coarse, msnn.FilteredBasis(4), a, s=s, bcs=bcs)
fine = FineProblem(
    a, L, bcs=bcs, petsc_options_prefix="docs_", petsc_options={"ksp_type": "cg"}
)
ksp, A, b, x = fine.solver, fine.A, fine.b, fine.x
fine.solve()
x.set(0.0)
"""


def blocks(page: str, *languages: str) -> list[tuple[str, str, str]]:
    """The blocks of a page in some languages: language, text, stated output."""
    return [found for found in BLOCK.findall(PAGES[page]) if found[0] in languages]


@pytest.mark.serial
@pytest.mark.parametrize(
    "name",
    [
        *("CoarseGrid", "FilteredBasis", "SpectralBasis", "multiscale_functionspace"),
        "petsc.LinearProblem",
    ],
)
def test_examples_in_docstrings(name: str) -> None:
    scope: dict[str, object] = {}
    exec(compile(PRELUDE, "prelude", "exec"), scope)
    thing: Any = importlib.import_module("dolfinx_msnn")
    for part in name.split("."):
        thing = getattr(thing, part)
    (test,) = [t for t in doctest.DocTestFinder(recurse=False).find(thing, name, globs=scope)]
    assert test.examples
    said: list[str] = []
    assert doctest.DocTestRunner().run(test, out=said.append).failed == 0, "".join(said)


def named_file(text: str) -> str | None:
    """The name of the file that a block is to be put into, if its first line is one."""
    found = re.match(r"# (\w+\.(?:py|toml))\n", text)
    return found.group(1) if found else None


@pytest.mark.serial
@pytest.mark.parametrize(
    "page",
    [
        # The commands on this page make samples and train.
        pytest.param(page, marks=[pytest.mark.slow] * (page == "train"))
        for page in PAGES
        if blocks(page, "python")
    ],
)
def test_python_runs_and_prints_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = blocks(page, "python", "toml", "sh")
    code = [text for language, text, _ in found if language == "python"]
    if not TORCH and re.search(r"LearnedBasis|\btorch\b|dolfinx_msnn\.nn", "".join(code)):
        pytest.skip("needs torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if page in SKETCHES:
        for text in code:
            compile(text, f"{page}.md", "exec")
        return
    scope: dict[str, object] = {"__name__": "__main__"}
    if not any("mpi4py" in text for text in code):
        exec(compile(PRELUDE, "prelude", "exec"), scope)
    for number, (language, text, stated) in enumerate(found):
        if name := named_file(text):
            (tmp_path / name).write_text(text, encoding="utf-8")
            importlib.invalidate_caches()
        elif language == "sh" and page == "train":
            run_commands(text)
        elif language == "python":
            capsys.readouterr()
            exec(compile(text, f"{page}.md, block {number}", "exec"), scope)
            if stated:
                assert capsys.readouterr().out.strip() == stated.strip()


def run_commands(text: str) -> None:
    """Run the lines of a shell block that call msnn."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["msnn"]:
            done = subprocess.run(
                [sys.executable, "-m", "dolfinx_msnn.cli", *words[1:]],
                timeout=600,
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            assert done.returncode == 0, done.stderr


@pytest.mark.serial
@pytest.mark.parametrize("number", range(len(blocks("workarounds", "py"))))
def test_workarounds_are_still_needed(number: int) -> None:
    _, text, stated = blocks("workarounds", "py")[number]
    if PETSc.Sys.getVersion()[:2] != (3, 25) or sys.version_info < (3, 13):
        pytest.skip("shown by other versions")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=100)
    # What writes beyond an array may also end in a signal, or in PETSc's answer to one.
    assert done.returncode not in (0, 1) or done.stdout == stated, done.stderr


@pytest.mark.serial
def test_own_basis_has_the_length_that_is_promised() -> None:
    text = blocks("own-basis", "python")[0][1]
    assert "class InverseIteration" in text
    assert len(text.splitlines()) <= 30


def commands() -> list[tuple[str, list[str]]]:
    """Every command in a shell block of every page, without comments."""
    result = []
    for page in PAGES:
        for _, text, _ in blocks(page, "sh"):
            for line in text.replace("\\\n", " ").splitlines():
                try:
                    words = shlex.split(line, comments=True)
                except ValueError:
                    continue  # part of a here-document
                while words and re.match(r"\w+=", words[0]):
                    words = words[1:]
                if words[:1] == ["mpiexec"]:
                    words = words[3:]
                if words:
                    result.append((page, words))
    return result


@pytest.mark.serial
def test_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    seen = set()
    for page, (program, *rest) in commands():
        if program == "make":
            assert re.search(rf"^{rest[0]}[ \w-]*:", makefile, re.MULTILINE), (page, rest)
        elif program.endswith("python") and rest and rest[0] != "program.py" and rest[0][0] != "-":
            assert (ROOT / rest[0]).exists(), (page, rest)
        seen.add(program)
    assert {"make", "python", "pip", "msnn"} <= seen


@pytest.mark.serial
def test_subcommands_exist() -> None:
    pytest.importorskip("typer")
    used = {rest[0] for _, (program, *rest) in commands() if program == "msnn" and rest}
    told = subprocess.run(
        [sys.executable, "-m", "dolfinx_msnn.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    known = set(re.findall(r"^[\s│]+([a-z-]+)  ", told, re.MULTILINE))
    assert {"sample", "train", "info"} <= used
    assert {name for name in used if not name.startswith("-")} <= known


@pytest.mark.serial
def test_links_lead_somewhere() -> None:
    for page, text in PAGES.items():
        # Sphinx would fill in a title, a forge shows nothing.
        assert "[](" not in text, page
        bare = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", bare):
            if re.match(r"https?:", target):
                continue
            if found := re.match(r"#results-(.*)", target):
                target = f"../benchmarks/results/{found.group(1)}.md"
            elif target.startswith("#"):
                continue
            assert (DOCS / target.split("#")[0]).exists(), (page, target)


@pytest.mark.serial
def test_reference_has_all_public_names() -> None:
    named = set(re.findall(r"^   ([\w.]+)$", PAGES["reference"], re.MULTILINE))
    shown = []
    for name in sorted(named):
        module, _, public = f"dolfinx_msnn.{name}".rpartition(".")
        if not TORCH and name.startswith("nn."):
            continue
        shown.append(getattr(importlib.import_module(module), public))
    for name in ("", ".bases", ".estimate", ".fields", ".petsc", ".plot", ".richards"):
        module = importlib.import_module(f"dolfinx_msnn{name}")
        for public in getattr(module, "__all__", ()):
            thing = getattr(module, public)
            assert not callable(thing) or thing in shown, (module.__name__, public)


@pytest.mark.serial
def test_table_of_contents_has_all_pages() -> None:
    listed = set(re.findall(r"^([\w-]+)$", PAGES["index"], re.MULTILINE))
    assert set(PAGES) - {"index"} <= listed


def load(name: str) -> Any:
    """A script in docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOUND = """<html id="top"><head><link rel="stylesheet" href="a.css"><link rel="canonical"
href="https://example.org/"></head><body><a href="#top">up</a><a href="other.html#there">x</a>
<a href="https://example.org/page">away</a><img src="a.png"><img src="data:,x"></body></html>"""


@pytest.mark.serial
@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ("", "", None),
        ("#top", "#bottom", "no such anchor"),
        ("other.html#there", "other.html#nowhere", "no such anchor"),
        ("other.html#there", "others.html", "not there"),
        ('src="a.png"', 'src="b.png"', "not there"),
        ('src="a.png"', 'src="https://example.org/a.png"', "not part of the site"),
        ('href="a.css"', 'href="//example.org/a.css"', "not part of the site"),
        ("</head>", '<script src="https://example.org/a.js"></script></head>', "not part"),
        ("local.woff2", "https://example.org/font.woff2", "font.woff2"),
    ],
)
def test_check_finds_what_is_broken(
    good: str, bad: str, complaint: str | None, tmp_path: Path
) -> None:
    css = "@font-face { src: url(local.woff2) }"
    (tmp_path / "index.html").write_text(SOUND.replace(good, bad) if good else SOUND)
    (tmp_path / "a.css").write_text(css.replace(good, bad) if good else css)
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "other.html").write_text('<p id="there">here</p>')
    problems = load("check").check_files(tmp_path)
    if complaint is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert complaint in problems[0]


@pytest.mark.serial
def test_tables_are_made_from_the_results() -> None:
    pytest.importorskip("sphinx")
    measured = load("measured")
    used = set(re.findall(r"\{measured\} (\w+)", "".join(PAGES.values())))
    assert used == set(measured.TABLES)
    for name, make in measured.TABLES.items():
        head, *rows = make()
        assert len(rows) > 3
        assert {len(row) for row in rows} == {len(head)}
        assert (measured.RESULTS / f"{name}.json").exists()


@pytest.mark.serial
def test_every_benchmark_is_shown() -> None:
    pytest.importorskip("sphinx")
    root = Path(__file__).resolve().parents[2]
    measured = load("measured")
    shown = re.findall(r"\{result\} (\w+)", PAGES["benchmarks"])
    (made,) = re.findall(r"^TABLES \?= (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(made.split())
    for name in shown:
        assert (root / "benchmarks" / f"bench_{name}.py").exists()
        found = measured.load(name)
        assert not found["quick"]
        for entry in found["tables"]:
            assert entry["rows"]
            assert {len(row) for row in entry["rows"]} == {len(entry["head"])}
        assert found["figures"]
        assert all((measured.RESULTS / file).exists() for file in found["figures"])


@pytest.mark.serial
def test_tables_of_earlier_versions_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    measured = load("measured")
    files = sorted(measured.RESULTS.glob("*.json"))
    assert len(files) > 10
    for path in files:
        made = json.loads(path.read_text())["machine"]
        same = made.get("sources") == measured.source_hash(path.stem)
        said = measured.earlier(path.stem)
        assert bool(said) != same
        assert same or made.get("date", "") in said

    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    today = measured.source_hash("map")
    assert today != measured.source_hash("bases")  # the program counts
    for sources, expected in ((today, ""), ("several", "2025-01-02"), (None, "2025-01-02")):
        made = {"date": "2025-01-02 03:04 UTC"} | ({"sources": sources} if sources else {})
        (tmp_path / "map.json").write_text(json.dumps({"machine": made}))
        said = measured.earlier("map")
        assert expected in said and bool(said) == bool(expected)


@pytest.mark.serial
def test_only_code_is_hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bare = importlib.import_module("harness.sources").bare
    text = 'def f(x):\n    """Text."""\n    return x + 1\n'
    variants = text, text.replace("Text", "Other").replace("x + 1", "x+1  # more")
    found = []
    for variant in (*variants, text.replace("x + 1", "x + 2")):
        (tmp_path / "some.py").write_text(variant)
        found.append(bare(tmp_path / "some.py"))
    assert found[0] == found[1] != found[2]
