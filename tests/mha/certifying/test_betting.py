"""The betting test: no wealth is expected to grow while the mean is 0, found by enumeration; and what it shows."""

from itertools import product

import numpy as np
import pytest

from mha.certifying.betting import p_value


@pytest.mark.parametrize(("high", "low"), [(1.0, -1.0), (1.0, -0.25), (0.2, -1.0)])
def test_at_a_mean_of_0_it_is_wrong_as_rarely_as_it_says(high, low):
    examples, chance = 10, -low / (high - low)  # of the high value, so that the mean is 0
    wealth = wrong = 0.0
    for values in product((high, low), repeat=examples):
        p = p_value(np.array(values), high, 0.05)
        highs = values.count(high)
        probability = chance**highs * (1 - chance) ** (examples - highs)
        wrong += probability * (p <= 0.05)
        wealth += probability * (1 / p if p < 1 else 0.0)
    assert wrong <= 0.05
    assert wealth <= 1
    assert wealth > 0.1


def test_without_losses_a_few_hundred_examples_show_one_point():
    assert p_value(np.full(500, -0.01), 0.99, 0.05) < 0.05 < p_value(np.full(300, -0.01), 0.99, 0.05)


def test_a_small_variance_needs_fewer_examples_than_wide_bounds_suggest():
    values = np.tile([0.04, -0.06], 400)  # a mean of -0.01, within bounds that are 20 times as wide
    assert p_value(values, 0.99, 0.05) < 0.01
    assert p_value(np.tile([0.79, -0.81], 400), 0.99, 0.05) > 0.5


def test_the_order_of_the_examples_hardly_matters():
    values = np.concatenate([np.full(20, 0.49), np.full(30, -0.51), np.full(950, -0.01)])
    found = [p_value(np.random.default_rng(seed).permutation(values), 0.99, 0.05) for seed in range(5)]
    found += [p_value(values, 0.99, 0.05), p_value(values[::-1], 0.99, 0.05)]
    assert max(found) < 1.5 * min(found)


def test_the_same_seed_gives_the_same():
    values = np.random.default_rng(0).normal(-0.1, 0.3, 200).clip(-1, 1)
    assert p_value(values, 1.0, 0.05, seed=3) == p_value(values, 1.0, 0.05, seed=3)
