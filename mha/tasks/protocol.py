"""A task: a trained model, data to calibrate and to evaluate on, and how to feed and judge it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

Batch = Any


class Task(ABC):
    """Subclass this, or offer the same members: whatever has them is a task.

    Attributes:
        name: short, lower case; it stands in benchmark ids and file names.
        metric: what `aggregate` returns, as a reader would call it ("accuracy", "exact match").
        higher_is_better: which way the metric points.
        chance: the metric's value for a model that knows nothing.
        batch_size: the batch size at which latency is reported unless another is asked for.
        generates: whether the model is a causal one of transformers, whose prefill and decode are timed too.
    """

    name: str
    metric: str
    higher_is_better: bool = True
    chance: float = 0.0
    batch_size: int = 32
    generates: bool = False

    @abstractmethod
    def model(self) -> nn.Module:
        """The trained model, in eval mode; a new object at each call."""

    @abstractmethod
    def calibration(self) -> Sequence[Batch]:
        """Labelled batches to score heads on; they never overlap with training or evaluation data."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """A scalar, the mean over the batch's examples; differentiable."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Run the model on the inputs of a batch."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> np.ndarray:
        """(n,) or (n, k): a value, or sufficient statistics, for each held-out example."""

    def aggregate(self, values: np.ndarray) -> float:
        """The metric over rows of what `evaluate` returns; intervals resample rows. Default: the mean."""
        return float(np.mean(values))

    @abstractmethod
    def example(self, batch_size: int, seq_len: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs for timing, at the task's own length unless one is given."""

    def attention_examples(self) -> dict[str, tuple[Batch, dict[str, tuple[list[str], list[str]]]]]:
        """Held-out examples whose attention is worth drawing, by what a reader may call them; default: none.

        Each is a batch of one and, for each attention layer, the labels of its queries and of its keys.
        """
        return {}
