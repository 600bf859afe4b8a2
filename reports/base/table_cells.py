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
    """A cell of a table.

    Attributes:
        text: what it shows.
        interval: its interval as text; "" if it has none.
        order: the number or text by which the table sorts it.
    """

    text: str
    interval: str = ""
    order: float | str = ""


@dataclass(frozen=True)
class Summary:
    """A table of a page.

    Attributes:
        title: stands above it.
        note: what a reader should know of it; "" if nothing.
        columns: the headings.
        rows: a cell for each column in each.
        folded: whether it is closed until a click opens it.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False

    @property
    def shown(self) -> tuple[tuple[Cell, ...], ...]:
        """The first MOST_ROWS rows, as many as a page has room for."""
        return self.rows[:MOST_ROWS]


def word(text: Any) -> Cell:
    """A cell with a value as text, by which it also sorts."""
    return Cell(str(text), order=str(text))


def number(value: float | None, text: Callable[[float], str]) -> Cell:
    """A cell with a number as `text` writes it, which sorts by the number; NONE if it is None or NaN."""
    return Cell(NONE) if value is None or pd.isna(value) else Cell(text(float(value)), order=float(value))


def interval(row: Mapping[Any, Any] | pd.Series, name: str, text: Callable[[float], str]) -> Cell:
    """A cell with the column `name` of a row, and its interval from `<name>_low` and `<name>_high`, by `text`.

    NONE where the value is NaN; no interval where its bounds are NaN, or equal, as those of an exact value.
    """
    if np.isnan(row[name]):
        return Cell(NONE)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    by_definition = low == high
    return Cell(text(row[name]), "" if np.isnan(low) or by_definition else f"{text(low)} to {text(high)}", row[name])
