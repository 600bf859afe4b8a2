"""Records in a folder of a run directory: a file for each case, plan or step, written the moment it has ended."""

import json
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bench.rundir.description import FAILED, OK, OUT_OF_MEMORY, SCHEMA, SKIPPED
from bench.rundir.files import read_json, write_json
from bench.rundir.out_of_memory import out_of_memory

BULKY = ("samples", "values", "alone")  # stay on disk


class Records:
    """The records in `folder`, a JSON file each: those there when this object was made, and those it has written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: set[str] = set()
        self._known = {path.stem: _brief(record) for path, record in _readable(folder)}

    @contextmanager
    def record(self, name: str, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a record with these fields, for the body to complete, and write it when the body ends or raises.

        Its `status` becomes ok, failed, skipped or out of memory, its `error` the traceback or the reason for the skip;
        what the body raises is raised on. Nothing is written where the whole run is stopped.

        Args:
            name: of the file, without .json.
        """
        record = {"schema": SCHEMA, "status": OK, "error": None, **fields}
        try:
            yield record
        except (pytest.exit.Exception, KeyboardInterrupt, GeneratorExit):  # the whole run stops
            raise
        except pytest.skip.Exception as skipped:
            status = OUT_OF_MEMORY if str(skipped.msg).startswith(OUT_OF_MEMORY) else SKIPPED
            self._write(name, {**record, "status": status, "error": skipped.msg})
            raise
        except BaseException as error:  # also what a task's own code raises to end the process
            status = OUT_OF_MEMORY if out_of_memory(error) else FAILED
            self._write(name, {**record, "status": status, "error": traceback.format_exc()})
            raise
        self._write(name, record)

    def fail(self, name: str, fields: Mapping[str, Any], error: BaseException) -> None:
        """Record that something failed or was skipped with this error, unless this process has recorded it already."""
        if name not in self._written:
            with suppress(type(error)), self.record(name, fields):
                raise error

    def put(self, name: str, record: dict[str, Any]) -> bool:
        """Write a record that another process has made; False, and nothing, if one is there that has not failed."""
        if self.ended(name):
            return False
        self._write(name, record)
        return True

    def forget(self, name: str) -> None:
        """Remove the record of this name, if there is one."""
        (self._folder / f"{name}.json").unlink(missing_ok=True)
        self._known.pop(name, None)

    def ended(self, name: str) -> bool:
        """Whether a record of this name is there and its status is not failed: another try would end the same."""
        return self._known.get(name, {"status": FAILED})["status"] != FAILED

    def brief(self, name: str) -> dict[str, Any] | None:
        """The record of this name without what is bulky in it; None where there is none."""
        return self._known.get(name)

    def find(self, **fields: Any) -> dict[str, Any] | None:
        """The first record, whole, whose status is ok and that has these values in these fields; else None."""
        wanted = {"status": OK, **fields}
        for name, record in self._known.items():
            if all(record.get(field) == value for field, value in wanted.items()):
                return read_json(self._folder / f"{name}.json")
        return None

    def _write(self, name: str, record: dict[str, Any]) -> None:
        self._folder.mkdir(exist_ok=True)
        write_json(self._folder / f"{name}.json", record)
        self._known[name] = _brief(record)
        self._written.add(name)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records in the folder `cases/`, `plans/` or `steps/`, whole, in the order of their file names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _readable(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield path and contents of each record that is valid JSON. Others are deleted: they will be measured again."""
    for path in sorted(folder.glob("*.json")):
        try:
            yield path, read_json(path)
        except ValueError:
            path.unlink()


def _brief(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its samples and values; `timed_itself` says whether it had samples."""
    light = {name: value for name, value in record.items() if name not in BULKY}
    return {**light, "timed_itself": bool(record.get("samples"))}
