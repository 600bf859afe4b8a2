"""Sentences about many ratios at once: how many differ, how many would by chance, and which differs most."""

import numpy as np
import pandas as pd

from reports.analyse.compare.comparison import Beside
from reports.analyse.compare.labels import labels
from reports.base.formatting import between, count, times
from reports.base.stats import LEVEL


def tally(table: pd.DataFrame, noun: str) -> str:
    """Of how many ratios how many differ beyond their intervals, and how many of them chance alone would give."""
    judged = table[table["ratio_low"].notna()]
    if judged.empty:
        return f"{count(len(table), noun)} in common, none with an interval on both sides"
    number = int(judged["differs"].sum())
    differ = "differs beyond its 95 % interval" if number == 1 else "differ beyond their 95 % intervals"
    return f"Of {count(len(judged), noun)} in common {number} {differ} ({_by_chance(judged)})"


def largest(frame: Beside) -> str:
    """The one farthest from being the same in both; of those that differ, if any do."""
    table = ranked(frame.table)
    row, label = table.iloc[0], labels(frame.table)[table.index[0]]
    which = "the largest difference" if row["differs"] else "the largest, within its interval"
    first, second = (
        f"{times(row[side])} ({between(row[f'{side}_low'], row[f'{side}_high'])}) in {name}"
        for side, name in (("first", frame.first), ("second", frame.second))
    )
    return f"{which}: {label}{_beside(row)}: {first}, {second}"


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Those that differ beyond their intervals first; among these and among the others, the farthest from 1 first."""
    far = np.abs(np.log(table["ratio"].astype(float)))
    order = pd.DataFrame({"same": ~table["differs"].astype(bool), "near": -far}).sort_values(["same", "near"])
    return table.loc[order.index]


def _by_chance(judged: pd.DataFrame) -> str:
    """How many of so many 95 % intervals miss what they are of, if they hold all that varies."""
    expected = (1 - LEVEL) * len(judged)
    said = f"{'less than 1' if expected < 1 else f'about {expected:.0f}'} would by chance"
    alone = judged[["first_processes", "second_processes"]].min(axis=None) == 1
    return f"{said}, more where a side has one process" if alone else said


def _beside(row: pd.Series) -> str:
    return "" if row["peer"] == "dense" else f", beside {row['peer']}"
