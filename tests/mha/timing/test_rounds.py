"""The timer: what it counts, what it waits for, and that it leaves the garbage collector as it was; and rounds."""

import gc
import random
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from mha.timing import rounds as timer
from mha.timing.rounds import ENOUGH, WARM_UP, Rounds, rotated, synchronize, time_call


@pytest.fixture
def events(monkeypatch):
    """What happens, in order: readings of a clock that advances by 3 s, waits for a device, events on its stream."""
    log = []

    def clock():
        log.append("clock")
        return 100.0 + 3.0 * log.count("clock")

    class Event:
        def __init__(self, device, enable_timing):
            assert (device.type in ("cuda", "xpu"), enable_timing) == (True, True)

        def record(self, stream):
            log.append(stream)

        def elapsed_time(self, end):
            assert log[-1].startswith("wait for ")
            return 4000.0 if end is not self else 0.0  # milliseconds

    monkeypatch.setattr(timer, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: log.append(f"wait for {device}"))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: f"event on the stream of {device}")
    monkeypatch.setattr(torch, "Event", Event)
    return log


def test_seconds_are_those_between_two_readings(events):
    assert time_call(lambda: events.append("call")) == 3.0
    assert events == ["clock", "call", "clock"]


def test_an_accelerator_is_idle_at_the_start_and_done_at_the_end(events):
    assert time_call(lambda: events.append("call"), "mps:0") == 3.0
    assert events == ["wait for mps:0", "clock", "call", "wait for mps:0", "clock"]


@pytest.mark.parametrize("device", ["cuda:5", "xpu:2"])
def test_where_events_measure_time_they_do(events, device):
    assert time_call(lambda: events.append("call"), device) == 4.0
    event, wait = f"event on the stream of {device}", f"wait for {device}"
    assert events == [wait, event, "call", event, wait]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_events_agree_with_the_clock():
    x = torch.randn(2048, 2048, device="cuda")
    rounds = Rounds("cuda", cold=True)
    rounds.add("once", lambda: lambda: x @ x)
    rounds.add("eight", lambda: lambda: [x @ x for _ in range(8)])
    for _ in range(20):
        rounds.run()
    synchronize("cuda")
    start = time.perf_counter()
    for _ in range(8):
        x @ x
    synchronize("cuda")
    assert rounds.seconds("eight").value == pytest.approx(time.perf_counter() - start, rel=0.5)
    assert 4 < rounds.ratio("eight", "once").value < 9


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


def test_neither_tracer_nor_profiler_runs_meanwhile_and_then_they_do_again():
    def follow(*_arguments):
        return None

    tracer, profiler, seen = sys.gettrace(), sys.getprofile(), []
    try:
        sys.settrace(follow)
        sys.setprofile(follow)
        time_call(lambda: seen.append((sys.gettrace(), sys.getprofile())))
        seen.append((sys.gettrace(), sys.getprofile()))
    finally:
        sys.settrace(tracer)
        sys.setprofile(profiler)
    assert seen == [(None, None), (follow, follow)]


@pytest.fixture
def rounds(monkeypatch):
    """Rounds on a clock that "dense" advances by 2, 4, 6 … and "half" by half of that; warm-up included."""
    state = {"now": 0.0, "dense": 0.0, "half": 0.0, "order": []}
    monkeypatch.setattr(timer, "time", SimpleNamespace(perf_counter=lambda: state["now"]))

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


def test_every_function_has_a_sample_in_every_round_in_balanced_order(rounds):
    assert rounds.calls == ["dense"] * WARM_UP + ["half"] * WARM_UP
    rounds.add("third", lambda: lambda: rounds.calls.append("third"))
    del rounds.calls[:]
    for _ in range(24):
        rounds.run()
    turns = list(zip(*[iter(rounds.calls)] * 3, strict=True))
    assert all(set(turn) == {"dense", "half", "third"} for turn in turns)
    assert all(second == first[::-1] for first, second in zip(turns[::2], turns[1::2], strict=True))
    assert len(set(turns)) == 6
    assert rounds.count == len(turns) == 24
    samples = rounds.samples()
    assert [(sample.name, sample.round) for sample in samples] == [
        (name, index) for index, turn in enumerate(turns) for name in turn
    ]
    halves = [sample.seconds for sample in samples if sample.name == "half"]
    assert halves == [1.0 * (WARM_UP + 1 + index) for index in range(24)]


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


class Noisy:
    """Functions on a clock of their own: each call takes what `seconds(calls so far)` says."""

    def __init__(self, monkeypatch, seconds, **options):
        self.now, self.calls = 0.0, 0
        monkeypatch.setattr(timer, "time", SimpleNamespace(perf_counter=lambda: self.now))
        self.seconds, self.rounds = seconds, Rounds(**options)
        self.rounds.add("only", lambda: self.call)

    def call(self):
        self.now += self.seconds(self.calls)
        self.calls += 1


def test_rounds_end_when_the_interval_is_narrow(monkeypatch):
    rng = random.Random(0)
    noisy = Noisy(monkeypatch, lambda _call: rng.gauss(1.0, 0.03))
    assert noisy.rounds.until(seconds=10_000, fewest=4, most=10_000) == "steady"
    only = noisy.rounds.seconds("only")
    assert only.is_within(0.01)
    assert 40 < noisy.rounds.count < 250  # 1.25 · 1.96 · 0.03 / √n = 0.01 at n = 54
    assert noisy.rounds.count % 2 == 0
    assert only.value == pytest.approx(1.0, abs=0.02)


def test_without_noise_they_end_after_the_fewest_that_can_tell(monkeypatch):
    noisy = Noisy(monkeypatch, lambda _call: 1.0)
    assert noisy.rounds.until(seconds=1000, fewest=4, most=100) == "steady"
    assert noisy.rounds.count == ENOUGH


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"seconds": 100.0, "fewest": 4, "most": 1000}, ("time spent", 64)),  # 80 s are left after warm-up
        ({"seconds": 100.0, "fewest": 75, "most": 1000}, ("time spent", 76)),
        ({"seconds": 100.0, "fewest": 4, "most": 17}, ("most rounds", 18)),
        ({"seconds": 0.01, "fewest": 4, "most": 17}, ("time spent", 4)),
    ],
    ids=["time", "fewest", "most", "no time"],
)
def test_or_when_time_is_spent_or_there_are_enough(monkeypatch, limits, expected):
    noisy = Noisy(monkeypatch, lambda call: 1.0 if call % 2 else 1.5)
    assert (noisy.rounds.until(**limits), noisy.rounds.count) == expected


def test_what_is_watched_decides(monkeypatch):
    """Both drift alike, so that their ratio is known long before their seconds are."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timer, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def call(share, rounds):
        clock.now += share * (1 + 0.1 * rounds.count)

    rounds = Rounds()
    for name, share in (("dense", 1.0), ("half", 0.5)):
        rounds.add(name, lambda share=share: lambda: call(share, rounds))
    limits = {"seconds": 500.0, "fewest": 10, "most": 60}
    assert rounds.until(**limits, watched=[("half", "dense")]) == "steady"
    assert rounds.count == 10
    assert rounds.until(**limits, watched=[("half", "dense"), ("dense", None)]) != "steady"
    assert rounds.until(**limits) != "steady"


def test_warm_up_lasts_until_times_no_longer_change(monkeypatch):
    noisy = Noisy(monkeypatch, lambda call: 1.0 + max(0, 40 - call))
    noisy.rounds.until(seconds=100_000, fewest=10, most=10)
    assert noisy.rounds.warm_up >= 40
    assert noisy.rounds.seconds("only") == (1.0, 1.0, 1.0)


def test_but_no_longer_than_a_fifth_of_the_time(monkeypatch):
    noisy = Noisy(monkeypatch, lambda call: 2.0**-call)
    noisy.rounds.until(seconds=1e-3, fewest=10, most=10)
    assert noisy.rounds.warm_up == WARM_UP + 1  # one call takes longer than that


def test_noise_does_not_keep_warm_up_going(monkeypatch):
    rng = random.Random(0)
    noisy = Noisy(monkeypatch, lambda _call: rng.lognormvariate(0, 0.5))
    noisy.rounds.until(seconds=1000, fewest=10, most=10)
    assert noisy.rounds.warm_up <= 200


def test_caches_are_emptied_before_every_call_outside_the_time(monkeypatch):
    log = []
    monkeypatch.setattr(timer, "emptying", lambda device: lambda: log.append(f"empty {device}"))
    monkeypatch.setattr(timer, "time", SimpleNamespace(perf_counter=lambda: log.append("clock") or 0.0))

    def prepare():
        log.append("prepare")
        return lambda: log.append("call")

    cold, warm = Rounds("cpu", cold=True), Rounds("cpu")
    cold.add("arm", prepare)
    assert log == ["prepare", "empty cpu", "clock", "call", "clock"] * WARM_UP
    warm.add("arm", prepare)
    assert log[5 * WARM_UP :] == ["prepare", "clock", "call", "clock"] * WARM_UP


def test_inputs_rotate_alike_for_every_function():
    seen = []
    rounds = Rounds()
    for name in ("a", "b"):
        rounds.add(name, rotated([lambda name=name, index=index: seen.append((name, index)) for index in range(3)]))
    assert seen == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)]
    del seen[:]
    for _ in range(5):
        rounds.run()
    assert [{index for _, index in seen[first : first + 2]} for first in range(0, 10, 2)] == [{0}, {1}, {2}, {0}, {1}]
