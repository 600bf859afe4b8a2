"""What a row of a comparison is called: its task, and what tells it apart from the others of that task."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from reports.analyse.frames import AXES
from reports.base.formatting import per_cent
from reports.read.run import GENERATION, LAYER

SEVERAL = 2  # criteria that are named; of more the first and how many others
PARTS: Mapping[str, Callable[[Any], str]] = {  # in this order; what is not known is left out
    "heads_total": "{:.0f} heads".format,
    "head_dim": "of width {:.0f}".format,
    "kept_fraction": lambda kept: f"{per_cent(kept)} kept" if kept else "no heads",
    "criterion": lambda names: _criteria(str(names)),
    "batch": "batch {:.0f}".format,
    "seq_len": "{:.0f} tokens".format,
    **{name: axis.word for name, axis in AXES.items()},
}
ALWAYS = ("kept_fraction", "criterion", "batch")


def subjects(frame: pd.DataFrame) -> pd.Series:
    """The subject of each row (`subject` of its columns kind, task and phase) as a Series with the frame's index."""
    names = [subject(*row) for row in frame[["kind", "task", "phase"]].itertuples(index=False, name=None)]
    return pd.Series(names, index=frame.index, dtype=object)


def labels(frame: pd.DataFrame) -> pd.Series:
    """One line of text for each row, that tells it apart from the others, as a Series with the frame's index.

    It has the row's subject; kept fraction, criterion and batch size; and those other fields (of PARTS) that differ
    among rows of that subject. Fields that are not known are left out.
    """
    lines = {}
    for name_of, rows in frame.groupby(subjects(frame), sort=False):
        shown = [name for name in PARTS if name in rows and (name in ALWAYS or rows[name].nunique(dropna=False) > 1)]
        for index, row in rows.iterrows():
            words = [PARTS[name](row[name]) for name in shown if pd.notna(row[name])]
            lines[index] = ", ".join([str(name_of), *filter(None, words)])
    return pd.Series(lines, dtype=object).reindex(frame.index)


def subject(kind: str, task: str, phase: str) -> str:
    """What is timed, in words: a task, "bare layer", or of generation the task and its phase (prefill, decode)."""
    if kind == GENERATION:
        return f"{task}, {phase}"
    return "bare layer" if kind == LAYER else task


def _criteria(names: str) -> str:
    """The criteria (`names`, joined by commas) in words: "a and b", of more "a and 2 others"; "" for "none"."""
    several = names.split(", ")
    if several == ["none"]:
        return ""  # no heads are kept, as the kept fraction says
    if len(several) <= SEVERAL:
        return " and ".join(several)
    return f"{several[0]} and {len(several) - 1} others"
