"""A task: a trained model, data to calibrate and to evaluate on, and how to feed and judge it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

Batch = Any


class Task(ABC):
    """What the benchmark suite asks of a task. Subclass this, or offer the same members: whatever has them is a task.

    Attributes:
        name: short, lower case; it stands in benchmark ids and file names.
        metric: what `aggregate` returns, as a reader would call it ("accuracy", "exact match").
        higher_is_better: whether a larger value of the metric is better.
        chance: the metric's value for a model that knows nothing.
        bounds: the lowest and the highest value that `evaluate` can give an example, for `mha.certify`; None where
            there are none, or nobody has said. Values that are all 0 or 1 need none.
        batch_size: the batch size at which latency is reported unless another is asked for.
        pretrained: whether the model is one that was trained elsewhere, for its own sake; reports lead with such.
        generates: whether the model is a causal one of transformers, whose prefill and decode are timed too.

    Example:
        >>> class Copying(mha.tasks.Task):
        ...     name, metric, higher_is_better = "copying", "squared error", False
        ...     def model(self):
        ...         return mha.MultiHeadAttention.square(8, num_heads=2).eval()
        ...     def calibration(self):
        ...         return [torch.randn(16, 5, 8) for _ in range(2)]
        ...     def forward(self, model, batch):
        ...         return model(batch, batch, batch)
        ...     def loss(self, model, batch):
        ...         return (self.forward(model, batch) - batch).square().mean()
        ...     def evaluate(self, model):
        ...         held_out = torch.randn(64, 5, 8, generator=torch.Generator().manual_seed(1))
        ...         return (self.forward(model, held_out) - held_out).square().mean((1, 2)).detach().numpy()
        ...     def example(self, batch_size, seq_len=None):
        ...         x = torch.randn(batch_size, seq_len or 5, 8)
        ...         return (x, x, x), {}
        >>> task = Copying()
        >>> task.evaluate(task.model()).shape
        (64,)
        >>> scores = mha.score(task.model(), task.calibration(), task.loss)
        >>> scores[""].shape
        torch.Size([2])
    """

    name: str
    metric: str
    higher_is_better: bool = True
    chance: float = 0.0
    bounds: tuple[float, float] | None = None
    batch_size: int = 32
    pretrained: bool = False
    generates: bool = False

    @abstractmethod
    def model(self) -> nn.Module:
        """The trained model, in eval mode; every call makes a new object."""

    @abstractmethod
    def calibration(self) -> Sequence[Batch]:
        """Labelled batches to score heads on; they never overlap with training or evaluation data."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch: a differentiable scalar, the mean over the batch's examples."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Run the model on the inputs of a batch, and return what is judged of its output, such as the logits."""

    @property
    def distance(self) -> Callable[[Any, Any], Tensor] | None:
        """How far what `forward` returns is from what it returns for the dense model: (both of these) -> scalar.

        By it `mha.shrink` and `mha.distill` compare outputs; None, as by default, compares their mean squares.
        """
        return None

    @abstractmethod
    def evaluate(self, model: nn.Module) -> np.ndarray:
        """A value, or k sufficient statistics, for each of n held-out examples: (n,) or (n, k)."""

    def aggregate(self, values: np.ndarray) -> float:
        """The metric, given rows of what `evaluate` returns; by default their mean.

        Intervals come of calling it with rows drawn anew, so it takes any number of them, some more than once.
        """
        return float(np.mean(values))

    @abstractmethod
    def example(self, batch_size: int, seq_len: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A batch as it is given to the model when latency is measured: the positional and the keyword arguments.

        Args:
            seq_len: how long its sequences are; None for the length that the task's data have.
        """

    def unlabelled(self) -> Sequence[Batch]:
        """Further batches for `forward`, of examples that neither calibration nor evaluation has; by default none.

        Distillation learns from them what `forward` returns. Nothing asks for their labels: `loss` need not take them.
        """
        return []

    def attention_examples(self) -> dict[str, tuple[Batch, dict[str, tuple[list[str], list[str]]]]]:
        """Held-out examples whose attention is worth drawing; by default none.

        Returns:
            What a reader may call the example -> (a batch of that example alone, attention layer -> (the labels of the
            queries, the labels of the keys)).
        """
        return {}

    def slices(self) -> Mapping[str, np.ndarray]:
        """Parts of the evaluation examples on which a loss should not hide, such as a language; by default none.

        Returns:
            What a reader may call the part -> a mask (n,) of the rows that `evaluate` returns. Parts may overlap, and
            need not cover all; one of fewer than 10 examples is not told.
        """
        return {}

    def confidences(self, model: nn.Module) -> np.ndarray | None:  # noqa: ARG002
        """How sure the model is of each answer that it gives on the evaluation examples; by default None.

        Returns:
            (n, 2), or (n, k, 2) where an example asks for k answers: the probability that the model gives to the
            answer which it chooses, and 1 where that is right, else 0.
        """
        return None

    def prompts(self) -> Sequence[str]:
        """Texts whose greedy continuation a reader may want to see, of a task that `generates`; by default none."""
        return ()

    def generate(self, model: nn.Module, prompt: str, tokens: int) -> Sequence[str]:
        """Continue a prompt, always by the likeliest token.

        Returns:
            The text of each token in order, so that joined they are the continuation: `tokens` of them, or fewer where
            the model ends it.

        Raises:
            NotImplementedError: the task has prompts, and does not say how its model continues them.
        """
        raise NotImplementedError(f"task {self.name!r} has prompts: write its generate(model, prompt, tokens), too")
