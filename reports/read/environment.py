"""`environment.json`: what makes a directory a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reports.base.errors import ReportError
from reports.read.description import ENVIRONMENT, MACHINE, TASK, Types, optional, required
from reports.read.files import check_fields, check_items, check_numbers, check_schema, read_json
from reports.read.intake import MOST_TASKS, check_count, kind_at
from reports.read.problems import Problems

FILE = "environment.json"
GIVE = "give the directory that the benchmark wrote, or a .zip of it"


def read_environment(path: Path, problems: Problems) -> dict[str, Any]:
    """Read and check `path`/environment.json; a wrong task or optional field is left out, and `problems` is told.

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
    check_fields(file, environment, required(ENVIRONMENT))
    tasks = {}
    for number, (task, facts) in enumerate(environment["tasks"].items(), start=1):
        where = f"task '{task}'"
        with problems.noted(file):
            check_count(file, number, MOST_TASKS, "tasks")
            check_fields(file, facts, required(TASK), where)
            check_numbers(file, facts, {"batch_size": TASK["batch_size"].least, "chance": None}, where)
            tasks[task] = _sound(file, facts, optional(TASK), where, problems)
    facts = _sound(file, environment, optional(ENVIRONMENT), "", problems)
    if facts.get("machine"):
        facts["machine"] = _sound(file, facts["machine"], optional(MACHINE), "machine", problems)
    return {**facts, "tasks": tasks}


def _sound(
    file: Path, document: Mapping[str, Any], later: Mapping[str, Types], where: str, problems: Problems
) -> dict[str, Any]:
    """The object without its optional fields (`later`: name -> types) that are wrong; errors call it `where`."""
    sound = dict(document)
    for name, types in later.items():
        if name in document:
            with problems.noted(file):
                check_fields(file, document, {name: types}, where)
                if name == "layers":
                    check_items(file, document[name].values(), int, f"'{name}' in {where}")
                if name == "memory_bytes":
                    check_numbers(file, document, {name: ENVIRONMENT[name].least}, where)
                continue
            del sound[name]
    return sound
