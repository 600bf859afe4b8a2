"""Text classification: one class for each text, or for each pair of texts."""

from typing import Any, ClassVar

from mha.tasks.kinds.base.classification import LABEL_COLUMNS, Classification, check_classes
from mha.tasks.kinds.base.file_task import LABELS
from mha.tasks.kinds.base.registry import register_kind
from mha.tasks.kinds.base.texts import Example, TextTask


@register_kind("text-classification")
class TextClassification(TextTask, Classification):
    """One class for each text, or pair of texts."""

    about = "one class for each text, or pair of texts"
    columns: ClassVar = {
        "text": ("text", "sentence", "sentence1", "premise", "question", "review", "content"),
        "text_pair": ("text_pair", "sentence2", "hypothesis"),
        "label": LABEL_COLUMNS,
    }
    optional = frozenset({"text_pair"})
    known_by = ("text", "text_pair")
    architectures = ("ForSequenceClassification",)

    def check(self) -> None:
        super().check()
        check_classes(self.settings, self.config)

    def encoded(self, part: str) -> list[Example]:
        rows: list[Any] = self.rows[part]
        pairs = [str(row["text_pair"]) for row in rows] if "text_pair" in rows[0] else None
        examples = self.examples_of(self.tokenized([str(row["text"]) for row in rows], pairs), part)
        numbers = self.label_numbers(part)
        return (
            examples
            if numbers is None
            else [{**example, LABELS: number} for example, number in zip(examples, numbers, strict=True)]
        )
