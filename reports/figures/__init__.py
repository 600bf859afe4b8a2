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
    """What one figure shows: `frame` is all that `draw` and `caption` see; `tables` stand below it."""

    slug: str  # tells apart the panels of one figure and task; () the only one
    title: str
    frame: Any
    tables: tuple[Summary, ...] = ()


def limited(panels: Iterable[Panel], most: int = MOST_PANELS) -> tuple[tuple[Panel, ...], int]:
    """The first `most` panels, and the number of those that are left over."""
    all_panels = tuple(panels)
    return all_panels[:most], max(0, len(all_panels) - most)


class Drawing(Protocol):
    """What a figure module offers, whatever it is asked about.

    Attributes:
        TITLE: the figure's heading on the page.
        ABSENT: the sentence that stands on the page instead, where a run has nothing for the figure.
    """

    TITLE: str
    ABSENT: str
    __name__: str

    def draw(self, frame: Any) -> Figure:
        """Draw the `frame` of a panel; touches no global state."""

    def caption(self, frame: Any) -> str:
        """A plain sentence or two on what is to be seen, with numbers computed from the frame."""


class FigureModule(Drawing, Protocol):
    """What a module of this package offers.

    Attributes:
        ABOUT: whether `panels` is asked once for each task, for the bare layer, for each of those ("any"), or for
            all cases in which a model generates.
    """

    ABOUT: Literal["task", "layer", "any", "generation"]

    def panels(self, run: Run, task: str) -> Iterator[Panel]:
        """The panels of this figure about `task` (or LAYER, or GENERATION); none where the run has nothing for it."""


def about(task: str) -> dict[str, FigureModule]:
    """Name -> figure module, of those to be asked about `task`: the name of a task, or LAYER, or GENERATION."""
    kind = {LAYER: "layer", GENERATION: "generation"}.get(task, "task")
    either = ("any",) if kind != "generation" else ()
    return {name: module for name, module in registry().items() if module.ABOUT in (kind, *either)}


def registry() -> dict[str, FigureModule]:
    """Name -> figure module, of all figures of a run."""
    return registered(__name__, __path__)


def registered(package: str, path: Iterable[str]) -> dict[str, Any]:
    """Name -> module, of all modules in a package of figures, by name; `path` is the package's __path__."""
    names = sorted(info.name for info in pkgutil.iter_modules(path) if not info.ispkg)
    return {name: importlib.import_module(f"{package}.{name}") for name in names}
