"""Figures of the importance experiments: every module here is one. Adding a figure is adding a file."""

from collections.abc import Iterator
from typing import Protocol

from reports.figures import Drawing, Panel, registered
from reports.read.importance_run import Tables


class FigureModule(Drawing, Protocol):
    """What a module here offers."""

    def panels(self, tables: Tables) -> Iterator[Panel]:
        """What there is to draw."""


def registry() -> dict[str, FigureModule]:
    """Name -> figure."""
    return registered(__name__, __path__)
