"""The loss and the value of every example under every subset of heads."""

from collections.abc import Sequence

import torch
from torch import Tensor

import mha
from bench.importance.data import count, repeat
from bench.importance.subjects import Subject
from mha.pruning.masking import gated

ROWS = 4000  # examples in one pass, all masks together


def masks(heads: int) -> Tensor:
    """All subsets of heads (2^h, h): row m keeps the head at position i if bit i of m is set."""
    return (torch.arange(2**heads)[:, None] >> torch.arange(heads)) & 1


def evaluate(subject: Subject, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The held-out loss of each mask (m,), in float64, and the value of each example under each mask (m, n).

    Several masks go through the model in one batch: an example stands there once for each, with gates of its own.

    Args:
        kept: (m, h), 1 for a head that stays, in the order of the subject's heads.
    """
    total = torch.zeros(len(kept), dtype=torch.float64)
    values = []
    with torch.inference_mode():
        for batch in subject.held_out:
            losses, batch_values = _one_batch(subject, batch, kept)
            total += losses.double().sum(dim=1)
            values.append(batch_values)
    return total / count(subject.held_out), torch.cat(values, dim=1)


def _one_batch(subject: Subject, batch: Sequence[Tensor], kept: Tensor) -> tuple[Tensor, Tensor]:
    """The losses and values of a batch's b examples under each of the m masks in `kept` (m, h), both (m, b)."""
    examples = len(batch[0])
    together = max(1, ROWS // examples)
    layers = mha.find_attention(subject.model)
    parts = []
    for some in kept.split(together):
        gates = _gates(subject, some.repeat_interleave(examples, dim=0).float())
        with gated(layers, gates):
            parts.append(subject.per_example(subject.model, repeat(batch, len(some))))
    losses, values = (torch.cat(part).reshape(len(kept), examples) for part in zip(*parts, strict=True))
    return losses, values


def _gates(subject: Subject, kept: Tensor) -> dict[str, Tensor]:
    """Layer name -> gates (rows, its heads): the columns of `kept` (rows, all heads) that are those of its heads."""
    columns: dict[str, list[int]] = {}
    for position, (name, _) in enumerate(subject.heads):
        columns.setdefault(name, []).append(position)
    return {name: kept[:, where] for name, where in columns.items()}
