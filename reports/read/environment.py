"""`environment.json`: what makes a directory a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reports.base.errors import ReportError
from reports.read.files import Types, check_fields, check_items, check_numbers, check_schema, read_json
from reports.read.intake import MOST_TASKS, check_count, kind_at
from reports.read.problems import Problems

FILE = "environment.json"
GIVE = "give the directory that the benchmark wrote, or a .zip of it"
MAYBE_TEXT = (str, type(None))
NUMBER = (int, float)
MAYBE_NUMBER = (*NUMBER, type(None))
MAYBE_BOOL = (bool, type(None))
MAYBE_OBJECT = (dict, type(None))
FIELDS: Mapping[str, Types] = {"schema": int, "created": str, "finished": MAYBE_TEXT, "tasks": dict}
LATER: Mapping[str, Types] = {
    "interrupted": MAYBE_BOOL, "dirty": MAYBE_BOOL, "memory_bytes": MAYBE_NUMBER, "packages": MAYBE_OBJECT,
    "accelerators": MAYBE_OBJECT, "machine": MAYBE_OBJECT,
}  # fmt: skip
TASK: Mapping[str, Types] = {
    "metric": str, "higher_is_better": bool, "chance": NUMBER, "batch_size": int
}  # fmt: skip
TASK_LATER: Mapping[str, Types] = {"layers": dict, "description": MAYBE_TEXT, "parameters": int, "examples": int}


def read_environment(path: Path, problems: Problems) -> dict[str, Any]:
    """Read and check `path`/environment.json; a task or a field beside the point that is wrong is left out.

    Raises:
        ReportError: the directory is no run, or its environment.json can't be read, or is of another schema.
    """
    if not path.is_dir():
        raise ReportError(f"{path}: expected a run directory, found nothing; {GIVE}")
    file = path / FILE
    if not kind_at(file):
        raise ReportError(f"{path}: expected a run directory with {FILE} in it, which is not there; {GIVE}")
    environment = read_json(file)
    check_schema(file, environment)
    check_fields(file, environment, FIELDS)
    tasks = {}
    for number, (task, about) in enumerate(environment["tasks"].items(), start=1):
        where = f"task '{task}'"
        with problems.noted(file):
            check_count(file, number, MOST_TASKS, "tasks")
            check_fields(file, about, TASK, where)
            check_numbers(file, about, {"batch_size": 1, "chance": None}, where)
            tasks[task] = _sound(file, about, TASK_LATER, where, problems)
    about = _sound(file, environment, LATER, "", problems)
    if about.get("machine"):
        about["machine"] = _sound(file, about["machine"], {"noisy": (list, type(None))}, "machine", problems)
    return {**about, "tasks": tasks}


def _sound(
    file: Path, about: Mapping[str, Any], later: Mapping[str, Types], where: str, problems: Problems
) -> dict[str, Any]:
    """The same, without those of the fields that may be missing which are not what they should be."""
    sound = dict(about)
    for name, types in later.items():
        if name in about:
            with problems.noted(file):
                check_fields(file, about, {name: types}, where)
                if name == "layers":
                    check_items(file, about[name].values(), int, f"'{name}' in {where}")
                if name == "memory_bytes":
                    check_numbers(file, about, {name: 0}, where)
                continue
            del sound[name]
    return sound
