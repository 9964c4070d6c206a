# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Which sources a record was made with. The documentation asks, too: nothing else is imported."""

import ast
import hashlib
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Modules that only training needs.
_TRAINING = ("train", "steps", "losses", "filter", "checkpoint", "record")


def source_hash(name: str) -> str:
    """Hash of what computes the records of a name: the package and the program.

    Comments, docstrings and formatting are left out, and so are the rooms that compute nothing, the
    version, what draws a program's figures, the networks where it does not speak of them, and their
    training where it trains none.
    """
    program = ROOT / "benchmarks" / f"bench_{name.replace('-', '_')}.py"
    code = bare(program) if program.exists() else ""
    networks = not code or re.search(r"\b(learned|nn)\b", code, re.IGNORECASE) is not None
    training = not code or re.search(r"\blearning\.train\b", code) is not None
    return hashlib.sha256((_package(networks, training) + code).encode()).hexdigest()[:16]


@cache
def _package(networks: bool, training: bool) -> str:
    outside = {"cli", "plot", "_version.py"} | ({"nn"} if not networks else set())
    if not training:
        outside |= {f"{name}.py" for name in _TRAINING}
    paths = sorted(
        path.relative_to(ROOT)
        for path in (ROOT / "dolfinx_msnn").rglob("*")
        if path.suffix in (".py", ".c") and not outside & set(path.relative_to(ROOT).parts)
    )
    return "\n".join(f"{path.as_posix()}\n{bare(ROOT / path)}" for path in paths)


def bare(path: Path) -> str:
    """A file, if it is of Python without docstrings, comments and formatting."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if getattr(node, "name", "") != "draw"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return ast.unparse(tree)
