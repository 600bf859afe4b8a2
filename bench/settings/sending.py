"""Settings of a run as plain data, for a process on another machine that is to measure a part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from bench.settings.option_parsing import several
from bench.settings.options import RunSettings

PART = pytest.StashKey[bool]()  # of a process that measures a part of somebody else's run: whether it times anything
ELSEWHERE = ("directory", "tasks", "files", "left_out")
TUPLES = (
    "criteria",
    "keep",
    "batch_sizes",
    "devices",
    "dtypes",
    "lengths",
    "head_dims",
    "modes",
    "repair",
    "shrink_keep",
)


def settings_as_data(settings: RunSettings, texts: Sequence[str] | None) -> dict[str, Any]:
    """The settings as JSON can hold them, tasks by what names them.

    Args:
        texts: what was given to `--task`. Paths in it become absolute: the same file must be there on the other
            machine.
    """
    words = [word for text in texts or () for word in several("--task", text, str)]
    named = [_absolute(word) for word in words] or [task.name for task in settings.tasks]
    plain = {each.name: getattr(settings, each.name) for each in fields(settings) if each.name not in ELSEWHERE}
    left_out = [[device, name, why] for (device, name), why in settings.left_out.items()]
    return {**plain, "tasks_left_out": dict(settings.tasks_left_out), "left_out": left_out, "tasks": named}


def settings_from(data: Mapping[str, Any], directory: Path) -> RunSettings:
    """The settings of such data, for a run into this directory.

    Raises:
        pytest.UsageError: one of its tasks is not here.
    """
    from bench.settings.task_option import chosen_tasks

    chosen = chosen_tasks([*data["tasks"]]) if data["tasks"] else ()
    plain: dict[str, Any] = {
        name: tuple(value) if name in TUPLES and value is not None else value for name, value in data.items()
    }
    left_out = {(device, name): why for device, name, why in data["left_out"]}
    files = {each.task.name: each.file for each in chosen if each.file}
    tasks = tuple(each.task for each in chosen)
    try:
        plain |= {"left_out": left_out, "files": files, "tasks": tasks, "directory": directory}
        return RunSettings(**plain)
    except TypeError as error:
        raise pytest.UsageError(f"these settings are of another version of the suite: {error}") from error


def _absolute(word: str) -> str:
    """A word of `--task` with an absolute path, if it has one."""
    if ".py" not in word:
        return word
    path, colon, name = word.rpartition(":")
    return f"{Path(path).absolute()}{colon}{name}"
