"""The promise itself, on made-up populations that lie exactly on the boundary: the hardest case there is."""

import numpy as np
import pytest
from scipy.stats import binom

from mha.certifying.evidence import Comparison
from mha.certifying.judge import Metric
from mha.certifying.selection import last_shown, verdicts

RISK, AT_MOST, DRAWS = 0.05, 0.04, 200


def metric(**options):
    return Metric(
        **{"evaluate": None, "aggregate": None, "higher_is_better": True, "name": "m", "bounds": None} | options
    )


def answers(rng, count, lost, gained):
    """Dense and pruned answers, 1 or 0, of which the share `lost` is lost and the share `gained` gained."""
    draws = rng.random(count)
    dense = np.where(draws < lost, 1.0, np.where(draws < lost + gained, 0.0, rng.integers(0, 2, count)))
    return dense, np.where(draws < lost + gained, 1 - dense, dense)


def shares(rng, count):
    """Values in steps of a quarter; the pruned model's mean is `AT_MOST` lower."""
    dense = rng.integers(2, 5, count) / 4
    return dense, dense - np.where(rng.random(count) < 0.3, 0.25, 0) + np.where(rng.random(count) < 0.14, 0.25, 0)


def perplexity(values):
    return float(np.exp(values[:, 0].sum() / values[:, 1].sum()))


def sequences(rng, count):
    """Summed losses and tokens of sequences: the perplexity of the second is exp(0.04) of that of the first."""
    tokens = rng.integers(20, 60, count).astype(float)
    rate = rng.gamma(9, 0.3, count)
    noise = rng.normal(0, 0.2, count)
    return np.stack([rate * tokens, tokens], 1), np.stack([(rate + noise + np.log1p(0.04)) * tokens, tokens], 1)


WORST = {
    "exact, few flips": ("exact", {}, False, lambda rng: answers(rng, 211, 0.05, 0.01)),
    "exact, many flips": ("exact", {}, False, lambda rng: answers(rng, 301, 0.24, 0.20)),
    "betting": ("betting", {"bounds": (-0.25, 1.25)}, False, lambda rng: shares(rng, 401)),
    "asymptotic mean": ("asymptotic", {}, False, lambda rng: shares(rng, 401)),
    "asymptotic, a share of perplexity": (
        "asymptotic",
        {"aggregate": perplexity, "higher_is_better": False},
        True,
        lambda rng: sequences(rng, 101),
    ),
}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("mha.certifying.evidence.RESAMPLES", 200)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", WORST)
def test_what_loses_just_too_much_is_shown_in_at_most_one_of_twenty_draws(name):
    test, options, relative, draw = WORST[name]
    comparison = Comparison(metric(**options), test, relative)
    rng = np.random.default_rng(7)
    shown = sum(comparison.evidence(*draw(rng)).p_value(AT_MOST, RISK) <= RISK for _ in range(DRAWS))
    assert binom.sf(shown - 1, DRAWS, RISK) > 1e-3  # no more than chance would give
    assert shown > 2 or test == "betting"  # the others are close to the level


def naive(dense, values):
    return dense.mean() - values.mean() <= AT_MOST


def test_the_point_estimate_would_break_it_half_of_the_time():
    rng = np.random.default_rng(7)
    broken = sum(naive(*answers(rng, 401, 0.24, 0.20)) for _ in range(DRAWS))
    assert broken > 0.4 * DRAWS


@pytest.mark.parametrize("testing", ["sequence", "holm"])
@pytest.mark.parametrize("losses", [(0.04, 0.04, 0.04), (0.0, 0.04, 0.05, 0.06), (0.0, 0.0, 0.045, 0.045)])
def test_a_ladder_breaks_it_as_rarely(testing, losses):
    """All steps are judged on the same examples, and the same examples flip: as real ladders are."""
    comparison, rng = Comparison(metric(), "exact"), np.random.default_rng(3)
    broken = chosen = 0
    for _ in range(DRAWS):
        dense = np.ones(301)
        draws = rng.random((2, 301))
        ladder = [np.where(draws[0] < loss, 0.0, 1.0) for loss in losses]
        found = verdicts(comparison, dense, ladder, count=len(ladder), at_most=AT_MOST, risk=RISK, testing=testing)
        place = last_shown(found)
        broken += place is not None and losses[place] >= AT_MOST
        chosen += place is not None
    assert binom.sf(broken - 1, DRAWS, RISK) > 1e-3
    assert losses[0] > 0 or chosen > 0.9 * DRAWS


def test_in_sequence_nothing_is_judged_beyond_the_first_that_fails():
    comparison, asked = Comparison(metric(), "exact"), []

    def ladder():
        for place, loss in enumerate((0, 70, 0)):
            asked.append(place)
            yield np.concatenate([np.zeros(loss), np.ones(200 - loss)])

    found = verdicts(comparison, np.ones(200), ladder(), count=3, at_most=AT_MOST, risk=RISK, testing="sequence")
    assert [verdict.shown for verdict in found] == [True, False]
    assert asked == [0, 1]
    assert last_shown(found) == 0


def test_holm_steps_down_through_the_p_values():
    comparison = Comparison(metric(), "exact")
    dense = np.ones(1000)
    ladder = [np.concatenate([np.zeros(lost), np.ones(1000 - lost)]) for lost in (0, 45, 12, 60)]
    found = verdicts(comparison, dense, ladder, count=4, at_most=AT_MOST, risk=RISK, testing="holm")
    assert [verdict.level for verdict in found] == pytest.approx([RISK / 4, RISK / 2, RISK / 3, RISK / 2])
    assert [verdict.shown for verdict in found] == [True, False, True, False]
    assert last_shown(found) == 2
