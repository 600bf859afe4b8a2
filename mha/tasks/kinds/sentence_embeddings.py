"""Sentence embeddings: each text is to be nearest to the text that belongs to it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha.tasks.base.batching import padded
from mha.tasks.files.tables import Row
from mha.tasks.kinds.base.file_task import Batch, on_device
from mha.tasks.kinds.base.metrics import ACCURACY, Metric, mean
from mha.tasks.kinds.base.registry import register_kind
from mha.tasks.kinds.base.texts import TextTask, padding_of
from mha.values.errors import TaskError
from mha.values.unknown_words import unknown

POOLINGS = ("mean", "first", "last")

Texts = list[list[int]]  # the token ids of a text, and of the one that belongs to it


@register_kind("sentence-embeddings")
class SentenceEmbeddings(TextTask):
    """Retrieval: each text's nearest among all evaluation texts of the other column should be its own.

    A batch has `input_ids` and `attention_mask` (b, t, n): t = 2, a text and the one that belongs to it, or t = 1.
    """

    about = "each text is to be nearest to the one that belongs to it (retrieval)"
    columns: ClassVar = {
        "text": ("text", "query", "question", "anchor", "sentence1", "title"),
        "positive": ("positive", "document", "passage", "answer", "sentence2", "body"),
    }
    labels = frozenset({"positive"})
    known_by = ("text", "positive")
    metrics: ClassVar = {"accuracy@1": ACCURACY, "MRR": Metric(mean, bounds=(0.0, 1.0))}
    kind_options: ClassVar = {"pooling": "mean", "prefix": "", "positive_prefix": "", "sharpness": 20.0}

    def check(self) -> None:
        super().check()
        if self.options["pooling"] not in POOLINGS:
            raise TaskError(f"{self.settings.path}: [options] {unknown('pooling', self.options['pooling'], POOLINGS)}")

    def chance_of(self, rows: Sequence[Row]) -> float:
        """The metric of a ranking at random."""
        ranks = np.arange(1, len(rows) + 1)
        return float(1 / len(rows) if self.metric == "accuracy@1" else (1 / ranks).mean())

    def encoded(self, part: str) -> list[Texts]:
        rows: list[Any] = self.rows[part]
        prefixes = {"text": self.options["prefix"], "positive": self.options["positive_prefix"]}
        columns = []
        for word in (word for word in self.columns if word in rows[0]):
            examples = self.examples_of(self.tokenized([prefixes[word] + str(row[word]) for row in rows]), part)
            columns.append([example["input_ids"] for example in examples])
        return [list(texts) for texts in zip(*columns, strict=True)]

    def length(self, example: Any) -> int:
        return max(map(len, example))

    def collate(self, examples: Sequence[Any]) -> Batch:
        flat = padded([ids for texts in examples for ids in texts], padding_of(self.processor))
        return {name: part.unflatten(0, (len(examples), -1)) for name, part in flat.items()}

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The embeddings (b · t, e) of all texts, each of length 1; on the model's device."""
        flat = {name: part.flatten(0, 1) for name, part in on_device(model, batch).items()}
        hidden = model(**flat).last_hidden_state
        return F.normalize(pooled(hidden, flat["attention_mask"], self.options["pooling"]), dim=-1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The cross-entropy of each text's own among those of its batch, the mean over examples.

        Cosines times the sharpness are the logits: van den Oord et al. 2018, equation 4.
        """
        texts, others = self.forward(model, batch).unflatten(0, (-1, 2)).unbind(dim=1)
        logits = self.options["sharpness"] * texts @ others.T
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))

    def evaluate(self, model: nn.Module) -> np.ndarray:
        """For each evaluation text (n,): 1 where its own is the nearest, else 0; for MRR, one over its own's rank."""
        both = torch.from_numpy(self.in_order(lambda batch: self.forward(model, batch).unflatten(0, (-1, 2))))
        similar = both[:, 0] @ both[:, 1].T
        ranks = (similar > similar.diagonal()[:, None]).sum(dim=1) + 1
        return ((ranks == 1).double() if self.metric == "accuracy@1" else 1 / ranks.double()).numpy()


def pooled(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector (b, e) of a text's tokens (b, n, e): their mean, the first, or the last that is no padding."""
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
