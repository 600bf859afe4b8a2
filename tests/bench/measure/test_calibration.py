"""Calibration against arithmetic by hand, and against models whose calibration is known."""

import numpy as np
import pytest

from bench.measure.calibration import calibration, reliability


def answers(examples: int, gap: float, seed: int = 0, several: int = 3) -> np.ndarray:
    """Confidences in 0.5 … 1, and answers that are right less often than that by `gap`: (n, several, 2)."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1, size=(examples, several))
    return np.stack([sure, rng.random(sure.shape) < sure - gap], axis=-1).astype(float)


def measures(pruned: np.ndarray, dense: np.ndarray) -> dict:
    return {each.measure: each for each in calibration(pruned, dense)}


def test_bins_have_as_many_answers_each():
    sure = np.linspace(0.01, 1, 100)
    right = np.arange(100) % 2
    bins = reliability(np.stack([sure, right], axis=-1)[:, None])
    assert [each.answers for each in bins] == [10] * 10
    assert [each.right for each in bins] == [0.5] * 10
    np.testing.assert_allclose([each.confidence for each in bins], sure.reshape(10, 10).mean(axis=1))


def test_equal_confidences_stay_together():
    sure, right = np.array([0.2] * 7 + [1.0] * 93), np.array([1.0, 0] * 50)
    bins = reliability(np.stack([sure, right], axis=-1)[:, None])
    assert [(each.answers, each.confidence) for each in bins] == [(7, pytest.approx(0.2)), (93, pytest.approx(1.0))]


def test_measures_are_those_by_hand():
    pruned, dense = answers(211, 0.2), answers(211, 0.0, seed=1)
    found = measures(pruned, dense)
    sure, right = pruned[..., 0], pruned[..., 1]
    assert found["overconfidence"].value.value == pytest.approx((sure - right).mean())
    assert found["Brier score"].value.value == pytest.approx(((sure - right) ** 2).mean())
    before = ((dense[..., 0] - dense[..., 1]) ** 2).mean()
    assert found["Brier score"].difference.value == pytest.approx(((sure - right) ** 2).mean() - before)
    for each in found.values():
        assert each.value.low <= each.value.value <= each.value.high
        assert each.difference.low <= each.difference.value <= each.difference.high


def test_the_calibration_error_is_that_which_was_planted():
    found = measures(answers(4000, 0.2), answers(4000, 0.0, seed=1))["calibration error"]
    assert found.value.low < 0.2 < found.value.high
    assert found.value.high - found.value.low < 0.05
    assert found.difference.value == pytest.approx(0.2, abs=0.02)


def test_few_answers_bring_no_error_of_their_own():
    """Over 20 draws of 60 answers each, of a model that is as often right as sure."""
    plain, corrected = [], []
    for seed in range(20):
        drawn = answers(60, 0.0, seed, several=1)
        plain.append(sum(each.answers * abs(each.confidence - each.right) for each in reliability(drawn)) / 60)
        corrected.append(measures(drawn, drawn)["calibration error"].value.value)
    assert np.mean(corrected) < 0.75 * np.mean(plain)


def test_a_model_differs_from_itself_by_nothing():
    same = answers(97, 0.1)
    assert all(tuple(each.difference) == (0, 0, 0) for each in measures(same, same).values())
