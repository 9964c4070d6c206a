# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The rooms of the package: what imports what, as pyproject.toml says."""

import ast
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dolfinx_msnn"
UP, CIRCLE, _, TORCH = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]

pytestmark = pytest.mark.serial


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports anywhere, also within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules() -> dict[str, set[str]]:
    """Each module of the package, and which others it imports."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    graph = {}
    for module, path in paths.items():
        names = {name if name in paths else name.rpartition(".")[0] for name in imported(path)}
        graph[module] = names & set(paths)
    return graph


def exceptions(contract: dict) -> list[tuple[str, ...]]:
    return [tuple(entry.split(" -> ")) for entry in contract["ignore_imports"]]


def test_every_room_has_a_place() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {*UP["layers"], "pretrained"}


def test_no_import_goes_up() -> None:
    order = {room: level for level, room in enumerate(reversed(UP["layers"]))}
    wrong = []
    for module, others in modules().items():
        room = module.split(".")[1:2]
        # What stands outside of the rooms collects public names.
        if room and room[0] in order:
            level = order[room[0]]
            wrong += [
                (module, other)
                for other in others
                if order.get((other + ".").split(".")[1], 0) > level
            ]
    assert set(wrong) <= set(exceptions(UP))


def test_no_circle() -> None:
    graph = modules()
    for module, other in exceptions(CIRCLE):
        graph[module].discard(other)
    TopologicalSorter(graph).prepare()


def test_only_nn_imports_torch() -> None:
    allowed = {module for module, _ in exceptions(TORCH)}
    for path in PACKAGE.rglob("*.py"):
        if any(name.split(".")[0] == "torch" for name in imported(path)):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert module in allowed or module.startswith("dolfinx_msnn.nn."), module


def test_no_benchmark_imports_another() -> None:
    """What programs share is in harness and in folders of its kind, which import no program."""
    folder = ROOT / "benchmarks"
    programs = {path.stem for path in folder.glob("*.py")}
    for path in folder.rglob("*.py"):
        others = {name.split(".")[0] for name in imported(path)} & programs
        assert not others, f"{path.relative_to(ROOT)} imports {others}"
