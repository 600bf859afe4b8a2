"""Medians and other quantiles, with 95 % intervals that suppose nothing of how the values are distributed."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

NORMAL = 1.96  # standard deviations that 95 % lie within
TAIL = 0.025  # of the probability, on either side of a 95 % interval


class Spread(NamedTuple):
    """A median (`value`) and the bounds of its 95 % interval (`low`, `high`).

    Example:
        >>> spread = mha.timing.Spread(value=10.0, low=9.5, high=11.0)
        >>> spread.half_width
        0.75
    """

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's width, (high - low) / 2."""
        return (self.high - self.low) / 2

    def is_within(self, share: float) -> bool:
        """Whether neither bound lies further from `value` than `share` times `value`."""
        return max(self.value - self.low, self.high - self.value) <= share * self.value


def median(values: Sequence[float]) -> Spread:
    """The median of one or more values, and its interval by order statistics, whatever their distribution.

    The bounds are the values at ranks n/2 ± 0.98·√n (Conover 1999, section 3.2); below six values, the smallest and
    the largest, which hold less than 95 %.

    Example:
        >>> mha.timing.median([5.0, 1.0, 4.0, 2.0, 3.0])
        Spread(value=3.0, low=1.0, high=5.0)
    """
    ordered, middle = sorted(values), (len(values) - 1) / 2
    reach = NORMAL * math.sqrt(len(values)) / 2
    low, high = max(0, math.floor(middle - reach)), min(len(values) - 1, math.ceil(middle + reach))
    return Spread(_at(ordered, middle), ordered[low], ordered[high])


class Quantile(NamedTuple):
    """A quantile (`value`), the bounds of its 95 % interval, and how many values (`n`) they are computed from.

    Example:
        >>> mha.timing.Quantile(value=0.5, low=0.4, high=0.7, n=100).n
        100
    """

    value: float
    low: float
    high: float
    n: int


def quantile(values: Sequence[float], share: float) -> Quantile | None:
    """The `share` quantile with its interval; None where the values are too few for an interval within them.

    Between two values it is interpolated, as numpy does it. The bounds are those values that the true quantile lies
    between in 95 % of samples, at binomial ranks, whatever the distribution (Conover 1999, section 3.2). A median
    takes 6 values, the 90th percentile 36, the 99th 368.

    Args:
        share: the share of the values that lie below the quantile, between 0 and 1; 0.99 for the 99th percentile.

    Raises:
        ValueError: share is not between 0 and 1.

    Example:
        >>> mha.timing.quantile(range(101), 0.9)
        Quantile(value=90.0, low=84, high=96, n=101)
        >>> mha.timing.quantile(range(10), 0.9) is None
        True
    """
    if not 0 < share < 1:
        raise ValueError(f"quantile: share lies between 0 and 1, as 0.99 for the 99th percentile, got {share}")
    low, high = _ranks(len(values), share)
    if low < 1 or high > len(values):
        return None
    ordered = sorted(values)
    return Quantile(_at(ordered, share * (len(values) - 1)), ordered[low - 1], ordered[high - 1], len(values))


@lru_cache
def _ranks(n: int, share: float) -> tuple[int, int]:
    """The ranks, from 1, of the values that bound the 95 % interval of the `share` quantile of n values.

    A rank of 0 or n + 1 means that the n values are too few to bound it on that side.
    """
    from scipy.stats import binom  # takes a second to import

    low, high = (int(binom.ppf(level, n, share)) for level in (TAIL, 1 - TAIL))  # values below the true quantile
    return low, high + 1


def _at(ordered: Sequence[float], rank: float) -> float:
    """The value at this rank, counted from 0, of ascending values; for 2.5, halfway from the third to the fourth."""
    below, above = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    return below + (rank - math.floor(rank)) * (above - below)
