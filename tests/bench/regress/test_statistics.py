"""The gate's statistics, against scipy, every flip of signs, and arithmetic by hand."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from bench.regress.statistics import (
    Contrast,
    adjusted,
    contrast,
    effect,
    rank_sum_chances,
    rank_sums_outside,
    signed_rank_p,
    walsh_averages,
)


def contrasts(effects, nothing=None):
    return tuple(map(Contrast, effects, nothing or [0.0] * len(effects)))


def test_a_contrast_is_the_median_over_turns_of_logarithms():
    seconds = {
        "head-0": [2.0, 4.0, 8.0],
        "head-1": [2.0, 2.0, 2.0],
        "base-0": [1.0, 1.0, 1.0],
        "base-1": [1.0, 2.0, 1.0],
    }
    # by turn, in powers of two: d = (1 + 1) / 2, (2 + 1 - 1) / 2, (3 + 1) / 2; n = 0, (2 - 1 - 1) / 2, (3 - 1) / 2
    assert contrast(seconds) == pytest.approx((1.0 * math.log(2), 0.0))


def test_the_estimate_and_its_interval_by_hand():
    # the Walsh averages of 0..5 are the halves of all sums; 21 of them; P(W <= 0) = 1/64 <= 0.025 < P(W <= 1) = 2/64
    found = effect(contrasts([0.00, 0.01, 0.02, 0.03, 0.04, 0.05]))
    assert found[:3] == pytest.approx((math.expm1(0.025), math.expm1(0.0), math.expm1(0.05)))
    assert found.rounds == 6


def test_the_floor_is_what_the_same_rounds_find_between_equal_arms():
    found = effect(contrasts([0.0] * 7, [-0.03, -0.02, -0.02, -0.02, -0.02, -0.01, 0.5]))
    assert found.floor == pytest.approx(math.expm1(0.02), rel=1e-6)


@pytest.mark.parametrize("rounds", [6, 8, 9, 10, 18])
def test_intervals_hold_their_level_and_no_wider_than_needed(rounds):
    outside = rank_sums_outside(rounds)
    chances = np.cumsum(rank_sum_chances(rounds))
    assert chances[outside] <= 0.025 < chances[outside + 1]


def test_the_chances_of_rank_sums_are_those_of_every_flip():
    sums = [sum(rank for rank, plus in enumerate(signs, 1) if plus) for signs in product((0, 1), repeat=7)]
    assert rank_sum_chances(7) == pytest.approx(np.bincount(sums) / 2**7)


@pytest.mark.parametrize("seed", range(5))
def test_p_counts_every_flip_of_signs(seed):
    d = np.random.default_rng(seed).normal(0.3, 1.0, 9)
    ranks = stats.rankdata(abs(d))
    seen = ranks[d > 0].sum()
    flips = [sum(rank for rank, plus in zip(ranks, signs, strict=True) if plus) for signs in product((0, 1), repeat=9)]
    assert signed_rank_p(d) == pytest.approx(np.mean([total >= seen for total in flips]))


@pytest.mark.parametrize("rounds", [6, 9, 18])
def test_p_is_that_of_scipy(rounds):
    d = np.random.default_rng(rounds).normal(0.2, 1.0, rounds)
    assert signed_rank_p(d) == pytest.approx(stats.wilcoxon(d, alternative="greater", method="exact").pvalue)


def test_an_interval_leaves_zero_out_just_where_the_test_rejects():
    for seed in range(200):
        d = np.random.default_rng(seed).normal(0.5, 1.0, 9)
        found = effect(contrasts(d))
        assert (found.low > 0) == (found.p <= 0.025)
        assert (found.high < 0) == (found.p_faster <= 0.025)


@pytest.mark.thorough  # a simulation; the numbers themselves are checked above
def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        found = effect(contrasts(generator.standard_t(2, 9) * 0.01 + 0.02))
        hits += found.low <= math.expm1(0.02) <= found.high
    assert 0.95 - 0.012 < hits / 2000 < 0.975 + 0.012  # exact, but discrete: 1 - 2 * 10/512 = 0.961


def test_nothing_at_all_is_no_change():
    found = effect(contrasts([0.0] * 8))
    assert (found.estimate, found.low, found.high, found.p, found.p_faster) == (0.0, 0.0, 0.0, 1.0, 1.0)


def test_one_disturbed_round_moves_little():
    quiet = [0.001 * (-1) ** index for index in range(10)]
    assert effect(contrasts([*quiet[:-1], 3.0])).estimate < 0.0015


def test_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match=r"5 rounds; an interval at 97\.5% takes 6"):
        effect(contrasts([0.1] * 5))


def test_walsh_averages():
    assert walsh_averages(np.array([3.0, 1.0])).tolist() == [1.0, 2.0, 3.0]


def test_adjustment_by_hand():
    assert adjusted([0.01, 0.04, 0.03, 1.0]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 1.0])
    assert adjusted([]) == []
