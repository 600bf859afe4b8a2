"""Whether a model is as often right as it is sure to be: calibration of probabilities, dense beside pruned."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bench.measure.bootstrap import LEVEL, Estimate, Interval

BINS = 10
RESAMPLES = 1000
ERROR, OVERCONFIDENCE, BRIER = "calibration error", "overconfidence", "Brier score"


class Bin(NamedTuple):
    """Answers of similar confidence: how many they are, their mean confidence, and the share of them that is right."""

    answers: int
    confidence: float
    right: float


class Measured(NamedTuple):
    """One measure of calibration: the pruned model's, and by how much it differs from the dense model's."""

    measure: str
    value: Interval
    difference: Interval


def reliability(confidences: np.ndarray) -> list[Bin]:
    """The answers in at most BINS bins of as many answers each, by rising confidence; equal confidences stay together.

    Args:
        confidences: (n, k, 2): of each answer the probability given to it, and 1 where it is right, else 0.
    """
    sums = _sums(confidences).sum(axis=0)
    return [Bin(round(count), sure / count, right / count) for count, sure, right in sums]


def calibration(pruned: np.ndarray, dense: np.ndarray) -> Iterator[Measured]:
    """Yield what is told of a pruned model's calibration.

    These are the expected calibration error (Naeini et al. 2015), over bins of equal mass (Nixon et al. 2019), which
    is 0 for who is right as often as sure; the mean confidence less the share that is right; and the Brier score (1950)
    of being right, the mean square of confidence - right.

    The calibration error of few answers is too large, by luck alone. What resampling adds to it once more is taken off
    (a bootstrap bias correction), and bounds are those of the basic bootstrap (Davison and Hinkley 1997, 5.2), over
    examples, paired.

    Args:
        pruned, dense: (n, k, 2), as in `reliability`, of the same n examples.
    """
    examples = len(pruned)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(examples, np.full(examples, 1 / examples), size=RESAMPLES).astype(float)
    of_pruned, of_dense = _estimates(pruned, weights), _estimates(dense, weights)
    for measure, estimate in of_pruned.items():
        least = 0.0 if measure == ERROR else -np.inf
        difference = estimate - of_dense[measure]
        corrects = measure == ERROR
        yield Measured(measure, _basic(estimate, corrects, least), _basic(difference, corrects, -np.inf))


def _basic(estimate: Estimate, corrects: bool, least: float) -> Interval:
    """The basic bootstrap interval, no number below `least`; if it `corrects`, the value is less its bias."""
    tail = (1 - LEVEL) / 2
    low, high = 2 * estimate.value - np.quantile(estimate.replicates, [1 - tail, tail])
    value = 2 * estimate.value - estimate.replicates.mean() if corrects else estimate.value
    return Interval(*(max(float(number), least) for number in (value, low, high)))


def _estimates(confidences: np.ndarray, weights: np.ndarray) -> Mapping[str, Estimate]:
    """Measure -> its estimate of one model, over resamples.

    Args:
        confidences: (n, k, 2).
        weights: how often each resample has each example, (resamples, n).
    """
    sure, right = confidences[..., 0], confidences[..., 1]
    sums = _sums(confidences)
    drawn = np.tensordot(weights, sums, 1)
    gaps, squares = (sure - right).mean(axis=1), ((sure - right) ** 2).mean(axis=1)
    examples = len(sure)
    return {
        ERROR: Estimate(float(_error(sums.sum(axis=0))), _error(drawn)),
        OVERCONFIDENCE: Estimate(float(gaps.mean()), weights @ gaps / examples),
        BRIER: Estimate(float(squares.mean()), weights @ squares / examples),
    }


def _error(sums: np.ndarray) -> np.ndarray:
    """The expected calibration error, given count, confidence and right (…, bins, 3), each summed over a bin."""
    return np.asarray(np.abs(sums[..., 1] - sums[..., 2]).sum(axis=-1) / sums[..., 0].sum(axis=-1))


def _sums(confidences: np.ndarray) -> np.ndarray:
    """For each example and bin, the number of its answers, their confidences and how many are right: (n, bins, 3)."""
    sure = confidences[..., 0]
    edges = np.unique(np.quantile(sure, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, sure, side="right")
    parts = np.stack([np.ones_like(sure), sure, confidences[..., 1]], axis=-1)
    used = np.unique(bins)
    return np.stack([np.where(bins[..., None] == place, parts, 0).sum(axis=1) for place in used], axis=1)
