"""Evidence beside independent references: paired t tests, the delta method, and which test values allow."""

import numpy as np
import pytest
from scipy import stats

from mha import CertificateError
from mha.certifying.evidence import Asymptotic, Bounded, Comparison, Flips, comparison_of
from mha.certifying.judge import Metric


def metric(aggregate=None, higher_is_better=True, bounds=None):
    return Metric(lambda _: None, aggregate, higher_is_better, "m", bounds)


@pytest.fixture
def values():
    """Dense values (401,) and those of a model that is worse by 0.1 on average."""
    rng = np.random.default_rng(5)
    dense = rng.gamma(3, 1, 401)
    return dense, dense - rng.normal(0.1, 0.5, 401)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_mean_is_tested_by_a_paired_t_test(values, higher_is_better):
    dense, small = values if higher_is_better else values[::-1]
    evidence = Comparison(metric(higher_is_better=higher_is_better), "asymptotic").evidence(dense, small)
    lost = (dense - small) * (1 if higher_is_better else -1)
    assert evidence.p_value(0.13, 0.05) == pytest.approx(stats.ttest_1samp(lost, 0.13, alternative="less").pvalue)
    bound = stats.ttest_1samp(lost, 0, alternative="less").confidence_interval(0.95).high
    assert evidence.upper(0.05) == pytest.approx(bound, abs=1e-3)


def test_a_share_of_the_dense_mean_is_tested_by_its_own_difference(values):
    dense, small = values
    evidence = Comparison(metric(), "asymptotic", relative=True).evidence(dense, small)
    expected = stats.ttest_1samp((1 - 0.06) * dense - small, 0, alternative="less").pvalue
    assert evidence.p_value(0.06, 0.05) == pytest.approx(expected)
    assert evidence.loss == pytest.approx(1 - small.mean() / dense.mean())


def test_a_perplexity_has_the_error_that_the_delta_method_gives():
    rng = np.random.default_rng(5)
    tokens = rng.integers(20, 60, 301).astype(float)
    dense = np.stack([rng.gamma(9, 0.3, 301) * tokens, tokens], 1)
    small = dense + np.stack([rng.normal(0.05, 0.2, 301) * tokens, np.zeros(301)], 1)

    def perplexity(values):
        return float(np.exp(values[:, 0].sum() / values[:, 1].sum()))

    evidence = Comparison(metric(perplexity, False), "asymptotic").evidence(dense, small)

    def influence(values):
        rate = values[:, 0].sum() / values[:, 1].sum()
        return np.exp(rate) * (values[:, 0] - rate * values[:, 1]) / values[:, 1].mean()

    error = (influence(small) - influence(dense)).std(ddof=1) / np.sqrt(301)
    assert np.sqrt(evidence.covariance[0, 0]) == pytest.approx(error, rel=0.06)
    assert evidence.loss == pytest.approx(perplexity(small) - perplexity(dense))


def test_nothing_asymptotic_is_shown_with_few_examples(values):
    evidence = Comparison(metric(), "asymptotic").evidence(*(part[:29] for part in values))
    assert evidence.p_value(1e9, 0.05) == 1


def test_an_upper_bound_is_where_the_p_value_crosses_the_level():
    for evidence in (Flips(7, 3, 211), Flips(0, 4, 97)):
        bound = evidence.upper(0.05)
        assert evidence.p_value(bound, 0.05) <= 0.05 < evidence.p_value(bound - 2e-3, 0.05)
    assert Flips(0, 40, 97).upper(0.05) < 0  # a gain, for certain


def test_a_bound_of_bounded_values_holds_the_mean_and_shrinks():
    rng = np.random.default_rng(5)
    dense = rng.integers(2, 5, 1601) / 4
    small = dense - np.where(rng.random(1601) < 0.2, 0.25, 0)
    bounds = [
        Comparison(metric(bounds=(0, 1)), "betting").evidence(dense[:count], small[:count]).upper(0.05)
        for count in (101, 401, 1601)
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert 0.05 < bounds[-1] < 0.07


ANSWERS, SHARES = np.array([0.0, 1.0]), np.array([0.25, 1.0])


@pytest.mark.parametrize(
    ("dense", "options", "relative", "test", "kind"),
    [
        (ANSWERS, {}, False, "exact", Flips),
        (ANSWERS, {}, True, "betting", Bounded),
        (SHARES, {"bounds": (0, 1)}, False, "betting", Bounded),
        (SHARES, {}, False, "asymptotic", Asymptotic),
        (ANSWERS, {"aggregate": np.mean}, False, "asymptotic", Asymptotic),
    ],
)
def test_values_decide_about_the_test(dense, options, relative, test, kind):
    comparison = comparison_of(metric(**options), dense, None, relative, 0.1)
    assert comparison.test == test
    assert isinstance(comparison.evidence(dense, dense), kind)


@pytest.mark.parametrize(
    ("dense", "options", "test", "message"),
    [
        (SHARES, {}, "exact", "a value of 0 or 1 for each example"),
        (SHARES, {}, "betting", "needs bounds"),
        (SHARES, {"aggregate": np.mean, "bounds": (0, 1)}, "betting", "is about means"),
    ],
)
def test_a_test_that_values_do_not_allow_is_refused(dense, options, test, message):
    with pytest.raises(CertificateError, match=message):
        comparison_of(metric(**options), dense, test, False, 0.1)


def test_of_a_metric_below_0_no_share_is_taken():
    with pytest.raises(CertificateError, match="the dense model's m is -1, of which no share can be taken"):
        comparison_of(metric(), np.array([-1.0, -1.0]), None, True, 0.1)
