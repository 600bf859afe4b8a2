"""Reads the CSV tables of a run, and checks the columns of each. A table that is not there is empty."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.base.errors import ReportError
from reports.read.description import OR_NULL, TABLES, Field, optional, required
from reports.read.files import REMEDY, check_fields, check_numbers, read_csv
from reports.read.intake import kind_at
from reports.read.problems import Problems
from reports.read.run import LAYER

TEXT, NUMBER, FINITE = "text", "number", "finite"  # a number may be NaN where nothing was found out
OF_THE_LAYER_TOO = ("predictions.csv",)


def _kind(column: Field) -> str:
    """The kind of a column's cells: "text" (in CSV also lists and objects), "number" (may be NaN) or "finite"."""
    if not column.is_number:
        return TEXT
    return NUMBER if column.kind.endswith(OR_NULL) else FINITE


COLUMNS: Mapping[str, Mapping[str, str]] = {
    name: {column: _kind(field) for column, field in table.columns.items()} for name, table in TABLES.items()
}
LATER: Mapping[str, Mapping[str, Any]] = {  # what holds in columns that older tables lack
    name: {column: field.missing for column, field in table.columns.items() if field.optional}
    for name, table in TABLES.items()
}
PLANS, LATER_OF_PLANS = COLUMNS["plans.csv"], LATER["plans.csv"]
PLAN_TYPES, LATER_TYPES = (types(TABLES["plans.csv"].columns) for types in (required, optional))
AS_JSON = ("shape", "keep")  # what is text in plans.csv


def read_tables(path: Path, tasks: Collection[str], problems: Problems) -> dict[str, pd.DataFrame]:
    """The tables that the description of a run directory names, by their file's name without .csv.

    A table whose file is missing or can't be read is empty, with its columns, and wrong rows are left out
    (`_good_rows`). `problems` is told, but of missing files.

    Args:
        path: the run directory.
        tasks: the names of the tasks that environment.json describes.
    """
    return {name.removesuffix(".csv"): _table(path / name, tasks, problems) for name in TABLES}


def plans_table(
    outcomes: Sequence[tuple[Path, Mapping[str, Any]]], tasks: Collection[str], problems: Problems
) -> pd.DataFrame:
    """The rows that plans.csv has once a run has ended, made from files of `plans/`.

    They are sorted by task, criterion, falling kept fraction and draw, as there.

    Args:
        outcomes: (path, content) of each file whose status is `ok`.
        tasks: the names of the tasks that environment.json describes.
        problems: is told of files that are left out: a field is missing or wrong, the task is unknown, or an earlier
            file has the same plan.
    """
    rows: list[dict[str, Any]] = []
    seen = set()
    for file, written in outcomes:
        with problems.noted(file):
            document = {**LATER_OF_PLANS, **written}
            check_fields(file, document, {**PLAN_TYPES, **LATER_TYPES})
            finite = [name for name, kind in PLANS.items() if kind == FINITE]
            known = [name for name, kind in PLANS.items() if kind == NUMBER and document[name] == document[name]]
            check_numbers(file, document, dict.fromkeys((*finite, *known)))
            check_task(file, document["task"], tasks)
            if document["plan"] in seen:
                raise ReportError(f"{file}: the plan '{document['plan']}' is there more than once; {REMEDY}")
            seen.add(document["plan"])
            text = {name: json.dumps(document[name]) for name in AS_JSON}
            rows.append({name: text.get(name, document[name]) for name in PLANS})
    rows.sort(key=lambda row: (row["task"], row["criterion"], -row["kept_fraction"], row["draw"]))
    return pd.DataFrame(rows, columns=list(PLANS)).astype(_dtypes(PLANS))


def check_task(file: Path, task: str, known: Collection[str]) -> None:
    """Raise a ReportError about `file` if `task` is not one of `known`, the names of the tasks that it may name."""
    if task not in known:
        raise ReportError(f"{file}: {_expected_tasks(known)} {task}; {REMEDY}")


def _good_rows(file: Path, frame: pd.DataFrame, tasks: Collection[str], problems: Problems) -> pd.DataFrame:
    """The rows of a table that have none of the faults that `_faults` finds.

    These are an unknown task, an infinite number, NaN in a column that must be finite, and a key that several rows
    share, all of which are left out. `problems` gets an entry for each fault, with the number of rows that have it.
    """
    good = pd.Series(True, index=frame.index)
    for wrong, columns, expected in _faults(file.name, frame, tasks):
        if wrong.any():
            got = ", ".join(f"{value!s:.60}" for value in frame.loc[wrong, columns].iloc[0])
            line = int(np.flatnonzero(wrong)[0]) + 2
            which = f"{wrong.sum():,} of {len(frame):,} rows, the first in line {line}"
            problems.add(file, f"{which}: {expected} {got}; {REMEDY}")
            good &= ~wrong
    return frame[good].reset_index(drop=True)


def _table(file: Path, tasks: Collection[str], problems: Problems) -> pd.DataFrame:
    columns = COLUMNS[file.name]
    if kind_at(file):
        with problems.noted(file):
            later = {name: "" if missing is None else missing for name, missing in LATER[file.name].items()}
            return _good_rows(file, read_csv(file, columns, later), tasks, problems)
    return pd.DataFrame(columns=list(columns)).astype(_dtypes(columns))


def _faults(name: str, frame: pd.DataFrame, tasks: Collection[str]) -> Iterator[tuple[pd.Series, list[str], str]]:
    """Yield (mask of the rows, columns, sentence) for each fault that the table of this `name` can have, found or not.

    The mask is a boolean Series that is true in rows with the fault; the columns are those whose cells an error shows;
    the sentence says what was expected, up to "got".
    """
    columns = COLUMNS[name]
    if "task" in columns:
        known = {*tasks, LAYER} if name in OF_THE_LAYER_TOO else tasks
        yield ~frame["task"].isin(known), ["task"], _expected_tasks(known)
    for column, kind in columns.items():
        if kind != TEXT:
            wrong = np.isinf(frame[column]) | (frame[column].isna() if kind == FINITE else False)
            yield wrong, [column], f"expected a finite number in column '{column}', got"
    if name == "texts.csv":
        yield ~frame["pieces"].map(_are_pieces), ["pieces"], "expected a JSON list of texts in column 'pieces', got"
    if key := list(TABLES[name].key):
        yield frame.duplicated(key, keep=False), key, f"expected one row for each {' and '.join(key)}, got several for"


def _are_pieces(cell: str) -> bool:
    """Whether a cell is a JSON list of texts, none with half a character, which could be written to no page."""
    try:
        pieces = json.loads(cell)
        return isinstance(pieces, list) and "".join(pieces).encode("utf-8") is not None
    except (ValueError, TypeError, RecursionError):
        return False


def _expected_tasks(known: Collection[str]) -> str:
    return f"expected tasks that environment.json describes ({', '.join(sorted(known))}), got"


def _dtypes(columns: Mapping[str, str]) -> dict[str, type]:
    return {name: str if kind == TEXT else float for name, kind in columns.items()}
