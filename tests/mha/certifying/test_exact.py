"""The exact test of flips: beside enumeration of all outcomes, at the worst case; and what it shows."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, multinomial

from mha.certifying.exact import p_value, score


def outcomes(examples):
    """Every (lost, gained) of so many examples."""
    return [(lost, gained) for lost in range(examples + 1) for gained in range(examples + 1 - lost)]


def chances(pairs, examples, loss, gain):
    rows = np.array([(lost, gained, examples - lost - gained) for lost, gained in pairs])
    return multinomial.pmf(rows, examples, [loss, gain, max(0.0, 1 - loss - gain)])


@pytest.mark.parametrize(("examples", "at_most"), [(11, 0.13), (7, 0.37), (13, -0.2)])
def test_at_the_boundary_it_is_wrong_as_rarely_as_it_says(examples, at_most):
    pairs = outcomes(examples)
    p = np.array([p_value(lost, gained, examples, at_most) for lost, gained in pairs])
    worst = 0.0
    for gain in np.linspace(max(0.0, -at_most), (1 - at_most) / 2, 41):
        probabilities = chances(pairs, examples, gain + at_most, gain)
        for level in (0.05, 0.2):
            assert probabilities[p <= level].sum() <= level
        worst = max(worst, probabilities[p <= 0.2].sum())
    assert worst > 0.05  # it does refuse something


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 3), (4, 4), (2, 0)])
def test_the_p_value_is_the_highest_chance_of_as_much_evidence(lost, gained):
    examples, at_most = 17, 0.23
    pairs = outcomes(examples)
    as_much = score(*np.array(pairs).T, examples, at_most) >= score(lost, gained, examples, at_most) - 1e-9
    highest = max(
        chances(pairs, examples, gain + at_most, gain)[as_much].sum() for gain in np.linspace(0, (1 - at_most) / 2, 400)
    )
    assert highest <= p_value(lost, gained, examples, at_most) <= 1.004 * highest + 2e-4


def test_its_statistic_is_a_score_at_the_likeliest_boundary():
    lost, gained, examples, at_most = 5, 7, 43, 0.11

    def against(gain):
        return -multinomial.logpmf(
            [lost, gained, examples - lost - gained], examples, [gain + at_most, gain, 1 - 2 * gain - at_most]
        )

    gain = minimize_scalar(against, bounds=(0, (1 - at_most) / 2), method="bounded", options={"xatol": 1e-10}).x
    deviation = np.sqrt(examples * (2 * gain + at_most - at_most**2))
    assert score(lost, gained, examples, at_most) == pytest.approx((at_most * examples - lost + gained) / deviation)


@pytest.mark.parametrize("at_most", [0.01, 0.3, 0.9, 0.0, -0.17])
def test_more_losses_and_fewer_gains_are_never_more_evidence(at_most):
    examples = 29
    table = {pair: score(*pair, examples, at_most) for pair in outcomes(examples)}
    for (lost, gained), value in table.items():
        for milder in ((lost - 1, gained), (lost - 1, gained + 1), (lost, gained + 1)):
            assert table.get(milder, np.inf) >= value - 1e-9, (lost, gained, milder)


def test_without_flips_it_is_the_chance_of_no_loss():
    assert p_value(0, 0, 1000, 0.01) == pytest.approx(0.99**1000, abs=6e-4)
    assert p_value(0, 0, 298, 0.01) > 0.05 >= p_value(0, 0, 299, 0.01)


def test_where_only_losses_are_seen_it_is_close_to_the_binomial():
    assert p_value(3, 0, 1000, 0.01) == pytest.approx(binom.cdf(3, 1000, 0.01), rel=0.12)


def test_many_flips_are_compared_with_the_normal_distribution():
    lost, gained, examples = 120, 150, 5000
    assert p_value(lost, gained, examples, 0.0) == pytest.approx(0.0339, rel=0.05)  # 30 / sqrt(270) = 1.826


def test_flips_cost_power_as_they_should():
    assert p_value(7, 7, 700, 0.01) < 0.05 < p_value(6, 6, 600, 0.01)
