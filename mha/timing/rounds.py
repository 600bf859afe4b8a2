"""The device-aware timer, many functions timed turn by turn, and what their times say about each of them."""

import gc
import random
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple

import torch

from mha.runtime.undoing import Setting
from mha.timing.cache_flush import emptying
from mha.timing.quantiles import Spread, median

WARM_UP = 3  # calls of each function before it is timed
EVENTS = ("cuda", "xpu")  # whose events measure time
ENOUGH = 10  # rounds before an interval is judged
RARER = 1.25  # times as many rounds between one look at the intervals and the next
WINDOW = 5  # rounds of warm-up whose median is compared with that of as many before
SETTLED = 0.05  # the most that these medians may differ by, as a share
LEAST, MOST = 0.05, 0.2  # of the time, for warm-up

Prepare = Callable[[], Callable[[], object]]

_COLLECTING = Setting(gc.isenabled, lambda wanted: gc.enable() if wanted else gc.disable())


def synchronize(device: torch.device | str) -> None:
    """Wait until an accelerator has finished what was asked of it; on the CPU there is nothing to wait for.

    Raises:
        RuntimeError: torch has no such device here.

    Example:
        >>> mha.timing.synchronize("cpu")
    """
    device = torch.device(device)
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


def time_call(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds that one call takes, from an idle device until the device has finished.

    They are measured by the device's own events on CUDA and XPU, else by the clock. Neither the garbage collector nor a
    tracer or profiler of Python runs meanwhile: they would land in whichever sample they happen to meet.

    Raises:
        RuntimeError: torch has no such device here.

    Example:
        >>> x = torch.randn(8, 8)
        >>> mha.timing.time_call(lambda: x @ x) > 0
        True
    """
    device = torch.device(device)
    with _undisturbed():
        synchronize(device)
        return _by_events(function, device) if device.type in EVENTS else _by_clock(function, device)


def _by_clock(function: Callable[[], object], device: torch.device) -> float:
    """The seconds by the CPU's clock from the call of the function until the device has finished."""
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def _by_events(function: Callable[[], object], device: torch.device) -> float:
    """The seconds between two events on the device's current stream, around the call of the function."""
    start, end = (torch.Event(device=device, enable_timing=True) for _ in range(2))
    stream = torch.accelerator.current_stream(device)
    start.record(stream)
    function()
    end.record(stream)
    synchronize(device)
    return start.elapsed_time(end) / 1000


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the garbage collector, tracers and profilers of Python off within the context."""
    tracer, profiler = sys.gettrace(), sys.getprofile()
    with _COLLECTING.at(False):
        sys.settrace(None)
        sys.setprofile(None)
        try:
            yield
        finally:
            sys.setprofile(profiler)
            sys.settrace(tracer)


def rotated(calls: Iterable[Callable[[], object]]) -> Prepare:
    """A function that returns the first of these calls, then the second, …, and after the last the first again.

    It is for `Rounds.add`, as `prepare`. If each call has inputs of its own, those of a call may have left the caches
    by the time that it is made again. Arms that are added one after another, with as many calls each, make the call of
    the same index in every round.

    Example:
        >>> prepare = mha.timing.rotated([lambda: "first", lambda: "second"])
        >>> [prepare()() for _ in range(3)]
        ['first', 'second', 'first']
    """
    return cycle(list(calls)).__next__


class TimedCall(NamedTuple):
    """One timed call. Those of one round belong together.

    Attributes:
        name: under which the function was added to `Rounds`.
        round: the number of its round, from 0.
        seconds: what the call took.

    Example:
        >>> mha.timing.TimedCall("dense", round=0, seconds=0.25).seconds
        0.25
    """

    name: Hashable
    round: int
    seconds: float


Sample = TimedCall  # as it has been called in earlier releases


@dataclass
class _Arm:
    """One of the functions that `Rounds` times.

    Attributes:
        prepare: makes, untimed, the function for one call.
        seconds: number of a round, from 0 -> the seconds that the call took in it.
    """

    prepare: Prepare
    seconds: dict[int, float] = field(default_factory=dict)


class Rounds:
    """Functions timed in one process, each once a round, so that ratios are paired.

    The order is a new one in every other round and its reverse in the round after, so that none profits from it.

    Args:
        device: where the functions run; every timed call begins and ends with a wait for it.
        seed: of the random orders.
        cold: whether the device's caches are emptied before every call, outside the time.

    Attributes:
        count: rounds taken so far, without those of the warm-up.
        warm_up: calls of each function so far that warmed it up and are in no result.

    Example:
        >>> rounds, x = mha.timing.Rounds("cpu"), torch.randn(64, 64)
        >>> rounds.add("once", lambda: lambda: x @ x)
        >>> rounds.add("twice", lambda: lambda: x @ x @ x)
        >>> for _ in range(10):
        ...     rounds.run()
        >>> rounds.count
        10
        >>> rounds.ratio("twice", "once").value > 0  # the median over rounds, with its interval
        True
    """

    def __init__(self, device: torch.device | str = "cpu", *, seed: int = 0, cold: bool = False) -> None:
        self.count = 0
        self.warm_up = WARM_UP
        self._device, self._random = device, random.Random(seed)
        self._empty = emptying(device) if cold else lambda: None
        self._arms: dict[Hashable, _Arm] = {}
        self._order: list[Hashable] = []
        self._samples: list[TimedCall] = []

    def __contains__(self, name: Hashable) -> bool:
        """Whether a function of this name takes part."""
        return name in self._arms

    def add(self, name: Hashable, prepare: Prepare) -> None:
        """Add a function that is timed from the next round on, and call it three times to warm it up.

        Args:
            name: what the function is called from now on; an earlier one of that name is replaced.
            prepare: makes, untimed, the function for one call.
        """
        self._arms[name] = _Arm(prepare)
        for _ in range(WARM_UP):
            self._time(name)

    def run(self) -> None:
        """Take one round: a timed call of every function."""
        for name in self._turn():
            seconds = self._arms[name].seconds[self.count] = self._time(name)
            self._samples.append(TimedCall(name, self.count, seconds))
        self.count += 1

    def until(
        self,
        *,
        seconds: float,
        fewest: int,
        most: int,
        narrow: float = 0.01,
        watched: Iterable[tuple[Hashable, Hashable | None]] | None = None,
    ) -> str:
        """Warm up until times no longer change, then take rounds until the medians are known well enough.

        Intervals are looked at ever more rarely, since frequent looks would stop at a lucky moment.

        Args:
            seconds: how long it may take, warm-up included; the fewest rounds are taken even if that takes longer.
            fewest, most: how many rounds to take, at least and at most; an odd number is rounded up.
            narrow: how far the 95 % interval of a median may reach from it to either side, as a share of the median.
            watched: pairs that say whose medians must be known: (name, None) for the seconds of a function, (name,
                baseline) for its ratio to another; by default the seconds of every function.

        Returns:
            What ended it: "steady" (all intervals are narrow, after ten rounds or more), "time spent" or "most rounds".
        """
        end = time.perf_counter() + seconds
        self._settle(seconds)
        first, look = self.count, float(max(fewest, ENOUGH))
        pairs = [(name, None) for name in self._arms] if watched is None else list(watched)
        while True:
            self.run()
            taken, late = self.count - first, time.perf_counter() >= end
            if self.count % 2 or taken < fewest or not (late or taken >= min(most, look)):
                continue
            if taken >= ENOUGH and all(self._spread(*pair).is_within(narrow) for pair in pairs):
                return "steady"
            if late or taken >= most:
                return "time spent" if late else "most rounds"
            look = taken * RARER

    def seconds(self, name: Hashable) -> Spread:
        """The seconds that a call of this function takes: the median over the rounds taken, and its 95 % interval."""
        return median(list(self._arms[name].seconds.values()))

    def ratio(self, name: Hashable, baseline: Hashable) -> Spread:
        """The median, over rounds, of the function's seconds divided by the baseline's, and its 95 % interval.

        Rounds that one of them was not in are left out. What slows down both in the same round does not show.

        Args:
            name, baseline: the names under which the two were added.
        """
        over, under = self._arms[name].seconds, self._arms[baseline].seconds
        return median([over[index] / under[index] for index in over.keys() & under.keys()])

    def samples(self) -> list[TimedCall]:
        """All timed calls, in the order in which they were made; those of the warm-up are not among them."""
        return list(self._samples)

    def _spread(self, name: Hashable, baseline: Hashable | None) -> Spread:
        """The median, with its interval, of the function's seconds or, given a baseline, of its ratio to that."""
        return self.seconds(name) if baseline is None else self.ratio(name, baseline)

    def _time(self, name: Hashable) -> float:
        """The seconds that one call of the function takes; what prepares the call is not timed."""
        call = self._arms[name].prepare()
        self._empty()
        return time_call(call, self._device)

    def _turn(self) -> list[Hashable]:
        """The names of the functions, in the order in which this round calls them."""
        if self.count % 2 and len(self._order) == len(self._arms):
            self._order.reverse()
        else:
            self._order = list(self._arms)
            self._random.shuffle(self._order)
        return self._order

    def _settle(self, seconds: float) -> None:
        """Call all functions again and again, as warm-up, until the times of each have settled (`_is_settled`).

        Args:
            seconds: the time that `until` may take; the warm-up takes at least a twentieth of it, and ends at a fifth.
        """
        start, spent = time.perf_counter(), 0.0
        times: dict[Hashable, list[float]] = {name: [] for name in self._arms}
        while spent < LEAST * seconds or (spent < MOST * seconds and not all(map(_is_settled, times.values()))):
            for name in self._random.sample(list(times), len(times)):
                times[name].append(self._time(name))
            self.warm_up += 1
            spent = time.perf_counter() - start


def _is_settled(times: Sequence[float]) -> bool:
    """Whether the median of the last five times is within 5 % of that of the five before; False for fewer than ten."""
    if len(times) < 2 * WINDOW:
        return False
    before, last = median(times[-2 * WINDOW : -WINDOW]).value, median(times[-WINDOW:]).value
    return abs(last - before) <= SETTLED * before
