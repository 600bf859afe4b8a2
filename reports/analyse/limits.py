"""What a figure shows of a run with thousands of cases, and the sentence on what it leaves out."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from reports.read.run import BASELINES, REFERENCES, Metric

T = TypeVar("T")


def spread(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of the values: the first and the last, and others evenly spread between; of one, the first."""
    return [values[place] for place in _places(len(values), most)]


def spread_rows(frame: pd.DataFrame, most: int, by: list[str]) -> pd.DataFrame:
    """At most `most` rows, in their order: those least and largest in the columns `by`, and others evenly between."""
    ordered = frame.reset_index(drop=True).sort_values(by, kind="stable").index.to_numpy()
    return frame.iloc[np.sort(ordered[_places(len(frame), most)])]


def spread_batches(frame: pd.DataFrame, batches: int, rows: int, by: list[str]) -> pd.DataFrame:
    """The rows of at most `batches` batch sizes, at most `rows` of each: the batch sizes as by `spread`, ascending.

    Rows of one batch size are picked as by `spread_rows`, with the columns `by`.
    """
    shown = spread(sorted(frame["batch"].unique()), batches)
    return pd.concat([spread_rows(frame[frame["batch"] == batch], rows, by) for batch in shown])


def best_criteria(table: pd.DataFrame, metric: Metric, most: int) -> tuple[pd.DataFrame, str]:
    """The rows of the `most` criteria with the best mean value, of baselines and references; and `left_out`'s sentence.

    Args:
        table: a row for each plan; columns: criterion, value, and any others.
    """
    others = table[~table["criterion"].isin([*BASELINES, *REFERENCES])]
    means = others.groupby("criterion")["value"].mean().sort_values(ascending=not metric.higher_is_better)
    names = [*means.index[:most], *BASELINES, *REFERENCES]
    rest = left_out(min(most, len(means)), len(means), "criteria", "those that are best on average")
    return table[table["criterion"].isin(names)], rest


def left_out(shown: int, total: int, nouns: str, which: str = "") -> str:
    """A sentence on what a figure does not show, with a space in front; empty where it shows everything.

    Args:
        nouns: what the shown things are, in the plural.
        which: a clause that says how those shown were picked.
    """
    picked = f", {which}" if which else ""
    return "" if shown >= total else f" Shown are {shown:,} of {total:,} {nouns}{picked}; the data has all."


def _places(count: int, most: int) -> list[int]:
    """The indices of at most `most` of `count` things, evenly spread from the first to the last; of one, the first."""
    if count <= most:
        return list(range(count))
    return [int(place) for place in np.linspace(0, count - 1, most).round()]
