"""Batches of tokenized text, put together anew so that texts of like length share a batch: less of them is padding."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mha.tasks import rows_by_length

IDS, MASK = "input_ids", "attention_mask"


def by_length(batches: Sequence[Any]) -> Sequence[Any]:
    """The examples of the batches in batches of like length, of the same size, each cut to the longest of its batch.

    That is done where every batch is a mapping of tensors whose first dimension is the examples, with token ids and a
    mask that shows padding at the end only, and the other tensors hold one entry for each token or none. Other batches
    are returned as they are.
    """
    if len(batches) < 2 or not all(map(_is_text, batches)) or len({tuple(batch) for batch in batches}) > 1:
        return batches
    if not all(_of_tokens(batches, name) or _of_examples(batches, name) for name in batches[0]):
        return batches
    lengths = torch.cat([batch[MASK].long().sum(dim=1) for batch in batches]).tolist()
    places = [(number, row) for number, batch in enumerate(batches) for row in range(len(batch[MASK]))]
    size = max(len(batch[MASK]) for batch in batches)
    groups = rows_by_length(lengths, batch_size=size)
    fillers = _fillers(batches)
    return [_batch_of([(batches[places[row][0]], places[row][1]) for row in rows], fillers) for rows in groups]


def _is_text(batch: Any) -> bool:
    """Whether the batch is a mapping of tensors with token ids (b, n) and a mask of padding at their ends."""
    if not isinstance(batch, Mapping) or not {IDS, MASK} <= set(batch):
        return False
    ids, mask = batch[IDS], batch[MASK]
    if not all(isinstance(part, Tensor) and part.dim() and len(part) == len(mask) for part in batch.values()):
        return False
    plain = ids.dim() == 2 and ids.shape == mask.shape and len(mask) > 0
    return plain and bool((mask[:, 1:] <= mask[:, :-1]).all()) and bool((mask.sum(dim=1) > 0).all())


def _of_tokens(batches: Sequence[Any], name: str) -> bool:
    """Whether this tensor has an entry for every token, and the same one for all padding."""
    if any(batch[name].shape != batch[IDS].shape for batch in batches):
        return False
    padding = torch.cat([batch[name][batch[MASK] == 0] for batch in batches])
    return bool((padding == padding[:1]).all())


def _of_examples(batches: Sequence[Any], name: str) -> bool:
    """Whether this tensor is about whole examples: of one shape in all batches, which has no dimension of tokens."""
    shapes = {batch[name].shape[1:] for batch in batches}
    return len(shapes) == 1 and not {batch[IDS].shape[1] for batch in batches} & set(*shapes)


def _batch_of(rows: Sequence[tuple[Any, int]], fillers: Mapping[str, Any]) -> Any:
    """A batch, of the type of those that they come from, of these examples: each a batch and a row of it.

    Args:
        fillers: name of each tensor with an entry for every token -> what stands for padding in it.
    """
    longest = max(int(batch[MASK][row].sum()) for batch, row in rows)
    made: Any = copy.copy(rows[0][0])
    for name in rows[0][0]:
        parts = [batch[name][row] for batch, row in rows]
        if name in fillers:
            parts = [F.pad(part[:longest], (0, longest - len(part[:longest])), value=fillers[name]) for part in parts]
        made[name] = torch.stack(parts)
    return made


def _fillers(batches: Sequence[Any]) -> dict[str, Any]:
    """Name of each tensor that has an entry for every token -> what stands for padding in it.

    That is what the first padding of the batches has; without any, 0, or in tensors other than ids, masks and types
    -100, which losses pass over.
    """
    fillers: dict[str, Any] = {}
    for name in (name for name, part in batches[0].items() if part.shape == batches[0][IDS].shape):
        padding = next((batch[name][batch[MASK] == 0] for batch in batches if bool((batch[MASK] == 0).any())), None)
        usual = 0 if name in (IDS, MASK) or name.startswith("token_type") else -100
        fillers[name] = usual if padding is None else padding[0].item()
    return fillers
