"""One line on stderr that shows what a long call is doing, how long that will still take, and the process's memory."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, ParamSpec, TypeVar

from mha.runtime.memory import resident_bytes

SILENT_SECONDS = 2.0  # before a bar that nobody asked for appears
WITH_GRADIENTS = 3.0  # forward passes that a pass with gradients is counted as
ROUNDING = 0.5  # units: tqdm warns of a bar that is fuller than full by less, as sums of shares may be

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
_called: ContextVar[str] = ContextVar("_called", default="")


@contextmanager
def called(title: str) -> Iterator[None]:
    """Within the context, each `Bar` that is made has this title, whichever it is given."""
    token = _called.set(title)
    try:
        yield
    finally:
        _called.reset(token)


def _memory() -> str:
    """The memory that the process has at present, as text; empty where the system does not say."""
    resident = resident_bytes()
    return "" if resident is None else f"{resident / 2**30:.1f} GiB"


class Bar:
    """A progress bar: how much work there is to do, in units that the caller chooses, and how much of it is done.

    Args:
        title: the text before the bar, unless `called` sets another.
        progress: whether to show it; None shows it where stderr is a terminal and the work takes more than two seconds.

    Attributes:
        done: how many units of work are done.
    """

    FORMAT: ClassVar[str | None] = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"

    def __init__(self, title: str = "", progress: bool | None = False) -> None:
        self.title = _called.get() or title
        self.done: float = 0
        self._progress = progress
        self._expected: float = 0
        self._bar: Any = None

    def expect(self, units: float) -> None:
        """Say that so many more units of work are to come; fewer, where the number is negative."""
        self._expected += units
        if self._bar is not None:
            self._bar.total = self._expected
            if self._progress:  # a bar that nobody asked for keeps waiting
                self._bar.refresh()

    def advance(self, units: float = 1) -> None:
        """Count so many units of work as done."""
        self.done += units
        if self._bar is not None:
            self._bar.set_postfix_str(_memory(), refresh=False)
            excess = self._bar.n + units - (self._bar.total or math.inf)
            self._bar.update(units - excess if 0 < excess < ROUNDING else units)

    def doing(self, what: str) -> None:
        """Show `what`, the part of the work that comes next, beside the title."""
        if self._bar is not None:
            self._bar.set_description_str(f"{self.title}, {what}", refresh=bool(self._progress))

    def over(self, items: Iterable[T], units: float = 1) -> Iterator[T]:
        """The items, one after another; each counts as `units` of work once the next one is asked for."""
        for item in items:
            yield item
            self.advance(units)

    def counting(self, function: Callable[P, R], units: float = 1) -> Callable[P, R]:
        """The function, each call of which counts as `units` of work done, also one that raises."""

        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            finally:
                self.advance(units)

        return counted

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within the context the bar is shown, if it is wanted; where the context ends without an error, it is full."""
        wanted = sys.stderr.isatty() if self._progress is None else self._progress
        if not wanted:
            yield
            return
        from tqdm import tqdm

        delay = SILENT_SECONDS if self._progress is None else 0.0
        self._bar = tqdm(
            desc=self.title,
            total=self._expected or None,
            unit="run",
            file=sys.stderr,
            delay=delay,
            leave=False,
            bar_format=self.FORMAT,
        )
        try:
            yield
            self._finish()
        finally:
            self._bar.close()
            self._bar = None

    def _finish(self) -> None:
        """Fill the bar: work that was expected, and turned out not to be needed, counts as done."""
        self._bar.total = self._bar.n = max(self._expected, self.done)
        if self._progress:
            self._bar.refresh()
