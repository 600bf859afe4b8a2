"""Which tasks a run is about: names of reference tasks, or objects of the user's own."""

import importlib.util
import inspect
import re
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from bench.settings.option_parsing import naming, several

if TYPE_CHECKING:
    from mha.tasks import Task

ATTRIBUTES = ("name", "metric", "higher_is_better", "chance")
METHODS = ("model", "calibration", "loss", "forward", "evaluate", "aggregate", "example")


class Chosen(NamedTuple):
    """A task, and the user's file that it comes from; None for a reference task."""

    task: "Task"
    file: Path | None = None


def chosen_tasks(texts: Sequence[str] | None, *, full: bool = False) -> tuple[Chosen, ...]:
    """The tasks that the texts given to `--task` name, each once.

    Where there are no texts: the reference tasks that train their model, with `full` also those whose model is an
    installed package.

    Raises:
        pytest.UsageError: there is no such task, a package that it needs is not installed, the file can't be imported,
            what it has is no task, two tasks have the same name, or a text names none.
    """
    from bench import tasks

    words: Sequence[str] = [word for text in texts or () for word in several("--task", text, str)]
    if not words:
        words = [name for name in tasks.names() if not tasks.missing(name)] if full else tasks.usual()
    chosen: dict[str, Chosen] = {}
    for word in dict.fromkeys(words):
        choice = _user_task(word) if ".py" in word else Chosen(tasks.load(_reference(word, tasks.names())))
        if choice.task.name in chosen:
            raise pytest.UsageError(f"--task: two tasks are named {choice.task.name!r}; results are filed by task name")
        chosen[choice.task.name] = choice
    return tuple(chosen.values())


def left_out_tasks(texts: Sequence[str] | None, *, full: bool = False) -> dict[str, str]:
    """The reference tasks that `chosen_tasks` leaves out though `full` asks for them: name -> why, in a sentence."""
    from bench import tasks

    if texts or not full:
        return {}
    return {name: reason for name in tasks.names() if (reason := tasks.missing(name))}


@naming("--task")
def _reference(word: str, known: tuple[str, ...]) -> str:
    """The word, if it is a known name of a reference task; else a `pytest.UsageError` that lists the names."""
    from bench import tasks

    if word not in known:
        raise ValueError(
            f"unknown {word!r}; choose from {', '.join(known)}, or give an object of your own as path.py:name"
        )
    if reason := tasks.missing(word):
        raise ValueError(reason)
    return word


@naming("--task")
def _user_task(word: str) -> Chosen:
    """The task that `path.py:name` names, with its file.

    Raises:
        pytest.UsageError: the word is no path.py:name, or there is no such file or name; the file can't be imported; or
            the object lacks something that a task needs.
    """
    path, _, name = word.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ValueError(f"{word!r}: expected path.py:name, the file and the name of the task in it")
    if not Path(path).is_file():
        raise ValueError(f"{word!r}: there is no file {path}")
    module = _imported(Path(path), word)
    if not hasattr(module, name):
        others = [
            key for key, value in vars(module).items() if hasattr(value, "evaluate") and not inspect.isclass(value)
        ]
        raise ValueError(f"{word!r}: {path} has no {name!r}; it has {', '.join(others) or 'no task'}")
    task = getattr(module, name)
    _check_task(task, word)
    return Chosen(cast("Task", task), Path(path))


def _imported(path: Path, word: str) -> Any:
    """Import a file as a module, once; two files of the same name become two modules.

    Raises:
        ValueError: importing it raises an error; the message begins with `word`.
    """
    name = f"bench_task_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ValueError(f"{word!r}: importing it raised {type(error).__name__}: {error}") from error
    return module


def _check_task(task: Any, word: str) -> None:
    """Refuse what is no task.

    Raises:
        ValueError: it is a class, lacks an attribute or method of `mha.tasks.Task` that is needed, or has a name that
            can't stand in file names or is "attention"; the message begins with `word`.
    """
    if inspect.isclass(task):
        raise ValueError(f"{word!r} is a class; name an object, as task = {task.__name__}()")
    if missing := [member for member in (*ATTRIBUTES, *METHODS) if not hasattr(task, member)]:
        raise ValueError(f"{word!r} lacks {', '.join(missing)}; mha.tasks.Task says what a task offers, subclass it")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", str(task.name)) or task.name == "attention":
        raise ValueError(
            f"{word!r} is named {task.name!r}; names stand in file names: lower-case letters, digits, "
            "'_', '.' and '-' ('attention' is taken by the bare layer)"
        )
