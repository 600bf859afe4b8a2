"""Medians, paired ratios, their intervals, and the Pareto front. Arrays in, numbers out."""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd

RESAMPLES = 2000
SEED = 0
ENOUGH_ROUNDS = 6  # below that no 95 % interval of a median exists: even the range covers less


class Estimate(NamedTuple):
    """A value and its 95 % interval; NaN bounds where nothing can be said about the spread."""

    value: float
    low: float
    high: float

    def map(self, function: np.ufunc) -> "Estimate":
        """Through an increasing function."""
        return Estimate(*(float(function(number)) for number in self))


def median_estimate(*samples: np.ndarray) -> Estimate:
    """The median of `samples` (n,), its interval from a percentile bootstrap over the samples.

    Of several arrays, say one for each shape that was timed: the median of their medians, each
    resampled within itself. A single sample has a value and no interval.
    """
    value = float(np.median([np.median(array) for array in samples]))
    if min(len(array) for array in samples) < 2:
        return Estimate(value, np.nan, np.nan)
    generator = np.random.default_rng(SEED)
    medians = [_resampled_medians(array, generator) for array in samples]
    low, high = np.percentile(np.median(medians, axis=0), [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def paired_log_ratios(samples: pd.DataFrame, over: str, under: str) -> dict[str, np.ndarray]:
    """Case -> log(seconds of arm `over` / seconds of arm `under`), (rounds,).

    `samples` has the columns case, arm, round, seconds. Rounds that have only one of the two are left out, and
    so are cases that have no other.
    """
    arms = samples.pivot(index=["case", "round"], columns="arm", values="seconds").reindex(columns=[over, under])
    ratios = (arms[over] / arms[under]).dropna()
    return {str(case): np.log(rows.to_numpy()) for case, rows in ratios.groupby(level="case")}


def ratio_estimate(*log_ratios: np.ndarray) -> Estimate:
    """The median ratio with its interval, from logs of ratios."""
    return median_estimate(*log_ratios).map(np.exp)


def draws_estimate(values: np.ndarray) -> Estimate:
    """The mean over draws, and the range in which 95 % of the draws lie."""
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(np.mean(values)), float(low), float(high))


def pareto_front(cost: np.ndarray, merit: np.ndarray) -> np.ndarray:
    """(n,) boolean: the points that no other beats in one of the two without losing in the other.

    Args:
        cost: (n,), less is better. merit: (n,), more is better. NaN in either keeps a point out.
    """
    front = np.zeros(len(cost), dtype=bool)
    best = -np.inf
    order = np.lexsort((-merit, cost))
    for index in order[~np.isnan(cost[order]) & ~np.isnan(merit[order])]:
        if merit[index] > best:
            front[index] = True
            best = merit[index]
    return front


def rank_correlation(columns: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation between columns; NaN where one is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return columns.rank().corr()


def _resampled_medians(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(RESAMPLES,) medians of `values` (n,) drawn with replacement.

    Ranks are drawn rather than values: partitioning small integers is several times as fast.
    """
    count = len(values)
    ranks = generator.integers(0, count, (RESAMPLES, count), dtype=np.int16 if count < 2**15 else np.int32)
    ranks.partition([(count - 1) // 2, count // 2], axis=1)
    ordered = np.sort(values)
    below, above = ordered[ranks[:, (count - 1) // 2]], ordered[ranks[:, count // 2]]
    return np.asarray((below + above) / 2)
