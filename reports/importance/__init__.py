"""Figures of the importance experiments: every module here is one. Adding a figure is adding a file."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any, Protocol, cast

from matplotlib.figure import Figure

from reports.figures import Panel
from reports.importance.load import Tables

NOT_FIGURES = ("__main__", "grid", "load")


class FigureModule(Protocol):
    """What a module here offers."""

    def panels(self, tables: Tables) -> Iterator[Panel]:
        """What there is to draw."""

    def draw(self, frame: Any) -> Figure:
        """The figure; touches no global state."""

    def caption(self, frame: Any) -> str:
        """One plain sentence, its numbers computed from the frame."""


def registry() -> dict[str, FigureModule]:
    """Name -> figure."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name not in NOT_FIGURES)
    return {name: cast(FigureModule, importlib.import_module(f"{__name__}.{name}")) for name in names}
