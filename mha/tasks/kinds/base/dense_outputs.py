"""Kinds that need no labels: a model is judged by how far its outputs are from those of the dense model."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mha.tasks.kinds.base.distances import divergence, divergences, precise
from mha.tasks.kinds.base.file_task import Batch, FileTask, inputs_of, on_device
from mha.tasks.kinds.base.metrics import Metric, mean
from mha.values.errors import TaskError


class DenseOutputs(FileTask):
    """Stay near the dense model's outputs: its logits where it has some, else its last hidden states.

    Attributes:
        dense: a copy of the model that the task was read for, as it was then, in eval mode.
    """

    metrics: ClassVar[dict[str, Metric]] = {
        "divergence": Metric(mean, higher_is_better=False),
        "squared distance": Metric(mean, higher_is_better=False),
    }

    def check(self) -> None:
        super().check()
        if getattr(self.config, "is_encoder_decoder", False):
            raise TaskError(
                f"{self.settings.path}: {self.settings.kind} is for models that are given one text or image; for one "
                'with a decoder: kind = "sequence-to-sequence"'
            )
        self.dense: nn.Module = self.model().requires_grad_(False)  # now: later heads of the given one may be off

    @classmethod
    def usual_metric(cls, model: nn.Module) -> str:
        """The divergence of the logits' distributions where the model has a head that makes some."""
        name = type(model).__name__
        return "divergence" if "For" in name or name.endswith("LMHeadModel") else "squared distance"

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits or else the last hidden states of the whole batch, (b, c) or (b, n, c).

        Raises:
            TaskError: the model returns neither.
        """
        returned: Any = model(**inputs_of(on_device(model, batch)))
        for name in ("logits", "last_hidden_state"):
            if isinstance(found := getattr(returned, name, None), Tensor):
                return found
        raise TaskError(
            f"{self.settings.path}: {type(model).__name__} returns neither logits nor last_hidden_state, but "
            f"{type(returned).__name__}; write a task of your own (mha.tasks.Task) and give it as path.py:name"
        )

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The output (t, c) at each of the batch's t tokens that are no padding, or of each example (b, c)."""
        output = self.output(model, batch)
        return output[real(output, batch)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The metric, the mean over the batch's examples. It is 0 for the dense model, and so are its gradients."""
        return self.distances(model, batch).mean()

    @property
    def distance(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """KL(dense ‖ ours) where that is the metric; else the mean squares, as by default."""
        return divergence if self.metric == "divergence" else None

    def evaluate(self, model: nn.Module) -> np.ndarray:
        """The distance of each evaluation example (n,)."""
        return self.in_order(lambda batch: self.distances(model, batch))

    def distances(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of each example (b,) KL(dense ‖ ours), the mean over its tokens; or ‖ours - dense‖² / ‖dense‖² over them."""
        ours = self.output(model, batch)
        with torch.no_grad():
            dense = self.output(self.dense.to(ours.device), batch).to(ours.device)
        there = real(ours, batch).reshape(len(ours), -1)
        if self.metric == "divergence":
            return (divergences(ours, dense).reshape(len(ours), -1) * there).sum(dim=1) / there.sum(dim=1)
        squares = [
            precise(part).square().sum(-1).reshape(len(ours), -1).mul(there).sum(dim=1)
            for part in (ours - dense, dense)
        ]
        return squares[0] / squares[1]


def real(output: Tensor, batch: Batch) -> Tensor:
    """Which parts of an output (b, n, c) are of tokens that are no padding (b, n); all of another, (b,) or (b, n)."""
    mask = batch.get("attention_mask")
    if mask is not None and mask.shape == output.shape[:-1]:
        return mask.bool().to(output.device)
    return torch.ones(output.shape[:-1], dtype=torch.bool, device=output.device)
