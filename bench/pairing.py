"""Two functions timed turn by turn, so that their ratio is paired and neither profits from the order."""

import time
from collections.abc import Callable
from itertools import count
from typing import Any, TypedDict

import torch

from mha.timing import time_call

WARM_UP_ROUNDS = 2  # inside pedantic; the real warm-up happens before, while the rounds are counted


class Sample(TypedDict):
    """One timed call. Those of one round belong together."""

    arm: str
    round: int
    seconds: float


class Pair:
    """A target and the baseline it is compared with, timed alternately in one process.

    The target is what pytest-benchmark times; the baseline is timed in `setup` on even rounds and in
    `teardown` on odd ones, so each goes first equally often. Both are timed by the same code.

    Args:
        target, baseline: called without arguments.
        device: where they run; waited for at both ends of every sample.
        arms: what to call the two in the samples.
    """

    def __init__(
        self,
        target: Callable[[], object],
        baseline: Callable[[], object],
        device: torch.device | str = "cpu",
        *,
        arms: tuple[str, str] = ("pruned", "dense"),
    ) -> None:
        self.samples: list[Sample] = []  # in the order in which they were taken
        self.arms = self._target, self._baseline = arms
        self._calls = dict(zip(arms, (target, baseline), strict=True))
        self._device = device
        self._round, self._rounds = 0, 0

    def run(self, benchmark: Any, *, seconds: float, rounds: tuple[int, int]) -> list[Sample]:
        """Warm up, then take as many rounds as fit into `seconds`, within `rounds` (fewest, most).

        Args:
            benchmark: pytest-benchmark's fixture, which has not been used yet.

        Returns:
            Both arms' samples; the number of rounds is even, unless benchmarks are disabled (then 1).
        """
        self._rounds = self._rounds_within(seconds, rounds)
        self._round = -WARM_UP_ROUNDS if benchmark.enabled else 0
        try:
            benchmark.pedantic(
                lambda: self._sample(self._target),
                setup=lambda: self._sample_baseline(on_even_rounds=True),
                teardown=self._end_round,
                rounds=self._rounds,
                warmup_rounds=WARM_UP_ROUNDS,
            )
        except KeyboardInterrupt:
            benchmark.has_error = True  # or half a case would be written as a whole one
            raise
        return self.samples

    def _rounds_within(self, seconds: float, rounds: tuple[int, int]) -> int:
        """Warm both up, three turns and a tenth of the time at least; the fastest turn says how many rounds fit."""
        fewest, most = rounds
        start, fastest = time.perf_counter(), float("inf")
        for turn in count(1):
            fastest = min(fastest, sum(time_call(call, self._device) for call in self._calls.values()))
            if turn >= 3 and time.perf_counter() - start > seconds / 10:
                break
        fitting = max(fewest, min(most, int(seconds / fastest)))
        return fitting + fitting % 2

    def _end_round(self) -> None:
        self._sample_baseline(on_even_rounds=False)
        self._round += 1

    def _sample_baseline(self, *, on_even_rounds: bool) -> None:
        if (self._round % 2 == 0) == on_even_rounds:
            self._sample(self._baseline)

    def _sample(self, arm: str) -> None:
        seconds = time_call(self._calls[arm], self._device)
        if 0 <= self._round < self._rounds:  # before is warm-up; after, a profile if one was asked for
            self.samples.append({"arm": arm, "round": self._round, "seconds": seconds})
