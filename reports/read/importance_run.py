"""The tables of an importance run that figures are drawn from, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports.base.errors import ReportError
from reports.read.archive import opened
from reports.read.files import read_csv
from reports.read.intake import contents

TRUTH, RANDOM, BEST, RIVAL, DENSE, ALL = "held out", "random", "best subset", "trained small", "dense", "all"

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "curves": {
        "task": "text", "criterion": "text", "heads_kept": "number", "heads_total": "number",
        "kept_fraction": "number", "value": "number", "low": "number", "high": "number", "draws_low": "number",
        "draws_high": "number", "metric": "text",
    },
    "areas": {
        "task": "text", "criterion": "text", "share": "number", "share_low": "number", "share_high": "number",
    },
    "agreement": {
        "task": "text", "seed": "number", "criterion": "text", "other": "text", "spearman": "number",
    },
    "cost": {"task": "text", "criterion": "text", "forward": "number", "readings": "number"},
    "stability": {"task": "text", "criterion": "text", "examples": "number", "spearman": "number"},
}  # fmt: skip
LATER = {"metric": "metric"}  # of older runs' curves, what the name of the metric would be
LIKELIHOOD = "log-likelihood of a token"


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of an importance run that figures use, each from the .csv of its name, with the columns in COLUMNS.

    docs/importance.md says what stands in them.
    """

    curves: pd.DataFrame
    areas: pd.DataFrame
    agreement: pd.DataFrame
    cost: pd.DataFrame
    stability: pd.DataFrame


def load(path: Path) -> Tables:
    """The tables of an importance run, from its directory or the .zip of one. A table whose file is blank is empty.

    Raises:
        ReportError: `path` is a file but no .zip of a run, or a table is missing, cut off, or lacks a column.
    """
    with opened(path) as directory:
        return Tables(**{name: _table(directory / f"{name}.csv", columns) for name, columns in COLUMNS.items()})


def _table(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    if not path.is_file():
        raise ReportError(f"{path}: there is no such table; expected the directory of an importance run")
    empty = contents(path).strip() in (b"", b'""')
    return pd.DataFrame(columns=list(columns)) if empty else read_csv(path, columns, LATER)
