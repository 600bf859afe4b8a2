"""A clock that shows samples which were taken elsewhere."""

import pytest

from bench.measure.replay_clock import ReplayClock


def test_each_sample_begins_at_0_and_ends_after_its_seconds():
    clock = ReplayClock([0.5, 2.0])
    assert [clock() for _ in range(4)] == [0.0, 0.5, 0.0, 2.0]
    with pytest.raises(StopIteration):
        clock()
    clock.show([0.25])
    assert [clock(), clock()] == [0.0, 0.25]
