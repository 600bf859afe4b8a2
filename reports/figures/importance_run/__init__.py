"""Figures of the importance experiments: every module here is one. Adding a figure is adding a file."""

from collections.abc import Iterator
from typing import Protocol

from reports.figures import Drawing, Panel, registered
from reports.read.importance_run import Tables


class FigureModule(Drawing, Protocol):
    """What a module of `reports.figures.importance_run` offers: figures of one run of the importance experiments."""

    def panels(self, tables: Tables) -> Iterator[Panel]:
        """Yield the figure's panels; none if the tables lack their data."""


def registry() -> dict[str, FigureModule]:
    """All figure modules of the importance experiments, by their names in this package."""
    return registered(__name__, __path__)
