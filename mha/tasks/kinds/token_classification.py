"""Token classification: one class for each word of a text, as in finding names."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mha.tasks.files.settings import UNLABELLED
from mha.tasks.kinds.base.classification import check_classes
from mha.tasks.kinds.base.file_task import LABELS, Batch
from mha.tasks.kinds.base.labels import Labels, classes_of
from mha.tasks.kinds.base.metrics import TOKEN_ACCURACY, Metric, f1, matches
from mha.tasks.kinds.base.registry import register_kind
from mha.tasks.kinds.base.texts import IGNORED, Example
from mha.tasks.kinds.base.token_level import TokenLevel
from mha.values.errors import TaskError

Span = tuple[str, int, int]  # type, first and last place


@register_kind("token-classification")
class TokenClassification(TokenLevel):
    """One class for each word. Words are a list, or a text with spaces between them; so are their tags.

    A word is judged at its first token.
    """

    about = "one class for each word of a text, as in finding names"
    columns: ClassVar = {
        "words": ("words", "tokens", "text", "sentence"),
        "tags": ("tags", "ner_tags", "pos_tags", "labels"),
    }
    labels = frozenset({"tags"})
    known_by = ("words",)
    metrics: ClassVar = {"F1": Metric(f1), "accuracy": TOKEN_ACCURACY}
    architectures = ("ForTokenClassification",)

    @classmethod
    def usual_metric(cls, model: nn.Module) -> str:
        """The F1 of spans where the model's labels are as B-PER and I-PER, else the accuracy of tags."""
        return "F1" if any(name.startswith("B-") for name in classes_of(getattr(model, "config", None))) else "accuracy"

    def check(self) -> None:
        super().check()
        check_classes(self.settings, self.config)
        if not getattr(self.processor, "is_fast", False):
            raise TaskError(
                f"{self.settings.path}: {self.settings.kind} needs a fast tokenizer, which tells the words that tokens "
                f"are of; {type(self.processor).__name__} is none"
            )

    def encoded(self, part: str) -> list[Example]:
        rows: list[Any] = self.rows[part]
        words = [listed(row["words"]) for row in rows]
        encoding = self.tokenized(words, is_split_into_words=True)
        examples = self.examples_of(encoding, part)
        if part == UNLABELLED:
            return examples
        tags = self._tags(part, words)
        return [
            {**example, LABELS: at_first_tokens(encoding.word_ids(row), own)}
            for row, (example, own) in enumerate(zip(examples, tags, strict=True))
        ]

    def _tags(self, part: str, words: Sequence[Sequence[str]]) -> list[list[int]]:
        """The model's number of each word's tag.

        Raises:
            TaskError: a row has another number of tags than of words, or a tag that the model has not.
        """
        labels = Labels(self.settings, self.config)
        rows = self.rows[part]
        tags = [listed(row["tags"]) for row in rows]
        for row, own, beside in zip(rows, tags, words, strict=True):
            if len(own) != len(beside):
                raise TaskError(
                    f"{self.settings.path}: {row.where} has {len(beside)} words and {len(own)} tags; expected one tag "
                    "for each word"
                )
        return [[labels.number(tag, row.where) for tag in own] for row, own in zip(rows, tags, strict=True)]

    def statistics(self, logits: Tensor, batch: Batch) -> Tensor:
        """Of each example how many spans were rightly found, found, and there (b, 3); or right tags and tags (b, 2)."""
        if self.metric == "accuracy":
            return super().statistics(logits, batch)
        pairs = zip(logits.argmax(-1).cpu(), batch[LABELS], strict=True)
        found = [[self._spans(part[true != IGNORED]) for part in (ours, true)] for ours, true in pairs]
        return torch.tensor([matches(ours, true) for ours, true in found])

    def _spans(self, numbers: Tensor) -> set[Span]:
        """The spans that the tags with these numbers make."""
        return set(spans(self._names(numbers)))

    def _names(self, numbers: Tensor) -> list[str]:
        """The model's names of classes."""
        names = {number: name for name, number in classes_of(self.config).items()}
        return [names[number] for number in numbers.tolist()]


def listed(value: Any) -> list[Any]:
    """A list as it is; the words of a text."""
    return list(value) if isinstance(value, list) else str(value).split()


def at_first_tokens(words: Sequence[int | None], tags: Sequence[int]) -> list[int]:
    """The tag of each word at its first token, -100 at all others."""
    before = [None, *words]
    return [
        tags[word] if word is not None and word != last else IGNORED for last, word in zip(before, words, strict=False)
    ]


def spans(tags: Sequence[str]) -> Iterator[Span]:
    """The spans that tags as B-PER, I-PER and O make. An I- that goes on with nothing begins a span, as in CoNLL."""
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, own = tag.partition("-")
        goes_on = prefix == "I" and own == kind
        if kind and not goes_on:
            yield kind, start, place - 1
            kind = ""
        if prefix in ("B", "I") and not goes_on:
            start, kind = place, own
