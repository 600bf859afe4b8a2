"""Tasks that are objects in a user's own Python file, named as path.py:name."""

import inspect
import re
from pathlib import Path
from typing import Any, cast

from mha.tasks.base.protocol import Task
from mha.values.errors import TaskError
from mha.values.python_files import imported

ATTRIBUTES = ("name", "metric", "higher_is_better", "chance")
METHODS = ("model", "calibration", "loss", "forward", "evaluate", "aggregate", "example")
NAMES = r"[a-z0-9][a-z0-9_.-]*"  # they stand in file names
TAKEN = "attention"


def task_object(word: str) -> Task:
    """The task that `path.py:name` names. The file is imported: its code runs.

    Raises:
        TaskError: the word is no path.py:name, or there is no such file or name; the file can't be imported; or the
            object lacks something that a task needs.
    """
    path, _, name = word.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise TaskError(f"{word!r}: expected path.py:name, the file and the name of the task in it")
    if not Path(path).is_file():
        raise TaskError(f"{word!r}: there is no file {path}")
    try:
        module = imported(Path(path), "mha_task")
    except Exception as error:
        raise TaskError(f"{word!r}: importing it raised {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        others = [
            key for key, value in vars(module).items() if hasattr(value, "evaluate") and not inspect.isclass(value)
        ]
        raise TaskError(f"{word!r}: {path} has no {name!r}; it has {', '.join(others) or 'no task'}")
    task = getattr(module, name)
    _check_task(task, word)
    return cast("Task", task)


def _check_task(task: Any, word: str) -> None:
    """Refuse what is no task.

    Raises:
        TaskError: it is a class, lacks an attribute or method of `mha.tasks.Task` that is needed, or has a name that
            can't stand in file names or is "attention"; the message begins with `word`.
    """
    if inspect.isclass(task):
        raise TaskError(f"{word!r} is a class; name an object, as task = {task.__name__}()")
    if missing := [member for member in (*ATTRIBUTES, *METHODS) if not hasattr(task, member)]:
        raise TaskError(f"{word!r} lacks {', '.join(missing)}; mha.tasks.Task says what a task offers, subclass it")
    check_name(task.name, word)


def check_name(name: object, word: str) -> None:
    """Refuse a task's name that can't stand in file names, or is "attention".

    Raises:
        TaskError: it is such a name; the message begins with `word`, which says where the task comes from.
    """
    if not re.fullmatch(NAMES, str(name)) or name == TAKEN:
        raise TaskError(
            f"{word!r} is named {name!r}; names stand in file names: lower-case letters, digits, "
            f"'_', '.' and '-' ({TAKEN!r} is taken by the bare layer)"
        )
