"""Figures of two sides, runs or devices, beside each other: every module here is one."""

from collections.abc import Iterator
from typing import Protocol

from reports.analyse.compare.comparison import Comparison
from reports.figures import Drawing, Panel, registered


class FigureModule(Drawing, Protocol):
    """What a module of this package offers."""

    def panels(self, comparison: Comparison) -> Iterator[Panel]:
        """The panels that there are of the comparison."""


def registry() -> dict[str, FigureModule]:
    """Name -> figure."""
    return registered(__name__, __path__)
