"""Figures that compare two sides, runs or devices: every module here is one."""

from collections.abc import Iterator
from typing import Protocol

from reports.analyse.compare.comparison import Comparison
from reports.figures import Drawing, Panel, registered


class FigureModule(Drawing, Protocol):
    """What a module of this package offers."""

    def panels(self, comparison: Comparison) -> Iterator[Panel]:
        """The panels of this figure; none where the two sides have nothing for it in common."""


def registry() -> dict[str, FigureModule]:
    """Name -> figure module, of all figures of two sides."""
    return registered(__name__, __path__)
