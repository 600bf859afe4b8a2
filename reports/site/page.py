"""The parts that pages are made of, and how they become HTML; run_page.py and its like fill them."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports.analyse.texts import Texts
from reports.base.table_cells import Summary
from reports.draw.drawing import Drawn, Studio
from reports.figures import Drawing, Panel, limited

BUDGET = 4_500_000  # bytes of all figures of a page, SVG and PNG; with its text it stays below 5 MB
TEMPLATE_IDS = ("main", "found", "data", "environment", "failed")
Module = TypeVar("Module", bound=Drawing)
PHONE = ("accuracy_latency", "kept_accuracy")  # drawn again as narrow as a phone


@dataclass(eq=False)
class Picture:
    """A figure that is drawn, or is going to be.

    Attributes:
        anchor: its id in the page, and the name of its files in figures/.
        place: the index of its figure module among those of the section. Where there is no room for all pictures of a
            page, those with the largest are left out.
        title: what the figure shows, such as the task and the setting.
        drawn: the dimensions and the bytes of its files, once they are drawn.
        variant: the same of a narrow figure for phones, in files named ANCHOR-narrow; None where there is none.
        tables: tables that the page shows below it.
        kept: False where the page has no room for it.
    """

    anchor: str
    place: int
    title: str
    caption: str
    drawn: Future[Drawn]
    variant: Future[Drawn] | None = None
    tables: tuple[Summary, ...] = ()
    kept: bool = True

    @property
    def width(self) -> int:
        return self.drawn.result().width

    @property
    def height(self) -> int:
        return self.drawn.result().height

    @property
    def files(self) -> list[str]:
        """The names of its files, .svg and .png, those of the variant among them."""
        stems = (self.anchor, f"{self.anchor}-narrow") if self.variant else (self.anchor,)
        return [f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")]

    @property
    def size(self) -> int:
        """The number of bytes of all its files together; waits until they are drawn."""
        return self.drawn.result().size + (self.variant.result().size if self.variant else 0)


@dataclass(frozen=True, eq=False)
class Part:
    """What a section has of one figure module: its panels as pictures, or the sentence `absent` if there are none.

    Attributes:
        module: the module's dotted name.
        title: the heading of its panels, or else the module's TITLE.
        more: the number of panels that were left out since a figure has too many.
    """

    module: str
    title: str
    anchor: str
    pictures: tuple[Picture, ...]
    absent: str
    more: int = 0  # panels that there was no room for


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page with a heading of its own, such as a task or the bare layer.

    Attributes:
        asked: the arguments of `panels` for the figures in it, as Python code, for the gallery.
        about: the text below the heading; "" for none.
        tables: shown above the figures.
        parts: its figures.
        texts: what models write for prompts; None where that is not known.
        appendix: tables for looking things up.
        absent: the sentence that stands in it where there is nothing.
    """

    title: str
    anchor: str
    asked: str
    about: str = ""
    tables: tuple[Summary, ...] = ()
    parts: tuple[Part, ...] = ()
    texts: Texts | None = None
    appendix: tuple[Summary, ...] = ()
    absent: str = "Nothing of this was measured in this run."

    @property
    def is_empty(self) -> bool:
        return not self.tables and not any(part.pictures for part in self.parts)


@dataclass
class Slugs:
    """Makes names of anchors and files from any text, and gives each name only once."""

    taken: set[str] = field(default_factory=set)

    def of(self, *words: str) -> str:
        """A name made of the words, as `slug` makes it, with a number at its end if it has been given before."""
        stem = slug("-".join(filter(None, words)))
        name, number = stem, 1
        while name.lower() in self.taken:  # some file systems do not tell capitals apart
            number += 1
            name = f"{stem}-{number}"
        self.taken.add(name.lower())
        return name


class Album:
    """The figures of one page: asks the studio for them, and keeps them within the page's budget of bytes.

    Attributes:
        studio: draws them.
        directory: the folder that their files are written into.
        slugs: gives the page's anchors, but none that its template uses itself.
        pictures: all that were asked for, in that order.
    """

    def __init__(self, studio: Studio, directory: Path) -> None:
        self.studio, self.directory, self.slugs = studio, directory, Slugs(set(TEMPLATE_IDS))
        self.pictures: list[Picture] = []

    def parts(
        self, modules: Mapping[str, Module], panels_of: Callable[[Module], Iterable[Panel]], *words: str
    ) -> tuple[Part, ...]:
        """Have the figures of a section drawn; returns its parts, in the order of `modules`.

        Args:
            modules: name -> figure module.
            panels_of: asks a figure module for its panels.
            words: what all anchors of the section begin with.
        """
        return tuple(
            self._part(place, name, module, panels_of(module), *words)
            for place, (name, module) in enumerate(modules.items())
        )

    def _part(self, place: int, name: str, module: Drawing, panels: Iterable[Panel], *words: str) -> Part:
        """Have the first MOST_PANELS panels of a figure module drawn; returns its part. `more` counts the others."""
        shown, more = limited(panels)
        pictures = tuple(self._picture(place, name, module, panel, *words) for panel in shown)
        anchor = self.slugs.of("about", *words, name)
        heading = next((panel.heading for panel in shown if panel.heading), module.TITLE)
        return Part(module.__name__, heading, anchor, pictures, module.ABSENT, more)

    def _picture(self, place: int, name: str, module: Drawing, panel: Panel, *words: str) -> Picture:
        """Have one panel drawn, and once more for phones if its figure is in PHONE; returns its picture."""
        anchor = self.slugs.of(*words, name, panel.slug)
        self.directory.mkdir(parents=True, exist_ok=True)
        title = ": ".join(filter(None, (panel.heading or module.TITLE, panel.title)))
        stem, source = self.directory / anchor, module.__name__
        drawn = self.studio.add(source, panel.frame, title, stem)
        variant = None
        if name in PHONE:
            variant = self.studio.add(source, panel.frame, title, stem.with_name(f"{anchor}-narrow"), narrow=True)
        caption = module.caption(panel.frame)
        picture = Picture(anchor, place, panel.title, caption, drawn, variant, panel.tables)
        self.pictures.append(picture)
        return picture

    def fit(self) -> None:
        """Keep the first pictures, by `place`, that fit into BUDGET bytes together; remove the others' files.

        Waits until all are drawn; `kept` becomes False for those that do not fit.
        """
        room = BUDGET
        for picture in sorted(self.pictures, key=lambda picture: picture.place):
            room -= picture.size
            picture.kept = room >= 0
            if not picture.kept:
                for file in picture.files:
                    (self.directory / file).unlink()


class Page(Protocol):
    """A page of the site; `path` is that of its HTML file from the site's directory."""

    @property
    def path(self) -> str: ...

    def html(self) -> str: ...


@dataclass(eq=False)
class FigurePage(ABC):
    """A page with figures: of a run, of an importance run, of a comparison.

    Attributes:
        folder: the path from the site's directory of the folder that holds the page, its figures and its data.
        album: the page's figures.
        sections: its parts, in order.
    """

    folder: str
    album: Album
    sections: tuple[Section, ...]

    @property
    def path(self) -> str:
        return f"{self.folder}/index.html"

    @property
    @abstractmethod
    def name(self) -> str:
        """The title of the page."""

    @property
    @abstractmethod
    def source(self) -> str:
        """The line of Python, for the gallery, that reads what the page's figures are drawn from."""

    @abstractmethod
    def html(self) -> str:
        """The text of the page's HTML file."""

    def render(self, template: str, **context: Any) -> str:
        """The HTML text of a page that lies two folders below the site's directory.

        Args:
            template: the name of a file in pages/; it sees this page as `page`.
            context: what else it sees.
        """
        return render(template, page=self, root="../../", title=self.name, **context)


def slug(text: str) -> str:
    """A name made of any text, at most 100 characters, which is safe as a file, in a URL and as an id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100] or "unnamed"


def render(template: str, **context: Any) -> str:
    """The HTML text that a template makes; all text of the context is escaped.

    Args:
        template: the name of a file in pages/.
        context: what the template sees; a name that it uses and that is not here is an error of jinja2.
    """
    return _templates().get_template(template).render(context)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
