"""The figures: every module here is one. Adding a figure is adding a file; `site/layout.py` says where it stands."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from matplotlib.figure import Figure

from reports.base.table_cells import Summary
from reports.read.run import GENERATION, LAYER, Run

MOST_PANELS = 24  # of one figure for one task


@dataclass(frozen=True)
class Panel:
    """One figure to be drawn of a run; its module's `draw` and `caption` are given `frame` and nothing else.

    Attributes:
        slug: tells this panel apart from others of its module and task in names of files; "" where it is the only one.
        title: what follows the module's TITLE in the figure's title; "" where nothing does.
        frame: what is drawn, of whatever type the module's `panels` says.
        tables: shown below the figure on its page.
        heading: stands in place of the module's TITLE; "" for that one.
    """

    slug: str  # tells apart the panels of one figure and task; () the only one
    title: str
    frame: Any
    tables: tuple[Summary, ...] = ()
    heading: str = ""


def limited(panels: Iterable[Panel], most: int = MOST_PANELS) -> tuple[tuple[Panel, ...], int]:
    """The first `most` panels, and how many panels come after them."""
    all_panels = tuple(panels)
    return all_panels[:most], max(0, len(all_panels) - most)


class Drawing(Protocol):
    """What every figure module offers, be it about a run, two sides or the importance experiments.

    Attributes:
        TITLE: the figure's heading on the page.
        ABSENT: the sentence that the page shows in place of the figure if `panels` yields none.
    """

    TITLE: str
    ABSENT: str
    __name__: str

    def draw(self, frame: Any) -> Figure:
        """Draw a panel's `frame` as a new figure; touches no global state."""

    def caption(self, frame: Any) -> str:
        """A plain sentence or two on what the figure of this `frame` shows, with numbers computed from the frame."""


class FigureModule(Drawing, Protocol):
    """What a module of `reports.figures` offers: figures of one run.

    Attributes:
        ABOUT: what `panels` is asked about: "task": each task; "layer": the bare layer; "any": each task and the bare
            layer; "generation": all cases in which a model generates, at once.
    """

    ABOUT: Literal["task", "layer", "any", "generation"]

    def panels(self, run: Run, task: str) -> Iterator[Panel]:
        """Yield the panels about `task` (a task's name, LAYER or GENERATION); none if the run lacks their data."""


def about(task: str) -> dict[str, FigureModule]:
    """The figure modules whose ABOUT covers `task`, a task's name, LAYER or GENERATION, by their names."""
    kind = {LAYER: "layer", GENERATION: "generation"}.get(task, "task")
    either = ("any",) if kind != "generation" else ()
    return {name: module for name, module in registry().items() if module.ABOUT in (kind, *either)}


def registry() -> dict[str, FigureModule]:
    """All figure modules of one run, by their names in this package."""
    return registered(__name__, __path__)


def registered(package: str, path: Iterable[str]) -> dict[str, Any]:
    """Import all modules of a package, subpackages left out; returns them by their names in it, sorted.

    Args:
        package: the package's dotted name.
        path: its __path__.
    """
    names = sorted(info.name for info in pkgutil.iter_modules(path) if not info.ispkg)
    return {name: importlib.import_module(f"{package}.{name}") for name in names}
