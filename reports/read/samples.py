"""The samples of latency cases: taken from their files, and checked all at once."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from reports.base.errors import ReportError
from reports.read.description import SAMPLE, required
from reports.read.files import LARGEST, REMEDY, check_fields
from reports.read.problems import Problems

COLUMNS = ["case", *SAMPLE, "process"]


class Timed(NamedTuple):
    """A finished case: its file, its fields (as `cases/CASE.json` has them), and its samples.

    Attributes:
        columns: the samples column by column: arm, round and seconds, each as long as there are samples.
    """

    file: Path
    case: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]

    @property
    def key(self) -> tuple[str, int]:
        """The name of the case, and the number of the process that timed it."""
        return self.case["case"], self.case["process"]


def columns_of(file: Path, case: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The samples of a case as columns: name (arm, round, seconds) -> a list with one value for each sample.

    Raises:
        ReportError: a sample lacks a field, or has a value of a wrong type or a number of 2^63 or more, or there are
            none although `timed_by` says that the case timed itself.
    """
    samples = case["samples"]
    if case["timed_by"] == case["case"] and not samples:
        raise ReportError(f"{file}: expected samples, for the case says it timed itself, and there are none; {REMEDY}")
    objects = samples if {*map(type, samples)} <= {dict} else []
    columns = {name: [sample.get(name) for sample in objects] for name in SAMPLE}
    if len(objects) < len(samples) or any(
        not {*map(type, values)} <= {*SAMPLE[name].types} for name, values in columns.items()
    ):
        for number, sample in enumerate(samples):  # one of them is wrong: find it
            check_fields(file, sample, required(SAMPLE), where=f"sample {number}")
    columns["arm"] = [intern(arm) for arm in columns["arm"]]  # a few words, thousands of times
    numbers = columns["round"] + columns["seconds"]
    if large := [number for number in numbers if type(number) is int and not -LARGEST < number < LARGEST]:
        raise ReportError(f"{file}: expected numbers below 2^63 in the samples, got {large[0]!r:.60}; {REMEDY}")
    return columns


def usable(timed: Sequence[Timed], problems: Problems) -> tuple[list[Timed], pd.DataFrame]:
    """The cases that have not lost all their samples; and the usable samples of all cases, as a table (COLUMNS).

    A sample is wrong if its seconds are not positive and finite, or if its arm has several of that round. Samples of a
    round belong together: where one is wrong, all arms lose the round, and `problems` is told, once for each file.
    """
    lengths = np.array([len(item.columns["arm"]) for item in timed], dtype=int)
    place = np.repeat(np.arange(len(timed)), lengths)
    frame = pd.DataFrame({"place": place, **{name: _column(timed, name) for name in SAMPLE}})
    frame = frame.astype({"arm": str, "round": int, "seconds": float})
    frame["case"] = pd.Series([item.case["case"] for item in timed], dtype=str).take(place).to_numpy()
    frame["process"] = pd.Series([item.case["process"] for item in timed], dtype=int).take(place).to_numpy()
    lost = _lost(timed, frame, problems)
    frame = frame[~lost]
    empty = {*place[lost]} - {*frame["place"]}
    return [item for index, item in enumerate(timed) if index not in empty], frame[COLUMNS].reset_index(drop=True)


def _column(timed: Sequence[Timed], name: str) -> list[Any]:
    return list(chain.from_iterable(item.columns[name] for item in timed))


def _lost(timed: Sequence[Timed], frame: pd.DataFrame, problems: Problems) -> np.ndarray:
    """A mask of the rows of `frame`, (samples,): true where any sample of the same case and round is wrong (`usable`).

    `problems` gets one entry for each file with such rounds. In `frame`, `place` is the index of the sample's case in
    `timed`.
    """
    positive = (frame["seconds"] > 0) & (frame["seconds"] < np.inf)  # nor is NaN
    wrong = ~positive | frame.duplicated(["place", "arm", "round"])
    if not wrong.any():
        return wrong.to_numpy()
    lost = wrong.groupby([frame["place"], frame["round"]]).transform("any")
    rounds = frame.groupby("place")["round"].nunique().to_dict()
    fewer = frame[lost].groupby("place")["round"].nunique().to_dict()
    for row in frame.assign(positive=positive)[wrong].drop_duplicates("place").to_dict("records"):
        arm, turn, place = (row[name] for name in ("arm", "round", "place"))
        count, total = fewer[place], rounds[place]
        which = f"all {total} rounds" if count == total else f"{count} of {total} rounds"
        why = (
            f"arm '{arm}' has round {turn} more than once; {REMEDY}"
            if row["positive"]
            else f"expected positive seconds, got {row['seconds']} in round {turn} of arm '{arm}'; "
            "run the benchmark again"
        )
        problems.add(timed[place].file, f"{which}: {why}")
    return lost.to_numpy()
