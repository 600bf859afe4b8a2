"""Outputs: no labels at all; how far a model is, on texts, from the dense model."""

from typing import ClassVar

from mha.tasks.kinds.base.dense_outputs import DenseOutputs
from mha.tasks.kinds.base.registry import register_kind
from mha.tasks.kinds.base.texts import Example, TextTask


@register_kind("outputs")
class Outputs(DenseOutputs, TextTask):
    """The distance to the dense model's outputs on texts."""

    about = "no labels: how far a model's outputs on texts are from the dense model's"
    columns: ClassVar = {"text": ("text", "sentence", "content", "query", "question")}

    def encoded(self, part: str) -> list[Example]:
        return self.examples_of(self.tokenized([str(row["text"]) for row in self.rows[part]]), part)
