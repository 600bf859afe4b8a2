"""Batches that go to a worker of a cluster together."""

from collections.abc import Iterable, Iterator
from typing import Any


class Shard(list[Any]):
    """A list of batches that stay together: `mha.score(..., cluster=client)` sends them to one worker, as one task.

    It says so, since a plain list may well be a single batch, such as the inputs and labels that a `DataLoader` gives.
    Without a cluster its batches are read one after the other.

    Example:
        >>> batches = [torch.randn(16, 5, 8) for _ in range(6)]
        >>> shards = [mha.importance.Shard(batches[:4]), mha.importance.Shard(batches[4:])]
        >>> model = mha.MultiHeadAttention.square(8, num_heads=4)
        >>> loss = lambda model, x: (model(x, x, x) - x).square().mean()
        >>> mha.score(model, shards, loss, "fisher").examples
        96
    """


def contents(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, one by one, those of a `Shard` too."""
    for item in batches:
        yield from item if isinstance(item, Shard) else (item,)
