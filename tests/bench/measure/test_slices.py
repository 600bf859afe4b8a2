"""The change on parts of the examples, against arithmetic by hand, and intervals that hold for all parts at once."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from bench.measure.slices import slice_changes


def mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def test_an_interval_is_that_of_paired_differences_at_a_level_shared_by_all_parts():
    rng = np.random.default_rng(3)
    dense, pruned = rng.normal(size=41), rng.normal(size=41)
    odd = np.arange(41) % 2 == 1
    first, second = slice_changes(pruned, dense, {"odd": odd, "even": ~odd}, mean)
    assert (first.name, second.name, first.examples, second.examples) == ("odd", "even", 20, 21)
    change = (pruned - dense)[odd]
    level, step = 1 - 0.05 / 4, np.sqrt(np.mean((pruned - dense) ** 2))
    error = np.sqrt(change.var(ddof=1) / 20 + (norm.ppf(level) * step / 40) ** 2)
    reach = student.ppf(level, 19) * error
    assert first.difference == pytest.approx(change.mean())
    assert (first.low, first.high) == pytest.approx((change.mean() - reach, change.mean() + reach))
    assert (first.value, first.dense) == pytest.approx((pruned[odd].mean(), dense[odd].mean()))


def test_a_part_in_which_nothing_changed_has_an_interval():
    dense = np.ones(100)
    pruned = np.where(np.arange(100) < 4, 0.0, 1.0)
    last = np.arange(100) >= 50
    _, still = slice_changes(pruned, dense, {"first": ~last, "last": last}, mean)
    level = 1 - 0.05 / 4
    reach = student.ppf(level, 49) * norm.ppf(level) / 2 / 50
    assert (still.difference, still.low, still.high) == pytest.approx((0, -reach, reach))


def test_where_no_example_changes_a_change_is_as_large_as_examples_are_apart():
    dense = np.array([0.0, 3.0] * 10)
    (only,) = slice_changes(dense, dense, {"all": np.full(20, True)}, mean)
    assert only.high == pytest.approx(student.ppf(0.975, 19) * norm.ppf(0.975) * 3 / 2 / 20)

    (perfect,) = slice_changes(np.ones(20), np.ones(20), {"all": np.full(20, True)}, mean)
    assert perfect.high == pytest.approx(only.high / 3)


def test_a_metric_that_is_no_mean_is_that_of_the_part():
    rng = np.random.default_rng(5)
    losses, tokens = rng.gamma(5, size=(2, 40)), rng.integers(3, 9, size=40)
    dense, pruned = (np.stack([loss, tokens], axis=1) for loss in losses)

    def perplexity(rows: np.ndarray) -> float:
        return float(np.exp(rows[:, 0].sum() / rows[:, 1].sum()))

    part = np.arange(40) < 17
    (found,) = slice_changes(pruned, dense, {"part": part}, perplexity)
    assert (found.value, found.dense) == pytest.approx((perplexity(pruned[part]), perplexity(dense[part])))
    assert found.low < found.value - found.dense < found.high


def test_few_examples_are_not_told_and_do_not_widen_others():
    values = np.arange(30.0)
    parts = {"all": np.full(30, True), "nine": np.arange(30) < 9}
    (alone,) = slice_changes(values + 1, values, {"all": parts["all"]}, mean)
    assert list(slice_changes(values + 1, values, parts, mean)) == [alone]


def test_a_part_without_a_metric_is_named():
    values = np.ones(20)
    with pytest.raises(ValueError, match="slice 'all': aggregate is NaN or infinite on its examples"):
        list(slice_changes(values, values, {"all": np.full(20, True)}, lambda _: float("nan")))


@pytest.mark.thorough  # a simulation; the numbers themselves are checked above
def test_all_intervals_hold_at_once_in_most_simulations():
    """12 parts of 40 examples each; a tenth of what is right turns wrong. 95 % are promised of 60 draws: 50 is safe."""
    rng = np.random.default_rng(7)
    parts = {str(part): np.arange(480) // 40 == part for part in range(12)}
    held = 0
    for _ in range(60):
        dense = (rng.random(480) < 0.97).astype(float)
        pruned = dense * (rng.random(480) >= 0.1)
        held += all(each.low <= -0.097 <= each.high for each in slice_changes(pruned, dense, parts, mean))
    assert held >= 50
