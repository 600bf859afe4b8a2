"""Bootstrap intervals against arithmetic and the normal approximation."""

import numpy as np
import pytest

from bench.measure.bootstrap import Bootstrap, Interval, average, ratio


@pytest.fixture
def values():
    """401 examples of which 307 are right, shuffled."""
    return np.random.default_rng(0).permutation(np.arange(401) < 307).astype(float)


def mean(values):
    return float(values.mean())


def test_a_share_has_the_interval_of_the_normal_approximation(values):
    share = 307 / 401
    margin = 1.96 * (share * (1 - share) / 401) ** 0.5
    value, low, high = Bootstrap(401, mean)(values).interval()
    assert value == pytest.approx(share)
    assert (low, high) == pytest.approx((share - margin, share + margin), abs=0.1 * margin)


def test_statistics_are_resampled_by_row():
    hits, counts = np.array([1.0, 4.0, 9.0]), np.array([2.0, 8.0, 18.0])  # any rows: one half
    half = Bootstrap(3, lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()))
    assert half(np.stack([hits, counts], axis=1)).interval() == Interval(0.5, 0.5, 0.5)


def test_differences_are_paired(values):
    bootstrap = Bootstrap(401, mean)
    difference = (bootstrap(values - 0.25) - bootstrap(values)).interval()
    assert difference == pytest.approx((-0.25, -0.25, -0.25))


def test_averages_are_paired(values):
    bootstrap = Bootstrap(401, mean)
    several = average([bootstrap(values - 0.1), bootstrap(values - 0.3)])
    assert (several - bootstrap(values)).interval() == pytest.approx((-0.2, -0.2, -0.2))


def test_resamples_are_the_same_every_time(values):
    first, again, other = (Bootstrap(401, mean, seed=seed)(values) for seed in (0, 0, 1))
    assert first.replicates.shape == (2000,)
    assert (first.replicates == again.replicates).all()
    assert (first.replicates != other.replicates).any()


def test_a_ratio_is_taken_within_rounds():
    """A machine that slows down tenfold in the middle leaves a ratio of 2 what it is."""
    load = [1.0] * 5 + [10.0] * 6
    samples = [
        {"arm": arm, "round": index, "seconds": seconds * slow}
        for index, slow in enumerate(load)
        for arm, seconds in (("dense", 2.0), ("pruned", 1.0))
    ]
    assert ratio(samples, "dense", "pruned") == Interval(2.0, 2.0, 2.0)
    assert ratio(reversed(samples), "pruned", "dense") == Interval(0.5, 0.5, 0.5)


def test_a_ratio_is_the_median_of_rounds():
    seconds = [3.0, 5.0, 100.0, 2.0, 4.0]
    samples = [{"arm": "a", "round": index, "seconds": value} for index, value in enumerate(seconds)]
    samples += [{"arm": "b", "round": index, "seconds": 1.0} for index in range(5)]
    value, low, high = ratio(samples, "a", "b")
    assert value == 4.0
    assert 2.0 <= low < 4.0 < high <= 100.0
