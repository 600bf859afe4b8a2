"""From what the command line calls TASK to a task."""

from pathlib import Path

from mha import tasks
from mha.cli.models import Loaded
from mha.tasks import Task


def read_task(text: str, loaded: Loaded) -> Task:
    """The task of a TOML file, which is about this model, or the object that file.py:name names.

    Raises:
        TaskError: there is none, or it does not fit the model.
    """
    return tasks.read_task(text, loaded.model, loaded.processor)


def first_task(loaded: Loaded, data: Path) -> str:
    """A first task file, as text, for this model and these data.

    Raises:
        TaskError: the data can't be read, or no kind of task is known for the model.
    """
    return tasks.describe_task(loaded.model, loaded.processor, data)
