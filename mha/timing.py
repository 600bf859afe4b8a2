"""The device-aware timer, and many functions timed turn by turn."""

import gc
import math
import random
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

WARM_UP = 3  # calls of each function before it is timed
NORMAL = 1.96  # standard deviations that 95 % lie within


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

    Garbage is not collected meanwhile: a collection would land in whichever sample it happens to meet.

    Raises:
        RuntimeError: torch has no such device here.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        return time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()


class Spread(NamedTuple):
    """A median and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def median(values: Sequence[float]) -> Spread:
    """The median, and its interval by order statistics, which supposes nothing of how the values are distributed.

    The bounds are the values at ranks n/2 ± 0.98·√n (Conover 1999, section 3.2); below six values, the smallest and
    the largest, which hold less than 95 %.
    """
    ordered, middle = sorted(values), (len(values) - 1) / 2
    reach = NORMAL * math.sqrt(len(values)) / 2
    low, high = max(0, math.floor(middle - reach)), min(len(values) - 1, math.ceil(middle + reach))
    value = (ordered[math.floor(middle)] + ordered[math.ceil(middle)]) / 2
    return Spread(value, ordered[low], ordered[high])


@dataclass
class _Arm:
    prepare: Callable[[], Callable[[], object]]
    seconds: dict[int, float] = field(default_factory=dict)  # by round


class Rounds:
    """Functions timed in one process, each once a round and in a new order every time, so that ratios are paired.

    Args:
        device: where they run; waited for at both ends of every sample.
    """

    def __init__(self, device: torch.device | str = "cpu", *, seed: int = 0) -> None:
        self.count = 0  # rounds so far
        self._device, self._random = device, random.Random(seed)
        self._arms: dict[Hashable, _Arm] = {}

    def __contains__(self, name: Hashable) -> bool:
        return name in self._arms

    def add(self, name: Hashable, prepare: Callable[[], Callable[[], object]]) -> None:
        """Warm a function up; it takes part from the next round on.

        Args:
            prepare: makes, untimed, the function for one call.
        """
        for _ in range(WARM_UP):
            time_call(prepare(), self._device)
        self._arms[name] = _Arm(prepare)

    def run(self) -> None:
        """One round: a sample of every function."""
        arms = list(self._arms.values())
        self._random.shuffle(arms)
        for arm in arms:
            arm.seconds[self.count] = time_call(arm.prepare(), self._device)
        self.count += 1

    def seconds(self, name: Hashable) -> Spread:
        """Of one call, over all rounds."""
        return median(list(self._arms[name].seconds.values()))

    def ratio(self, name: Hashable, baseline: Hashable) -> Spread:
        """Its seconds over the baseline's, round by round: what slows down both does not show."""
        over, under = self._arms[name].seconds, self._arms[baseline].seconds
        return median([over[index] / under[index] for index in over.keys() & under.keys()])
