"""The CSV tables of a run: the columns of each, read and checked. A table that is not there is empty."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.errors import ReportError
from reports.files import REMEDY, read_csv
from reports.run import LAYER

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
KEYS = {"scores.csv": ["task", "criterion", "layer", "head"]}
OF_THE_LAYER_TOO = ("predictions.csv",)


def read_tables(path: Path, environment: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Name without .csv -> table, of all that TABLES has.

    Raises:
        ReportError: a table lacks a column, or has a cell that is not what the schema says.
    """
    return {name.removesuffix(".csv"): _table(path / name, environment) for name in TABLES}


def check_task(file: Path, found: Any, known: Any) -> None:
    """Every task is one that the run describes."""
    names = {found} if isinstance(found, str) else set(found)
    if unknown := sorted(names - set(known)):
        raise ReportError(
            f"{file}: expected tasks that environment.json describes ({', '.join(sorted(known))}), got "
            f"{', '.join(unknown)}; {REMEDY}"
        )


def _table(file: Path, environment: Mapping[str, Any]) -> pd.DataFrame:
    columns = TABLES[file.name]
    if not file.is_file():
        return pd.DataFrame({name: pd.Series(dtype=str if kind == TEXT else float) for name, kind in columns.items()})
    frame = read_csv(file, columns)
    if "task" in columns:
        check_task(file, frame["task"], {*environment["tasks"], *((LAYER,) if file.name in OF_THE_LAYER_TOO else ())})
    _check_finite(file, frame, [name for name, kind in columns.items() if kind == FINITE])
    _check_once(file, frame, KEYS.get(file.name))
    return frame


def _check_finite(file: Path, frame: pd.DataFrame, columns: list[str]) -> None:
    for name in columns:
        wrong = ~np.isfinite(frame[name].astype(float))
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0]) + 2
            raise ReportError(
                f"{file}: expected a finite number in column '{name}', got {frame[name].iloc[line - 2]} "
                f"in line {line}; run the benchmark again"
            )


def _check_once(file: Path, frame: pd.DataFrame, key: list[str] | None) -> None:
    if key and frame.duplicated(key).any():
        first = tuple(frame.loc[frame.duplicated(key), key].iloc[0])
        raise ReportError(f"{file}: expected one score for each head, got several for {first}; {REMEDY}")
