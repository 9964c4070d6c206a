# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What the documentation needs beyond Sphinx: demos as notebooks, links, gallery, docstrings."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from measured import RESULTS, Measured, Result, earlier
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
OUTPUT = DOCS / "_build" / "output"
NOTEBOOK = "---\nfile_format: mystnb\n"  # how pages with cells begin
WIDTH = 480  # pixels of a thumbnail


def read_demo(text: str) -> Any:
    """Read a demo in jupytext's percent format as a notebook for the Python that builds."""
    import jupytext

    notebook = jupytext.reads(text, fmt="py:percent")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"\A# Copyright.*\n# SPDX-License-Identifier.*\n", "", cell.source)
    name = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["kernelspec"] = name
    return notebook


def package_hash() -> str:
    """Hash of the package's sources: what was executed with others is executed again."""
    digest = hashlib.sha256((FIRST + LAST).encode())
    for path in sorted((ROOT / "dolfinx_msnn").rglob("*")):
        if path.suffix in (".py", ".c", ".safetensors"):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


FIRST = """# %% tags=["remove-cell"]
# Package {package}. Pictures of this page go to a folder of their own.
import os
os.environ["MSNN_OUTPUT"] = os.path.relpath(os.environ["MSNN_DOCS_OUTPUT"] + "/{name}")

"""
LAST = """

# %% tags=["remove-input"]
from pathlib import Path

import IPython.display

for _picture in sorted(Path(os.environ["MSNN_OUTPUT"]).glob("*.png")):
    IPython.display.display(IPython.display.Image(_picture))
"""


def change_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Prepare demos and notebooks, and point links out of ``docs`` at what the site has."""
    text = source[0]
    if docname.startswith("demos/"):
        first = FIRST.format(package=app.env.msnn_package, name=docname.split("/")[1])
        text = text.replace("\n# %%", "\n" + first + "# %%", 1) + LAST
        # A name for links: as a path, through the link to the folder, it is not found.
        label = f"# ({docname.split('/')[1]})=\n"
        text = text.replace("# %% [markdown]\n", "# %% [markdown]\n" + label, 1)
    elif text.startswith(NOTEBOOK):
        text += f'\n\n```{{code-cell}}\n:tags: [remove-cell]\n"{app.env.msnn_package}"\n```\n'
    if docname == "index":
        # Pages that not every checkout has.
        for page in re.findall(r"^([\w-]+)$", text, re.MULTILINE):
            if page not in app.env.found_docs:
                text = text.replace(f"\n{page}\n", "\n")
    if docname == "results":
        text += "\n".join(result_sections())
    for pattern, new in (
        (r"\]\((?:\.\./)?benchmarks/results/([\w-]+)\.md\)", r"](#results-\1)"),
        (r"\]\((?:\.\./)?benchmarks(?:/results|/README\.md)?/?\)", "](/results.md)"),
        (r"\]\((?:\.\./)?demos/(demo_\w+)\.py\)", r"](#\1)"),
        (r"\]\(docs/([\w-]+\.md)\)", r"](/\1)"),
        (r"\]\((?:\.\./)?CITATION\.cff\)", "](/cite.md)"),
    ):
        text = re.sub(pattern, new, text)
    source[0] = text


TITLES = {
    "accuracy": "Accuracy",
    "bases": "Bases",
    "contrast": "Contrast",
    "data": "Fields of training",
    "growth": "Growth",
    "guard": "Guard",
    "learned": "Functions learned from solutions",
    "losses": "Losses",
    "map": "Sweeps and time at equal error, over the width of a neighbourhood",
    "operators": "Networks in place of a solver",
    "parametric": "Many coefficients on one space",
    "resolution": "Meshes and coarse grids",
    "richards": "Richards problems",
    "rock": "SPE10",
    "solvers": "Coarse spaces and fine solvers",
    "spaces": "Eigenmodes and harmonic functions at equal size",
    "space": "Time and memory of a space",
    "time": "Time of the basis, and of training",
    "transient": "Many time steps in one space",
    "trust": "Bounds and adaptive enrichment",
    "two-level": "Two-level preconditioner",
}


def result_sections() -> Iterator[str]:
    """A section for each file of results, in MyST."""
    for path in sorted(RESULTS.glob("*.md")):
        text = path.read_text(encoding="utf-8").strip()
        # Their headings, if any, come below the section's.
        text = re.sub(r"^# .*\n+", "", text)
        text = re.sub(r"^#", "##", text, flags=re.MULTILINE)
        title = TITLES.get(path.stem, path.stem.capitalize())
        said = f"\n*{said}*\n" if (said := earlier(path.stem)) else ""
        yield f"\n\n(results-{path.stem})=\n## {title}\n\n{text}\n{said}"


def demos(env: Any) -> list[Path]:
    """The demos that have a page."""
    return [DOCS / f"{name}.py" for name in sorted(env.found_docs) if name.startswith("demos/")]


#: The demos from easy to difficult, with what each is about.
GALLERY = {
    "your_mesh": "A mesh of Gmsh, a coefficient from its tags, files for ParaView. Begin here.",
    "spe10": "Each step explained: forms, coarse grid, modes, errors and spectra.",
    "accuracy": "Eigenmodes, harmonic functions, boxes that overlap: errors over size.",
    "unstructured": "Triangles and holes under coarse boxes, or under a coarse mesh.",
    "elasticity": "Displacements: vector spaces and rigid motions.",
    "learned_basis": "Computed, filtered and predicted bases on the same problem.",
    "monte_carlo": "A space for many samples of a random coefficient.",
    "time_dependent": "Implicit time steps in the coarse space.",
    "moving_front": "Only what a front has changed is computed anew.",
    "richards": "Newton's method in the coarse space, for unsaturated flow.",
    "poroelasticity": "Two coupled fields, each with a space of its own.",
    "trust": "A guard, bounds of the error, and functions added where they are needed.",
    "train_your_own": "Samples, training and use of a network for one material.",
    "bring_your_own": "A network of another origin behind the same filter.",
}


class Gallery(SphinxDirective):
    """``{gallery}``: every demo with its title, a line and a small picture, the easy ones first."""

    def run(self) -> list[nodes.Node]:
        """Write the grid as HTML; the pictures follow when all demos have run."""
        found = {path.stem.removeprefix("demo_"): path for path in demos(self.env)}
        if set(found) != set(GALLERY):
            raise self.error(f"GALLERY has not the demos: {set(found) ^ set(GALLERY)}")
        cards = []
        for name, line in GALLERY.items():
            path = found[name]
            text = path.read_text(encoding="utf-8")
            self.env.note_dependency(str(path))
            title = re.search(r"^# # (.*)$", text, re.MULTILINE)
            cards.append(
                f'<a class="card" href="demos/{path.stem}.html">'
                f'<img src="_static/thumbnails/{path.stem}.png" alt="" loading="lazy">'
                f"<span>{escape(title[1] if title else name)}</span><p>{escape(line)}</p></a>"
            )
        return [nodes.raw("", f'<div class="gallery">{"".join(cards)}</div>', format="html")]


def prepare_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]
) -> None:
    """Mark code in the docstrings of modules, and keep what is no type from looking like one.

    Napoleon takes what stands before a colon in the first line of a property, or of what a
    function returns, for a type. Our types are in the annotations: a sign that looks like a colon
    takes its place.
    """
    for k, line in enumerate(lines):
        after = k > 0 and lines[k - 1].strip() in ("Returns:", "Yields:")
        if after or (k == 0 and what in ("property", "attribute")):
            lines[k] = re.sub(r"(?<=\w): ", "\u2236 ", line)
        # An absolute value, not the name of a substitution; but for code.
        if not (what == "module" and line.startswith("    ")):
            lines[k] = re.sub(
                r"``.*?``|\|", lambda found: r"\|" if found[0] == "|" else found[0], lines[k]
            )
    if what != "module":
        return
    for k in range(len(lines) - 1, 0, -1):
        before = lines[k - 2] if k > 1 else ""
        if lines[k].startswith("    ") and not lines[k - 1] and re.match(r"\w", before):
            end = next((i for i in range(k, len(lines)) if re.match(r"\S", lines[i])), len(lines))
            try:
                compile("if 1:\n" + "\n".join(lines[k:end]), name, "exec")
            except SyntaxError:
                language = "text"
            else:
                language = "python"
            lines[k:k] = [f".. code-block:: {language}", ""]


def skip_fields(
    app: Sphinx, what: str, name: str, thing: object, skip: bool, options: Any
) -> bool | None:
    """Leave out fields of named tuples, which their class describes."""
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field") else None


def write_thumbnails(app: Sphinx, exception: Exception | None) -> None:
    """Make a small picture of the first that each demo saved, or a plain one without."""
    if exception is not None or app.builder.format != "html":
        return
    from PIL import Image

    folder = Path(app.outdir) / "_static" / "thumbnails"
    folder.mkdir(parents=True, exist_ok=True)
    for path in demos(app.env):
        picture = Image.new("RGB", (WIDTH, WIDTH * 2 // 3), "#e8eaed")
        found = sorted((OUTPUT / path.stem).glob("*.png"))
        if found:
            image = Image.open(found[0]).convert("RGB")
            image.thumbnail((2 * WIDTH, WIDTH * 2 // 3))
            picture = image
        picture.save(folder / f"{path.stem}.png", optimize=True)


def set_environment(app: Sphinx, env: Any, docnames: list[str]) -> None:
    """Set what the demos see, before any is read."""
    env.msnn_package = package_hash()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    os.environ["MSNN_DOCS_OUTPUT"] = str(OUTPUT)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["IPYTHONDIR"] = str(DOCS / "_build" / "ipython")
    # The demos are run by the Python that builds, whatever kernels there are beside it.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if app.config.nb_execution_mode == "force":
        shutil.rmtree(app.config.nb_execution_cache_path, ignore_errors=True)


def outdated(app: Sphinx, env: Any, *names: set[str]) -> list[str]:
    """Pages that depend on which other files there are, and on what is executed for them."""
    listed = {"index", "gallery", "results"}
    if getattr(env, "msnn_package", None) != package_hash():
        listed |= {name for name in env.found_docs if name.startswith("demos/")}
        listed |= {
            path.stem
            for path in DOCS.glob("*.md")
            if path.read_text(encoding="utf-8").startswith(NOTEBOOK)
        }
    return sorted(listed & set(env.found_docs))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of it."""
    app.add_directive("measured", Measured)
    app.add_directive("result", Result)
    app.add_directive("gallery", Gallery)
    app.connect("env-before-read-docs", set_environment)
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", change_source)
    # Before Napoleon.
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("build-finished", write_thumbnails)
    return {"parallel_read_safe": False, "parallel_write_safe": False}
