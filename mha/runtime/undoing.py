"""Changes that are undone whatever interrupts them, and also where several contexts change the same thing.

An interrupt (Ctrl-C) may come between any two steps, also while changes are being taken back. So the function that
undoes a change is noted before the change is made, can be called twice, and is called again by the context around it
(`undoing`) if it was cut short.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

Undo = Callable[[], object]

_LOG = threading.local()  # .undos: what takes the changes of this thread back, in the order of the changes
_OVERRIDDEN: dict[tuple[int, str], dict[object, Any]] = {}  # (module, attribute) -> its own value, then others
_MISSING = object()


@contextmanager
def undoing() -> Iterator[None]:
    """When the context ends, undo every change that `changed` made in it, in this thread, and did not come to undo."""
    outer, own = getattr(_LOG, "undos", None), dict[Undo, None]()
    try:
        _LOG.undos = own
        yield
    finally:
        for undo in reversed(list(own)):
            undo()
        if getattr(_LOG, "undos", None) is own:  # a generator may end late, or in another thread
            _LOG.undos = outer


@contextmanager
def changed(undo: Undo) -> Iterator[None]:
    """Within the context the caller may change something; when it ends, `undo` is called to put that back.

    Args:
        undo: called at least once, perhaps before anything was changed; a second call must do no harm.
    """
    undos = getattr(_LOG, "undos", None)
    undos = dict[Undo, None]() if undos is None else undos
    try:
        undos[undo] = None
        yield
    finally:
        undo()
        undos.pop(undo, None)


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any], *, before: bool = False, **options: Any) -> Iterator[None]:
    """Within the context the hook is called after each forward of the module, or before it (`before=True`).

    At the end it is removed, as is every other registration of the same hook on the module.

    Args:
        options: those of torch's `register_forward_hook` or `register_forward_pre_hook`.
    """
    with changed(partial(_unhook, module, hook)):
        (module.register_forward_pre_hook if before else module.register_forward_hook)(hook, **options)
        yield


@contextmanager
def overridden(module: nn.Module, name: str, value: object) -> Iterator[None]:
    """Within the context the module's attribute of this name is `value`; the name "__class__" changes its class.

    Contexts of the same attribute may end in any order, as those in generators do: the value of the one that began last
    counts, and when all have ended the attribute is as it was.
    """
    token = object()
    with changed(partial(_give_back, module, name, token)):
        held = _OVERRIDDEN.setdefault((id(module), name), {None: _value(module, name)})
        held[token] = value
        _put(module, name, value)
        yield


class Setting:
    """A setting of the whole process that contexts in several threads change for a time, all to the same value.

    When the last of these contexts ends, the setting is what it was before the first.

    Args:
        read: returns the setting.
        write: changes it.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self._read, self._write = read, write
        self._guard = threading.Lock()
        self._tokens: set[object] = set()
        self._before: Any = None

    @contextmanager
    def at(self, value: Any) -> Iterator[None]:
        """Within the context the setting has this value."""
        token = object()
        with changed(partial(self._leave, token)):
            self._join(token, value)
            yield

    def _join(self, token: object, value: Any) -> None:
        """Note that the context of this token begins; the first one changes the setting to `value`."""
        with self._guard:
            if not self._tokens:
                self._before = self._read()
                self._tokens.add(token)
                self._write(value)
            self._tokens.add(token)

    def _leave(self, token: object) -> None:
        """Note that the context of this token ends; the last one changes the setting back."""
        with self._guard:
            if self._tokens == {token}:
                self._write(self._before)
            self._tokens.discard(token)


def _unhook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Remove the hook, as a forward or a forward pre-hook, from the module; do nothing where it is not registered."""
    for held in (module._forward_pre_hooks, module._forward_hooks):
        for number in [number for number, registered in held.items() if registered is hook]:
            for marked in (
                module._forward_pre_hooks_with_kwargs,
                module._forward_hooks_with_kwargs,
                module._forward_hooks_always_called,
            ):
                marked.pop(number, None)
            held.pop(number, None)


def _give_back(module: nn.Module, name: str, token: object) -> None:
    """End the context of this token: the attribute gets the value of the latest context left, or its original one."""
    held = _OVERRIDDEN.get((id(module), name))
    if held is None:
        return
    left = [value for key, value in held.items() if key is not token]
    _put(module, name, left[-1])
    held.pop(token, None)
    if len(left) == 1:  # what it was
        _OVERRIDDEN.pop((id(module), name), None)


def _value(module: nn.Module, name: str) -> Any:
    """The value in the module's own `__dict__`, or its class for "__class__"; `_MISSING` where there is none."""
    return type(module) if name == "__class__" else vars(module).get(name, _MISSING)


def _put(module: nn.Module, name: str, value: Any) -> None:
    """Set the name in the module's own `__dict__`, or its class for "__class__"; `_MISSING` deletes the name."""
    if name == "__class__":
        module.__class__ = value
    elif value is _MISSING:
        vars(module).pop(name, None)
    else:
        vars(module)[name] = value
