"""Who judges a model: a value for each of a set of held-out examples, and the metric that those make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mha.pruning.masking import eval_mode
from mha.tasks import Task
from mha.values.errors import CertificateError

Values = NDArray[np.float64]
Aggregate = Callable[[Values], float]


class Evaluates(Protocol):
    """What a judge needs of a task: `mha.tasks.Task` has it.

    `aggregate`, `higher_is_better`, `metric` and `bounds` are read where they are there.
    """

    def evaluate(self, model: nn.Module) -> Any:
        """A value, or k sufficient statistics, for each of n held-out examples: (n,) or (n, k)."""


@dataclass(frozen=True)
class Judge:
    """Judges models on held-out examples, always the same, which it holds as batches.

    Attributes:
        batches: of examples that nothing else has seen: neither training nor calibration.
        values: (model, batch) -> a value for each example of the batch (b,), such as 1 for a right answer and 0 for a
            wrong one, or k sufficient statistics (b, k), such as loss and number of tokens. A tensor or an array.
        aggregate: values (n,) or (n, k) of any examples -> the metric; None for the mean of one value each.
        higher_is_better: whether a larger value of the metric is better.
        metric: what the metric is called.
        bounds: the lowest and the highest value that an example can have. Values that are all 0 or 1 need none.

    Example:
        >>> def right(model, batch):
        ...     x, answers = batch
        ...     return model(x).argmax(-1) == answers
        >>> batches = [(torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])) for _ in range(2)]
        >>> judge = mha.Judge(batches, right, metric="accuracy")
        >>> judge(nn.Linear(3, 2)).shape
        (10,)

    Raises:
        CertificateError: no batches, or bounds that are no two finite numbers in order.
    """

    batches: Sequence[Any]
    values: Callable[[nn.Module, Any], Any]
    aggregate: Aggregate | None = None
    higher_is_better: bool = True
    metric: str = "metric"
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", tuple(self.batches))
        if not self.batches:
            raise CertificateError("the judge has no batches; give it held-out examples")
        if self.bounds is not None:
            check_bounds(self.bounds)

    def __call__(self, model: nn.Module) -> Values:
        """The values of all examples, in order, (n,) or (n, k) in float64; the model runs in eval mode, once a batch.

        Raises:
            CertificateError: `values` gives something else than (b,) or (b, k) of numbers that are finite.
        """
        with eval_mode(model), torch.no_grad():
            parts = [_of_a_batch(self.values(model, batch), number) for number, batch in enumerate(self.batches)]
        if len({part.shape[1:] for part in parts}) > 1:
            raise CertificateError(
                f"the judge's values have shapes {[part.shape for part in parts][:5]} on its batches; expected as many "
                "for each example everywhere"
            )
        return np.concatenate(parts)

    def evaluate(self, model: nn.Module) -> Values:
        """The same as calling it, by the name that tasks have for it."""
        return self(model)


@dataclass(frozen=True)
class Metric:
    """How values become a metric, read off a judge or a task.

    Attributes:
        evaluate: model -> values (n,) or (n, k).
        aggregate: values -> metric; None where it is the mean of one value for each example.
        higher_is_better: whether a larger value is better.
        name: what it is called.
        bounds: the lowest and the highest value that an example can have; None where nobody has said.
    """

    evaluate: Callable[[nn.Module], Any]
    aggregate: Aggregate | None
    higher_is_better: bool
    name: str
    bounds: tuple[float, float] | None

    def values(self, model: nn.Module, whose: str) -> Values:
        """The values of a model, checked; errors call it `whose`.

        Raises:
            CertificateError: they are no (n,) or (n, k), there are none, or some are NaN or infinite.
        """
        values = np.asarray(self.evaluate(model), dtype=np.float64)
        if values.ndim not in (1, 2) or not len(values):
            raise CertificateError(
                f"{whose}: the judge gave values of shape {values.shape}; expected (n,) or (n, k), a row for each "
                "example"
            )
        if values.ndim == 2 and self.aggregate is None:
            raise CertificateError(
                f"{whose}: the judge gave {values.shape[1]} statistics for each example; say with aggregate= how they "
                "become the metric"
            )
        if wrong := [int(row) for row in np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))]:
            raise CertificateError(
                f"{whose}: the judge's values of {len(wrong)} of {len(values)} examples are NaN or infinite "
                f"(examples {_few(wrong)}); look for half precision that overflows, or a logarithm of 0"
            )
        if self.bounds is not None:
            self._check_within(values, whose)
        return values

    def of(self, values: Values) -> float:
        """The metric that these values make."""
        return float(values.mean() if self.aggregate is None else self.aggregate(values))

    def _check_within(self, values: Values, whose: str) -> None:
        """Refuse values outside of the bounds."""
        assert self.bounds is not None
        low, high = self.bounds
        if values.min() < low or values.max() > high:
            raise CertificateError(
                f"{whose}: values from {values.min():g} to {values.max():g}, outside of the bounds {low:g} to {high:g}"
                "; give bounds that always hold, or none"
            )


def metric_of(judge: Judge | Evaluates, bounds: tuple[float, float] | None = None) -> Metric:
    """What a judge, a task, or whatever has an `evaluate` like theirs says about its metric.

    Args:
        bounds: those of the values, where the judge itself does not say.

    Raises:
        CertificateError: it has no `evaluate`, or bounds that are no two finite numbers in order.
    """
    if not callable(getattr(judge, "evaluate", None)):
        raise CertificateError(
            f"the judge is a {type(judge).__name__}; expected an mha.Judge or a task (something with evaluate(model))"
        )
    bounds = getattr(judge, "bounds", None) if bounds is None else bounds
    if bounds is not None:
        check_bounds(bounds)
    aggregate = getattr(judge, "aggregate", None)
    is_mean = getattr(aggregate, "__func__", None) is Task.aggregate
    return Metric(
        evaluate=judge.evaluate,
        aggregate=None if is_mean else aggregate,
        higher_is_better=bool(getattr(judge, "higher_is_better", True)),
        name=str(getattr(judge, "metric", "metric")),
        bounds=bounds,
    )


def check_bounds(bounds: tuple[float, float]) -> None:
    """Refuse bounds that are no two finite numbers, the lower one first."""
    if len(bounds) != 2 or not np.isfinite(bounds).all() or not bounds[0] < bounds[1]:
        raise CertificateError(f"bounds: expected the lowest and the highest value, such as (0, 1), got {bounds!r}")


def _of_a_batch(returned: Any, number: int) -> Values:
    """What `values` returned for the batch of this number, as an array (b,) or (b, k).

    Raises:
        CertificateError: it has another shape.
    """
    if isinstance(returned, Tensor):
        returned = returned.detach().cpu().double().numpy()
    values = np.asarray(returned, dtype=np.float64)
    if values.ndim not in (1, 2):
        raise CertificateError(
            f"batch {number}: values(model, batch) gave shape {values.shape}; expected (b,) or (b, k), a row for each "
            "example, not a mean over them"
        )
    return values


def _few(numbers: list[int], most: int = 5) -> str:
    """The first of these numbers, and that there are more."""
    return ", ".join(map(str, numbers[:most])) + (", …" if len(numbers) > most else "")
