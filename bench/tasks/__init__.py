"""The reference tasks: every module here without a leading underscore offers one object named `task`.

Adding a task is adding a file.
"""

import importlib
import pkgutil

from mha.tasks import Task


def names() -> tuple[str, ...]:
    """The names of the reference tasks, sorted: each is that of its file."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_"))


def load(name: str) -> Task:
    """The reference task of that name, untrained: its model is trained when it is asked for."""
    task: Task = importlib.import_module(f"{__name__}.{name}").task
    return task
