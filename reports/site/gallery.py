"""The gallery: every figure once, with the call that draws it in a notebook."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from types import ModuleType

from reports.base.formatting import listed
from reports.figures import Drawing
from reports.site import layout
from reports.site.page import FigurePage, Part, Picture, Section, render, slug

IMPORTS = (
    "from pathlib import Path",
    "from reports.analyse.compare.comparison import compare",
    "from reports.analyse.compare.sides import Side",
    "from reports.read.importance_run import load as load_tables",
    "from reports.read.load import load",
    "from reports.read.runtimes_run import load as load_runtimes",
    "from reports.draw.style import theme",
    "",
)


@dataclass(frozen=True)
class Exhibit:
    """One figure of the gallery.

    Attributes:
        anchor: its id in the page.
        about: the first line of the figure module's docstring.
        call: the Python code that draws it.
        picture: a picture of it on another page, which lies in `folder` of the site's directory.
    """

    anchor: str
    title: str
    about: str
    call: str
    picture: Picture
    folder: str


@dataclass(frozen=True, eq=False)
class Gallery:
    """The page of all figures.

    Attributes:
        absent: a sentence that names the figures which none of the pages has; "" if there are none.
        preamble: the Python code that runs before all calls: imports, and reading the first page's run of each kind.
    """

    exhibits: tuple[Exhibit, ...]
    absent: str
    preamble: str
    path: str = "gallery/index.html"

    def html(self) -> str:
        return render("gallery.html", page=self, root="../", title="Every figure, and its call")


def gallery(*kinds: Sequence[FigurePage]) -> Gallery | None:
    """The gallery of the figures on these pages, each module's first picture; None if no page has a picture.

    Args:
        kinds: a sequence of pages for each kind of page: of runs, of each experiment, of comparisons.
    """
    exhibits: dict[str, Exhibit] = {}
    first = [pages[0] for pages in kinds if pages]
    for page in chain.from_iterable(kinds):
        before = "" if page in first else f"{page.source}\n"
        for section, part in _drawn(page.sections):
            if part.module not in exhibits:
                exhibits[part.module] = _exhibit(section, part, page.folder, before)
    every: list[Drawing] = [
        *layout.of_run().values(), *layout.of_importance_run().values(), *layout.of_runtimes_run().values(),
        *layout.of_comparison().values(),
    ]  # fmt: skip
    missing = [module.TITLE for module in every if module.__name__ not in exhibits]
    absent = f"Not drawn for any of these runs: {listed(missing)}." if missing else ""
    preamble = "\n".join((*IMPORTS, *(page.source for page in first)))
    return Gallery(tuple(exhibits.values()), absent, preamble) if exhibits else None


def _drawn(sections: Sequence[Section]) -> Iterator[tuple[Section, Part]]:
    return ((section, part) for section in sections for part in section.parts if part.pictures)


def _exhibit(section: Section, part: Part, folder: str, before: str) -> Exhibit:
    """The exhibit of a figure module: `part` of a `section` of the page that lies in `folder`.

    Args:
        before: Python code that must run before the call and reads what the figure is drawn from; "" if the gallery's
            preamble does so.
    """
    package, _, name = part.module.rpartition(".")
    return Exhibit(
        anchor=slug(part.module.removeprefix("reports.")),
        title=part.title,
        about=_first_line(sys.modules[part.module]),
        call=f"""{before}from {package} import {name}

panel = next({name}.panels({section.asked}))
with theme():
    figure = {name}.draw(panel.frame)""",
        picture=part.pictures[0],
        folder=folder,
    )


def _first_line(module: ModuleType) -> str:
    return (inspect.getdoc(module) or "").partition("\n")[0]
