"""Clauses about many rows of `matching.joined`: how many differ between the sides, and which differs most."""

import numpy as np
import pandas as pd

from reports.analyse.compare.comparison import Beside
from reports.analyse.compare.labels import labels
from reports.base.formatting import between, count, times
from reports.base.stats import LEVEL


def tally(table: pd.DataFrame, noun: str) -> str:
    """A clause on how many rows, each called a `noun`, differ beyond their intervals, and how many would by chance.

    Rows without an interval of their ratio are not counted; if none has one, the clause says that.
    """
    judged = table[table["ratio_low"].notna()]
    if judged.empty:
        return f"{count(len(table), noun)} in common, none with an interval on both sides"
    number = int(judged["differs"].sum())
    differ = "differs beyond its 95 % interval" if number == 1 else "differ beyond their 95 % intervals"
    return f"Of {count(len(judged), noun)} in common {number} {differ} ({_by_chance(judged)})"


def largest(frame: Beside) -> str:
    """A clause on the row whose ratio is farthest from 1, of those beyond their intervals if there are any.

    It has the row's label and the ratios of both sides with their intervals. The table must have rows.
    """
    table = ranked(frame.table)
    row, label = table.iloc[0], labels(frame.table)[table.index[0]]
    which = "the largest difference" if row["differs"] else "the largest, within its interval"
    first, second = (
        f"{times(row[side])} ({between(row[f'{side}_low'], row[f'{side}_high'])}) in {name}"
        for side, name in (("first", frame.first), ("second", frame.second))
    )
    return f"{which}: {label}{_beside(row)}: {first}, {second}"


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """The rows, with their index, ordered: first those that differ beyond their intervals, then the others.

    In both, those whose ratio is farthest from 1 come first.
    """
    far = np.abs(np.log(table["ratio"].astype(float)))
    order = pd.DataFrame({"same": ~table["differs"].astype(bool), "near": -far}).sort_values(["same", "near"])
    return table.loc[order.index]


def _by_chance(judged: pd.DataFrame) -> str:
    """A clause that says how many of these rows' 95 % intervals are expected to leave the true ratio out.

    It says "more" where a side of some row was timed in one process, so that its interval is too narrow.
    """
    expected = (1 - LEVEL) * len(judged)
    by_chance = f"{'less than 1' if expected < 1 else f'about {expected:.0f}'} would by chance"
    alone = judged[["first_processes", "second_processes"]].min(axis=None) == 1
    return f"{by_chance}, more where a side has one process" if alone else by_chance


def _beside(row: pd.Series) -> str:
    """Words that name the peer that our layer was timed beside, ", beside NAME"; "" where that is the dense model."""
    return "" if row["peer"] == "dense" else f", beside {row['peer']}"
