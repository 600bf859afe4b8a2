"""The CSV tables of a run: the columns of each, read and checked. A table that is not there is empty."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.base.errors import ReportError
from reports.read.files import REMEDY, Types, check_fields, check_numbers, read_csv
from reports.read.intake import kind_at
from reports.read.problems import Problems
from reports.read.run import LAYER

TEXT, NUMBER, FINITE = "text", "number", "finite"  # a number may be NaN where nothing was found out
TABLES: Mapping[str, Mapping[str, str]] = {
    "plans.csv": {
        "plan": TEXT, "task": TEXT, "criterion": TEXT, "draw": FINITE, "kept_fraction": FINITE, "heads_kept": FINITE,
        "heads_total": FINITE, "parameters": NUMBER, "shape": TEXT, "keep": TEXT, "value": FINITE, "low": FINITE,
        "high": FINITE, "difference": NUMBER, "difference_low": NUMBER, "difference_high": NUMBER, "examples": NUMBER,
    },
    "scores.csv": {
        "task": TEXT, "criterion": TEXT, "layer": TEXT, "head": FINITE, "score": FINITE, "seconds": NUMBER
    },
    "promises.csv": {
        "task": TEXT, "promise": TEXT, "value": NUMBER, "low": NUMBER, "high": NUMBER, "bound": NUMBER, "kept": TEXT
    },
    "ceilings.csv": {
        "device": TEXT, "dtype": TEXT, "ceiling": TEXT, "value": FINITE, "low": NUMBER, "high": NUMBER,
        "samples": NUMBER, "process": NUMBER,
    },
    "predictions.csv": {
        "task": TEXT, "device": TEXT, "plan": TEXT, "shape": TEXT, "predicted": FINITE, "measured": FINITE,
        "low": NUMBER, "high": NUMBER, "error": NUMBER, "ended": TEXT, "rounds": NUMBER,
    },
    "operators.csv": {
        "task": TEXT, "device": TEXT, "criterion": TEXT, "kept_fraction": FINITE, "batch": FINITE, "operator": TEXT,
        "calls": FINITE, "seconds": FINITE, "device_seconds": FINITE, "bytes": NUMBER,
    },
    "memory.csv": {
        "task": TEXT, "device": TEXT, "criterion": TEXT, "kept_fraction": FINITE, "batch": FINITE, "seconds": FINITE,
        "bytes": FINITE,
    },
}  # fmt: skip
KEYS = {"plans.csv": ["plan"], "scores.csv": ["task", "criterion", "layer", "head"]}
OF_THE_LAYER_TOO = ("predictions.csv",)
PLANS = TABLES["plans.csv"]
AS_JSON: Mapping[str, Types] = {"shape": list, "keep": dict}  # what is text in plans.csv
TYPES: Mapping[str, Types] = {TEXT: str, FINITE: (int, float), NUMBER: (int, float, type(None))}
PLAN_TYPES = {name: AS_JSON.get(name, TYPES[kind]) for name, kind in PLANS.items()}


def read_tables(path: Path, tasks: Collection[str], problems: Problems) -> dict[str, pd.DataFrame]:
    """Name without .csv -> table, of all that TABLES has.

    A table that can't be read is empty, and one with wrong rows is without those; `problems` is told.
    """
    return {name.removesuffix(".csv"): _table(path / name, tasks, problems) for name in TABLES}


def plans_table(
    outcomes: Sequence[tuple[Path, Mapping[str, Any]]], tasks: Collection[str], problems: Problems
) -> pd.DataFrame:
    """The rows that plans.csv has once a run has ended, from `plans/*.json` that say `ok`, in the same order."""
    rows: list[dict[str, Any]] = []
    seen = set()
    for file, document in outcomes:
        with problems.noted(file):
            check_fields(file, document, PLAN_TYPES)
            finite = [name for name, kind in PLANS.items() if kind == FINITE]
            given = [name for name, kind in PLANS.items() if kind == NUMBER and document[name] == document[name]]
            check_numbers(file, document, dict.fromkeys((*finite, *given)))
            check_task(file, document["task"], tasks)
            if document["plan"] in seen:
                raise ReportError(f"{file}: the plan '{document['plan']}' is there more than once; {REMEDY}")
            seen.add(document["plan"])
            text = {name: json.dumps(document[name]) for name in AS_JSON}
            rows.append({name: text.get(name, document[name]) for name in PLANS})
    rows.sort(key=lambda row: (row["task"], row["criterion"], -row["kept_fraction"], row["draw"]))
    return pd.DataFrame(rows, columns=list(PLANS)).astype(_dtypes(PLANS))


def check_task(file: Path, found: str, known: Collection[str]) -> None:
    """The task is one that the run describes."""
    if found not in known:
        raise ReportError(f"{file}: {_expected_tasks(known)} {found}; {REMEDY}")


def _good_rows(file: Path, frame: pd.DataFrame, tasks: Collection[str], problems: Problems) -> pd.DataFrame:
    """The rows of a table in which nothing is wrong; how many others there are, and what is wrong, is told."""
    good = pd.Series(True, index=frame.index)
    for wrong, columns, expected in _faults(file.name, frame, tasks):
        if wrong.any():
            got = ", ".join(map(str, frame.loc[wrong, columns].iloc[0]))
            line = int(np.flatnonzero(wrong)[0]) + 2
            which = f"{wrong.sum():,} of {len(frame):,} rows, the first in line {line}"
            problems.add(file, f"{which}: {expected} {got}; {REMEDY}")
            good &= ~wrong
    return frame[good].reset_index(drop=True)


def _table(file: Path, tasks: Collection[str], problems: Problems) -> pd.DataFrame:
    columns = TABLES[file.name]
    if kind_at(file):
        with problems.noted(file):
            return _good_rows(file, read_csv(file, columns), tasks, problems)
    return pd.DataFrame(columns=list(columns)).astype(_dtypes(columns))


def _faults(name: str, frame: pd.DataFrame, tasks: Collection[str]) -> Iterator[tuple[pd.Series, list[str], str]]:
    """What may be wrong with rows: which have it, in what columns, and what was expected."""
    columns = TABLES[name]
    if "task" in columns:
        known = {*tasks, LAYER} if name in OF_THE_LAYER_TOO else tasks
        yield ~frame["task"].isin(known), ["task"], _expected_tasks(known)
    for column, kind in columns.items():
        if kind != TEXT:
            wrong = np.isinf(frame[column]) | (frame[column].isna() if kind == FINITE else False)
            yield wrong, [column], f"expected a finite number in column '{column}', got"
    if key := KEYS.get(name):
        yield frame.duplicated(key, keep=False), key, f"expected one row for each {' and '.join(key)}, got several for"


def _expected_tasks(known: Collection[str]) -> str:
    return f"expected tasks that environment.json describes ({', '.join(sorted(known))}), got"


def _dtypes(columns: Mapping[str, str]) -> dict[str, type]:
    return {name: str if kind == TEXT else float for name, kind in columns.items()}
