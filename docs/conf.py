"""The documentation site, `nox -s docs`: the Markdown files of docs/ and of the repository's top, as they stand."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import mha
from docs.criterion_directive import MEASURED, said_by_the_code, said_by_the_measurements

project, author, release = "mha", "The mha authors", mha.__version__
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/reference/*.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "mha"
html_theme_options = {"source_directory": "docs/"}
default_role = "code"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True  # else attributes of dataclasses are described twice
suppress_warnings = ["myst.xref_missing"]


def as_restructured(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Stars and bars in our docstrings are names of arguments and absolute values, no markup."""
    lines[:] = [line if ">>>" in line or "``" in line else re.sub(r"(?<![`\\])([*|])", r"\\\1", line) for line in lines]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_restructured, priority=400)  # before napoleon
