"""The timer: what it counts, what it waits for, and that it leaves the garbage collector as it was; and rounds."""

import gc
from types import SimpleNamespace

import pytest
import torch

from mha import timing
from mha.timing import WARM_UP, Rounds, median, synchronize, time_call


@pytest.fixture
def events(monkeypatch):
    """What happens, in order: readings of a clock that advances by 3 s, and waits for a device."""
    log = []

    def clock():
        log.append("clock")
        return 100.0 + 3.0 * log.count("clock")

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: log.append(f"wait for {device}"))
    return log


def test_seconds_are_those_between_two_readings(events):
    assert time_call(lambda: events.append("call")) == 3.0
    assert events == ["clock", "call", "clock"]


def test_an_accelerator_is_idle_at_the_start_and_done_at_the_end(events):
    assert time_call(lambda: events.append("call"), "cuda:5") == 3.0
    assert events == ["wait for cuda:5", "clock", "call", "wait for cuda:5", "clock"]


def test_there_is_nothing_to_wait_for_on_the_cpu(events):
    synchronize("cpu")
    synchronize(torch.device("cpu"))
    assert events == []


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_not_collected_meanwhile_and_then_as_before(collecting):
    seen = []
    try:
        (gc.enable if collecting else gc.disable)()
        time_call(lambda: seen.append(gc.isenabled()))
        with pytest.raises(ZeroDivisionError):
            time_call(lambda: 1 / 0)
        seen.append(gc.isenabled())
    finally:
        gc.enable()
    assert seen == [False, collecting]


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(1, 0, 0), (5, 0, 4), (6, 0, 5), (9, 1, 7), (100, 39, 60)],  # ranks from 0; of 100, the 40th and the 61st
)
def test_the_interval_of_a_median_is_between_ranks(count, low, high):
    values = [float(value) for value in range(count)]
    spread = median(values[::-1])
    assert spread == ((count - 1) / 2, low, high)
    assert spread.half_width == (high - low) / 2


def test_the_interval_of_a_median_holds_it_in_95_of_100_cases():
    samples = torch.randn(2000, 51, generator=torch.Generator().manual_seed(0)).exp().tolist()
    held = sum(spread.low <= 1.0 <= spread.high for spread in map(median, samples)) / len(samples)
    assert 0.94 < held < 0.98


@pytest.fixture
def rounds(monkeypatch):
    """Rounds on a clock that "dense" advances by 2, 4, 6 … and "half" by half of that; warm-up included."""
    state = {"now": 0.0, "dense": 0.0, "half": 0.0, "order": []}
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: state["now"]))

    def call(name, step):
        def run():
            state["order"].append(name)
            state[name] += step
            state["now"] += state[name]

        return lambda: run

    rounds = Rounds()
    rounds.add("dense", call("dense", 2.0))
    rounds.add("half", call("half", 1.0))
    rounds.calls = state["order"]
    return rounds


def test_every_function_has_a_sample_in_every_round_in_changing_order(rounds):
    assert rounds.calls == ["dense"] * WARM_UP + ["half"] * WARM_UP
    for _ in range(8):
        rounds.run()
    pairs = list(zip(rounds.calls[2 * WARM_UP :: 2], rounds.calls[2 * WARM_UP + 1 :: 2], strict=True))
    assert set(pairs) == {("dense", "half"), ("half", "dense")}
    assert rounds.count == len(pairs) == 8


def test_ratios_are_paired_and_free_of_drift(rounds):
    for _ in range(7):
        rounds.run()
    assert rounds.seconds("dense") == (2.0 * (WARM_UP + 4), 2.0 * (WARM_UP + 1), 2.0 * (WARM_UP + 7))
    assert rounds.ratio("half", "dense") == (0.5, 0.5, 0.5)


def test_who_joins_late_is_compared_where_both_were_there(rounds):
    rounds.run()
    rounds.add("late", lambda: lambda: None)
    assert "late" in rounds
    assert "other" not in rounds
    rounds.run()
    assert rounds.ratio("late", "dense") == (0.0, 0.0, 0.0)
    assert rounds.ratio("dense", "half") == (2.0, 2.0, 2.0)
