"""How much of a run is left, judged by what has ended of the same kind."""

import pytest

from bench.rundir.progress import Progress


@pytest.fixture
def passing():
    """A progress of these kinds, what it says, and what lets a case of it take so long, and so long to prepare."""

    def make(kinds):
        now, said = [0.0], []
        progress = Progress(kinds, said.append, lambda: now[0])

        def case(test, seconds, prepared=0.0):
            progress.start()
            now[0] += seconds / 2
            with progress.preparing():
                now[0] += prepared
            now[0] += seconds / 2
            progress.end(test)

        return progress, said, case

    return make


def test_time_left_is_judged_by_kind(passing):
    kinds = {f"quick{index}": ("quick", "one") for index in range(3)} | {"quick3": ("quick", "two")}
    kinds |= {f"slow{index}": ("slow",) for index in range(3)} | {"quick4": ("quick", "three"), "last": ("last",)}
    progress, said, case = passing(kinds)
    case("quick0", 2.0)
    case("quick3", 4.0)
    assert said == []  # not every moment
    case("slow0", 60.0)
    # Two quick ones at 2 s, another kind of them at the average of 3 s, two slow ones at 60 s, and one of which nothing
    # is known, midway between both.
    assert progress.seconds_left() == 2 * 2.0 + 3.0 + 2 * 60.0 + 31.5
    assert said == ["3 of 9 done in 1:06, about 2:38 left"]
    case("quick1", 3.0)
    assert len(said) == 1
    for test in ("quick2", "quick4", "slow1", "slow2"):
        case(test, 10.0)
    assert len(said) == 5
    case("last", 10.0)
    assert len(said) == 5  # nothing is left to wait for
    assert progress.line() == "9 of 9 done in 1:59, about 0:00 left"


def test_training_a_model_is_the_time_of_no_case(passing):
    """Five minutes into a run of eight, with 176 cases of a second to go."""
    kinds = {f"accuracy{index}": ("accuracy", "dates") for index in range(90)}
    kinds |= {f"latency{index}": ("latency", "dates") for index in range(90)}
    progress, said, case = passing(kinds)
    for index in range(4):
        case(f"accuracy{index}", 1.0, prepared=0.0 if index else 296.0)
    assert progress.seconds_left() == pytest.approx(176.0)
    assert said == ["1 of 180 done in 4:57, about 2:59 left"]
