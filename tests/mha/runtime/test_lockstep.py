"""Passes that pause: in order, in the surroundings of their maker, and gone once they are closed."""

import signal
import threading

import pytest
import torch
from torch import nn

import mha
from mha.runtime.locking import locked
from mha.runtime.lockstep import MOST_THREADS, Pass, few_threads, pause, running


def alive():
    return [thread for thread in threading.enumerate() if thread.name == "mha-pass"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert alive() == []


def counting(log, name, count):
    """A call that notes each of its steps, and pauses between them."""

    def run():
        for number in range(count):
            log.append((name, number))
            pause((name, number))
        log.append((name, "end"))

    return run


def test_passes_go_on_in_the_order_in_which_they_are_told_to():
    log = []
    one, other = Pass(counting(log, "one", 2)), Pass(counting(log, "other", 2))
    assert log == []
    shown = [walk.advance() for walk in (one, other, other, one)]
    assert shown == [("one", 0), ("other", 0), ("other", 1), ("one", 1)] == log
    assert one.advance() is None
    assert one.advance() is None
    assert other.advance() is None
    assert log[4:] == [("one", "end"), ("other", "end")]
    one.close()
    other.close()


def test_hooks_know_the_pass_that_runs_them():
    def run():
        running().notes.append(running())
        pause("here")

    assert running() is None
    several = [Pass(run), Pass(run)]
    for walk in several:
        walk.advance()
    assert all(walk.notes == [walk] for walk in several)
    for walk in several:
        walk.close()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_of_the_call_reaches_whoever_lets_it_go_on(error):
    def run():
        pause("before")
        raise error("on purpose")

    walk = Pass(run)
    assert walk.advance() == "before"
    with pytest.raises(error, match="on purpose"):
        walk.advance()
    walk.close()


def test_a_pass_that_is_closed_ends_where_it_is_and_cleans_up():
    log = []

    def run():
        try:
            pause("here")
            log.append("went on")
        except Exception:
            log.append("was held up")
        finally:
            log.append("cleaned up")

    paused, fresh = Pass(run), Pass(run)
    paused.advance()
    paused.close()
    fresh.close()
    paused.close()
    assert log == ["cleaned up"]


def test_an_interrupt_while_a_pass_runs_leaves_none_behind():
    """Ctrl-C comes to the thread that waits; the pass goes on to its next pause, and ends there."""
    waiting, log = threading.Event(), []

    def run():
        pause("first")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        waiting.wait(30)
        log.append("goes on")
        pause("second")
        log.append("never")

    walk = Pass(run)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
    try:
        walk.advance()
        with pytest.raises(KeyboardInterrupt):
            walk.advance()
    finally:
        signal.signal(signal.SIGINT, handler)
        waiting.set()
        walk.close()
    assert log == ["goes on"]


def test_it_casts_and_takes_no_gradients_as_its_maker_does():
    linear, x = nn.Linear(3, 5), torch.randn(7, 3)

    def shown():
        walk = Pass(lambda: pause(linear(x)))
        with torch.autocast("cpu", torch.float16):  # where it goes on does not matter
            output = walk.advance()
        walk.close()
        return output

    assert shown().dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        output = shown()
    assert output.dtype == torch.bfloat16
    assert not output.requires_grad
    assert linear(x).requires_grad


def test_it_may_use_models_that_its_maker_has_locked():
    layer = mha.MultiHeadAttention.square(11, 5, head_dim=3)
    x = torch.randn(7, 2, 11)
    plan = mha.HeadPlan({"attention": (1, 4)})
    model = nn.ModuleDict({"attention": layer})
    with mha.masked(model, plan):
        expected = layer(x, x, x)

    def run():
        with mha.masked(model, plan):
            pause(layer(x, x, x))

    with locked(model, by="the test"):
        walk = Pass(run)
        found = walk.advance()
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert walk.advance() is None
        walk.close()
    assert not torch.equal(layer(x, x, x), expected)


@pytest.mark.parametrize(("passes", "threads"), [(1, 3), (MOST_THREADS // 2, 2), (MOST_THREADS * 5, 1), (0, 3)])
def test_few_threads_are_shared_out_and_given_back(passes, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with few_threads(passes):
            assert torch.get_num_threads() == threads
        with pytest.raises(ValueError, match="on purpose"), few_threads(passes):
            raise ValueError("on purpose")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
