"""An exact test of how many more answers are lost than gained, where every value is 0 or 1.

Of n independent examples x are lost (right before, wrong after) and y gained. The hypothesis: the chance of a loss
exceeds that of a gain by at least `at_most`. Outcomes are ordered by the score statistic of Tango ("Equivalence test
and confidence interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17,
1998), and the p-value is the chance of what was seen, or of more evidence, where that chance is largest. More losses,
or fewer gains, are never more evidence, so this is on the boundary, where the chance of a loss is that of a gain plus
`at_most`. There it is computed from the trinomial distribution for every plausible chance of a gain, and the largest
counts; how unlikely the others are is added (Berger and Boos, "P values maximized over a confidence set for the
nuisance parameter", JASA 89, 1994).
"""

from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

BEYOND = 1e-4  # the chance that the chance of a gain is none of those tried
STEPS = 6  # chances of a gain that are tried, per standard deviation of its estimate
BETWEEN = 1.002  # at most this factor above those tried rises what lies between them; found: 1.0003
SPREAD = 7.0  # standard deviations from the mean of a binomial beyond which lies no mass worth counting

NOTHING = 1e-12  # the least variance: of no flips, where the boundary allows that there are none

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@lru_cache(maxsize=100_000)
def p_value(lost: int, gained: int, examples: int, at_most: float) -> float:
    """The p-value of "the chance of a loss exceeds that of a gain by `at_most` or more".

    Args:
        lost, gained: how many of the examples.
        at_most: between -1 and 1; below 0, a gain.
    """
    most = _most_losses(lost, gained, examples, at_most)
    chances = _chances_of_a_gain(gained, examples, at_most)
    highest = max(_chance(most, chance + at_most, chance) for chance in chances)
    return min(1.0, BETWEEN * highest + BEYOND)


def score(lost: Counts, gained: Counts, examples: int, at_most: float) -> Floats:
    """Tango's statistic: how far fewer are lost than `at_most` would have it, in standard deviations on the boundary.

    The deviation is that of the likeliest chance q of a gain on the boundary, a root of 2 n q² - b q - y a (1 - a).
    """
    linear = lost + gained + at_most * (lost - gained) - 2 * at_most * examples
    root = np.sqrt(linear**2 + 8 * examples * gained * at_most * (1 - at_most))
    chance = (linear + root) / (4 * examples)
    variance = examples * (2 * chance + at_most - at_most**2)
    return cast(Floats, (at_most * examples - (lost - gained)) / np.sqrt(np.maximum(variance, NOTHING)))


def _most_losses(lost: int, gained: int, examples: int, at_most: float) -> Counts:
    """For each number of gains, the most losses with as much evidence as was seen, or more; -1 where there are none.

    With a number of losses, all smaller ones count, and all smaller numbers of gains leave it no larger.
    """
    gains = np.arange(examples + 1)
    seen = (
        score(np.array([lost]), np.array([gained]), examples, at_most)[0] - 1e-9
    )  # what rounding keeps apart is equal
    low, high = np.full(examples + 1, -1), examples - gains
    while (low < high).any():
        middle = (low + high + 1) // 2
        enough = score(np.maximum(middle, 0), gains, examples, at_most) >= seen
        low, high = np.where(enough, middle, low), np.where(enough, high, middle - 1)
    return np.minimum(np.maximum.accumulate(low), examples - gains)


def _chances_of_a_gain(gained: int, examples: int, at_most: float) -> Floats:
    """The plausible chances of a gain, evenly over their square roots: the variance of an estimate is even there."""
    from scipy.special import betaincinv  # takes a moment to import

    low = betaincinv(gained, examples - gained + 1, BEYOND / 2) if gained else 0.0
    high = betaincinv(gained + 1, examples - gained, 1 - BEYOND / 2) if gained < examples else 1.0
    low, high = np.sqrt(np.clip([low, high], max(0.0, -at_most), (1 - at_most) / 2))
    count = 2 + int(np.ceil((high - low) * 2 * np.sqrt(examples) * STEPS))
    return cast(Floats, np.linspace(low, high, count) ** 2)


def _chance(most: Counts, loss: float, gain: float) -> float:
    """The chance that at most `most[y]` of the examples are lost where y are gained.

    Args:
        loss, gain: the chances of a loss and of a gain of each example.
    """
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    examples = len(most) - 1
    reach = SPREAD * (np.sqrt(examples * gain * (1 - gain)) + 1)
    gained = np.arange(max(0, int(examples * gain - reach)), min(examples, int(examples * gain + reach)) + 1)
    rest = examples - gained
    logarithms = gammaln(examples + 1) - gammaln(gained + 1) - gammaln(rest + 1)
    chances = np.exp(logarithms + xlogy(gained, gain) + xlog1py(rest, -gain))
    few = bdtr(np.maximum(most[gained], 0), rest, np.clip(loss / (1 - gain), 0.0, 1.0))
    return float(chances @ np.where(most[gained] >= 0, few, 0.0))
