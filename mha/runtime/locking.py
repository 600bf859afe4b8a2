"""One thread at a time: while a call runs a model with changes, such calls of other threads on the same model wait.

They wait also where two models merely share a module. A thread may make further calls on a model that it holds itself,
as `mha.check` does when it masks. Nothing keeps a thread from calling a model that another one has masked: it sees the
masks.
"""

import inspect
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import FrameType
from typing import ParamSpec, TypeVar, cast

import torch
from torch import nn

from mha.runtime.undoing import undoing
from mha.values.errors import BusyError

POLL = 0.005  # seconds between looks at the line; nothing waits on a lock that an interrupt could leave locked
LOGGED_AFTER = 10.0  # seconds of waiting after which a line is logged
STUCK = 60.0  # seconds after which whoever is in front, if it has itself been waiting in one place, is taken for stuck

P = ParamSpec("P")
T = TypeVar("T")

LOGGER = logging.getLogger(__name__)


@dataclass(eq=False)
class _Hold:
    """A call that has the models it asks for, or waits for them in the line.

    Attributes:
        keys: the ids of what it asks for: modules, and the process's random generator.
        by: the name, in messages, of the function that made the call.
        thread: the thread in which the call was made, or for which that one acts.
        active: whether it has what it asks for; otherwise it waits.
    """

    keys: frozenset[int]
    by: str
    thread: threading.Thread
    active: bool = False


_ACTING = threading.local()  # .thread: the one for which this one acts
_GUARD = threading.Lock()
_LINE: list["weakref.ref[_Hold]"] = []  # in order of arrival; a hold that nobody refers to any more has left


@contextmanager
def locked(*models: nn.Module, by: str, draws: bool = False) -> Iterator[None]:
    """A context that one thread at a time is in, of all that ask for one of these models or for a part of one.

    It begins once all other threads have left theirs. Changes made in it by way of `mha.runtime.undoing` are undone at
    its end, also after an interrupt.

    Args:
        by: the name, in messages, of the function that asks for the models.
        draws: whether random numbers may be drawn in it. Their state is the process's, so contexts of several threads
            that draw exclude one another too.

    Raises:
        BusyError: waiting would not end, since the other thread waits for this one, has ended within its context, or
            has waited for something else for a minute.
    """
    keys = {id(module) for model in models for module in model.modules()}
    hold = _Hold(frozenset(keys | {id(torch.default_generator)} if draws else keys), by, acting_thread())
    try:
        _wait(hold)
        with undoing():
            yield
    finally:
        _leave(hold)


def exclusive(by: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator for functions with an argument `model`: each call runs in `locked(model)`.

    It runs outside of inference mode, so that what it makes can be trained, whatever mode the caller is in.

    Args:
        by: the function's name in messages.

    Raises:
        BusyError: by the decorated function, where `locked` raises it.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            model = cast(nn.Module, inspect.signature(function).bind(*args, **kwargs).arguments["model"])
            with locked(model, by=by), torch.inference_mode(False):
                return function(*args, **kwargs)

        return alone

    return decorate


def acting_thread() -> threading.Thread:
    """The thread for which this one acts: itself, unless within `acting_as`."""
    return getattr(_ACTING, "thread", None) or threading.current_thread()


@contextmanager
def acting_as(thread: threading.Thread) -> Iterator[None]:
    """Within the context this thread may do what the other one may, which waits for it meanwhile."""
    before = getattr(_ACTING, "thread", None)
    _ACTING.thread = thread
    try:
        yield
    finally:
        _ACTING.thread = before


def _wait(hold: _Hold) -> None:
    """Wait until no call of another thread has to end before this one; after 10 s, log what is waited for.

    Raises:
        BusyError: waiting would not end, as `locked` says.
    """
    began, stillness = time.monotonic(), _Stillness()
    logged = False
    while (front := _in_front(hold)) is not None:
        waited = time.monotonic() - began
        if not front.thread.is_alive():
            raise BusyError(f"{_whose(hold, front)}, which has ended within it: leave the context that it opened")
        if front.active and stillness.seconds(front.thread) > STUCK:
            raise BusyError(
                f"{_whose(hold, front)}, which has itself waited for something for {STUCK:.0f} s: for this thread? "
                "Leave that context before others are waited for, or give each thread a model of its own"
            )
        if waited > LOGGED_AFTER and not logged:
            LOGGER.warning("waiting: %s", _whose(hold, front))
            logged = True
        time.sleep(POLL)


def _in_front(hold: _Hold) -> _Hold | None:
    """A call that has to end before this one, which joins the line if it isn't in it; None makes this one active.

    Raises:
        BusyError: the thread of such a call waits for this one's, directly or through others.
    """
    with _GUARD:
        line = _line()
        if hold not in line:
            _LINE.append(weakref.ref(hold))
            line.append(hold)
        blockers = _blockers(hold, line)
        if any(_waits_for(blocker.thread, hold.thread, line) for blocker in blockers):
            _leave_line(hold)
            raise BusyError(
                f"{_whose(hold, blockers[0])}, which waits for this thread: take both models in one order in all "
                "threads"
            )
        hold.active = not blockers
        return blockers[0] if blockers else None


def _leave(hold: _Hold) -> None:
    """Take the call out of the line: it has ended, or waits no more."""
    with _GUARD:
        _leave_line(hold)


def _leave_line(hold: _Hold) -> None:
    """Take the call, and those that nobody refers to any more, out of the line; the caller must hold `_GUARD`."""
    _LINE[:] = [place for place in _LINE if place() not in (None, hold)]


def _line() -> list[_Hold]:
    """The calls in the line, in order of arrival."""
    return [hold for place in _LINE if (hold := place()) is not None]


def _blockers(hold: _Hold, line: list[_Hold]) -> list[_Hold]:
    """The calls of other threads that have to end before this one.

    Those are calls that have something that it asks for, and calls that asked for it earlier. The latter do not count
    if this call's thread has something already, since they may wait for that.
    """
    others = [other for other in line if other.thread is not hold.thread and not other.keys.isdisjoint(hold.keys)]
    has = any(other.active and other.thread is hold.thread for other in line)
    return [other for other in others if other.active or (not has and line.index(other) < line.index(hold))]


def _waits_for(thread: threading.Thread, other: threading.Thread, line: list[_Hold]) -> bool:
    """Whether the thread waits for the other one, directly or through threads that it waits for."""
    pending, seen = [thread], set[threading.Thread]()
    while pending:
        current = pending.pop()
        if current is other:
            return True
        if current not in seen:
            seen.add(current)
            waiting = [hold for hold in line if hold.thread is current and not hold.active]
            pending += [blocker.thread for hold in waiting for blocker in _blockers(hold, line)]
    return False


class _Stillness:
    """Measures for how long a thread has been waiting for another one, or an event, in one and the same call."""

    def __init__(self) -> None:
        self._frame: FrameType | None = None
        self._since = 0.0

    def seconds(self, thread: threading.Thread) -> float:
        """The seconds since the thread was first seen in the wait that it is in now; 0 where it is not waiting."""
        frame = sys._current_frames().get(thread.ident or 0)
        if frame is None or frame.f_code.co_filename != threading.__file__:
            self._frame = None
            return 0.0
        if frame is not self._frame:
            self._frame, self._since = frame, time.monotonic()
        return time.monotonic() - self._since


def _whose(hold: _Hold, front: _Hold) -> str:
    """The start of a message: that `hold` waits, for the model or for random numbers, and who in `front` has them."""
    shared = hold.keys & front.keys - {id(torch.default_generator)}
    what = "the model, or a part of it, is held by" if shared else "random numbers are drawn by"
    return f"{hold.by}: {what} {front.by} in thread {front.thread.name!r}"
