"""Which tokens of batches count that are not read with gradients, by what was seen of those that are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mha.runtime.nests import Path, leaves

LEAST = 4  # batches that are read at least
FEW = 0.05  # share of tokens that may count and do not, or the other way round

Read = dict[int, dict[str, list[Tensor]]]  # batch -> layer -> for each of its runs how much every token counts, (...)


def spread(count: int) -> Iterator[int]:
    """The numbers below `count`, each once, so that those that come first are spread evenly over all of them."""
    seen: set[int] = set()
    step = count
    while len(seen) < count:
        for number in range(0, count, max(step, 1)):
            if number not in seen:
                seen.add(number)
                yield number
        step //= 2


def tokens_in(read: Read) -> int:
    """How many tokens the layers ran on, in the batches that were read; 0 while these are too few to tell anything."""
    if len(read) < LEAST:
        return 0
    return sum(
        max((sum(run.numel() for run in runs) for runs in of_batch.values()), default=0) for of_batch in read.values()
    )


def further_weights(batches: Sequence[Any], read: Read) -> Read | None:
    """How much tokens count in the batches that were not read: nothing if they are padding, else all alike.

    Padding is what a tensor in the batch says is 0 or False, if it does so of the tokens that did not count where they
    were read. None if that can't be told, or a layer does not run once in every batch: then all must be read.
    """
    if not all(len(runs) == 1 for of_batch in read.values() for runs in of_batch.values()):
        return None
    counting = {number: {name: runs[0] > 0 for name, runs in of_batch.items()} for number, of_batch in read.items()}
    every = [counts for of_batch in counting.values() for counts in of_batch.values()]
    others = [number for number in range(len(batches)) if number not in read]
    means = _means(read)
    if sum(int((~counts).sum()) for counts in every) <= FEW * sum(counts.numel() for counts in every):
        return {number: {name: [mean] for name, mean in means.items()} for number in others}
    tensors = [_tensors_in(batch) for batch in batches]
    for path in tensors[next(iter(read))]:
        if not all(path in of_batch for of_batch in tensors):
            continue
        masks = [of_batch[path] for of_batch in tensors]
        if all(
            _explains(masks[number], counts) for number, of_batch in counting.items() for counts in of_batch.values()
        ):
            return {
                number: {name: [_spread_over(masks[number], mean)] for name, mean in means.items()} for number in others
            }
    return None


def _tensors_in(batch: Any) -> dict[Path, Tensor]:
    """Every tensor in a batch, of whatever dtype, by where it is."""
    return {path: leaf for path, leaf in leaves(batch, (Sequence, Mapping)) if isinstance(leaf, Tensor)}


def _means(read: Read) -> dict[str, Tensor]:
    """Layer -> how much one of its tokens that count counts on average, ()."""
    names = next(iter(read.values()))
    weights = {name: torch.cat([of_batch[name][0].flatten() for of_batch in read.values()]) for name in names}
    return {name: all_of.sum() / (all_of > 0).sum().clamp_min(1) for name, all_of in weights.items()}


def _explains(mask: Tensor, counts: Tensor) -> bool:
    """Whether the mask is not 0 at about the tokens that count, in their order."""
    if mask.numel() != counts.numel():
        return False
    return int((mask.flatten().bool().to(counts.device) != counts.flatten()).sum()) <= FEW * counts.numel()


def _spread_over(mask: Tensor, mean: Tensor) -> Tensor:
    """The weight at each token of a mask, flat: `mean` where the mask is not 0."""
    return mask.flatten().bool().to(mean) * mean
