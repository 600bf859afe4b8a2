"""What an error says, on one line."""

import pytest

from bench.measure.errors import described, reason


@pytest.mark.parametrize(
    ("error", "line", "why"),
    [
        (ValueError("no heads"), "ValueError: no heads", "no heads"),
        (RuntimeError("\n  first \nsecond"), "RuntimeError: first ", "first "),
        (KeyError(), "KeyError", "KeyError"),
        (MemoryError(" \n"), "MemoryError", "MemoryError"),
    ],
)
def test_the_first_line(error, line, why):
    assert described(error) == line
    assert reason(error) == why
