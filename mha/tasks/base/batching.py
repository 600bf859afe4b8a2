"""Sequences of like length share a batch, so that little of it is padding."""

from collections.abc import Sequence

import torch
from torch import Tensor


def by_length(
    examples: Sequence[Sequence[int]],
    *,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    padding: int = 0,
) -> list[dict[str, Tensor]]:
    """Batches of sequences of token ids, sorted by length, each padded at its end to the longest of its batch.

    A batch of sequences of mixed lengths is as slow as if all were as long as the longest.

    Args:
        examples: the token ids of each sequence.
        batch_size: sequences in a batch.
        tokens_per_batch: the most tokens in a batch, with its padding; a longer sequence has a batch of its own.
            Exactly one of the two is given.
        padding: the token id to pad with.

    Returns:
        For each batch, the shortest first, `input_ids` (b, n) and `attention_mask` (b, n): 1 where there is no padding.

    Raises:
        ValueError: neither or both sizes are given, one is below 1, or a sequence is empty.

    Example:
        >>> batches = mha.tasks.by_length([[5, 6, 7], [8], [9, 10, 11, 12], [13, 14]], batch_size=2)
        >>> batches[0]["input_ids"].tolist(), batches[0]["attention_mask"].tolist()
        ([[8, 0], [13, 14]], [[1, 0], [1, 1]])
        >>> [batch["input_ids"].shape for batch in batches]
        [torch.Size([2, 2]), torch.Size([2, 4])]
    """
    lengths = [len(example) for example in examples]
    if 0 in lengths:
        raise ValueError(f"examples: number {lengths.index(0)} has no token; leave empty sequences out")
    rows = rows_by_length(lengths, batch_size=batch_size, tokens_per_batch=tokens_per_batch)
    return [padded([examples[row] for row in some], padding) for some in rows]


def rows_by_length(
    lengths: Sequence[int], *, batch_size: int | None = None, tokens_per_batch: int | None = None
) -> list[list[int]]:
    """Which examples share a batch where those of like length do: the rows of each batch, the shortest first.

    For examples that have more than token ids, such as labels: collate the rows of each batch as the task needs them.

    Args:
        lengths: the number of tokens of each example.
        batch_size, tokens_per_batch: as in `by_length`.

    Raises:
        ValueError: neither or both sizes are given, or one is below 1.

    Example:
        >>> mha.tasks.rows_by_length([30, 4, 29, 5, 3], batch_size=2)
        [[4, 1], [3, 2], [0]]
        >>> mha.tasks.rows_by_length([30, 4, 29, 5, 3], tokens_per_batch=30)
        [[4, 1, 3], [2], [0]]
    """
    given = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch}
    sizes = {name: size for name, size in given.items() if size is not None}
    if len(sizes) != 1 or min(sizes.values()) < 1:
        raise ValueError(f"expected batch_size or tokens_per_batch, a whole number from 1 up; got {sizes or 'neither'}")
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        together = len(batches[-1]) + 1 if batches else 0
        fits = together <= batch_size if batch_size else together * lengths[row] <= (tokens_per_batch or 0)
        if batches and fits:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def padded(examples: Sequence[Sequence[int]], padding: int = 0) -> dict[str, Tensor]:
    """One batch of these sequences of token ids: `input_ids` and `attention_mask` (b, n), padded at the end.

    Raises:
        ValueError: there are no sequences, or none has a token.

    Example:
        >>> mha.tasks.padded([[5, 6, 7], [8]], padding=1)["input_ids"].tolist()
        [[5, 6, 7], [8, 1, 1]]
    """
    longest = max(map(len, examples), default=0)
    if not longest:
        raise ValueError(f"expected sequences with at least one token, got {len(examples)} without any")
    ids = [[*example, *[padding] * (longest - len(example))] for example in examples]
    mask = [[1] * len(example) + [0] * (longest - len(example)) for example in examples]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
