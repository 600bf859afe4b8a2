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
    """Wait until an accelerator has finished what was asked of it; nothing to wait for on the CPU.

    Raises:
        RuntimeError: torch has no such device here.
    """
    device = torch.device(device)
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


def time_call(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds that one call takes, from an idle device until the device has finished.

    By the device's own events on CUDA and XPU, else by the clock. Neither the garbage collector nor a tracer or
    profiler of Python runs meanwhile: they would land in whichever sample they happen to meet.

    Raises:
        RuntimeError: torch has no such device here.
    """
    device = torch.device(device)
    with _undisturbed():
        synchronize(device)
        return _by_events(function, device) if device.type in EVENTS else _by_clock(function, device)


def _by_clock(function: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def _by_events(function: Callable[[], object], device: torch.device) -> float:
    start, end = (torch.Event(device=device, enable_timing=True) for _ in range(2))
    stream = torch.accelerator.current_stream(device)
    start.record(stream)
    function()
    end.record(stream)
    synchronize(device)
    return start.elapsed_time(end) / 1000


@contextmanager
def _undisturbed() -> Iterator[None]:
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
    """Gives one call after another, again and again, so that none meets in a cache the inputs it has just had.

    Functions that are added to `Rounds` together, with as many calls each, have the same turn in every round.
    """
    return cycle(list(calls)).__next__


class Sample(NamedTuple):
    """One timed call. Those of one round belong together."""

    name: Hashable
    round: int
    seconds: float


@dataclass
class _Arm:
    prepare: Prepare
    seconds: dict[int, float] = field(default_factory=dict)  # by round


class Rounds:
    """Functions timed in one process, each once a round, so that ratios are paired.

    The order is a new one in every other round and its reverse in the round after, so that none profits from it.

    Args:
        device: where they run; waited for at both ends of every sample.
        cold: whether the device's caches are emptied before every call, outside the time.
    """

    def __init__(self, device: torch.device | str = "cpu", *, seed: int = 0, cold: bool = False) -> None:
        self.count = 0  # rounds so far
        self.warm_up = WARM_UP  # rounds before the first that counts
        self._device, self._random = device, random.Random(seed)
        self._empty = emptying(device) if cold else lambda: None
        self._arms: dict[Hashable, _Arm] = {}
        self._order: list[Hashable] = []
        self._samples: list[Sample] = []

    def __contains__(self, name: Hashable) -> bool:
        return name in self._arms

    def add(self, name: Hashable, prepare: Prepare) -> None:
        """Call a function a few times to warm it up; it takes part from the next round on.

        Args:
            prepare: makes, untimed, the function for one call.
        """
        self._arms[name] = _Arm(prepare)
        for _ in range(WARM_UP):
            self._time(name)

    def run(self) -> None:
        """One round: a sample of every function."""
        for name in self._turn():
            seconds = self._arms[name].seconds[self.count] = self._time(name)
            self._samples.append(Sample(name, self.count, seconds))
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

        Intervals are looked at ever more rarely, since who looks often stops at a lucky moment.

        Args:
            seconds: how long it may take, warm-up included.
            fewest, most: rounds, whatever the time; one more than said where that is odd.
            narrow: how far the 95 % interval of a median may reach from it to either side, as a share.
            watched: what the medians are of: the seconds of (name, None), the ratio of (name, baseline); by default
                the seconds of every function.

        Returns:
            What ended it: "steady" (all intervals are narrow), "time spent" or "most rounds".
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
        """Of one call, over all rounds."""
        return median(list(self._arms[name].seconds.values()))

    def ratio(self, name: Hashable, baseline: Hashable) -> Spread:
        """Its seconds over the baseline's, round by round: what slows down both does not show."""
        over, under = self._arms[name].seconds, self._arms[baseline].seconds
        return median([over[index] / under[index] for index in over.keys() & under.keys()])

    def samples(self) -> list[Sample]:
        """All that were taken, in the order in which they were."""
        return list(self._samples)

    def _spread(self, name: Hashable, baseline: Hashable | None) -> Spread:
        return self.seconds(name) if baseline is None else self.ratio(name, baseline)

    def _time(self, name: Hashable) -> float:
        call = self._arms[name].prepare()
        self._empty()
        return time_call(call, self._device)

    def _turn(self) -> list[Hashable]:
        """The order of this round."""
        if self.count % 2 and len(self._order) == len(self._arms):
            self._order.reverse()
        else:
            self._order = list(self._arms)
            self._random.shuffle(self._order)
        return self._order

    def _settle(self, seconds: float) -> None:
        """Take rounds that do not count until no function gets faster or slower, or a fifth of the time is spent."""
        start, spent = time.perf_counter(), 0.0
        times: dict[Hashable, list[float]] = {name: [] for name in self._arms}
        while spent < LEAST * seconds or (spent < MOST * seconds and not all(map(_is_settled, times.values()))):
            for name in self._random.sample(list(times), len(times)):
                times[name].append(self._time(name))
            self.warm_up += 1
            spent = time.perf_counter() - start


def _is_settled(times: Sequence[float]) -> bool:
    """Whether the last few calls took as long as as many before them."""
    if len(times) < 2 * WINDOW:
        return False
    before, last = median(times[-2 * WINDOW : -WINDOW]).value, median(times[-WINDOW:]).value
    return abs(last - before) <= SETTLED * before
