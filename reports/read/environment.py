"""`environment.json`: what makes a directory a run."""

from collections.abc import Iterator, Mapping
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
    """Read and check environment.json of the directory `path`, and return its content without what is wrong in it.

    A task that lacks a field or has a wrong one is left out of `tasks`, and so is a wrong optional field of the whole,
    of a task or of `machine`; `problems` is told of each.

    Raises:
        ReportError: there is no such directory or file in it, or the file can't be read, is of another schema, or has a
            required field that is missing or of a wrong type.
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
    if facts.get("machines"):
        facts["machines"] = dict(_machines(file, facts["machines"], problems))
    return {**facts, "tasks": tasks}


def _machines(file: Path, machines: Mapping[str, Any], problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and facts of each other kind of machine, without what is wrong; `problems` is told of that."""
    for name, facts in machines.items():
        where = f"machine '{name}'"
        with problems.noted(file):
            check_fields(file, facts, {}, where)
            known = {fact: types for fact, types in optional(ENVIRONMENT).items() if fact != "machines"}
            about = _sound(file, facts, known, where, problems)
            if about.get("machine"):
                about["machine"] = _sound(file, about["machine"], optional(MACHINE), f"{where}, machine", problems)
            yield name, about


def _sound(
    file: Path, document: Mapping[str, Any], later: Mapping[str, Types], where: str, problems: Problems
) -> dict[str, Any]:
    """A copy of the object `document` without those of its optional fields that are wrong; `problems` is told of these.

    Wrong is a value of another type, layers that are not whole numbers, or a number of bytes below 0.

    Args:
        file: the file that the object is in.
        later: the optional fields: name -> types.
        where: what errors call the object; "" if it is the whole file.
    """
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
