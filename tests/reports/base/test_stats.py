"""Estimates against arithmetic by hand and against scipy."""

import itertools
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from reports.base import stats
from reports.base.stats import Estimate


def samples(case: str, **arms: list[float]) -> pd.DataFrame:
    rows = [(case, arm, turn, seconds) for arm, times in arms.items() for turn, seconds in enumerate(times)]
    return pd.DataFrame(rows, columns=["case", "arm", "round", "seconds"]).assign(process=0)


def test_the_median_and_its_interval_agree_with_scipy():
    values = np.random.default_rng(5).lognormal(size=31)
    ours = stats.median_estimate([values])
    theirs = reference.bootstrap(
        (values,), np.median, n_resamples=20_000, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    assert ours.value == np.median(values)
    assert ours.low == pytest.approx(theirs.low, rel=0.03)
    assert ours.high == pytest.approx(theirs.high, rel=0.03)


def test_an_interval_covers_the_median_about_95_times_of_100():
    generator = np.random.default_rng(11)
    inside = [
        low <= 0 <= high for _, low, high in (stats.median_estimate([generator.normal(size=23)]) for _ in range(300))
    ]
    assert 0.91 <= np.mean(inside) <= 0.985


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_the_two_ranks_of_a_median_are_as_likely_as_in_all_resamples_there_are(count):
    draws = [sorted(drawn) for drawn in itertools.product(range(count), repeat=count)]
    expected = Counter((drawn[(count - 1) // 2], drawn[count // 2]) for drawn in draws)
    columns = (column.tolist() for column in stats._ranks_of_a_median(count))
    found = {(below, above): share for below, above, share in zip(*columns, strict=True)}
    assert found == pytest.approx({ranks: number / len(draws) for ranks, number in expected.items()})


@pytest.mark.parametrize("count", [7, 12, 40, 201, 3000])
def test_an_interval_of_one_process_is_what_drawing_tends_to(count):
    values = np.random.default_rng(count).lognormal(size=count)
    exact = stats.median_estimate([values])
    drawn = np.percentile(stats._resampled_medians(values.tobytes()), [2.5, 97.5])
    assert exact.value == np.median(values)
    assert (exact.low, exact.high) == pytest.approx(tuple(drawn), rel=0.02)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_resampled_median_is_the_median_of_values_that_were_there(count):
    values = np.arange(count, dtype=float) ** 2
    medians = stats._resampled_medians(values.tobytes())
    possible = {(one + other) / 2 for one in values for other in values}
    assert medians.shape == (stats.RESAMPLES,)
    assert set(medians) <= possible
    assert np.median(medians) == pytest.approx(np.median(values), abs=values[-1] / 4)


def test_rounds_of_one_process_share_its_luck():
    """Of three processes far apart, each with little spread, the interval spans the processes."""
    generator = np.random.default_rng(2)
    processes = [generator.normal(center, 0.01, size=31) for center in (1.0, 2.0, 3.0)]
    value, low, high = stats.median_estimate(processes)
    assert value == np.median(processes[1])
    assert (low, high) == pytest.approx((1.0, 3.0), abs=0.02)
    pooled = stats.median_estimate([np.concatenate(processes)])
    assert pooled.value == pytest.approx(value, abs=0.02)


def test_processes_that_agree_narrow_the_interval():
    values = np.random.default_rng(3).normal(size=(16, 31))
    alone, together = stats.median_estimate([values[0]]), stats.median_estimate(list(values))
    assert together.high - together.low < alone.high - alone.low


def test_the_interval_over_processes_agrees_with_a_bootstrap_written_out():
    generator = np.random.default_rng(4)
    processes = [generator.lognormal(sigma=0.3, size=size) + luck for size, luck in ((7, 0.0), (11, 0.4), (13, 0.8))]
    medians = []
    for _ in range(4000):
        drawn = [processes[place] for place in generator.integers(3, size=3)]
        medians.append(np.median([np.median(generator.choice(rounds, len(rounds))) for rounds in drawn]))
    expected = np.percentile(medians, [2.5, 97.5])
    ours = stats.median_estimate(processes)
    assert (ours.low, ours.high) == pytest.approx(tuple(expected), rel=0.04)


@pytest.mark.parametrize(("share", "fewest"), [(0.5, 6), (0.9, 36), (0.99, 368)])
def test_a_quantile_needs_enough_values_on_both_sides(share, fewest):
    assert stats.quantile_estimate(np.arange(fewest - 1.0), share) is None
    assert stats.quantile_estimate(np.arange(float(fewest)), share) is not None


def test_a_quantile_lies_between_the_ranks_that_the_binomial_gives():
    values = np.random.default_rng(5).permutation(101).astype(float)
    p90 = stats.quantile_estimate(values, 0.9)
    below = reference.binom(101, 0.9)
    low, high = int(below.ppf(0.025)), int(below.ppf(0.975))
    assert p90 == Estimate(90.0, low - 1, high)
    assert below.cdf(high) - below.cdf(low - 1) >= 0.95


def test_an_interval_of_a_quantile_covers_it_at_least_95_times_of_100():
    generator = np.random.default_rng(6)
    true = reference.expon.ppf(0.9)
    found = [stats.quantile_estimate(generator.exponential(size=73), 0.9) for _ in range(400)]
    assert np.mean([low <= true <= high for _, low, high in found]) >= 0.94


def test_a_single_sample_has_no_interval():
    value, low, high = stats.median_estimate([np.array([3.0])])
    assert value == 3.0
    assert np.isnan([low, high]).all()


def test_several_arrays_count_alike_however_long_they_are():
    short, long = np.full(3, 2.0), np.full(301, 8.0)
    assert stats.median_estimate([short], [long]) == Estimate(5.0, 5.0, 5.0)


def test_estimates_are_the_same_every_time():
    values = np.random.default_rng(1).normal(size=17)
    assert stats.median_estimate([values]) == stats.median_estimate([values])


def test_ratios_are_paired_by_round():
    frame = samples("one", dense=[4.0, 40.0, 400.0], pruned=[2.0, 20.0, 200.0])
    shuffled = frame.sample(frac=1, random_state=3)
    ratios = stats.paired_log_ratios(shuffled, "dense", "pruned")
    assert stats.ratio_estimate(ratios["one"]) == pytest.approx((2.0, 2.0, 2.0))


def test_rounds_and_cases_without_both_arms_are_left_out():
    frame = pd.concat([samples("one", dense=[4.0, 4.0], pruned=[1.0]), samples("two", mha=[1.0])])
    ratios = stats.paired_log_ratios(frame, "dense", "pruned")
    assert list(ratios) == ["one"]
    np.testing.assert_allclose(ratios["one"], [[np.log(4)]])
    assert stats.paired_log_ratios(frame, "torch", "mha") == {}


def test_the_median_ratio_of_an_even_count_is_the_geometric_mean_of_the_middle_two():
    assert stats.ratio_estimate([np.log([1.0, 2.0, 8.0, 100.0])]).value == pytest.approx(4.0)


def test_draws_give_their_mean_and_the_range_of_95_per_cent():
    assert stats.draws_estimate(np.arange(41) / 40) == pytest.approx((0.5, 0.025, 0.975))


def test_the_pareto_front_holds_what_nothing_beats():
    cost = np.array([1.0, 2.0, 2.0, 3.0, 4.0, np.nan, 0.5])
    merit = np.array([0.5, 0.7, 0.6, 0.7, 0.9, 1.0, np.nan])
    assert stats.pareto_front(cost, merit).tolist() == [True, True, False, False, True, False, False]


def test_the_pareto_front_agrees_with_its_definition():
    generator = np.random.default_rng(2)
    cost, merit = generator.permutation(53).astype(float), generator.permutation(53).astype(float)
    beaten = [any((cost < cost[i]) & (merit > merit[i])) for i in range(53)]
    assert stats.pareto_front(cost, merit).tolist() == [not lost for lost in beaten]


def test_rank_correlation_is_spearmans():
    columns = pd.DataFrame(np.random.default_rng(3).normal(size=(29, 2)), columns=["a", "b"])
    expected = reference.spearmanr(columns["a"], columns["b"]).statistic
    assert stats.rank_correlation(columns).loc["a", "b"] == pytest.approx(expected)
    constant = stats.rank_correlation(columns.assign(c=1.0))
    assert np.isnan(constant.loc["a", "c"])


def test_the_ratio_of_two_medians_measured_apart_has_the_planted_value():
    over, under = [np.log([3.0, 3.0, 3.0])], [np.log([2.0, 2.0])]
    assert stats.independent_ratio([over], [under]) == pytest.approx((1.5, 1.5, 1.5))
    several = stats.independent_ratio([over, [np.log([12.0, 12.0])]], [under])
    assert several == pytest.approx((3.0, 3.0, 3.0))  # the middle of two shapes, of logarithms


def test_the_interval_of_a_ratio_of_two_agrees_with_a_bootstrap_written_out():
    generator = np.random.default_rng(8)
    over = [generator.normal(0.4, 0.2, size=size) + luck for size, luck in ((7, 0.0), (11, 0.1), (13, -0.1))]
    under = [generator.normal(0.0, 0.3, size=17)]
    logs = []
    for _ in range(4000):
        drawn = [over[place] for place in generator.integers(3, size=3)]
        one = np.median([np.median(generator.choice(rounds, len(rounds))) for rounds in drawn])
        logs.append(one - np.median(generator.choice(under[0], 17)))
    expected = np.exp(np.percentile(logs, [2.5, 97.5]))
    ours = stats.independent_ratio([over], [under])
    assert ours.value == pytest.approx(np.exp(stats.median_of(over) - np.median(under)))
    assert (ours.low, ours.high) == pytest.approx(tuple(expected), rel=0.04)


@pytest.mark.parametrize("processes", [1, 8])
def test_the_interval_of_a_ratio_of_two_covers_it_about_95_times_of_100(processes):
    """Rounds of one process alike, or processes each with luck of its own: what is drawn is what varies."""
    generator = np.random.default_rng(13)
    luck = 0.0 if processes == 1 else 0.05

    def side(truth):
        return [generator.normal(truth + luck * generator.normal(), 0.1, size=23) for _ in range(processes)]

    found = [stats.independent_ratio([side(0.3)], [side(0.1)]) for _ in range(200)]
    assert 0.91 <= np.mean([low <= np.exp(0.2) <= high for _, low, high in found]) <= 0.99


def test_the_same_data_on_both_sides_are_drawn_independently():
    rounds = [np.random.default_rng(9).normal(size=31)]
    alone, ratio = stats.median_estimate(rounds), stats.independent_ratio([rounds], [rounds])
    assert ratio.value == 1
    assert np.log(ratio.high / ratio.low) > alone.high - alone.low


def test_a_single_round_on_either_side_leaves_a_ratio_without_an_interval():
    one, many = [np.log([2.0])], [np.log([4.0, 4.0])]
    for over, under, value in ((one, many, 0.5), (many, one, 2.0)):
        ratio = stats.independent_ratio([over], [under])
        assert ratio.value == pytest.approx(value)
        assert np.isnan([ratio.low, ratio.high]).all()
