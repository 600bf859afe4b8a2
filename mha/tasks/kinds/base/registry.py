"""The kinds of tasks by name. Each registers itself: adding a kind is adding a file to `mha/tasks/kinds`."""

from collections.abc import Callable
from typing import TypeVar

from mha.tasks.kinds.base.file_task import FileTask

K = TypeVar("K", bound=type[FileTask])

_KINDS: dict[str, type[FileTask]] = {}


def register_kind(name: str) -> Callable[[K], K]:
    """Make the decorated class the kind of this name, as a task's file says it: `kind = "name"`."""

    def register(kind: K) -> K:
        _KINDS[name] = kind
        return kind

    return register


def kinds() -> dict[str, type[FileTask]]:
    """Every kind by its name."""
    return dict(sorted(_KINDS.items()))
