# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The README: its example runs exactly as printed, and what it points to is there."""

import re
import runpy
from pathlib import Path

from mpi4py import MPI

import numpy as np
import pytest

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem as FineProblem

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEAD = re.findall(r"^\| space \| N_c = (.*) \|$", README, re.MULTILINE)[0].split(" | ")


def test_example_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    scope: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), scope)
    try:
        (stated,) = re.findall(r"^It prints `(.*?)`", README, re.MULTILINE)
        assert capsys.readouterr().out.strip() == stated
        assert len([line for line in example.splitlines() if line]) <= 16

        (stated,) = re.findall(r"energy error of ([\d.]+) %", README)
        assert f"{100 * energy_error(scope):.1g}" == stated
        assert scope["uh"].function_space == scope["V"]
    finally:
        scope["W"].destroy()


@pytest.mark.serial
def test_table_of_errors_is_what_the_demo_finds(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MSNN_OUTPUT", str(tmp_path))
    demo = ROOT / "demos/demo_accuracy.py"
    found = runpy.run_path(str(demo))
    rows = re.findall(r"^\| [^|]+ \| ([\d.e-]+ % .*) \|$", README, re.MULTILINE)
    assert len(rows) == 4
    for row, dofs, errors in zip(
        rows, found["dofs"].values(), found["errors"].values(), strict=True
    ):
        for cell, head, num, error in zip(row.split(" | "), HEAD, dofs, errors, strict=True):
            text, other = re.fullmatch(r"([\d.e-]+) %(?: \((\d+)\))?", cell).groups()
            assert int(other or head) == num
            assert float(text) in [float(f"{100 * error:.{digits}g}") for digits in (1, 2)]


def energy_error(scope: dict) -> float:
    """Relative error of ``uh`` against the solution on the fine mesh."""
    V, v, a = (scope[name] for name in ("V", "v", "a"))
    zero = fem.Constant(V.mesh, 0.0) * v * ufl.dx
    options = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}
    fine = FineProblem(
        a, zero, bcs=scope["bcs"], petsc_options_prefix="readme_", petsc_options=options
    ).solve()
    error = fem.Function(V)
    error.x.array[:] = scope["uh"].x.array - fine.x.array

    def energy(w: fem.Function) -> float:
        square = fem.assemble_scalar(fem.form(ufl.action(ufl.action(a, w), w)))
        return float(np.sqrt(V.mesh.comm.allreduce(square, op=MPI.SUM)))

    return energy(error) / energy(fine)


@pytest.mark.serial
@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_and_pictures_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").replace("\n", " ")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    local = [target for target in targets if not target.startswith("http")]
    assert [target for target in local if not (ROOT / target).exists()] == []


@pytest.mark.serial
def test_pictures_are_small() -> None:
    pictures = re.findall(r"\]\((\S+\.png)\)", README)
    assert "docs/images/accuracy.png" in pictures
    assert all((ROOT / picture).stat().st_size < 400_000 for picture in pictures)
    assert len(README.splitlines()) <= 150


@pytest.mark.serial
def test_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert re.findall(r"^make ([\w-]+)", README, re.MULTILINE) == ["demo", "test"]
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for text in (README, contributing):
        assert set(re.findall(r"(?:^|&& |`)make ([\w-]+)", text, re.MULTILINE)) <= {
            *targets.split()
        }
