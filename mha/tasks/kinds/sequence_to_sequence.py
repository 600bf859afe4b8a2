"""Sequence to sequence: a text is written from another, as in translation and summaries."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mha.tasks.kinds.base.file_task import LABELS, Batch, inputs_of, on_device
from mha.tasks.kinds.base.metrics import LOSS, Metric, mean, ratio
from mha.tasks.kinds.base.registry import register_kind
from mha.tasks.kinds.base.texts import Example, random_ids
from mha.tasks.kinds.base.token_level import TokenLevel
from mha.values.errors import TaskError
from mha.values.optional_packages import needed

Values = NDArray[np.float64]


def _sacrebleu(name: str) -> Any:
    """The metric "BLEU" or "CHRF" of sacrebleu with its usual settings."""
    return getattr(needed("sacrebleu.metrics", "hf", "to judge by BLEU or chrF"), name)(
        **({"force": True} if name == "BLEU" else {})
    )


def bleu(values: Values) -> float:
    """Corpus BLEU, from 0 to 100, of statistics (n, 10)."""
    return float(_sacrebleu("BLEU")._compute_score_from_stats(values.sum(axis=0).tolist()).score)


def chrf(values: Values) -> float:
    """Corpus chrF, from 0 to 100, of statistics (n, 18)."""
    return float(_sacrebleu("CHRF")._compute_score_from_stats(values.sum(axis=0).tolist()).score)


def of_sacrebleu(name: str, written: Sequence[str], wanted: Sequence[str]) -> Values:
    """The statistics of each text by which sacrebleu resamples, too: (n, 10) of BLEU, (n, 18) of chrF."""
    return np.array(_sacrebleu(name)._extract_corpus_statistics(list(written), [list(wanted)]), dtype=np.float64)


def equal(written: Sequence[str], wanted: Sequence[str]) -> Values:
    """1 where both texts are the same, but for white space around them, else 0 (n,)."""
    return np.array([float(ours.strip() == true.strip()) for ours, true in zip(written, wanted, strict=True)])


def word_errors(written: Sequence[str], wanted: Sequence[str]) -> Values:
    """Of each text the number of words substituted, deleted and inserted, and of words wanted (n, 2), by jiwer."""
    jiwer = needed("jiwer", "hf", "to judge by WER")
    rows = []
    for ours, true in zip(written, wanted, strict=True):
        found = jiwer.process_words(true, ours)
        errors = found.substitutions + found.deletions
        rows.append((errors + found.insertions, errors + found.hits))
    return np.array(rows, dtype=np.float64)


WRITTEN: dict[str, Callable[[Sequence[str], Sequence[str]], Values]] = {
    "exact match": equal,
    "chrF": lambda written, wanted: of_sacrebleu("CHRF", written, wanted),
    "BLEU": lambda written, wanted: of_sacrebleu("BLEU", written, wanted),
    "WER": word_errors,
}


@register_kind("sequence-to-sequence")
class SequenceToSequence(TokenLevel):
    """Write a text from another. Judged is what the model writes; scored is how likely it finds the true text."""

    about = "a text is written from another, as in translation and summaries"
    columns: ClassVar = {
        "text": ("text", "source", "input", "article", "document", "question"),
        "target": ("target", "summary", "output", "translation", "answer"),
    }
    labels = frozenset({"target"})
    metrics: ClassVar = {
        "exact match": Metric(mean),
        "chrF": Metric(chrf),
        "BLEU": Metric(bleu),
        "WER": Metric(ratio, higher_is_better=False),
        "loss": LOSS,
    }
    kind_options: ClassVar = {"prefix": "", "max_new_tokens": 64, "beams": 1}
    architectures = ("ForConditionalGeneration", "ForSeq2SeqLM")

    def check(self) -> None:
        super().check()
        if not getattr(self.config, "is_encoder_decoder", False):
            raise TaskError(
                f"{self.settings.path}: {self.settings.kind} needs a model with an encoder and a decoder, which "
                f'{type(self._given).__name__} is not; of a decoder alone: kind = "causal-language-modelling"'
            )
        for name in ("max_new_tokens", "beams"):
            if self.options[name] < 1:
                raise TaskError(f"{self.settings.path}: [options] {name} = {self.options[name]}: expected 1 or more")

    def encoded(self, part: str) -> list[Example]:
        rows: list[Any] = self.rows[part]
        examples = self.examples_of(self.tokenized([self.options["prefix"] + str(row["text"]) for row in rows]), part)
        if "target" not in rows[0]:
            return examples
        targets = self.processor(text_target=[str(row["target"]) for row in rows], verbose=False, **self.truncation())[
            "input_ids"
        ]
        self.check_lengths(part, [len(ids) for ids in targets])
        return [{**example, LABELS: list(ids)} for example, ids in zip(examples, targets, strict=True)]

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits (b, n, c) of each token of the targets, given those before it; without targets, of the first."""
        moved = on_device(model, batch)
        if LABELS not in moved:
            start = torch.full((len(moved["input_ids"]), 1), self._start(), device=moved["input_ids"].device)
            moved = {**moved, "decoder_input_ids": start}
        logits: Tensor = model(**moved, use_cache=False).logits
        return logits

    def judged(self, batch: Batch) -> Tensor:
        if LABELS in batch:
            return super().judged(batch)
        return torch.ones(len(batch["input_ids"]), 1, dtype=torch.bool)

    def evaluate(self, model: nn.Module) -> np.ndarray:
        """For each example what the metric is made of: of what the model writes, or for "loss" of the true text."""
        if self.metric == "loss":
            return super().evaluate(model)
        return WRITTEN[self.metric](self.written(model), [str(row["target"]) for row in self.rows["evaluation"]])

    @torch.inference_mode()
    def written(self, model: nn.Module) -> list[str]:
        """What the model writes of each evaluation example, greedily or by beams."""
        generating: Any = model
        texts: dict[int, str] = {}
        for places, batch in self.batches("evaluation"):
            ids = generating.generate(
                **inputs_of(on_device(model, batch)),
                max_new_tokens=self.options["max_new_tokens"],
                num_beams=self.options["beams"],
                do_sample=False,
            )
            texts |= dict(zip(places, self.processor.batch_decode(ids, skip_special_tokens=True), strict=True))
        return [texts[place] for place in range(len(texts))]

    def example(self, batch_size: int, seq_len: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Random token ids (b, n) to read and (b, m) to write, to be read without a cache."""
        inputs = super().example(batch_size, seq_len)[1]
        written = max(len(example[LABELS]) for example in self.examples["evaluation"])
        return (), {**inputs, "decoder_input_ids": random_ids(self.config, batch_size, written), "use_cache": False}

    def _start(self) -> int:
        """The token id by which the decoder begins."""
        start = getattr(self.config, "decoder_start_token_id", None)
        return start if start is not None else self.config.pad_token_id or 0
