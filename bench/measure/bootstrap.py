"""95 % bootstrap intervals, of accuracy over examples and of speedups over rounds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate, and the bounds between which 95 % of its bootstrap replicates lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Estimate:
    """A metric, and what it is on each resample of the examples.

    Estimates from the same resamples are paired: their difference is taken resample by resample.
    """

    value: float
    replicates: np.ndarray  # (resamples,)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.replicates - other.replicates)

    def interval(self) -> Interval:
        """The value, and the bounds between which 95 % of the replicates lie."""
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(self.replicates, [tail, 1 - tail])
        return Interval(self.value, float(low), float(high))


def average(estimates: Iterable[Estimate]) -> Estimate:
    """The mean of the same metric of several models; it is paired with each of them, resample by resample."""
    several = list(estimates)
    value = float(np.mean([estimate.value for estimate in several]))
    return Estimate(value, np.mean([estimate.replicates for estimate in several], axis=0))


class Bootstrap:
    """Estimates a metric on resamples of the examples, which are the same for every model.

    Args:
        examples: how many there are.
        aggregate: computes the metric from the values of some examples, one row each.
    """

    def __init__(
        self, examples: int, aggregate: Callable[[np.ndarray], float], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> None:
        self._aggregate = aggregate
        self._resamples = np.random.default_rng(seed).integers(examples, size=(resamples, examples))

    def __call__(self, values: np.ndarray) -> Estimate:
        """The metric of one model, from its values for all examples, (n,) or (n, k)."""
        replicates = np.array([self._aggregate(values[rows]) for rows in self._resamples], dtype=float)
        return Estimate(float(self._aggregate(values)), replicates)


def ratio(samples: Iterable[Mapping[str, Any]], over: str, under: str, *, seed: int = 0) -> Interval:
    """The median over rounds of arm `over`'s seconds divided by arm `under`'s, with its interval over rounds.

    Args:
        samples: as in the run directory: `arm`, `round`, `seconds`; each round has both arms, and may have others.
    """
    seconds: dict[str, dict[int, float]] = {over: {}, under: {}}
    for sample in samples:
        seconds.setdefault(sample["arm"], {})[sample["round"]] = sample["seconds"]
    ratios = np.array([seconds[over][index] / seconds[under][index] for index in sorted(seconds[over])])
    picks = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    return Estimate(float(np.median(ratios)), np.median(ratios[picks], axis=1)).interval()
