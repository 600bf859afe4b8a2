"""The reference tasks: every module here without a leading underscore offers one object named `task`.

Adding a task is adding a file. A task whose model comes as a package of its own has a method `missing`, which says why
it can't be had here, or None; such a task is measured where it is asked for by name, or in full runs.
"""

import importlib
import pkgutil

from mha.tasks import Task


def names() -> tuple[str, ...]:
    """The names of the reference tasks, sorted: each is that of its file."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_"))


def usual() -> tuple[str, ...]:
    """The names of those that train their model themselves, and need nothing but what the project needs."""
    return tuple(name for name in names() if not hasattr(load(name), "missing"))


def missing(name: str) -> str | None:
    """Why the task of that name can't be had here: which package is not installed, and what installs it; else None."""
    task = load(name)
    reason: str | None = task.missing() if hasattr(task, "missing") else None
    return reason


def load(name: str) -> Task:
    """The reference task of that name, untrained: its model is trained when it is asked for."""
    task: Task = importlib.import_module(f"{__name__}.{name}").task
    return task
