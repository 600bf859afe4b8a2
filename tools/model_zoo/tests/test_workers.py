"""A worker that is killed takes nothing else with it."""

import os
import signal

import pytest

from tools.model_zoo.workers import rows_of

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")


def square(name: str) -> dict:
    return {"type": name, "status": "proven", "square": int(name) ** 2}


def killed_by_four(name: str) -> dict:
    if name == "4":
        os.kill(os.getpid(), signal.SIGKILL)
    return square(name)


def raises(name: str) -> dict:
    raise ValueError(name)


def test_every_name_is_tried_once():
    rows = list(rows_of(square, map(str, range(7)), 2))
    assert sorted(row["square"] for row in rows) == [0, 1, 4, 9, 16, 25, 36]


def test_a_killed_worker_is_a_crashed_row_and_the_others_go_on():
    rows = {row["type"]: row for row in rows_of(killed_by_four, map(str, range(7)), 2)}
    assert rows.keys() == set("0123456")
    assert rows.pop("4") == {"type": "4", "status": "crashed", "reason": "its process was killed: out of memory?"}
    assert all(row == square(name) for name, row in rows.items())


def test_an_error_of_the_trial_is_not_hidden():
    with pytest.raises(ValueError, match="3"):
        list(rows_of(raises, ["3"], 1))
