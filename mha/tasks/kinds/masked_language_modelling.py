"""Masked language modelling: tokens that were hidden are guessed."""

import random
from typing import ClassVar

from mha.tasks.kinds.base.file_task import LABELS
from mha.tasks.kinds.base.metrics import LOSS, PERPLEXITY, TOKEN_ACCURACY
from mha.tasks.kinds.base.registry import register_kind
from mha.tasks.kinds.base.texts import IGNORED, Example
from mha.tasks.kinds.base.token_level import TokenLevel
from mha.values.errors import TaskError


@register_kind("masked-language-modelling")
class MaskedLanguageModelling(TokenLevel):
    """Guess the tokens behind the mask token, which are drawn once: always the same of the same text and seed."""

    about = "hidden tokens of texts are guessed"
    columns: ClassVar = {"text": ("text", "sentence", "content")}
    metrics: ClassVar = {"perplexity": PERPLEXITY, "loss": LOSS, "accuracy": TOKEN_ACCURACY}
    kind_options: ClassVar = {"masked": 0.15}
    architectures = ("ForMaskedLM",)

    def check(self) -> None:
        super().check()
        if getattr(self.processor, "mask_token_id", None) is None:
            raise TaskError(
                f"{self.settings.path}: {self.settings.kind} needs a tokenizer with a mask token; this has none"
            )
        if not 0 < self.options["masked"] < 1:
            raise TaskError(
                f"{self.settings.path}: [options] masked = {self.options['masked']}: expected the share of tokens to "
                "hide, between 0 and 1"
            )

    def encoded(self, part: str) -> list[Example]:
        texts = [str(row["text"]) for row in self.rows[part]]
        examples = self.examples_of(self.tokenized(texts), part)
        return [
            self._hidden(example, f"{self.settings.seed} {text}") for example, text in zip(examples, texts, strict=True)
        ]

    def _hidden(self, example: Example, seed: str) -> Example:
        """The example with some tokens hidden, at least one, and their ids as labels; special tokens stay."""
        ids, special = example["input_ids"], set(self.processor.all_special_ids)
        places = [place for place, token in enumerate(ids) if token not in special] or list(range(len(ids)))
        count = max(1, round(self.options["masked"] * len(places)))
        hidden = set(random.Random(seed).sample(places, count))
        return {
            **example,
            "input_ids": [
                self.processor.mask_token_id if place in hidden else token for place, token in enumerate(ids)
            ],
            LABELS: [token if place in hidden else IGNORED for place, token in enumerate(ids)],
        }
