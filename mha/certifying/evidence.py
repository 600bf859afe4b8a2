"""What the values of two models say about a loss of the metric: p-values of "it loses so much or more", and bounds.

Three kinds of evidence, by what is known of the values. All are paired: example by example.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mha.certifying import betting, exact
from mha.certifying.judge import Metric, Values
from mha.values.errors import CertificateError

Test = Literal["exact", "betting", "asymptotic"]
RESAMPLES = 2000
HALVINGS = 14  # of the interval in which a bound is sought
DOUBLINGS = 60
LEAST_EXAMPLES = 30  # below which no asymptotic test shows anything
LEAST = 1e-9  # of a share or a difference, at which searches for bounds begin


class Evidence(ABC):
    """How much the candidate loses against the dense model, in the metric; positive is worse.

    Attributes:
        loss: the loss that was seen.
        most: the largest loss that is possible.
    """

    loss: float
    most: float

    @abstractmethod
    def p_value(self, at_most: float, level: float) -> float:
        """The p-value of "it loses `at_most` or more", in a test that is to be made at this level."""

    def upper(self, level: float, above: float | None = None, below: float | None = None) -> float:
        """The upper bound of the loss with confidence 1 - level: the smallest loss that can be refused at that level.

        Args:
            above: a loss that can't be refused.
            below: a loss that can.
        """
        low = self.loss if above is None else max(self.loss, above)
        high = self._refused(low, level) if below is None else below
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self._p(middle, level) <= level:
                high = middle
            else:
                low = middle
        return high

    def _refused(self, low: float, level: float) -> float:
        """A loss above `low` that can be refused; the largest possible one where no other can."""
        step = max(abs(low), LEAST)
        for _ in range(DOUBLINGS):
            if low + step >= self.most:
                break
            if self._p(low + step, level) <= level:
                return low + step
            step *= 2
        return self.most

    def _p(self, at_most: float, level: float) -> float:
        return 0.0 if at_most >= self.most else self.p_value(at_most, level)


@dataclass(frozen=True)
class Flips(Evidence):
    """Values of 0 or 1: how many examples were lost, and how many gained (`mha.certifying.exact`)."""

    lost: int
    gained: int
    examples: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", (self.lost - self.gained) / self.examples)
        object.__setattr__(self, "most", 1.0)

    def p_value(self, at_most: float, level: float) -> float:  # noqa: ARG002
        return exact.p_value(self.lost, self.gained, self.examples, at_most)


@dataclass(frozen=True)
class Bounded(Evidence):
    """Values within bounds: what each example loses (`mha.certifying.betting`).

    Attributes:
        losses: (n,).
        scale: (n,), what `at_most` is multiplied by: 1, or, for a share of the dense metric, the dense values.
        highest: `at_most` -> the largest loss - `at_most` x scale that an example can have.
        seed: of the orders of the examples.
    """

    losses: Values
    scale: Values
    highest: Callable[[float], float]
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", float(self.losses.mean() / self.scale.mean()))
        object.__setattr__(self, "most", np.inf)

    def p_value(self, at_most: float, level: float) -> float:
        highest = self.highest(at_most)
        if highest <= 0:
            return 0.0
        return betting.p_value(self.losses - at_most * self.scale, highest, level, self.seed)


@dataclass(frozen=True)
class Asymptotic(Evidence):
    """A loss with a standard error, which is compared with Student's distribution: right for many examples.

    Attributes:
        difference: of the metric, positive where the candidate is worse.
        scale: what `at_most` is multiplied by: 1, or, for a share of the dense metric, that metric.
        covariance: (2, 2), of these two as estimates.
        examples: how many.
    """

    difference: float
    scale: float
    covariance: NDArray[np.float64]
    examples: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", self.difference / self.scale)
        object.__setattr__(self, "most", np.inf)

    def p_value(self, at_most: float, level: float) -> float:  # noqa: ARG002
        from scipy.special import stdtr  # takes a moment to import

        weights = np.array([1.0, -at_most])
        excess = self.difference - at_most * self.scale
        error = float(np.sqrt(max(weights @ self.covariance @ weights, 0.0)))
        if self.examples < LEAST_EXAMPLES:
            return 1.0
        if error == 0:
            return 0.0 if excess < 0 else 1.0
        return float(stdtr(self.examples - 1, excess / error))


@dataclass(frozen=True)
class Comparison:
    """How evidence is made of the values of a dense model and of a candidate.

    Attributes:
        metric: how values become a metric.
        test: "exact", "betting" or "asymptotic".
        relative: whether losses are shares of the dense metric.
        seed: of orders and of resamples.
    """

    metric: Metric
    test: Test
    relative: bool = False
    seed: int = 0

    def evidence(self, dense: Values, values: Values) -> Evidence:
        """The evidence in the values of the dense model and of a candidate, both (n,) or (n, k)."""
        if self.test == "exact":
            change = self._worse(dense, values)
            return Flips(int((change > 0).sum()), int((change < 0).sum()), len(change))
        if self.test == "betting":
            return Bounded(self._worse(dense, values), self._scale(dense), self._highest, self.seed)
        return self._asymptotic(dense, values)

    def _worse(self, dense: Values, values: Values) -> Values:
        """What each example loses, or what the metric does: positive is worse."""
        return dense - values if self.metric.higher_is_better else values - dense

    def _scale(self, dense: Values) -> Values:
        return dense if self.relative else np.ones_like(dense)

    def _highest(self, at_most: float) -> float:
        """The largest loss - `at_most` x scale that an example can have, by the bounds."""
        low, high = self.metric.bounds or (0.0, 1.0)
        if not self.relative:
            return high - low - at_most
        share = 1 - at_most if self.metric.higher_is_better else 1 + at_most
        ends = (share * low, share * high)
        return max(ends) - low if self.metric.higher_is_better else high - min(ends)

    def _asymptotic(self, dense: Values, values: Values) -> Asymptotic:
        """The loss and its standard error: of a mean by its variance, of any other metric by resampling examples."""
        if self.metric.aggregate is None:
            parts = np.stack([self._worse(dense, values), self._scale(dense)])
            covariance = np.cov(parts) / len(dense) if len(dense) > 1 else np.zeros((2, 2))
            difference, scale = map(float, parts.mean(axis=1))
            return Asymptotic(difference, scale, covariance, len(dense))
        rows = np.random.default_rng(self.seed).integers(len(dense), size=(RESAMPLES, len(dense)))
        replicates = np.array([self._pair(dense[row], values[row]) for row in rows])
        return Asymptotic(*self._pair(dense, values), np.cov(replicates.T), len(dense))

    def _pair(self, dense: Values, values: Values) -> tuple[float, float]:
        """What the metric loses, and what `at_most` is multiplied by."""
        before, after = self.metric.of(dense), self.metric.of(values)
        worse = before - after if self.metric.higher_is_better else after - before
        return worse, before if self.relative else 1.0


def comparison_of(
    metric: Metric, dense: Values, test: Test | None, relative: bool, at_most: float, seed: int = 0
) -> Comparison:
    """The comparison by the test that was asked for, or that the values allow.

    Raises:
        CertificateError: values that the test can't be made with.
    """
    binary, single = is_binary(dense), metric.aggregate is None
    if test is None:
        known = binary or metric.bounds is not None
        test = "exact" if binary and single and not relative else "betting" if known and single else "asymptotic"
    if test == "exact" and (relative or not (binary and single)):
        raise CertificateError('test="exact" needs a value of 0 or 1 for each example, and an absolute at_most')
    if test == "betting" and not single:
        raise CertificateError('test="betting" is about means; a metric with aggregate= is tested by "asymptotic"')
    if test == "betting" and not binary and metric.bounds is None:
        raise CertificateError('test="betting" needs bounds: the lowest and the highest value of an example')
    if relative and metric.of(dense) <= 0:
        raise CertificateError(
            f"relative: the dense model's {metric.name} is {metric.of(dense):g}, of which no share can be taken; give "
            "an absolute at_most"
        )
    if test != "asymptotic" and not relative:
        low, high = metric.bounds or (0, 1)
        if at_most >= high - low:
            raise CertificateError(f"at_most: {at_most:g} allows everything: values lie between {low:g} and {high:g}")
    return Comparison(metric, test, relative, seed)


def is_binary(values: Values) -> bool:
    """Whether each example has one value, and all are 0 or 1."""
    return values.ndim == 1 and bool(np.isin(values, (0.0, 1.0)).all())
