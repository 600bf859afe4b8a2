"""Kinds whose examples are token ids: made by the model's tokenizer, no longer than the model takes, padded."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from mha.tasks.base.batching import padded
from mha.tasks.files.settings import Settings
from mha.tasks.files.tables import Row
from mha.tasks.kinds.base.file_task import LABELS, Batch, FileTask
from mha.values.errors import TaskError

IGNORED = -100  # the label of what is not judged, as in torch and transformers
INPUTS = ("input_ids", "token_type_ids")  # the attention mask follows from the padding
ENDLESS = 10**9  # tokenizers that know no limit say a number above
AFTER_PADDING = ("roberta", "camembert", "xmod", "mpnet", "longformer")
FIRST_ID = 5  # lower token ids often are special ones

Example = dict[str, Any]  # "input_ids" and the like: one number for each token; "labels": the same, or one number


class TextTask(FileTask):
    """A task on texts.

    Attributes:
        known_by: what of a row is text by which it is known, so that no two parts have it.
        longest: the most tokens of an example; None where nothing limits them.
    """

    known_by: ClassVar[tuple[str, ...]] = ("text",)

    def check(self) -> None:
        check_tokenizer(self.settings, self.processor)
        self.longest = longest(self.settings, self.config, self.processor)

    def content(self, row: Row) -> str:
        return " ".join(text_of(row[word]) for word in self.known_by if word in row)

    def tokenized(self, texts: Sequence[Any], pairs: Sequence[Any] | None = None, **options: Any) -> Any:
        """What the tokenizer makes of texts, or pairs of them; cut off where the file says so."""
        others = list(pairs) if pairs is not None else None
        return self.processor(list(texts), others, verbose=False, **self.truncation(), **options)

    def truncation(self) -> dict[str, Any]:
        """What the tokenizer is told of long texts."""
        if self.settings.truncate and self.longest is not None:
            return {"truncation": True, "max_length": self.longest}
        return {"truncation": False}

    def examples_of(self, encoding: Any, part: str) -> list[Example]:
        """The model's inputs by name, for each of the texts that were tokenized.

        Raises:
            TaskError: some have more tokens than the model takes or `max_length` says, or none.
        """
        names = [name for name in INPUTS if name in encoding]
        examples = [
            dict(zip(names, map(list, values), strict=True)) for values in zip(*map(encoding.get, names), strict=True)
        ]
        self.check_lengths(part, [len(example["input_ids"]) for example in examples])
        return examples

    def check_lengths(self, part: str, lengths: Sequence[int]) -> None:
        """Refuse rows whose texts are too long, or have no token.

        Raises:
            TaskError: how many there are, and the longest.
        """
        rows = self.rows[part]
        long = [length for length in lengths if self.longest is not None and length > self.longest]
        if long:
            raise TaskError(
                f"{self.settings.path}: {len(long)} of the {len(lengths)} texts of {part} have more than "
                f"{self.longest} tokens, the longest {max(long)} ({rows[lengths.index(max(long))].where}): write "
                "truncate = true to cut them off, or leave them out"
            )
        if 0 in lengths:
            raise TaskError(f"{self.settings.path}: {rows[lengths.index(0)].where} has no tokens; leave it out")

    def length(self, example: Any) -> int:
        return len(example["input_ids"])

    def collate(self, examples: Sequence[Any]) -> Batch:
        """`input_ids`, `attention_mask` and what else the model reads (b, n), `labels` (b,) or (b, n)."""
        batch = padded([example["input_ids"] for example in examples], padding_of(self.processor))
        for name in (name for name in examples[0] if name != "input_ids"):
            values = [example[name] for example in examples]
            batch[name] = filled(values, IGNORED if name == LABELS else 0)
        return batch

    def example(self, batch_size: int, seq_len: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Random token ids (b, n) and a mask without padding, by name; by default as long as half of the texts get."""
        ids = random_ids(self.config, batch_size, seq_len or self.usual_length("evaluation"))
        return (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def usual_length(self, part: str) -> int:
        """The median of the lengths of a part's examples, in tokens."""
        lengths = sorted(map(self.length, self.examples[part]))
        return lengths[len(lengths) // 2]


def check_tokenizer(settings: Settings, processor: Any) -> None:
    """Raise a TaskError where there is no tokenizer."""
    if not callable(processor) or not hasattr(processor, "model_max_length"):
        came = "none" if processor is None else type(processor).__name__
        raise TaskError(
            f"{settings.path}: {settings.kind} needs the model's tokenizer, got {came}; save one into the model's "
            "directory, by tokenizer.save_pretrained, or give it to mha.tasks.read_task"
        )


def longest(settings: Settings, config: Any, tokenizer: Any) -> int | None:
    """The most tokens that an example may have: what the file says, or what the model and its tokenizer take.

    Raises:
        TaskError: the file says more than the model takes.
    """
    limits = [limit for limit in (positions_of(config), tokenizer.model_max_length) if limit and limit < ENDLESS]
    takes = min(limits, default=None)
    if settings.max_length and takes and settings.max_length > takes:
        raise TaskError(
            f"{settings.path}: max_length is {settings.max_length}, and the model takes {takes} tokens; lower it"
        )
    return settings.max_length or takes


def positions_of(config: Any) -> int | None:
    """How many tokens a model has positions for, by its configuration; None where it does not say.

    RoBERTa and its kin begin to count positions after that of the padding token.
    """
    positions: int | None = getattr(config, "max_position_embeddings", None)
    after_padding = any(name in getattr(config, "model_type", "") for name in AFTER_PADDING)
    padding = getattr(config, "pad_token_id", None) or 0
    return positions - padding - 1 if positions and after_padding else positions


def padding_of(tokenizer: Any) -> int:
    """The token id to pad with; 0 where the tokenizer has none, which the attention mask hides."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


def filled(values: Sequence[Any], filler: int) -> torch.Tensor:
    """One number each (b,), or as many as each has, filled up to the longest (b, n)."""
    if not isinstance(values[0], list):
        return torch.tensor(values)
    most = max(map(len, values))
    return torch.tensor([[*row, *[filler] * (most - len(row))] for row in values])


def random_ids(config: Any, batch_size: int, length: int) -> torch.Tensor:
    """Random token ids (b, n), the same every time."""
    vocabulary = getattr(config, "vocab_size", None) or config.get_text_config().vocab_size
    first = min(FIRST_ID, vocabulary - 1)
    return torch.randint(first, vocabulary, (batch_size, length), generator=torch.Generator().manual_seed(0))


def text_of(value: Any) -> str:
    """A text as it is, or a list of words with spaces between them."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
