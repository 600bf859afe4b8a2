"""Figures of a run of bench.runtimes: every module here is one. Adding a figure is adding a file."""

from collections.abc import Iterator
from typing import Protocol

from reports.figures import Drawing, Panel, registered
from reports.read.runtimes_run import Table


class FigureModule(Drawing, Protocol):
    """What a module of `reports.figures.runtimes_run` offers: figures of one run of bench.runtimes."""

    def panels(self, table: Table) -> Iterator[Panel]:
        """Yield the figure's panels; none if the table lacks their data."""


def registry() -> dict[str, FigureModule]:
    """All figure modules of runs of bench.runtimes, by their names in this package."""
    return registered(__name__, __path__)
