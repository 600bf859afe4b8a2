"""What tables on a page are made of: cells with what they sort by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

NONE = "–"
MOST_ROWS = 400


@dataclass(frozen=True)
class Cell:
    """A value as text, its interval where it has one, and the number or text by which a table sorts it."""

    text: str
    interval: str = ""
    order: float | str = ""


@dataclass(frozen=True)
class Summary:
    """A table with a title above it, and a note where it needs one. A `folded` one opens with a click."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False

    @property
    def shown(self) -> tuple[tuple[Cell, ...], ...]:
        """The first rows, as many as a page has room for."""
        return self.rows[:MOST_ROWS]


def word(text: Any) -> Cell:
    """A cell with text, which sorts by it."""
    return Cell(str(text), order=str(text))


def number(value: float | None, text: Callable[[float], str]) -> Cell:
    """A cell with a number as `text` writes it, or a dash where it is not known."""
    return Cell(NONE) if value is None or pd.isna(value) else Cell(text(float(value)), order=float(value))


def interval(row: Mapping[Any, Any] | pd.Series, name: str, text: Callable[[float], str]) -> Cell:
    """A cell with the column `name` of a row and its interval; a value with equal bounds is exact, and shown alone."""
    if np.isnan(row[name]):
        return Cell(NONE)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    by_definition = low == high
    return Cell(text(row[name]), "" if np.isnan(low) or by_definition else f"{text(low)} to {text(high)}", row[name])
