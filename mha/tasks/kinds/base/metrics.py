"""Metrics: from the values or statistics of examples, as rows that may be drawn anew, to a number."""

from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """What a task is judged by.

    Attributes:
        aggregate: rows of what the task's `evaluate` returns, (n,) or (n, k) -> the metric.
        higher_is_better: whether a larger value of the metric is better.
        bounds: the lowest and the highest value that an example can have, or None.
    """

    aggregate: Callable[[Values], float]
    higher_is_better: bool = True
    bounds: tuple[float, float] | None = None


def mean(values: Values) -> float:
    """The mean of one value each (n,)."""
    return float(np.mean(values))


def ratio(values: Values) -> float:
    """The sum of the first column over that of the second (n, 2): right answers over answers, loss over tokens."""
    part, whole = values.sum(axis=0)
    return float(part / whole) if whole else 0.0


def perplexity(values: Values) -> float:
    """exp of the mean negative log-likelihood of a token (n, 2): the sums of likelihoods, and the numbers of tokens."""
    return float(np.exp(ratio(values)))


def f1(values: Values) -> float:
    """The F1 of what was found (n, 3): how many were rightly found, found at all, and to be found."""
    right, found, wanted = values.sum(axis=0)
    return float(2 * right / (found + wanted)) if found + wanted else 0.0


def macro_f1(values: Values) -> float:
    """The mean F1 over classes (n, 3 · classes): rightly given, given, and true labels of each class.

    Classes that occur neither among given nor among true labels are left out.
    """
    right, given, true = values.sum(axis=0).reshape(3, -1)
    there = given + true > 0
    return float(np.mean(2 * right[there] / (given + true)[there])) if there.any() else 0.0


ACCURACY = Metric(mean)
TOKEN_ACCURACY = Metric(ratio)
PERPLEXITY = Metric(perplexity, higher_is_better=False)
LOSS = Metric(ratio, higher_is_better=False)


def matches(found: Set[Hashable], wanted: Set[Hashable]) -> tuple[int, int, int]:
    """The three numbers of `f1` for one example."""
    return len(found & wanted), len(found), len(wanted)
