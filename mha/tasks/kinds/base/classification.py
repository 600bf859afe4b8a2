"""Kinds in which each example gets one of the model's classes."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha.tasks.files.settings import UNLABELLED, Settings
from mha.tasks.files.tables import Row
from mha.tasks.kinds.base.distances import divergence
from mha.tasks.kinds.base.file_task import LABELS, Batch, FileTask, inputs_of, on_device
from mha.tasks.kinds.base.labels import Labels, classes_of
from mha.tasks.kinds.base.metrics import ACCURACY, Metric, macro_f1
from mha.values.errors import TaskError

LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "sentiment")


class Classification(FileTask):
    """One class for each example; `logits` (b, c) say which."""

    labels = frozenset({"label"})
    metrics: ClassVar[dict[str, Metric]] = {"accuracy": ACCURACY, "macro F1": Metric(macro_f1)}

    def label_numbers(self, part: str) -> list[int] | None:
        """The model's number of each row's label; None of unlabelled rows, whatever they have in its column."""
        rows = self.rows[part]
        if part == UNLABELLED:
            return None
        return Labels(self.settings, self.config).numbers(rows)

    def chance_of(self, rows: Sequence[Row]) -> float:
        """The accuracy of always giving the most frequent label; 0 of another metric."""
        most = max(Counter(str(row["label"]) for row in rows).values())
        return most / len(rows) if self.metric == "accuracy" else 0.0

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits (b, c) of the classes."""
        logits: Tensor = model(**inputs_of(on_device(model, batch))).logits
        return logits

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The cross-entropy of the labels, the mean over examples."""
        logits = self.forward(model, batch)
        return F.cross_entropy(logits, batch[LABELS].to(logits.device))

    @property
    def distance(self) -> Callable[[Tensor, Tensor], Tensor]:
        """KL(dense ‖ ours) of the classes, the mean over examples."""
        return divergence

    def evaluate(self, model: nn.Module) -> np.ndarray:
        """1 where the likeliest class is right, else 0 (n,); for macro F1, three numbers of each class (n, 3 · c)."""
        return self.in_order(lambda batch: self._values(self.forward(model, batch).cpu(), batch[LABELS]))

    def _values(self, logits: Tensor, true: Tensor) -> Tensor:
        """What `evaluate` says of the examples of one batch."""
        given = logits.argmax(-1)
        if self.metric == "accuracy":
            return given == true
        given, true = (F.one_hot(part, logits.shape[-1]) for part in (given, true))
        return torch.cat([given * true, given, true], dim=1)

    def confidences(self, model: nn.Module) -> np.ndarray:
        """Of each evaluation example the likeliest class's probability, and 1 where it is right, else 0: (n, 2)."""
        return self.in_order(lambda batch: _sure(self.forward(model, batch).cpu(), batch[LABELS]))

    def slices(self) -> dict[str, np.ndarray]:
        """The evaluation examples of each label."""
        given = np.array([str(row["label"]) for row in self.rows["evaluation"]])
        return {f"labelled {label}": given == label for label in sorted(set(given))}


def _sure(logits: Tensor, true: Tensor) -> Tensor:
    """The likeliest class's probability, and whether it is right (b, 2)."""
    sure, given = logits.double().softmax(-1).max(-1)
    return torch.stack([sure, (given == true).double()], dim=-1)


def check_classes(settings: Settings, config: Any) -> None:
    """Raise a TaskError where the model's configuration knows fewer than two classes."""
    if len(classes_of(config)) < 2:
        raise TaskError(
            f"{settings.path}: {settings.kind} needs a model with at least 2 classes; its configuration (id2label) has "
            f"{len(classes_of(config))}"
        )
