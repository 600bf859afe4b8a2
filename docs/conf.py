"""The documentation site, `nox -s docs`: the Markdown files of docs/ and of the repository's top, as they stand."""

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parent.parent))

import mha
from docs.criterion_directive import MEASURED, all_criteria, said_by_the_code, said_by_the_measurements

project, author, release = "mha", "The mha authors", mha.__version__
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/criteria/*.md", "docs/reference/*.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
CRITERIA = Path(mha.__file__).parent / "importance" / "criteria"
html_theme = "furo"
html_title = "mha"
html_show_copyright = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
default_role = "code"
myst_heading_anchors = 3
myst_url_schemes = {"https": None, "http": None, "site": "{{path}}"}
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


def linked_to_reports(_app: Any, name: str, source: list[str]) -> None:
    """Pages of published reports are no part of this site: they are its neighbours (nox -s publish docs)."""
    up = "../" * (name.count("/") + 1)
    source[0] = re.sub(r"\]\((?:\.\./)*reports/published/((?:[^)]*/)?index\.html)\)", rf"](site:{up}\1)", source[0])


class CriterionDirective(SphinxDirective):
    """What the code says of the criterion that is named; of all criteria, if none is."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        for file in (MEASURED, MEASURED.with_name("criterion_directive.py"), *CRITERIA.glob("*.py")):
            self.env.note_dependency(str(file))  # a page is made again when what it tells of has changed
        return self.parse_text_to_nodes(self.text(), allow_section_headings=False)

    def text(self) -> str:
        return said_by_the_code(self.arguments[0]) if self.arguments else all_criteria()


class MeasuredDirective(CriterionDirective):
    """What was measured of the criterion that is named."""

    def text(self) -> str:
        return said_by_the_measurements(self.arguments[0], MEASURED.read_text(encoding="utf-8"))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_directive("criterion", CriterionDirective)
    app.add_directive("criterion-measured", MeasuredDirective)
    app.connect("source-read", linked_to_reports)
    app.connect("autodoc-process-docstring", as_restructured, priority=400)  # before napoleon
