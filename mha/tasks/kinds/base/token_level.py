"""Kinds in which tokens are judged, each by its label: those with another label than -100."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha.tasks.files.tables import Row
from mha.tasks.kinds.base.distances import divergence, precise
from mha.tasks.kinds.base.file_task import LABELS, Batch, inputs_of, on_device
from mha.tasks.kinds.base.texts import IGNORED, TextTask


class TokenLevel(TextTask):
    """Tokens are judged: `logits` (b, n, c) at the places where `labels` (b, n) are not -100."""

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits (t, c) of all t tokens of the batch that are judged; of all that are no padding without labels."""
        logits = self.logits(model, batch)
        return logits[self.judged(batch).to(logits.device)]

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits (b, n, c) of every token, one for each label."""
        logits: Tensor = model(**inputs_of(on_device(model, batch))).logits
        return logits

    def judged(self, batch: Batch) -> Tensor:
        """Which tokens (b, n) are judged."""
        return batch[LABELS] != IGNORED if LABELS in batch else batch["attention_mask"].bool()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The cross-entropy of the labels: the mean over an example's tokens, and that over examples."""
        losses, judged = self.token_losses(self.logits(model, batch), batch)
        counts = judged.sum(dim=1)
        return (losses.sum(dim=1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)

    def token_losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood of each token's label (b, n), 0 where none is judged, and which are judged."""
        labels = batch[LABELS].to(logits.device)
        losses = [
            F.cross_entropy(precise(row), own, reduction="none", ignore_index=IGNORED)
            for row, own in zip(logits, labels, strict=True)  # one at a time: float32 of a vocabulary is large
        ]
        return torch.stack(losses), labels != IGNORED

    @property
    def distance(self) -> Callable[[Tensor, Tensor], Tensor]:
        """KL(dense ‖ ours) of the labels, the mean over tokens."""
        return divergence

    def chance_of(self, rows: Sequence[Row]) -> float:  # noqa: ARG002
        """The perplexity or loss where all classes are alike; 0 of another metric."""
        classes = getattr(self.config, "vocab_size", 1)
        return {"perplexity": float(classes), "loss": math.log(classes)}.get(self.metric, 0.0)

    def evaluate(self, model: nn.Module) -> np.ndarray:
        """The sum of each example's negative log-likelihoods, or of tokens right, and the number of tokens (n, 2)."""
        return self.in_order(lambda batch: self.statistics(self.logits(model, batch), batch))

    def statistics(self, logits: Tensor, batch: Batch) -> Tensor:
        """What `evaluate` says of the examples of one batch."""
        values, judged = self.token_losses(logits, batch)
        if self.metric == "accuracy":
            values = (logits.argmax(-1) == batch[LABELS].to(logits.device)) & judged
        return torch.stack([values.double().sum(dim=1), judged.double().sum(dim=1)], dim=1)
