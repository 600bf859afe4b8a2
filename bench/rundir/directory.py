"""Writes a run directory; run-directory.toml describes what is in it, and docs/run-directory.md says what it means.

Whatever has been measured is on disk at once, one file each. What reads better as one table is assembled
from those files when the run ends. A run that was cut off goes on in the same directory.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pandas as pd
from filelock import BaseFileLock

from bench.measure.files import now
from bench.rundir.case_store import Records, read_records
from bench.rundir.description import BLANK_CASE, OK, SCHEMA, TABLES
from bench.rundir.files import left_behind, numbered, read_json, unfinished, write_json, written
from bench.rundir.resume import GIVEN, continued, locked, stop_mixing
from bench.rundir.tables import Table, write_csv

PLANS = "plans.csv"
BLANK_PLAN: Mapping[str, Any] = MappingProxyType({**TABLES[PLANS].blank, "values": [], "alone": None})
DENSE, ROUNDED = "dense", 0.001
ATTENTION = "attention.npz"
TRACES = "traces"
FILES = (  # patterns of all that a run has
    *("environment.json", "benchmarks*.json", "cases/*.json", "plans/*.json", "steps/*.json"),
    *(*TABLES, "examples.parquet", ATTENTION, f"{TRACES}/*/*.pt.trace.json"),
)


class RunDirectory:
    """The directory of one run, while it is being filled.

    Every file appears whole or not at all. Only one process writes: it holds a lock until it calls `close`, or ends.
    If a file can't be written, the run ends (`pytest.exit`).
    """

    def __init__(self, path: Path, environment: Mapping[str, Any], process: int, lock: BaseFileLock) -> None:
        self.path, self.process = path, process
        self.environment = dict(environment)
        self._lock = lock
        self._cases, self._plans, self._steps = (Records(path / folder) for folder in ("cases", "plans", "steps"))
        self._records = {"cases": self._cases, "plans": self._plans, "steps": self._steps}
        self._benchmarks: list[dict[str, Any]] = []  # pytest-benchmark's documents of other processes
        growing = {name: columns for name, columns in TABLES.items() if columns.origin}
        self._tables = {name: Table(path / name, *columns) for name, columns in growing.items()}
        self._attention = _arrays(path / ATTENTION)

    @classmethod
    def create(cls, path: Path, environment: Mapping[str, Any], tasks: Mapping[str, Any], process: int = 0) -> Self:
        """Make the directory, or go on in the one that is there; write `environment.json`, where `finished` is null.

        Args:
            process: number of this process, of those that a published figure is measured in.

        Raises:
            OSError: it can't be made.
            pytest.UsageError: another process writes to it, or what is there was measured by other code, on another
                machine or with another preset.
        """
        path.mkdir(parents=True, exist_ok=True)
        lock = locked(path)
        here = {"schema": SCHEMA, "created": now(), **environment, "tasks": dict(tasks)}
        known = continued(path, read_json(path / "environment.json"), here)
        for unfinished_file in [*left_behind(path, FILES)]:
            unfinished_file.unlink()
        run = cls(path, known, process, lock)
        run.note({})
        for folder in ("cases", "plans"):
            (path / folder).mkdir(exist_ok=True)
        return run

    def close(self) -> None:
        """Release the lock, so that another process can write."""
        self._lock.release()

    def note(self, facts: Mapping[str, Any]) -> None:
        """Set fields of `environment.json`, and write it anew."""
        self.environment |= facts
        write_json(self.path / "environment.json", self.environment, indent=2)

    def describe_task(self, name: str, description: Mapping[str, Any]) -> None:
        """Add facts about a task, by field, to its entry in `environment.json`.

        The run ends (`pytest.exit`) if the weights or the calibration data are others than in an earlier part.
        """
        tasks = self.environment["tasks"]
        for fact, what in GIVEN.items():
            there, here = tasks[name].get(fact), description.get(fact)
            if there is not None and here is not None and there != here:
                stop_mixing(self.path, name, what)
        self.note({"tasks": tasks | {name: tasks[name] | description}})

    def check_dense(self, task: str, values: np.ndarray) -> None:
        """End the run (`pytest.exit`) if the dense model's values are others than in an earlier part of the run.

        Plans are compared example by example, so all need the same ones. One in a thousand may differ, by rounding.

        Args:
            values: what the task's `evaluate` returned, (n,) or (n, k).
        """
        known = self._plans.find(task=task, criterion=DENSE)
        earlier = None if known is None else np.asarray(known["values"], dtype=float)
        if earlier is not None and (earlier.shape != values.shape or _share_of_others(earlier, values) > ROUNDED):
            stop_mixing(self.path, task, "evaluate() gives the dense model other values than")

    @contextmanager
    def case(self, **known: Any) -> Iterator[dict[str, Any]]:
        """Yield the record of one latency case, for the body to complete; it is written when the body ends or raises.

        `tokens`, unless the body sets it, becomes batch size · length.

        Args:
            known: the fields that are known before the body runs; `case`, the name, among them.
        """
        with self._cases.record(numbered(known["case"], self.process), self._blank_case(known)) as record:
            yield record
            if record["tokens"] is None and record["seq_len"] is not None and record["batch"] is not None:
                record["tokens"] = record["batch"] * record["seq_len"]

    @contextmanager
    def plan(self, **known: Any) -> Iterator[dict[str, Any]]:
        """Yield the record of one plan's accuracy, for the body to complete; it is written as that of a case is.

        Args:
            known: the fields that are known before the body runs; `plan`, the name, among them.
        """
        with self._plans.record(known["plan"], {**BLANK_PLAN, **known}) as record:
            yield record

    def fail(self, step: str, known: Mapping[str, Any], error: BaseException) -> None:
        """Record that a case, a plan or a step of another kind was not measured, unless it is recorded already.

        Args:
            step: name of the step, which is recorded if `known` names neither a case nor a plan.
            known: what is known of a case or a plan.
            error: the error that it ended with.
        """
        if "case" in known:
            self._cases.fail(numbered(known["case"], self.process), self._blank_case(known), error)
        elif "plan" in known:
            self._plans.fail(known["plan"], {**BLANK_PLAN, **known}, error)
        else:
            self._steps.fail(numbered(step, self.process), {"step": step, "process": self.process}, error)

    def done(self, step: str) -> None:
        """Remove the record of a step's earlier failure, since the step has now succeeded."""
        self._steps.forget(numbered(step, self.process))

    def _blank_case(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """A case's record with the fields of `known`, and all others as they are before it is measured."""
        return {**deepcopy(dict(BLANK_CASE)), "samples": [], **known, "process": self.process}

    def has_case(self, name: str) -> bool:
        """Whether this process, or an earlier part of its run, has a record of the case whose status is not failed."""
        return self._cases.ended(numbered(name, self.process))

    def has_plan(self, name: str) -> bool:
        """Whether the run, this part or an earlier one, has a record of the plan whose status is not failed."""
        return self._plans.ended(name)

    def has(self, file: str, **values: Any) -> bool:
        """Whether a table has a row with these values by column; of `attention.npz`, if it has arrays of the `task`."""
        if file == ATTENTION:
            return any(name.startswith(f"{values['task']}/") for name in self._attention)
        return self._tables[file].has(**values)

    def timed(self, **fields: Any) -> dict[str, Any] | None:
        """The record of a case that this process timed itself and that has these values in these fields, or None."""
        return self._cases.find(**fields, process=self.process, timed_itself=True)

    def kept(self, task: str, criterion: str, fraction: float, draw: int) -> dict[str, list[int]] | None:
        """Layer -> heads that a plan keeps, if this run has measured its accuracy already; else None."""
        plan = self._plans.find(task=task, criterion=criterion, kept_fraction=fraction, draw=draw)
        return plan and plan["keep"]

    def add_scores(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write all rows of `scores.csv` of one task and criterion, in its columns' order, in place of earlier ones."""
        self._tables["scores.csv"].add(rows)

    def add_promise(self, row: Sequence[Any]) -> None:
        """Write a row of `promises.csv` (columns: run-directory.toml); it replaces one of the same task and promise."""
        self._tables["promises.csv"].add([row])

    def add_predictions(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write all rows of `predictions.csv` of a task and device, in its columns' order, in place of earlier ones."""
        self._tables["predictions.csv"].add(rows)

    def add_operators(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write all rows of `operators.csv` of one profile, in its columns' order; they replace earlier ones."""
        self._tables["operators.csv"].add(rows)

    def add_memory(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write all rows of `memory.csv` of one profile, in its columns' order; they replace earlier ones."""
        self._tables["memory.csv"].add(rows)

    def add_ceiling(self, row: Sequence[Any]) -> None:
        """Write a row of `ceilings.csv`, in its columns' order; the last one, the process, is added here."""
        self._tables["ceilings.csv"].add([(*row, self.process)])

    def add_slices(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write all rows of `slices.csv` of one task and plan, in its columns' order, in place of earlier ones."""
        self._tables["slices.csv"].add(rows)

    def add_calibration(self, measures: Iterable[Sequence[Any]], bins: Iterable[Sequence[Any]]) -> None:
        """Write all rows of one task and plan, in place of earlier ones.

        Args:
            measures: those of `calibration.csv`, in its columns' order.
            bins: those of `reliability.csv`, in its columns' order.
        """
        self._tables["reliability.csv"].add(bins)
        self._tables["calibration.csv"].add(measures)  # last: it is looked at to see whether both are there

    def add_texts(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write all rows of `texts.csv` of one task and plan, in its columns' order, in place of earlier ones."""
        self._tables["texts.csv"].add(rows)

    def add_trace(self, case: str, trace: Path) -> None:
        """Copy the file of a trace into the folder traces/CASE.

        TensorBoard's profiler plugin takes each folder for a run.
        """
        target = self.path / TRACES / case / f"{case}.pt.trace.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        with written(target) as temporary:
            shutil.copyfile(trace, temporary)

    def add_attention(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add arrays, by name, to `attention.npz`; they replace those of the same name, and all others stay."""
        self._attention |= arrays
        with written(self.path / ATTENTION) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **self._attention)

    def take(self, files: Mapping[str, bytes], machine: str) -> int:
        """Add what a process has measured into a run directory of its own, perhaps on another machine.

        Args:
            files: path of each file in that directory -> its contents.
            machine: what the axis `machine` has for that machine.

        Returns:
            How many records there were here already, which stay; what the others hold of the same is dropped.
        """
        dropped = 0
        for path, contents in files.items():
            folder, _, name = path.rpartition("/")
            if folder in self._records:
                record = json.loads(contents)
                dropped += not self._records[folder].put(Path(name).stem, self._on_machine(record, machine))
            elif path in self._tables:
                self._tables[path].add(_rows(self._tables[path].columns, contents, machine))
            elif path == ATTENTION:
                if arrays := _arrays(io.BytesIO(contents)):
                    self.add_attention(arrays)
            elif folder.startswith(f"{TRACES}/"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
                with written(self.path / path) as temporary:
                    temporary.write_bytes(contents)
            elif path == f"{numbered('benchmarks', self.process)}.json":
                self._benchmarks.append(json.loads(contents))
        return dropped

    def _on_machine(self, record: dict[str, Any], machine: str) -> dict[str, Any]:
        """A record with the machine that it was measured on: of a case, that of the case which timed its shape."""
        if "machine" not in record:
            return record
        other = numbered(record.get("timed_by") or record["case"], self.process)
        timed = None if record.get("timed_by") == record["case"] else self._records["cases"].brief(other)
        return {**record, "machine": machine if timed is None else timed["machine"]}

    def assemble(self) -> None:
        """Write `plans.csv` and `examples.parquet` from the records of plans whose status is ok, and all other tables.

        A table that nothing has filled gets its header only; `attention.npz` is written too.
        """
        for table in self._tables.values():
            table.add([])
        self.add_attention({})
        done = [record for record in read_records(self.path / "plans") if record["status"] == OK]
        done.sort(key=lambda plan: (plan["task"], plan["criterion"], -plan["kept_fraction"], plan["draw"]))
        columns = TABLES[PLANS].names
        write_csv(self.path / PLANS, columns, [[plan[column] for column in columns] for plan in done])
        with written(self.path / "examples.parquet") as temporary:
            _examples(done).to_parquet(temporary, index=False)

    def finish(self, benchmarks: Path, *, interrupted: bool) -> None:
        """Take over what pytest-benchmark has written, if anything, and note that the run has finished.

        Results of an earlier part in `benchmarks.json` stay, if this part has not measured them again.

        Args:
            benchmarks: the path that pytest-benchmark has written to.
            interrupted: whether pytest was interrupted.
        """
        target = self.path / f"{numbered('benchmarks', self.process)}.json"
        if new := _joined([*self._benchmarks, _read_benchmarks(benchmarks)]):
            earlier = _read_benchmarks(target).get("benchmarks", [])
            merged = {entry["fullname"]: entry for entry in [*earlier, *new["benchmarks"]]}
            write_json(target, {**new, "benchmarks": list(merged.values())}, indent=4)
        unfinished(target).unlink(missing_ok=True)
        self.note({"finished": now(), "interrupted": interrupted})


def _read_benchmarks(path: Path) -> dict[str, Any]:
    """Read pytest-benchmark's document; {} where it has written none, or only half of one, as on a full disk."""
    try:
        return read_json(path) or {}
    except ValueError:
        return {}


def _joined(documents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Documents of pytest-benchmark as one: the last, with the entries of all; {} where there are none."""
    documents = [document for document in documents if document]
    entries = [entry for document in documents for entry in document["benchmarks"]]
    return {**documents[-1], "benchmarks": entries} if documents else {}


def _rows(columns: Sequence[str], contents: bytes, machine: str) -> list[list[str]]:
    """The rows of a table from another process; in a column `machine` they have that machine."""
    rows = list(csv.reader(io.StringIO(contents.decode("utf-8"))))[1:]
    if "machine" in columns:
        place = columns.index("machine")
        rows = [[*row[:place], machine, *row[place + 1 :]] for row in rows]
    return rows


def _share_of_others(one: np.ndarray, other: np.ndarray) -> float:
    """The share of rows in which two arrays of one shape differ by more than rounding, in any column."""
    others = ~np.isclose(one, other, rtol=1e-4, atol=1e-6).reshape(len(one), -1)
    return float(others.any(axis=1).mean())


def _arrays(path: Path | io.BytesIO) -> dict[str, np.ndarray]:
    """The arrays in an npz file, by name; {} where there is no file."""
    if isinstance(path, Path) and not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _examples(plans: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of examples: task, plan, example, value_0 …, a row for each example of each plan.

    Where a plan's record has `alone`, so has the table.
    """
    frames = [pd.DataFrame({"task": "", "plan": "", "example": range(0), "value_0": 0.0})]
    for plan in plans:
        values = np.asarray(plan["values"], dtype=float).reshape(plan["examples"], -1)
        columns = {f"value_{index}": column for index, column in enumerate(values.T)}
        if plan.get("alone") is not None:
            columns["alone"] = np.asarray(plan["alone"], dtype=float)
        names = {"task": plan["task"], "plan": plan["plan"]}
        frames.append(pd.DataFrame({**names, "example": range(len(values)), **columns}))
    return pd.concat(frames, ignore_index=True)
