"""Quantiles and their intervals, against arithmetic by hand, scipy and simulation."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from mha.timing.quantiles import Quantile, Spread, median, quantile


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(1, 0, 0), (5, 0, 4), (6, 0, 5), (9, 1, 7), (100, 39, 60)],  # ranks from 0; of 100, the 40th and the 61st
)
def test_the_interval_of_a_median_is_between_ranks(count, low, high):
    values = [float(value) for value in range(count)]
    spread = median(values[::-1])
    assert spread == ((count - 1) / 2, low, high)
    assert spread.half_width == (high - low) / 2


def test_the_interval_of_a_median_holds_it_in_95_of_100_cases():
    samples = torch.randn(2000, 51, generator=torch.Generator().manual_seed(0)).exp().tolist()
    held = sum(spread.low <= 1.0 <= spread.high for spread in map(median, samples)) / len(samples)
    assert 0.94 < held < 0.98


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [(2.0, 1.9, 2.1, True), (2.0, 1.9, 2.11, False), (2.0, 1.89, 2.1, False), (0.0, 0.0, 0.0, True)],
)
def test_an_interval_within_a_twentieth(value, low, high, expected):
    assert Spread(value, low, high).is_within(0.0501) is expected


@pytest.mark.parametrize(("share", "fewest"), [(0.5, 6), (0.9, 36), (0.99, 368), (0.1, 36)])
def test_there_is_a_quantile_from_so_many_values(share, fewest):
    """0.99^367 > 0.025 ≥ 0.99^368: only then is the largest value above the 99th percentile often enough."""
    values = [float(value) for value in range(fewest)]
    assert quantile(values[1:], share) is None
    found = quantile(values[::-1], share)
    assert found == Quantile(pytest.approx(share * (fewest - 1)), found.low, found.high, fewest)
    assert (found.high == fewest - 1, found.low == 0) == (share >= 0.5, share <= 0.5)


def test_no_values_have_no_quantile():
    assert quantile([], 0.5) is None


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999, 0.05])
def test_values_and_ranks_are_those_of_numpy_and_scipy(share):
    for n in (6, 37, 400, 1001, 5000):
        values = np.arange(1.0, n + 1)
        low, high = binom.ppf(0.025, n, share), binom.ppf(0.975, n, share) + 1
        found = quantile(values.tolist(), share)
        if low < 1 or high > n:
            assert found is None
        else:
            assert found == (pytest.approx(np.quantile(values, share)), low, high, n)


@pytest.mark.parametrize(("share", "n"), [(0.5, 40), (0.9, 100), (0.99, 400)])
def test_the_interval_of_a_quantile_holds_it_in_95_of_100_cases(share, n):
    samples = torch.rand(2000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    found = [quantile(values, share) for values in samples]
    held = sum(one.low <= share <= one.high for one in found) / len(found)
    assert 0.94 < held < 0.985


@pytest.mark.parametrize("share", [0.0, 1.0, 99])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match=f"share lies between 0 and 1, as 0.99 for the 99th percentile, got {share}"):
        quantile([1.0], share)
