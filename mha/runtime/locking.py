"""One thread at a time: a call that runs a model with changes excludes those of other threads that touch it too.

Who comes second waits, also where two models merely share a module. A thread may call on a model that it holds itself,
as `mha.check` masks. Nothing keeps a thread from calling a model that another one has masked: it sees the masks.
"""

import inspect
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from types import FrameType
from typing import ParamSpec, TypeVar, cast

import torch
from torch import nn

from mha.runtime.undoing import undoing
from mha.values.errors import BusyError

POLL = 0.005  # seconds between looks at who is in front; nothing that an interrupt could leave locked waits longer
SAID = 10.0  # seconds of waiting after which a line is logged
STUCK = 60.0  # seconds for which who is in front has itself been waiting, in one place

P = ParamSpec("P")
T = TypeVar("T")

LOGGER = logging.getLogger(__name__)


@dataclass(eq=False)
class _Hold:
    """A call in the line: it has what it asks for (`active`), or waits for it.

    Attributes:
        keys: the modules, by id, and the process's random state.
    """

    keys: frozenset[int]
    by: str
    thread: threading.Thread = field(default_factory=threading.current_thread)
    active: bool = False


_GUARD = threading.Lock()
_LINE: list["weakref.ref[_Hold]"] = []  # in order of arrival; a hold that nobody has any more is none


@contextmanager
def locked(*models: nn.Module, by: str, draws: bool = False) -> Iterator[None]:
    """Within the context no other thread's `locked` has one of these models, or a part of one.

    Args:
        by: whose call it is, for messages.
        draws: whether random numbers may be drawn: their state is the process's, so calls that draw take turns too.

    Raises:
        BusyError: waiting would not end, since the other thread waits for this one, has ended within its context, or
            has waited for something else for a minute.
    """
    keys = {id(module) for model in models for module in model.modules()}
    hold = _Hold(frozenset(keys | {id(torch.default_generator)} if draws else keys), by)
    try:
        _wait(hold)
        with undoing():
            yield
    finally:
        _leave(hold)


def exclusive(by: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """The decorated function, of a `model`, excludes those of other threads; what it makes can be trained, also if the
    caller is in inference mode."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            model = cast(nn.Module, inspect.signature(function).bind(*args, **kwargs).arguments["model"])
            with locked(model, by=by), torch.inference_mode(False):
                return function(*args, **kwargs)

        return alone

    return decorate


def _wait(hold: _Hold) -> None:
    began, still = time.monotonic(), _Still()
    said = False
    while (front := _in_front(hold)) is not None:
        waited = time.monotonic() - began
        if not front.thread.is_alive():
            raise BusyError(f"{_whose(hold, front)}, which has ended within it: leave the context that it opened")
        if front.active and still.seconds(front.thread) > STUCK:
            raise BusyError(
                f"{_whose(hold, front)}, which has itself waited for something for {STUCK:.0f} s: for this thread? "
                "Leave that context before others are waited for, or give each thread a model of its own"
            )
        if waited > SAID and not said:
            LOGGER.warning("waiting: %s", _whose(hold, front))
            said = True
        time.sleep(POLL)


def _in_front(hold: _Hold) -> _Hold | None:
    """Who has to leave first; None where it is this one's turn, which it then takes.

    Raises:
        BusyError: they wait for one another.
    """
    with _GUARD:
        line = _line()
        if hold not in line:
            _LINE.append(weakref.ref(hold))
            line.append(hold)
        front = _blockers(hold, line)
        if any(_waits_for(one.thread, hold.thread, line) for one in front):
            _leave_line(hold)
            raise BusyError(
                f"{_whose(hold, front[0])}, which waits for this thread: take both models in one order in all threads"
            )
        hold.active = not front
        return front[0] if front else None


def _leave(hold: _Hold) -> None:
    with _GUARD:
        _leave_line(hold)


def _leave_line(hold: _Hold) -> None:
    _LINE[:] = [one for one in _LINE if one() not in (None, hold)]


def _line() -> list[_Hold]:
    return [hold for one in _LINE if (hold := one()) is not None]


def _blockers(hold: _Hold, line: list[_Hold]) -> list[_Hold]:
    """Those of other threads that have what it asks for, and, unless its thread has something, who asked earlier."""
    others = [one for one in line if one.thread is not hold.thread and not one.keys.isdisjoint(hold.keys)]
    has = any(one.active and one.thread is hold.thread for one in line)
    return [one for one in others if one.active or (not has and line.index(one) < line.index(hold))]


def _waits_for(thread: threading.Thread, other: threading.Thread, line: list[_Hold]) -> bool:
    """Whether the thread waits for the other, perhaps by way of more."""
    asked, seen = [thread], set[threading.Thread]()
    while asked:
        one = asked.pop()
        if one is other:
            return True
        if one not in seen:
            seen.add(one)
            waiting = [hold for hold in line if hold.thread is one and not hold.active]
            asked += [front.thread for hold in waiting for front in _blockers(hold, line)]
    return False


class _Still:
    """For how long a thread has been waiting for another, or an event, in one and the same call."""

    def __init__(self) -> None:
        self._frame: FrameType | None = None
        self._since = 0.0

    def seconds(self, thread: threading.Thread) -> float:
        frame = sys._current_frames().get(thread.ident or 0)
        if frame is None or frame.f_code.co_filename != threading.__file__:
            self._frame = None
            return 0.0
        if frame is not self._frame:
            self._frame, self._since = frame, time.monotonic()
        return time.monotonic() - self._since


def _whose(hold: _Hold, front: _Hold) -> str:
    shared = hold.keys & front.keys - {id(torch.default_generator)}
    what = "the model, or a part of it, is held by" if shared else "random numbers are drawn by"
    return f"{hold.by}: {what} {front.by} in thread {front.thread.name!r}"
