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
    "from reports.draw.style import theme",
    "",
)


@dataclass(frozen=True)
class Exhibit:
    """One figure: its title, the call that draws it, and a picture of it from the page in `folder`."""

    anchor: str
    title: str
    about: str
    call: str
    picture: Picture
    folder: str


@dataclass(frozen=True, eq=False)
class Gallery:
    """The page of all figures."""

    exhibits: tuple[Exhibit, ...]
    absent: str
    preamble: str
    path: str = "gallery/index.html"

    def html(self) -> str:
        return render("gallery.html", page=self, root="../", title="Every figure, and its call")


def gallery(*kinds: Sequence[FigurePage]) -> Gallery | None:
    """The gallery of all figures on these pages, a sequence for each kind of page; None where they have none."""
    exhibits: dict[str, Exhibit] = {}
    first = [pages[0] for pages in kinds if pages]
    for page in chain.from_iterable(kinds):
        before = "" if page in first else f"{page.source}\n"
        for section, part in _drawn(page.sections):
            if part.module not in exhibits:
                exhibits[part.module] = _exhibit(section, part, page.folder, before)
    every: list[Drawing] = [
        *layout.of_run().values(), *layout.of_importance_run().values(), *layout.of_comparison().values()
    ]  # fmt: skip
    missing = [module.TITLE for module in every if module.__name__ not in exhibits]
    absent = f"Not drawn for any of these runs: {listed(missing)}." if missing else ""
    preamble = "\n".join((*IMPORTS, *(page.source for page in first)))
    return Gallery(tuple(exhibits.values()), absent, preamble) if exhibits else None


def _drawn(sections: Sequence[Section]) -> Iterator[tuple[Section, Part]]:
    return ((section, part) for section in sections for part in section.parts if part.pictures)


def _exhibit(section: Section, part: Part, folder: str, before: str) -> Exhibit:
    """The exhibit of one part of a page; `before` is the code that must run before the call that draws it."""
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
