"""Functions timed turn by turn within one benchmark; every sample is kept, and pytest-benchmark is handed one arm's.

The rounds are our own, since pytest-benchmark paces neither several functions nor their ratios. It reads the times of
one arm from the `timer` that its marker takes, so its JSON, storage and comparison hold the very samples of the run
directory.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple, TypedDict

import pytest
import torch

from bench.measure.bootstrap import ratio
from bench.measure.replay_clock import ReplayClock
from bench.measure.threads import pinned
from mha.timing import Rounds

Arms = Mapping[str, Callable[[], Callable[[], object]]]


class SampleRecord(TypedDict):
    """One timed call: which arm was called, in which round, and how long it took."""

    arm: str
    round: int
    seconds: float


class Sampled(NamedTuple):
    """What a case has measured.

    Attributes:
        samples: in the order in which they were taken.
        ended: why the rounds ended: "steady", "time spent" or "most rounds".
        warm_up: how many rounds were run before the first sample.
    """

    samples: list[SampleRecord]
    ended: str
    warm_up: int


def sampled(
    request: pytest.FixtureRequest,
    arms: Arms,
    *,
    target: str,
    device: torch.device | str,
    limits: Mapping[str, Any],
    cache: str = "warm",
    facts: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Sampled:
    """Time every arm in turns until the target's median and ratio to each other arm are steady, or a limit is reached.

    Args:
        request: of the test, which may not ask for the `benchmark` fixture: it is made here.
        arms: name -> makes, untimed, the function for one call.
        target: the arm whose samples pytest-benchmark gets; those of the others are in the run directory only.
        device: where the arms run; waited for at both ends of every sample.
        limits: `seconds` for all rounds together, and `rounds`, the fewest and the most of them. With
            --benchmark-disable there is one round.
        cache: "warm", or "cold" where the device's caches are emptied before every call.
        facts: goes into pytest-benchmark's `extra_info`, with what ended the rounds and `speedups`: name of another
            arm -> the median of its seconds over the target's.
        seed: of the order in which the arms take turns; another in every process.

    Raises:
        RuntimeError: the test has the `benchmark` fixture already, or an arm changes the number of torch's threads.
    """
    if "benchmark" in request.fixturenames:
        raise RuntimeError(f"{request.node.nodeid}: sampled makes the benchmark fixture; leave it out of the test")
    with pinned(torch.get_num_threads()):
        taken = _taken(arms, target, device, None if _is_disabled(request.config) else limits, cache, seed)
    speedups = {arm: ratio(taken.samples, arm, target)._asdict() for arm in arms if arm != target}
    _hand_over(request, [sample["seconds"] for sample in taken.samples if sample["arm"] == target], arms[target])
    extra = {"ended": taken.ended, "warm_up": taken.warm_up, "speedups": speedups}
    request.getfixturevalue("benchmark").extra_info.update(facts or {}, **extra)
    return taken


def _taken(
    arms: Arms, target: str, device: torch.device | str, limits: Mapping[str, Any] | None, cache: str, seed: int
) -> Sampled:
    """Time the arms in rounds as `sampled` does, without pytest-benchmark; one round only if `limits` is None."""
    rounds = Rounds(device, seed=seed, cold=cache == "cold")
    for arm, prepare in arms.items():
        rounds.add(arm, prepare)
    ended = _run(rounds, limits, [(target, None), *((arm, target) for arm in arms if arm != target)])
    samples: list[SampleRecord] = [
        {"arm": str(name), "round": index, "seconds": seconds} for name, index, seconds in rounds.samples()
    ]
    return Sampled(samples, ended, rounds.warm_up)


def _run(rounds: Rounds, limits: Mapping[str, Any] | None, watched: Sequence[tuple[str, str | None]]) -> str:
    if limits is None:
        rounds.run()
        return "most rounds"
    fewest, most = limits["rounds"]
    return rounds.until(seconds=limits["seconds"], fewest=fewest, most=most, watched=watched)


def _is_disabled(config: pytest.Config) -> bool:
    return config.getoption("benchmark_disable") and not config.getoption("benchmark_enable")


def _hand_over(
    request: pytest.FixtureRequest, seconds: Sequence[float], prepare: Callable[[], Callable[[], object]]
) -> None:
    """Make pytest-benchmark report these seconds: it times an empty function by a clock that shows one after another.

    Calls beyond those, as --benchmark-cprofile makes them, run the function that `prepare` returns.
    """
    calls = chain(repeat(lambda: None, len(seconds)), iter(lambda: prepare(), None))  # --benchmark-cprofile calls more
    request.node.add_marker(pytest.mark.benchmark(timer=ReplayClock(seconds)))
    benchmark = request.getfixturevalue("benchmark")
    try:
        benchmark.pedantic(lambda: next(calls)(), rounds=len(seconds))
    except KeyboardInterrupt:
        benchmark.has_error = True  # or a part of the samples would be written as all of them
        raise
