"""The table of a run of bench.runtimes: models in the runtimes that they are deployed to, read and checked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports.base.errors import ReportError
from reports.read.archive import opened
from reports.read.files import read_csv
from reports.read.run import Metric

FILE = "runtimes.csv"
DENSE, TORCH, FLOAT32, OK = "dense", "PyTorch", "float32", "ok"

COLUMNS: Mapping[str, str] = {
    "task": "text", "metric": "text", "higher_is_better": "text", "chance": "number", "variant": "text",
    "kept_fraction": "number", "heads_kept": "number", "heads_total": "number", "runtime": "text", "weights": "text",
    "status": "text", "reason": "text", "value": "number", "low": "number", "high": "number", "difference": "number",
    "difference_low": "number", "difference_high": "number", "file_bytes": "number", "memory_bytes": "number",
    "batch": "number", "length": "number", "seconds": "number", "ratio": "number", "ratio_low": "number",
    "ratio_high": "number", "own_ratio": "number", "own_ratio_low": "number", "own_ratio_high": "number",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A task at a batch and a length, in all runtimes.

    Attributes:
        table: its rows, of what ran: columns as in COLUMNS, and `name`, by which a reader knows the model.
    """

    task: str
    metric: Metric
    batch: int
    length: int
    table: pd.DataFrame

    @property
    def title(self) -> str:
        """What it is, as a heading says it."""
        return f"{self.task}, batch {self.batch} × length {self.length}"

    @property
    def slug(self) -> str:
        """The same as a part of a file's name."""
        return f"{self.task}-b{self.batch}-s{self.length}"


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a run, those that were refused or failed among them."""

    rows: pd.DataFrame

    def settings(self) -> Iterator[Setting]:
        """Yield what was timed, a setting each."""
        timed = self.rows[(self.rows["status"] == OK) & self.rows["ratio"].notna()]
        for _, rows in timed.groupby(["task", "batch", "length"], sort=False):
            first = rows.iloc[0]
            higher = first["higher_is_better"] == "True"
            metric = Metric(
                first["metric"], higher, first["chance"], higher and bool(rows["value"].between(0, 1).all())
            )
            named = rows.assign(name=[_name(row) for _, row in rows.iterrows()])
            batch, length = int(first["batch"]), int(first["length"])
            yield Setting(first["task"], metric, batch, length, named.reset_index(drop=True))

    def missing(self) -> tuple[str, ...]:
        """What was refused or failed, each once, with the reason."""
        left = self.rows[self.rows["status"] != OK]
        named = ((row["task"], _name(row), row["runtime"], row["reason"]) for _, row in left.iterrows())
        return tuple(dict.fromkeys(f"{task}, {name}, in {runtime}: {reason}" for task, name, runtime, reason in named))


def load(path: Path) -> Table:
    """The table of a run, from its directory or the .zip of one.

    Raises:
        ReportError: `path` is a file but no .zip of a run, or the table is missing, cut off, or lacks a column.
    """
    with opened(path) as directory:
        if not (directory / FILE).is_file():
            raise ReportError(f"{directory / FILE}: there is no such table; expected a run of bench.runtimes")
        return Table(read_csv(directory / FILE, COLUMNS))


def _name(row: pd.Series) -> str:
    """A model with its kind of weights, as "pruned to 50 %, int8"."""
    kept = f" {100 * row['kept_fraction']:.0f} %"
    variant = {DENSE: DENSE, "pruned": f"pruned to{kept}"}.get(row["variant"], f"{row['variant']},{kept}")
    return variant if row["weights"] == FLOAT32 else f"{variant}, {row['weights']}"
