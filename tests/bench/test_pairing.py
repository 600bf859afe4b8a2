"""Two arms turn by turn: the order is balanced, warm-up is thrown away, rounds fit the time."""

import pytest

from bench import pairing
from bench.pairing import WARM_UP_ROUNDS, Pair


class Pedantic:
    """The part of pytest-benchmark's fixture that is used: setup, target, teardown, round by round."""

    def __init__(self, enabled=True, profile=0):
        self.enabled, self.has_error, self.rounds, self.profile = enabled, False, None, profile

    def pedantic(self, target, *, setup, teardown, rounds, warmup_rounds):
        self.rounds = rounds
        if not self.enabled:
            setup()
            target()
            return
        for _ in range(warmup_rounds + rounds + self.profile):
            assert setup() is None  # anything else would be arguments
            target()
            teardown()


@pytest.fixture
def timed(monkeypatch):
    """The calls in order; each takes as long as its name's entry says, by a clock of its own."""
    log, seconds = [], {"target": 0.5, "baseline": 1.5}

    def time_call(function, device):
        assert device == "meta"
        function()
        return seconds[log[-1]]

    monkeypatch.setattr(pairing, "time_call", time_call)
    return log


@pytest.fixture
def pair(timed):
    return Pair(lambda: timed.append("target"), lambda: timed.append("baseline"), "meta", arms=("new", "old"))


def test_each_arm_goes_first_in_every_other_round(pair, timed):
    samples = pair.run(Pedantic(), seconds=1e-6, rounds=(6, 6))
    assert timed[-12:] == ["baseline", "target", "target", "baseline"] * 3
    assert [(sample["arm"], sample["round"]) for sample in samples] == [
        *[("old", 0), ("new", 0), ("new", 1), ("old", 1)],
        *[("old", 2), ("new", 2), ("new", 3), ("old", 3)],
        *[("old", 4), ("new", 4), ("new", 5), ("old", 5)],
    ]
    assert {(sample["arm"], sample["seconds"]) for sample in samples} == {("new", 0.5), ("old", 1.5)}


def test_both_are_warmed_up_alike(pair, timed):
    samples = pair.run(Pedantic(), seconds=1e-6, rounds=(4, 4))
    warm_up = timed[: -len(samples)]
    assert warm_up.count("target") == warm_up.count("baseline") >= 3 + WARM_UP_ROUNDS


@pytest.mark.parametrize(
    ("limits", "expected"),
    [((4, 200), 10), ((12, 200), 12), ((4, 8), 8), ((11, 200), 12), ((4, 9), 10)],
    ids=["as fit", "fewest", "most", "fewest, made even", "most, made even"],
)
def test_rounds_are_as_many_as_fit_and_even(pair, monkeypatch, limits, expected):
    ticks = iter(range(0, 1000, 10))
    monkeypatch.setattr(pairing.time, "perf_counter", lambda: next(ticks))
    benchmark = Pedantic()
    samples = pair.run(benchmark, seconds=20.0, rounds=limits)  # of 0.5 + 1.5 seconds each
    assert benchmark.rounds == expected
    assert len(samples) == 2 * expected


def test_a_profile_after_the_rounds_is_no_sample(pair):
    samples = pair.run(Pedantic(profile=1), seconds=1e-6, rounds=(4, 4))
    assert len(samples) == 8


def test_disabled_benchmarks_still_give_one_pair(pair):
    samples = pair.run(Pedantic(enabled=False), seconds=1e-6, rounds=(4, 4))
    assert [(sample["arm"], sample["round"]) for sample in samples] == [("old", 0), ("new", 0)]


def test_an_interrupted_case_is_no_result():
    benchmark = Pedantic()
    turns = iter(range(100))

    def target():
        if next(turns) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pair(target, lambda: None).run(benchmark, seconds=1e-9, rounds=(30, 30))
    assert benchmark.has_error
