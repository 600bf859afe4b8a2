"""Figures that compare two sides, runs or devices: every module here is one."""

from collections.abc import Iterator
from typing import Protocol

from reports.analyse.compare.comparison import Comparison
from reports.figures import Drawing, Panel, registered


class FigureModule(Drawing, Protocol):
    """What a module of `reports.figures.compare` offers: figures of two sides."""

    def panels(self, comparison: Comparison) -> Iterator[Panel]:
        """Yield the figure's panels; none if the two sides have no measurements in common that it shows."""


def registry() -> dict[str, FigureModule]:
    """All figure modules of two sides, by their names in this package."""
    return registered(__name__, __path__)
