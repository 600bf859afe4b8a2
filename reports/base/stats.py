"""Medians, paired ratios, their intervals, and the Pareto front. Arrays in, numbers out."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pandas as pd
from scipy.special import gammaln
from scipy.stats import binom

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95
LEAST = 1e-9  # a probability that no interval shows
ENOUGH_ROUNDS = 6  # below that no 95 % interval of a median exists: even the range covers less

Processes = Sequence[np.ndarray]  # samples of the same thing, an array (rounds,) for each process


class Estimate(NamedTuple):
    """A value and its 95 % interval from `low` to `high`; both are NaN where nothing can be said about the spread."""

    value: float
    low: float
    high: float

    def map(self, function: np.ufunc) -> "Estimate":
        """The estimate with an increasing function applied to its value and both bounds."""
        return Estimate(*(float(function(number)) for number in self))


def median_of(processes: Processes) -> float:
    """The median over processes of the medians of their rounds."""
    return float(np.median([np.median(rounds) for rounds in processes]))


def median_estimate(*samples: Processes) -> Estimate:
    """The median over processes of the medians of their rounds, with an interval from a percentile bootstrap.

    Rounds within one process share its luck: with several, processes are drawn first, and rounds within those. Several
    samples, say one for each shape that was timed, give the median of their medians, each resampled within itself. A
    single round has a value and no interval.

    What a bootstrap of one process tends to is known without drawing, and is given: a report may ask for it 100,000
    times.
    """
    if len(samples) == 1 and len(samples[0]) == 1:
        return _of_one_process(np.asarray(samples[0][0], dtype=float))
    return _within(_middle(samples), _medians(samples))


def quantile_estimate(values: np.ndarray, share: float) -> Estimate | None:
    """The quantile of `values` (n,) at `share`, with a 95 % interval between two order statistics.

    None where n is too few for both to lie inside the sample: below 6 for the median, 36 for p90, 368 for p99.
    The number of values below a quantile is binomial, whatever the distribution (David and Nagaraja 2003, 7.1).
    """
    low, high = _order_statistics(len(values), share)
    if not 1 <= low <= high < len(values):
        return None
    ordered = np.sort(values)
    return Estimate(float(np.quantile(ordered, share)), float(ordered[low - 1]), float(ordered[high]))


@lru_cache(maxsize=4096)  # many cases have as many rounds
def _order_statistics(count: int, share: float) -> tuple[int, int]:
    """The ranks, from 1, between which the quantile at `share` of `count` values lies, 95 % of the time."""
    tail = (1 - LEVEL) / 2
    low, high = (int(binom.ppf(level, count, share)) for level in (tail, 1 - tail))
    return low, high


def paired_log_ratios(samples: pd.DataFrame, over: str, under: str) -> dict[str, Processes]:
    """The log of (seconds of arm `over` / seconds of arm `under`) of each case, (rounds,) for each process.

    `samples` has the columns case, arm, round, seconds, process. Rounds that have only one of the two arms are left
    out, and so are cases that have no other rounds.
    """
    rounds = ["case", "process", "round"]
    arms = samples.pivot(index=rounds, columns="arm", values="seconds").reindex(columns=[over, under])
    ratios = (arms[over] / arms[under]).dropna().map(np.log)
    values, found = ratios.to_numpy(), defaultdict(list)
    # indices, not groups: a frame for each of thousands of cases takes minutes
    by_process: Any = ratios.groupby(level=["case", "process"]).indices
    for (case, _), rows in sorted(by_process.items()):
        found[str(case)].append(values[rows])
    return {case: tuple(processes) for case, processes in found.items()}


def ratio_estimate(*log_ratios: Processes) -> Estimate:
    """The median ratio with its interval, from logs of ratios, as `median_estimate` takes its samples."""
    return median_estimate(*log_ratios).map(np.exp)


def independent_ratio(over: Sequence[Processes], under: Sequence[Processes]) -> Estimate:
    """The ratio of two median ratios that were measured apart, each from logs of ratios, with its interval.

    Each side is resampled by itself, as in `median_estimate`, and the resamples of both are paired at random. No
    interval where one side has a single round.
    """
    one, other = _medians(over), _medians(under)
    other = _generator(other.tobytes()).permutation(other)  # the same data twice would be resampled alike
    return _within(_middle(over) - _middle(under), one - other).map(np.exp)


def draws_estimate(values: np.ndarray) -> Estimate:
    """The mean of the values (n,), one for each random draw, and their 2.5 % and 97.5 % quantiles as its bounds."""
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(np.mean(values)), float(low), float(high))


def pareto_front(cost: np.ndarray, merit: np.ndarray) -> np.ndarray:
    """A mask (n,) of the points on the front: no other is better in cost or merit without being worse in the other.

    Of several equal points only the first is on it.

    Args:
        cost: (n,), less is better; NaN keeps a point out.
        merit: (n,), more is better; NaN keeps a point out.
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
    """Spearman's correlation between each two columns, as a square table; NaN where one of them is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return columns.rank().corr()


def _of_one_process(rounds: np.ndarray) -> Estimate:
    """The median of `rounds` (n,) and the quantiles of its bootstrap distribution, of which nothing is drawn."""
    count = len(rounds)
    ordered = np.sort(rounds)
    middle = float((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)
    if count < 2:
        return Estimate(middle, np.nan, np.nan)
    below, above, probability = _ranks_of_a_median(count)
    medians = (ordered[below] + ordered[above]) / 2
    order = np.argsort(medians)
    cumulated = np.cumsum(probability[order])
    tail = (1 - LEVEL) / 2
    low, high = np.searchsorted(cumulated, [tail * cumulated[-1], (1 - tail) * cumulated[-1]])
    return Estimate(middle, float(medians[order[low]]), float(medians[order[high]]))


@lru_cache(maxsize=256)
def _ranks_of_a_median(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which two of `count` sorted values a resample's median is the middle of, and how likely: three arrays (m,).

    Of n values drawn with replacement, the a-th and b-th smallest are the middle: a = b of an odd n, else b = a + 1.
    For i < j they are values i and j (from 1) if a draws are at most i, one of them i, and the others at least j, one
    of them j: C(n, a) (i^a - (i-1)^a) ((n-j+1)^(n-a) - (n-j)^(n-a)) / n^n. The a-th is at most i with the probability
    that a binomial of n and i/n is at least a. Pairs that make up less than LEAST of it are left out.
    """
    half = (count + 1) // 2
    ranks = np.arange(1, count + 1)
    smaller = np.diff(binom.sf(half - 1, count, np.arange(count + 1) / count))  # the a-th is value i
    if count % 2:
        pairs = np.diag(smaller)
    else:
        with np.errstate(divide="ignore"):  # a power too small for a float has the logarithm -inf
            lower = np.log((ranks / count) ** half - ((ranks - 1) / count) ** half)
        upper = lower[::-1]  # n - a = a, and as many values from j to n as from 1 to n - j + 1
        draws = gammaln(count + 1) - 2 * gammaln(half + 1) + lower[:, None] + upper
        pairs = np.exp(np.where(ranks[:, None] < ranks, draws, -np.inf))
        pairs += np.diag(np.maximum(smaller - pairs.sum(axis=1), 0))
    below, above = np.nonzero(pairs > LEAST)
    return below, above, pairs[below, above]


def _middle(samples: Sequence[Processes]) -> float:
    """The median over samples of the medians of each (`median_of`)."""
    return float(np.median([median_of(processes) for processes in samples]))


def _medians(samples: Sequence[Processes]) -> np.ndarray:
    """Bootstrap replicates of `_middle`, (RESAMPLES,); NaN where a sample has a single round."""
    if min(sum(map(len, processes)) for processes in samples) < 2:
        return np.full(RESAMPLES, np.nan)
    return np.asarray(np.median([_replicates(processes) for processes in samples], axis=0))


def _within(value: float, replicates: np.ndarray) -> Estimate:
    """The value, with the interval in which 95 % of its bootstrap replicates lie."""
    low, high = np.percentile(replicates, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def _replicates(processes: Processes) -> np.ndarray:
    """Bootstrap replicates of `median_of`, (RESAMPLES,): draws processes with replacement, and rounds within each."""
    medians = np.stack([_resampled_medians(np.asarray(rounds, dtype=float).tobytes()) for rounds in processes])
    count = len(processes)
    if count == 1:
        return np.asarray(medians[0])
    generator = _generator(medians.tobytes())
    drawn, replicate = (generator.integers(0, size, (RESAMPLES, count)) for size in (count, RESAMPLES))
    return np.asarray(np.median(medians[drawn, replicate], axis=1))


@lru_cache(maxsize=4096)  # several figures and tables ask for the same
def _resampled_medians(values: bytes) -> np.ndarray:
    """(RESAMPLES,) medians of `values`, the bytes of float64 (n,), drawn with replacement.

    Drawn are the two ranks in the middle of a resample, not the resample: that is three times as fast at 12 values.
    """
    ordered = np.sort(np.frombuffer(values))
    below, above, probability = _ranks_of_a_median(len(ordered))
    cumulated = np.cumsum(probability)
    drawn = np.searchsorted(cumulated, _generator(values).random(RESAMPLES) * cumulated[-1], side="right")
    return np.asarray((ordered[below[drawn]] + ordered[above[drawn]]) / 2)


def _generator(data: bytes) -> np.random.Generator:
    """A generator seeded by the data: the same data give the same resamples, other data independent ones."""
    return np.random.default_rng([SEED, crc32(data)])
