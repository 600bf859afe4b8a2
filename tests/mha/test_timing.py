"""The timer: what it counts, what it waits for, and that it leaves the garbage collector as it was."""

import gc
from types import SimpleNamespace

import pytest
import torch

from mha import timing
from mha.timing import synchronize, time_call


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
