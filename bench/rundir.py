"""Writes a run directory; docs/run-directory.md says what is in it.

Whatever has been measured is on disk at once, one file each. What reads better as one table is assembled
from those files when the run ends.
"""

import csv
import json
import shutil
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from mha.files import appears_whole

SCHEMA = 1

CASE = ("case", "kind", "task", "criterion", "plan", "kept_fraction", "heads_kept", "heads_total", "shape")
TIMING = ("batch", "seq_len", "device", "dtype", "timed_by")
PLAN = ("plan", "task", "criterion", "draw", "kept_fraction", "heads_kept", "heads_total", "parameters", "shape")
ACCURACY = ("keep", "value", "low", "high", "difference", "difference_low", "difference_high", "examples")
TABLES = {
    "scores.csv": ("task", "criterion", "layer", "head", "score", "seconds"),
    "promises.csv": ("task", "promise", "value", "low", "high", "bound", "kept"),
    "predictions.csv": (
        *("task", "device", "plan", "shape", "predicted", "measured", "low", "high", "error", "ended", "rounds"),
    ),
    "operators.csv": (
        *(
            "task",
            "device",
            "criterion",
            "kept_fraction",
            "batch",
            "operator",
            "calls",
            "seconds",
            "device_seconds",
            "bytes",
        ),
    ),
    "memory.csv": ("task", "device", "criterion", "kept_fraction", "batch", "seconds", "bytes"),
}
TRACES = "traces"


class RunDirectory:
    """The directory of one run, while it is being filled.

    Every file appears whole or not at all, and one process writes.
    """

    def __init__(self, path: Path, environment: Mapping[str, Any]) -> None:
        self.path = path
        self._environment = dict(environment)
        self._tables: dict[str, list[Sequence[Any]]] = {name: [] for name in TABLES}
        self._attention: dict[str, np.ndarray] = {}

    @classmethod
    def create(cls, path: Path, environment: Mapping[str, Any], tasks: Mapping[str, Any]) -> Self:
        """Make the directory and write the environment, with `finished` still open.

        Raises:
            OSError: it can't be written.
        """
        for folder in ("cases", "plans"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        head = {"schema": SCHEMA, "created": _now(), "finished": None, "interrupted": False}
        run = cls(path, {**head, **environment, "tasks": dict(tasks)})
        run._write_environment()
        return run

    def describe_task(self, name: str, description: Mapping[str, Any]) -> None:
        """Add what is known about a task once its model is there."""
        self._environment["tasks"][name] |= description
        self._write_environment()

    @contextmanager
    def case(self, **known: Any) -> Iterator[dict[str, Any]]:
        """The record of one latency case, to be completed in the body; what the body raises is recorded too."""
        blank = dict.fromkeys((*CASE, *TIMING)) | {"samples": []}
        with self._recorded("cases", known["case"], blank | known) as record:
            yield record

    @contextmanager
    def plan(self, **known: Any) -> Iterator[dict[str, Any]]:
        """The record of one plan, likewise; `values` is what `evaluate` returned, row by row."""
        blank = dict.fromkeys((*PLAN, *ACCURACY)) | {"values": []}
        with self._recorded("plans", known["plan"], blank | known) as record:
            yield record

    def add_scores(self, rows: Iterable[Sequence[Any]]) -> None:
        """Rows of `scores.csv`."""
        self._extend("scores.csv", rows)

    def add_promise(self, row: Sequence[Any]) -> None:
        """A row of `promises.csv`."""
        self._extend("promises.csv", [row])

    def add_prediction(self, row: Sequence[Any]) -> None:
        """A row of `predictions.csv`."""
        self._extend("predictions.csv", [row])

    def add_operators(self, rows: Iterable[Sequence[Any]]) -> None:
        """Rows of `operators.csv`."""
        self._extend("operators.csv", rows)

    def add_memory(self, rows: Iterable[Sequence[Any]]) -> None:
        """Rows of `memory.csv`."""
        self._extend("memory.csv", rows)

    def add_trace(self, case: str, trace: Path) -> None:
        """A trace, in a folder of its own, as TensorBoard's profiler plugin looks for runs."""
        target = self.path / TRACES / case / f"{case}.pt.trace.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        with appears_whole(target) as temporary:
            shutil.copyfile(trace, temporary)

    def add_attention(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Arrays of `attention.npz`."""
        self._attention |= arrays
        with appears_whole(self.path / "attention.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **self._attention)

    def assemble(self) -> None:
        """Write the tables that are made of the other files."""
        for name in TABLES:
            self._extend(name, [])
        self.add_attention({})
        records = read_records(self.path / "plans")
        done = [record for record in records if record["status"] == "ok"]
        done.sort(key=lambda plan: (plan["task"], plan["criterion"], -plan["kept_fraction"], plan["draw"]))
        columns = (*PLAN, *ACCURACY)
        _write_csv(self.path / "plans.csv", columns, [[_cell(plan[column]) for column in columns] for plan in done])
        with appears_whole(self.path / "examples.parquet") as temporary:
            _examples(done).to_parquet(temporary, index=False)

    def finish(self, benchmarks: Path, *, interrupted: bool) -> None:
        """Take over what pytest-benchmark has written, if anything, and say that nothing more will come."""
        if benchmarks.exists():
            with appears_whole(self.path / "benchmarks.json") as temporary:
                shutil.copyfile(benchmarks, temporary)
            unfinished(self.path / "benchmarks.json").unlink(missing_ok=True)
        self._environment |= {"finished": _now(), "interrupted": interrupted}
        self._write_environment()

    @contextmanager
    def _recorded(self, folder: str, name: str, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        path = self.path / folder / f"{name}.json"
        record = {"schema": SCHEMA, "status": "ok", "error": None, **fields}
        try:
            yield record
        except Exception:
            _write_json(path, {**record, "status": "failed", "error": traceback.format_exc()})
            raise
        _write_json(path, record)

    def _extend(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        self._tables[name].extend(rows)
        _write_csv(self.path / name, TABLES[name], [[_cell(value) for value in row] for row in self._tables[name]])

    def _write_environment(self) -> None:
        _write_json(self.path / "environment.json", self._environment, indent=2)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records in `cases/` or `plans/`, by file name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def unfinished(path: Path) -> Path:
    """Where a file stands until it is whole."""
    return path.with_name(f".{path.name}.partial")


def _examples(plans: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """task, plan, example, value_0 …: one row for each example of each plan."""
    frames = [pd.DataFrame({"task": "", "plan": "", "example": range(0), "value_0": 0.0})]
    for plan in plans:
        values = np.asarray(plan["values"], dtype=float).reshape(plan["examples"], -1)
        columns = {f"value_{index}": column for index, column in enumerate(values.T)}
        names = {"task": plan["task"], "plan": plan["plan"]}
        frames.append(pd.DataFrame({**names, "example": range(len(values)), **columns}))
    return pd.concat(frames, ignore_index=True)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with appears_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _write_json(path: Path, document: Any, indent: int | None = None) -> None:
    text = json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=False)
    with appears_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
