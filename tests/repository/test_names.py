# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Names: public import paths keep working, and what the pages call by name is there."""

import importlib
import importlib.util
import re
from pathlib import Path

from mpi4py import MPI  # noqa: F401  # before DOLFINx

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dolfinx_msnn"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
PAGES["README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")
TORCH = importlib.util.find_spec("torch") is not None

#: Import paths that pages have shown: module (in the package), and names in it. They stay.
DOCUMENTED = {
    "": """
        CoarseGrid FilteredBasis GuardedBasis LearnedBasis LocalBasis LocalModes LocalProblem
        MultiscaleFunctionSpace SpectralBasis TwoLevelPreconditioner __version__ fields
        multiscale_functionspace
    """,
    "bases": """
        BasisNeeds FilterReport FilteredBasis GuardReport GuardedBasis LocalBasis LocalModes
        SpectralBasis guard_table
    """,
    "bases.lattice": "Pose interpolation network_input",
    "bases.learned": "LearnedBasis LearnedReport",
    "estimate": """
        AdaptiveSolution ErrorBound FineErrorBound LocalIndicators Preconditioner Round
        SchwarzPreconditioner SubdomainSolvers adapt bound_error bound_fine_error enrich
        local_energies local_indicators residual schwarz_lambda_min stability_constants
    """,
    "fields": """
        Channels Field Inclusions LatticeField LogNormal TwoPhase channels from_array inclusions
        log_normal read_image_stack read_spe10 two_phase
    """,
    "nn.config": "Config Data Family Network Problem Training",
    "nn.dataset": "Dataset Group generate load",
    "nn.ffno": "FFNO",
    "nn.losses": "basis_l2 energy rayleigh sal sal_pr",
    "nn.model": "Model ModelCard export_model load_model read_card save_model",
    "nn.train": "Result train",
    "petsc": """
        BDF LinearProblem NonlinearProblem PicardProblem TransientProblem assemble_coarse_matrix
        assemble_coarse_vector create_coarse_matrix create_coarse_solver
    """,
    "plot": """
        COLOURS CellValues NodalValues Slice basis_function draw_basis_functions draw_cells
        draw_coarse_grid draw_coefficient draw_error draw_function draw_guard draw_neighbourhood
        draw_spectra gather_cells gather_nodes gather_reports gather_slice gather_spectra
        pyvista_works render
    """,
    "pretrained": "pretrained_models",
    "richards": "ConstitutiveLaw Haverkamp VanGenuchtenMualem",
}


def find(path: str) -> None:
    """Import what a dotted path leads to: modules, then attributes; fields of dataclasses, too.

    Raises:
        ImportError: If there is no such thing, or a library is missing.
    """
    head, *rest = path.split(".")
    thing: object = importlib.import_module(head)
    for k, name in enumerate(rest):
        if hasattr(thing, name):
            thing = getattr(thing, name)
        elif not isinstance(thing, type):
            thing = importlib.import_module(".".join([head, *rest[: k + 1]]))
        elif name not in {
            key for kind in thing.__mro__ for key in vars(kind).get("__annotations__", ())
        }:
            raise ImportError(f"{thing.__name__} has no attribute {name}")


@pytest.mark.serial
@pytest.mark.parametrize("module", DOCUMENTED)
def test_documented_import_paths_stay(module: str) -> None:
    for name in DOCUMENTED[module].split():
        try:
            find(f"dolfinx_msnn.{module}.{name}".replace("..", "."))
        except ImportError as error:
            if TORCH or error.name != "torch":
                raise


def code(text: str) -> list[str]:
    """What stands between single backquotes, blocks left out."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", bare)


ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
#: ``local.ghosts``, ``dolfinx_msnn.petsc.LinearProblem``, ``LocalProblem.chi``, with or without ().
DOTTED = re.compile(r"(?:dolfinx_msnn|msnn|[A-Za-z_]\w*)(?:\.[A-Za-z_]\w*)+(?:\(\))?")


def resolve(name: str) -> str | None:
    """The whole path of a name on a page if it is one of ours."""
    first, _, rest = name.removesuffix("()").partition(".")
    if first in ("dolfinx_msnn", "msnn"):
        return f"dolfinx_msnn.{rest}"
    if first in ROOMS or (PACKAGE / f"{first}.py").exists():
        # Files such as plot.png are none.
        return None if rest in ("py", "md", "c") else f"dolfinx_msnn.{first}.{rest}"
    for module in ("", "petsc", "bases"):
        if first in DOCUMENTED[module].split():
            return f"dolfinx_msnn.{module}.{first}.{rest}".replace("..", ".")
    return None


@pytest.mark.serial
@pytest.mark.parametrize("page", PAGES)
def test_names_on_the_pages_are_there(page: str) -> None:
    named = {text for text in code(PAGES[page]) if DOTTED.fullmatch(text)}
    for text in sorted(named):
        path = resolve(text)
        if path is None:
            continue
        try:
            find(path)
        except (AttributeError, ImportError) as error:
            if not TORCH and getattr(error, "name", None) == "torch":
                continue
            raise AssertionError(f"{page} speaks of {text}, which is not there") from error


@pytest.mark.serial
@pytest.mark.parametrize("page", PAGES)
def test_files_on_the_pages_are_there(page: str) -> None:
    folders = "benchmarks|configs|demos|docker|docs|dolfinx_msnn|tests"
    for text in code(PAGES[page]):
        if re.fullmatch(rf"(?:{folders})/[\w./*-]*", text) and "output" not in text:
            found = list(ROOT.glob(text.rstrip("/"))) or (ROOT / text).exists()
            assert found, (page, text)


@pytest.mark.serial
def test_reference_tells_where_to_import_from() -> None:
    rows = re.findall(r"^\| (`dolfinx_msnn.*?) \|", PAGES["reference.md"], re.MULTILINE)
    told = re.findall(r"`dolfinx_msnn\.?([\w.]*)`", " ".join(rows))
    assert sorted(told) == sorted(DOCUMENTED)


@pytest.mark.serial
def test_architecture_names_every_room() -> None:
    text = PAGES["architecture.md"]
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(set(ROOMS) - {"pretrained"})
    assert len({name for name in code(text) if DOTTED.fullmatch(name) and resolve(name)}) > 40
