"""95 % bootstrap intervals, of accuracy over examples and of speedups over rounds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate, and where 95 % of its bootstrap replicates lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


class Bootstrap:
    """Resamples held-out examples, every time the same ones, so that differences between plans are paired.

    Args:
        examples: how many there are.
        aggregate: the metric over rows of values; None stands for their mean, which needs no loop.
    """

    def __init__(
        self,
        examples: int,
        aggregate: Callable[[np.ndarray], float] | None = None,
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        self._aggregate = aggregate
        self._rows = np.random.default_rng(seed).integers(examples, size=(resamples, examples), dtype=np.int32)

    def estimate(self, values: np.ndarray) -> float:
        """The metric on all examples, (n,) or (n, k)."""
        return float(np.mean(values) if self._aggregate is None else self._aggregate(values))

    def replicates(self, values: np.ndarray) -> np.ndarray:
        """The metric on every resample, (resamples,)."""
        if self._aggregate is None:
            means: np.ndarray = values.reshape(len(values), -1).mean(axis=1)  # of rows: all are equally long
            replicates: np.ndarray = means[self._rows].mean(axis=1)
            return replicates
        return np.array([self._aggregate(values[rows]) for rows in self._rows])

    def interval(self, values: np.ndarray) -> Interval:
        """The metric of one model."""
        return Interval(self.estimate(values), *_bounds(self.replicates(values)))

    def difference(self, several: Sequence[np.ndarray], reference: np.ndarray) -> Interval:
        """How far the metric lies above the reference's on the same examples, on average over several models."""
        above = np.mean([self.estimate(values) for values in several]) - self.estimate(reference)
        replicates = np.mean([self.replicates(values) for values in several], axis=0) - self.replicates(reference)
        return Interval(float(above), *_bounds(replicates))


def ratio(samples: Iterable[Mapping[str, Any]], over: str, under: str, *, seed: int = 0) -> Interval:
    """The median over rounds of one arm's seconds over the other's, with its interval over rounds.

    Args:
        samples: as in the run directory: `arm`, `round`, `seconds`; each round has both arms.
    """
    seconds: dict[str, dict[int, float]] = {over: {}, under: {}}
    for sample in samples:
        seconds[sample["arm"]][sample["round"]] = sample["seconds"]
    rounds = sorted(seconds[over])
    ratios = np.array([seconds[over][index] / seconds[under][index] for index in rounds])
    picks = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    return Interval(float(np.median(ratios)), *_bounds(np.median(ratios[picks], axis=1)))


def _bounds(replicates: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)
