# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Settings of Sphinx for the documentation; ``make docs`` runs it.

What is made at build time (demos from their scripts, tables from results, thumbnails) is in
``extension.py`` beside this file.
"""

import importlib.util
import os
import sys
from importlib.metadata import metadata
from pathlib import Path

DOCS = Path(__file__).resolve().parent
BUILD = DOCS / "_build"
sys.path.insert(0, str(DOCS))

from dolfinx_msnn import __version__

project = "dolfinx_msnn"
author = "The dolfinx_msnn developers"
project_copyright = "2026, The dolfinx_msnn developers"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    # Copies MathJax beside the pages, so that they need no network.
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "extension",
]
exclude_patterns = [
    "_build",
    "templates",
    "images/README.md",
    *(path.name for path in DOCS.glob("*.py")),
]
exclude_patterns += ["demos/output", "**/__pycache__"]

# Markdown and notebooks
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Would be written for a newer MathJax than the one that is copied.
myst_update_mathjax = False
nb_custom_formats = {".py": "extension.read_demo"}
nb_execution_mode = os.environ.get("EXECUTE") or "cache"
nb_execution_cache_path = str(BUILD / "cache")
nb_execution_timeout = 900
nb_execution_show_tb = True
nb_execution_allow_errors = False
nb_merge_streams = True
# There are no widgets, and their scripts would come from a network.
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "image/png", 0)]
if importlib.util.find_spec("torch") is None:
    nb_execution_excludepatterns = ["demos/demo_train_your_own.py"]
    autodoc_mock_imports = ["torch"]

# Reference
autosummary_generate = True
templates_path = ["templates"]
# File systems that take no notice of capitals.
autosummary_filename_map = {
    f"dolfinx_msnn.fields.{name}": f"dolfinx_msnn.fields.{name}-function"
    for name in ("channels", "inclusions")
}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

# Links to the pages of others need a network when the pages are built: INTERSPHINX=1 make docs.
if os.environ.get("INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "scipy": ("https://docs.scipy.org/doc/scipy", None),
    "dolfinx": ("https://docs.fenicsproject.org/dolfinx/main/python", None),
    "petsc4py": ("https://petsc.org/release/petsc4py", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
}

# Pages
html_theme = "furo"
html_title = f"dolfinx_msnn {version}"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options: dict[str, object] = {"navigation_with_keys": True}
# The address of the repository, once it has one.
urls = dict(u.split(", ", 1) for u in metadata("dolfinx-msnn").get_all("Project-URL") or [])
if ".example" not in urls.get("Source", ".example"):
    html_theme_options["footer_icons"] = [
        {"name": "Source", "url": urls["Source"], "html": "Source", "class": ""}
    ]
pygments_style = "friendly"
pygments_dark_style = "monokai"
