"""Causal language modelling: each token of a text is guessed from those before it."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mha.tasks.kinds.base.file_task import LABELS, Batch, inputs_of, on_device
from mha.tasks.kinds.base.metrics import LOSS, PERPLEXITY, TOKEN_ACCURACY
from mha.tasks.kinds.base.registry import register_kind
from mha.tasks.kinds.base.texts import IGNORED, Example, random_ids
from mha.tasks.kinds.base.token_level import TokenLevel
from mha.values.errors import TaskError

PROMPTS, PROMPT = 5, 8  # texts, and words of each
WINDOW = 512  # tokens, where neither file nor model says fewer


@register_kind("causal-language-modelling")
class CausalLanguageModelling(TokenLevel):
    """Guess each token from those before it.

    Long texts are read in windows of `max_length` tokens, which begin `stride` tokens after one another. Each token is
    judged once, in the first window that has it; with a stride below `max_length` it sees at least
    `max_length - stride` tokens before it (but at the text's beginning).
    """

    about = "each token of a text is guessed from those before it"
    columns: ClassVar = {"text": ("text", "content", "sentence")}
    metrics: ClassVar = {"perplexity": PERPLEXITY, "loss": LOSS, "accuracy": TOKEN_ACCURACY}
    kind_options: ClassVar = {"stride": 0}
    architectures = ("ForCausalLM", "LMHeadModel")
    unit = "document"
    generates = True

    def check(self) -> None:
        super().check()
        self.window = self.settings.max_length or min(self.longest or WINDOW, WINDOW)
        self.stride = self.options["stride"] or self.window
        if not 0 < self.stride <= self.window or self.window < 2:
            raise TaskError(
                f"{self.settings.path}: [options] stride = {self.stride}: expected from 1 to the {self.window} tokens "
                "of a window (max_length, which is at least 2)"
            )

    def encoded(self, part: str) -> list[Example]:
        texts = [str(row["text"]) for row in self.rows[part]]
        ids = self.processor(texts, truncation=False, verbose=False)["input_ids"]
        examples = [window for own in ids for window in windows(own, self.window, self.stride)]
        if not examples:
            raise TaskError(f"{self.settings.path}: no text of {part} has two tokens, so that there is none to guess")
        return examples

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits (b, n, c) of the token after each, without a cache."""
        logits: Tensor = model(**inputs_of(on_device(model, batch)), use_cache=False).logits
        return logits

    def example(self, batch_size: int, seq_len: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Random token ids (b, n), to be read without a cache; by default as long as half of the windows."""
        ids = random_ids(self.config, batch_size, seq_len or self.usual_length("evaluation"))
        return (), {"input_ids": ids, "use_cache": False}

    def prompts(self) -> tuple[str, ...]:
        """The first words of the first evaluation texts."""
        return tuple(" ".join(str(row["text"]).split()[:PROMPT]) for row in self.rows["evaluation"][:PROMPTS])

    @torch.inference_mode()
    def generate(self, model: nn.Module, prompt: str, tokens: int) -> list[str]:
        """The text of each token with which the model goes on, greedily, up to where it ends the text."""
        ids = self.processor(prompt, return_tensors="pt").to(next(model.parameters()).device)
        generating: Any = model
        written = generating.generate(
            input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], max_new_tokens=tokens, do_sample=False
        )[0, ids["input_ids"].shape[1] :]
        texts = [self.processor.decode(written[: end + 1], skip_special_tokens=True) for end in range(len(written))]
        return [text[len(before) :] for before, text in zip(["", *texts], texts, strict=False)]


def windows(ids: Sequence[int], length: int, stride: int) -> Iterator[Example]:
    """A text's token ids in windows; the labels are the next token of each, -100 where a window before judged it."""
    judged = 1  # the first token of a text has nothing before it
    for start in range(0, len(ids), stride):
        end = min(start + length, len(ids))
        if end > max(judged, start + 1):
            nexts = [ids[place] if judged <= place else IGNORED for place in range(start + 1, end)]
            yield {"input_ids": list(ids[start:end]), LABELS: [*nexts, IGNORED]}
            judged = end
        if end == len(ids):
            return
