"""How much of a run is left, judged by what has ended of the same kind."""

from bench.progress import Progress


def test_time_left_is_judged_by_function():
    now = {"seconds": 0.0}
    said = []
    ids = [*(f"a.py::test_quick[{index}]" for index in range(5)), *(f"a.py::test_slow[{index}]" for index in range(3))]
    progress = Progress([*ids, "a.py::test_last"], said.append, lambda: now["seconds"])

    def case(test, seconds):
        progress.start()
        now["seconds"] += seconds
        progress.end(test)

    case(ids[0], 2.0)
    case(ids[1], 4.0)
    assert said == []  # not every moment
    case(ids[5], 60.0)
    # Three quick ones at 3 s, two slow ones at 60 s, and one of which nothing is known, at the average of 22 s.
    assert said == ["3 of 9 done in 1:06, about 2:31 left"]
    case(ids[2], 3.0)
    assert len(said) == 1
    for test in ids[3:5] + ids[6:]:
        case(test, 10.0)
    assert len(said) == 5
    case("a.py::test_last", 10.0)
    assert len(said) == 5  # nothing is left to wait for
    assert progress.line() == "9 of 9 done in 1:59, about 0:00 left"
