"""The figures: every module here is one. Adding a figure is adding a file."""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from matplotlib.figure import Figure

from reports.cells import Summary
from reports.run import GENERATION, LAYER, Run


@dataclass(frozen=True)
class Panel:
    """What one figure shows: `frame` is all that `draw` and `caption` see; `tables` stand below it."""

    slug: str  # tells apart the panels of one figure and task; () the only one
    title: str
    frame: Any
    tables: tuple[Summary, ...] = ()


class FigureModule(Protocol):
    """What a module here offers.

    Attributes:
        TITLE: heading on the page.
        ORDER: place on the page, ascending.
        ABOUT: whether `panels` is asked once for each task, for the bare layer, for each of those ("any"), or for
            all cases in which a model generates.
        ABSENT: the sentence that stands in its place when a run has nothing for it.
    """

    TITLE: str
    ORDER: int
    ABOUT: Literal["task", "layer", "any", "generation"]
    ABSENT: str

    def panels(self, run: Run, task: str) -> Iterator[Panel]:
        """What there is to draw of the task."""

    def draw(self, frame: Any) -> Figure:
        """The figure; touches no global state."""

    def caption(self, frame: Any) -> str:
        """One plain sentence, its numbers computed from the frame."""


def about(task: str) -> dict[str, FigureModule]:
    """The figures that are asked about a task, or about what the run directory calls so, in order."""
    kind = {LAYER: "layer", GENERATION: "generation"}.get(task, "task")
    either = ("any",) if kind != "generation" else ()
    return {name: module for name, module in registry().items() if module.ABOUT in (kind, *either)}


def registry() -> dict[str, FigureModule]:
    """Name -> figure, in the order of the page."""
    found = {
        info.name: cast(FigureModule, importlib.import_module(f"{__name__}.{info.name}"))
        for info in pkgutil.iter_modules(__path__)
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].ORDER, item[0])))
