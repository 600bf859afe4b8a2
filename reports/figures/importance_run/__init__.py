"""Figures of the importance experiments: every module here is one. Adding a figure is adding a file."""

from collections.abc import Iterator
from typing import Protocol

from reports.figures import Drawing, Panel, registered
from reports.read.importance_run import Tables


class FigureModule(Drawing, Protocol):
    """What a module of this package offers."""

    def panels(self, tables: Tables) -> Iterator[Panel]:
        """The panels of this figure; none where the tables have nothing for it."""


def registry() -> dict[str, FigureModule]:
    """Name -> figure module, of all figures of the importance experiments."""
    return registered(__name__, __path__)
