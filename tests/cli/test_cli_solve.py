# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""``msnn solve``: its figures are right, and its mistakes are sentences."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

typer = pytest.importorskip("typer")

from sample import is_sentence  # noqa: E402
from typer.testing import CliRunner  # noqa: E402
from utils import COMM  # noqa: E402

import dolfinx_msnn as msnn  # noqa: E402
import ufl  # noqa: E402
from dolfinx import fem, has_adios2, io, mesh  # noqa: E402
from dolfinx_msnn.cli.commands import app  # noqa: E402
from dolfinx_msnn.petsc import LinearProblem  # noqa: E402

ROOT = COMM.rank == 0


def call(*arguments):
    """Run a command on all ranks; what it printed on rank 0."""
    return CliRunner().invoke(app, list(map(str, arguments)))


def solve(*arguments):
    """What ``msnn solve --json`` says, on all ranks."""
    result = call("solve", *arguments, "--json")
    codes = COMM.allgather((result.exit_code, result.stderr))
    assert {code for code, _ in codes} == {0}, (codes, result.exception)
    assert ROOT or result.stdout == ""
    return COMM.bcast(json.loads(result.stdout) if ROOT else None)


def fails(code, match, *arguments):
    """One sentence on rank 0, and this exit code on all of them."""
    result = call(*arguments)
    assert COMM.allgather(result.exit_code) == [code] * COMM.size, result.output
    if ROOT:
        assert result.stdout == ""
        assert match in result.stderr, result.stderr
        assert result.stderr.startswith("msnn: ")
        is_sentence(result.stderr.strip())


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(COMM.bcast(str(tmp_path)))


def write(path, array):
    """Save an array on rank 0."""
    if ROOT:
        np.save(path, array)
    COMM.barrier()
    return path


# ---- figures ----

#: Unit boxes with a constant coefficient: any multiscale space holds linear functions.
BOXES = {
    "quadrilaterals": (2, ["--boxes", 4]),
    "triangles": (2, ["--boxes", "4,2", "--cell", "triangle"]),
    "more cells": (2, ["--boxes", 3, "--cells", "12,18"]),
    "degree 2": (2, ["--boxes", 2, "--degree", 2]),
    "hexahedra": (3, ["--boxes", 2]),
    "tetrahedra": (3, ["--boxes", 2, "--cell", "tetrahedron"]),
}


@pytest.mark.parametrize("name", BOXES)
def test_linear_solutions_are_exact(folder, name):
    dim, options = BOXES[name]
    rock = write(folder / "rock.npy", np.full((8,) * dim, 2.0))
    found = solve(rock, *options, "--modes", 1, "--compare")
    # u = 1 - x
    assert found["solution"]["L2"] == pytest.approx(1 / np.sqrt(3))
    assert found["solution"]["energy"] == pytest.approx(np.sqrt(2))
    assert found["solution"]["min"] == pytest.approx(0.0, abs=1e-9)
    assert found["errors"]["energy"] < 1e-7
    assert found["ranks"] == COMM.size
    assert found["field"]["contrast"] == 1.0


@pytest.mark.parametrize("overlap", [(), ("--overlap", 1)])
def test_as_many_modes_as_there_are(overlap):
    """More than there are dofs: the fine space."""
    options = ("--cells", 4, "--boxes", 2, "--modes", 60, *overlap)
    found = solve("--generator", "channels", *options, "--compare")
    assert found["errors"]["energy"] < 1e-8
    assert found["coarse"]["neighbourhoods"] == (4 if overlap else 9)


def test_conditions_on_the_sides(folder):
    rock = write(folder / "rock.npy", np.full((8, 8), 2.0))
    options = ("--boxes", 2, "--modes", 1)
    # u = 3 y: kappa du/dn is 6 above.
    found = solve(rock, *options, "--dirichlet", "bottom=0", "--flux", "top=6")
    assert found["solution"]["L2"] == pytest.approx(np.sqrt(3))
    assert found["solution"]["max"] == pytest.approx(3.0)
    # The same without a value anywhere: of mean zero.
    flux = ("--flux", "top=6", "--flux", "bottom=-6")
    found = solve(rock, *options, "--dirichlet", "none", *flux)
    assert found["solution"]["min"] == pytest.approx(-1.5)
    assert found["solution"]["max"] == pytest.approx(1.5)
    found = solve(rock, *options, "--dirichlet", "all=2")
    assert found["solution"]["energy"] == pytest.approx(0.0, abs=1e-6)
    assert found["solution"]["L2"] == pytest.approx(2.0)
    found = solve(rock, *options, "--size", "4,2")
    assert found["solution"]["L2"] == pytest.approx(np.sqrt(8 / 3))


def test_where_sides_meet_the_later_wins(folder):
    rock = write(folder / "rock.npy", np.full((4, 4), 1.0))
    for sides, ones in ((("all=0", "left=1"), 5), (("left=1", "all=0"), 0)):
        conditions = [part for side in sides for part in ("--dirichlet", side)]
        solve(rock, "--boxes", 1, "--modes", 1, *conditions, "-o", folder / "u.xdmf")
        if ROOT:
            with h5py.File(folder / "u.h5") as file:
                u = np.array(file["Function/u/0"])
            assert np.isclose(u, 1.0).sum() == ones


def library(kappa, boxes, basis, axis):
    """Energy norm of the multiscale solution of a pressure drop, by hand."""
    msh = kappa.function_space.mesh
    V = fem.functionspace(msh, ("Lagrange", 1))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a, s = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx, kappa * u * v * ufl.dx
    bcs = [
        fem.dirichletbc(
            value, fem.locate_dofs_geometrical(V, lambda x, y=y: np.isclose(x[axis], y)), V
        )
        for value, y in ((1.0, 0.0), (0.0, 1.0))
    ]
    L = fem.Constant(msh, 3.0) * v * ufl.dx
    with (
        msnn.multiscale_functionspace(V, msnn.CoarseGrid(msh, boxes), basis, a, s=s, bcs=bcs) as W,
        LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="cli_test_") as problem,
    ):
        w = problem.solve()
        square = kappa * ufl.inner(ufl.grad(w), ufl.grad(w)) * ufl.dx
        return np.sqrt(COMM.allreduce(fem.assemble_scalar(fem.form(square)))), W.num_dofs


def test_it_does_what_a_program_does():
    found = solve(
        *("--generator", "channels", "--contrast", 100, "--seed", 4, "-p", "axis=1"),
        *("--cells", 24, "--boxes", 3, "--modes", 3, "--basis", "filtered", "--source", 3),
        *("--dirichlet", "bottom=1", "--dirichlet", "top=0"),
    )
    msh = mesh.create_unit_square(COMM, 24, 24, mesh.CellType.quadrilateral)
    kappa = msnn.fields.channels(msh, 100.0, 4, axis=1)
    energy, num_dofs = library(kappa, (3, 3), msnn.FilteredBasis(3), 1)
    assert found["solution"]["energy"] == pytest.approx(energy, rel=1e-6)
    assert found["coarse"] == {
        "boxes": [3, 3],
        "neighbourhoods": 16,
        "dofs": num_dofs,
        "dropped": 0,
    }
    assert found["mesh"]["dofs"] == 625
    assert found["basis"]["filter"]["mean_sweeps"] > 0


@pytest.mark.slow
def test_a_harmonic_basis_is_the_default():
    options = ("--generator", "two-phase", "--cells", 40, "--boxes", 4, "--compare", "--source", 1)
    harmonic, computed = solve(*options), solve(*options, "--basis", "computed")
    assert [found["basis"]["name"] for found in (harmonic, computed)] == ["harmonic", "computed"]
    assert solve(*options, "--guard")["basis"]["name"] == "computed"
    assert harmonic["coarse"]["dofs"] <= computed["coarse"]["dofs"]
    assert harmonic["errors"]["energy"] < computed["errors"]["energy"] / 8


@pytest.mark.slow
def test_bounds_hold():
    found = solve(
        *("--generator", "two-phase", "--contrast", 100, "--cells", 20, "--boxes", 2),
        *("--modes", 4, "--compare", "--bound", "--source", 1, "--guard"),
    )
    error = found["errors"]["energy_absolute"]
    fine, exact = found["bounds"]["fine"], found["bounds"]["exact"]
    assert fine["lower"] * (1 - 1e-9) <= error <= fine["upper"] * (1 + 1e-9)
    assert fine["upper"] < 1.5 * error
    assert exact["upper"] > error
    assert sum(found["basis"]["guard"].values()) == 9
    assert found["seconds"].keys() >= {"multiscale space", "bounds", "fine problem"}


@pytest.mark.slow
def test_a_learned_basis():
    pytest.importorskip("torch")
    options = ("--generator", "inclusions", "--cells", 24, "--boxes", 2, "--modes", 4, "--compare")
    learned, computed = (solve(*options, "--basis", name) for name in ("learned", "computed"))
    assert learned["basis"]["source"] == {"model": 9}
    assert learned["errors"]["energy"] < 1.1 * computed["errors"]["energy"]
    named = solve(*options, "--basis", "learned:diffusion-2d")
    assert named["solution"] == pytest.approx(learned["solution"])
    traces = solve(*options, "--basis", "harmonic:solutions-2d")
    assert traces["errors"]["energy"] < 0.5 * computed["errors"]["energy"]
    # Inclusions are too rough for functions as they are.
    raw = solve(*options, "--basis", "learned:solutions-2d", "--modes", 8)
    assert raw["basis"]["source"] == {"fallback": 9}


@pytest.mark.slow
def test_a_threshold_instead_of_a_number():
    options = ("--generator", "inclusions", "--cells", 24, "--boxes", 2)
    few, many = (solve(*options, "--threshold", t)["coarse"]["dofs"] for t in (1e-9, 50.0))
    assert few == 9
    assert many > 9


@pytest.mark.slow
def test_too_few_harmonic_functions_are_told_and_a_tolerance_helps():
    """At this contrast the energy hardly sees u between the channels."""
    options = ("--generator", "channels", "--contrast", 1e6, "--seed", 2, "--dim", 3)
    options += ("--cells", 12, "--boxes", 2, "--source", 1, "--compare")
    few, enough = solve(*options), solve(*options, "--tolerance", 0.01)
    assert "too few functions in 1 of 27 neighbourhoods" in few["warnings"][0]
    assert enough["warnings"] == []
    assert few["errors"]["L2"] > 0.03
    assert enough["errors"]["L2"] < 0.005
    assert enough["errors"]["energy"] < 0.01


# ---- fields from files ----


@pytest.mark.slow
def test_grey_values_become_phases(folder):
    grey = np.zeros((6, 6))
    grey[2:4, :] = 255.0
    if ROOT:
        (folder / "stack").mkdir()
    COMM.barrier()
    rock = write(folder / "rock.npy", grey)
    options = ("--boxes", 2, "--modes", 2)
    phases = ("--phase", "0=1", "--phase", "255=50")
    for mapping in (phases, ("--low", 1, "--high", 50)):
        found = solve(rock, *options, *mapping)
        assert (found["field"]["min"], found["field"]["max"]) == (1.0, 50.0)
    for k in range(3):
        write(folder / "stack" / f"{k}.npy", grey)
    found = solve(folder / "stack", "--boxes", 1, "--modes", 2, *phases)
    assert found["mesh"]["cells"] == 6 * 6 * 3
    fails(1, "positive and finite", "solve", rock, *options)


def test_spe10_layers(folder):
    rng = np.random.default_rng(0)
    k = np.exp(rng.normal(size=(60, 220, 2)))
    path = folder / "spe.npz"
    if ROOT:
        np.savez(path, k=k, source="layers 84")
    COMM.barrier()
    found = solve(path, "--layers", 85, "--cells", "12,22", "--boxes", 2, "--modes", 2)
    assert found["mesh"]["cells"] == 12 * 22
    assert found["field"]["max"] <= k[:, :, 1].max()
    # Metres: the side from 0 to 365.76 m.
    assert found["solution"]["L2"] > 100
    fails(1, "lacks layer", "solve", path, "--layers", 3)
    if ROOT:
        (folder / "spe_perm.dat").write_text("1 2 3")
    COMM.barrier()
    fails(2, "expected --layers", "solve", folder / "spe_perm.dat")
    fails(1, "number of values", "solve", folder / "spe_perm.dat", "--layers", "1:2")


def test_meshes_from_files(folder):
    msh = mesh.create_rectangle(COMM, [[1.0, 0.0], [3.0, 1.0]], [20, 10])
    with io.XDMFFile(COMM, folder / "mesh.xdmf", "w") as file:
        file.write_mesh(msh)
    rock = write(folder / "rock.npy", np.full((4, 4), 1.0))
    found = solve(rock, "--mesh", folder / "mesh.xdmf", "--modes", 1, "--boxes", "4,2")
    assert found["mesh"]["cells"] == 400
    # u = (3 - x) / 2 on a rectangle of area 2.
    assert found["solution"]["L2"] == pytest.approx(np.sqrt(2 / 3))
    fails(2, "expected no --cells", "solve", rock, "--mesh", folder / "mesh.xdmf", "--cells", 3)
    fails(1, "no mesh file", "solve", rock, "--mesh", folder / "none.xdmf")
    fails(2, "must be an .msh or .xdmf file", "solve", rock, "--mesh", rock)


#: u on [0, 2] x [0, 1] with kappa 1 left of x = 0.5 and 3 right of it: flux 1 is constant.
HALVES = ("--tag", "7=1", "--tag", "9=3", "--boxes", "4,2", "--modes", 1)


def tagged(msh):
    """Tags of the cells: 7 left of x = 0.5, 9 right of it."""
    cells = np.arange(msh.topology.index_map(2).size_local, dtype=np.int32)
    left = mesh.compute_midpoints(msh, 2, cells)[:, 0] < 0.5
    return mesh.meshtags(msh, 2, cells, np.where(left, 7, 9).astype(np.int32))


def is_right(found):
    """The flux is 1 / (0.5 / 1 + 1.5 / 3) = 1, the energy its value."""
    assert (found["field"]["min"], found["field"]["max"]) == (1.0, 3.0)
    assert found["solution"]["energy"] == pytest.approx(1.0, rel=1e-9)


def test_tags_of_xdmf_with_any_names(folder):
    msh = mesh.create_rectangle(COMM, [[0.0, 0.0], [2.0, 1.0]], [16, 8])
    tags = tagged(msh)
    msh.name, tags.name = "Sandstein", "Schichten"
    with io.XDMFFile(COMM, folder / "mesh.xdmf", "w") as file:
        file.write_mesh(msh)
        file.write_meshtags(tags, msh.geometry)
    is_right(solve("--mesh", folder / "mesh.xdmf", *HALVES))
    fails(1, "[7, 9], got [7]", "solve", "--mesh", folder / "mesh.xdmf", "--tag", "7=1")
    fails(2, "--tag 7 must be positive", "solve", "--mesh", folder / "mesh.xdmf", "--tag", "7=0")
    with io.XDMFFile(COMM, folder / "bare.xdmf", "w") as file:
        file.write_mesh(msh)
    fails(1, "has no cells with tags", "solve", "--mesh", folder / "bare.xdmf", "--tag", "7=1")


MSH = """$MeshFormat
2.2 0 8
$EndMeshFormat
$Nodes
{num_nodes}
{nodes}
$EndNodes
$Elements
{num_cells}
{cells}
$EndElements
"""


@pytest.fixture
def plate(folder):
    """A file of Gmsh: squares with the tags above; nodes are numbered from 11 on."""
    if not gmsh_loads():
        pytest.skip("needs gmsh: pip install gmsh")
    nodes = [f"{11 + i + 17 * j} {i / 8} {j / 8} 0" for j in range(9) for i in range(17)]
    corners = [11 + i + 17 * j for j in range(8) for i in range(16)]
    cells = [
        f"{k + 1} 3 2 {t} {t} {c} {c + 1} {c + 18} {c + 17}"
        for k, c in enumerate(corners)
        for t in [7 if (c - 11) % 17 < 4 else 9]
    ]
    text = MSH.format(
        num_nodes=len(nodes), nodes="\n".join(nodes), num_cells=len(cells), cells="\n".join(cells)
    )
    if ROOT:
        (folder / "plate.msh").write_text(text)
        (folder / "tilted.msh").write_text(text.replace("0.125 0\n", "0.125 1\n"))
        (folder / "words.msh").write_text("a mesh")
    COMM.barrier()
    return folder / "plate.msh"


def test_meshes_of_gmsh(plate, folder):
    found = solve("--mesh", plate, *HALVES)
    is_right(found)
    assert found["mesh"]["cells"] == 128
    rock = write(folder / "rock.npy", np.full((4, 4), 2.0))
    found = solve(rock, "--mesh", plate, "--modes", 1, "--boxes", "4,2")
    assert found["solution"]["energy"] == pytest.approx(1.0)
    fails(1, "in the plane z = 0", "solve", "--mesh", folder / "tilted.msh", *HALVES)
    fails(1, "not a mesh that Gmsh reads", "solve", "--mesh", folder / "words.msh", *HALVES)


@pytest.mark.serial
def test_without_gmsh_it_says_what_to_install(folder, monkeypatch):
    (folder / "plate.msh").write_text(MSH)
    monkeypatch.setitem(sys.modules, "gmsh", None)
    fails(1, "pip install gmsh", "solve", "--mesh", folder / "plate.msh", *HALVES)


@pytest.mark.slow
def test_a_solution_that_leaves_the_range_of_its_boundary_values():
    channels = ("--generator", "channels", "--cells", 40, "--boxes", 4, "--modes", 2)
    channels += ("--basis", "computed")
    found = solve(*channels)
    beyond = max(-found["solution"]["min"], found["solution"]["max"] - 1)
    assert beyond > 1e-3
    (said,) = found["warnings"]
    assert "range of its boundary values, 0 to 1, by" in said
    assert float(re.search(r"by ([\d.e-]+),", said)[1]) == pytest.approx(beyond, rel=0.05)
    for options in (("--source", 1), ("--flux", "top=1")):
        assert solve(*channels, *options)["warnings"] == []
    assert solve(*channels, "--modes", 60)["warnings"] == []


# ---- files ----


@pytest.mark.slow
def test_files_hold_the_solution(folder):
    pytest.importorskip("matplotlib")
    names = ["flow.xdmf", "flow.png"] + ["flow.bp"] * has_adios2
    outputs = [part for name in names for part in ("-o", folder / name)]
    found = solve(
        *("--generator", "inclusions", "--cells", 12, "--boxes", 2, "--modes", 3, "--compare"),
        *("--degree", 2, "--guard", *outputs),
    )
    assert set(found["files"]) == {str(folder / name) for name in [*names, "flow.h5"]}
    assert all(Path(name).exists() for name in found["files"])
    if ROOT:
        with h5py.File(folder / "flow.h5") as file:
            values = {k: np.array(v["0"]) for k, v in file["Function"].items()}
        assert set(values) == {"u", "fine", "error", "kappa"}
        assert set(np.unique(values["kappa"])) == {1.0, 1000.0}
        assert len(values["u"]) == 13**2
        difference = np.abs(values["u"] - values["fine"])
        assert values["error"] == pytest.approx(difference, abs=1e-12)
        assert values["u"].max() <= found["solution"]["max"] + 1e-12
        assert (folder / "flow.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_pictures_in_3d(folder):
    pytest.importorskip("matplotlib")
    options = ("--dim", 3, "--cells", 6, "--boxes", 2, "--modes", 2, "--guard")
    found = solve("--generator", "inclusions", *options, "-o", folder / "flow.pdf")
    assert (folder / "flow.pdf").read_bytes().startswith(b"%PDF")
    assert found["mesh"]["cell"] == "hexahedron"


# ---- text ----


@pytest.mark.slow
def test_text_says_what_json_says():
    options = ("--generator", "inclusions", "--cells", 12, "--boxes", 2, "--modes", 3, "--compare")
    found, result = solve(*options), call("solve", *options)
    assert result.exit_code == 0
    if ROOT:
        rows = dict(line.split("  ", 1) for line in result.stdout.splitlines())
        rows = {name.strip(): text.strip() for name, text in rows.items()}
        assert rows["coarse space"] == "2 x 2 boxes, 9 neighbourhoods, 27 dofs"
        assert rows["relative errors"].startswith(f"L2 {found['errors']['L2']:.3g}, energy")
        assert f"{COMM.size} rank" in rows["mesh"]
    else:
        assert result.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "match", "arguments"),
    [
        (2, "got none; as in msnn solve --generator channels", ""),
        (2, "got several", "a.npy --generator channels"),
        (2, "got several", "--mesh a.msh --tag 1=1 --generator channels"),
        (2, "got none", "--tag 1=1"),
        (2, "There is no family 'lakes'", "--generator lakes"),
        (2, "--parameter depth is none of channels", "--generator channels -p depth=3"),
        (2, "--parameter must be KEY=VALUE", "--generator channels -p depth"),
        (2, "--parameter axis must be a finite number", "--generator channels -p axis=up"),
        (1, "axis must be from 0 to 1", "--generator channels -p axis=2"),
        (1, "contrast must be a finite number", "--generator channels --contrast 0.5"),
        (1, "There is no file or directory none.npy", "none.npy"),
        (2, "--cells must be a positive integer", "--generator channels --cells 0"),
        (2, "--cells must be a positive integer", "--generator channels --cells 3,4,5"),
        (2, "--size must be a positive number", "--generator channels --size wide"),
        (2, "--cell must be quadrilateral or triangle", "--generator channels --cell hexahedron"),
        (2, "SIDE=VALUE with a side of left", "--generator channels --dirichlet up=1"),
        (2, "--dirichlet left must be a finite", "--generator channels --dirichlet left=one"),
        (2, "--flux must be SIDE=VALUE", "--generator channels --flux left"),
        (2, "--basis must be computed", "--generator channels --basis guessed"),
        (1, "There is no model file best", "--generator channels --basis learned:best"),
        (
            2,
            "--threshold is for --basis computed or filtered",
            "--generator channels --threshold 1 --guard",
        ),
        (2, "--tolerance is for --basis harmonic", "--generator channels --tolerance 1 --guard"),
        (1, "tolerance must be a number between", "--generator channels --cells 4 --tolerance 2"),
        (2, "--output must end in", "--generator channels -o flow.vtk"),
        (1, "There is no folder nowhere", "--generator channels -o nowhere/flow.png"),
        (1, "finer than the mesh", "--generator channels --cells 4 --boxes 5"),
        (1, "--compare needs", "--generator channels --cells 4 --dirichlet none --compare"),
    ],
)
def test_mistakes_are_sentences(code, match, arguments):
    if "learned" in arguments:
        pytest.importorskip("torch")
    fails(code, match, "solve", *shlex.split(arguments))


# ---- the documentation ----

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"


def gmsh_loads():
    """Whether files of Gmsh can be read here."""
    try:
        import gmsh  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


@pytest.mark.serial
def test_commands_of_the_documentation_run(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    if not PAGE.exists():
        pytest.skip("there is no checkout with documentation")
    page = PAGE.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    told = {}
    blocks = re.findall(r"^```sh\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", page, re.DOTALL | re.M)
    for text, stated in blocks:
        for line in text.splitlines():
            words = shlex.split(line)
            words = words[3:] if words[0] == "mpiexec" else words
            assert words[0] == "msnn"
            if "plate.msh" in words and not gmsh_loads():
                continue
            result = call(*words[1:])
            assert result.exit_code == 0, (line, result.output)
            told[line] = result.stdout, stated
    assert len(told) == 9 + gmsh_loads()
    assert Path("channels.png").exists()
    for printed, stated in told.values():
        # But for times, and what depends on the version of a library.
        if stated:
            lines = [[line.split() for line in text.splitlines()] for text in (printed, stated)]
            assert [words[0] for words in lines[0]] == [words[0] for words in lines[1]]
    errors = next(t for t, _ in told.values() if "relative errors" in t)
    (row,) = re.findall(r"^relative errors .*$", errors, re.M)
    (stated,) = re.findall(r"^relative errors .*$", page, re.M)
    numbers = [[float(n) for n in re.findall(r" (0\.\d+)", text)] for text in (row, stated)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.02)
