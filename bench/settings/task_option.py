"""Which tasks a run is about: names of reference tasks, or objects of the user's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from bench.settings.option_parsing import naming, several
from mha.tasks.base.objects import task_object

if TYPE_CHECKING:
    from mha.tasks import Task


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
    """The task that `path.py:name` names, with its file; a `pytest.UsageError` where there is none."""
    return Chosen(task_object(word), Path(word.rpartition(":")[0]))
