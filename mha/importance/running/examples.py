"""How many examples a batch has, and how a batch is cut in half.

A batch may be anything. What is looked at are the tensors in it (also in tuples, lists and mappings), and the context
that the attention layers compute from it.
"""

from collections import UserDict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor

from mha.runtime.nests import is_named_tuple, refilled, tensors


def count_examples(batch: Any, contexts: Collection[int]) -> int | None:
    """The number of examples in the batch, or None where it can't be told.

    It is the first dimension of the layers' contexts, if that is the same for all, and some tensor of the batch has it
    too or the batch has no tensors. Where an example is several rows of a context (windows, patches, beams), it is the
    only one of the tensors' first dimensions that divides those of all contexts. Else it is what all contexts have.

    Args:
        contexts: the sizes that the first dimension of the layers' contexts had.
    """
    leading = {len(tensor) for tensor in _tensors(batch)}
    sizes = set(contexts)
    if len(sizes) == 1 and (not leading or sizes <= leading):
        return next(iter(sizes))
    divided = {size for size in leading if size and all(context % size == 0 for context in sizes)}
    if len(divided) == 1 and sizes:  # windows, patches or beams: several rows of context for an example
        return divided.pop()
    return next(iter(sizes)) if len(sizes) == 1 else None


def first_half(batch: Any, examples: int) -> Any | None:
    """A batch of the first half of the batch's examples; None where it can't be cut.

    It can't with fewer than two examples, without tensors, where a tensor's first dimension is not the examples, or
    where there is more in it than tensors, strings, numbers and None in plain containers.

    Args:
        examples: how many examples the batch has.
    """
    sized = list(_tensors(batch))
    cut = examples >= 2 and sized and all(len(tensor) == examples for tensor in sized)
    return _first(batch, examples // 2, examples) if cut and _is_plain(batch) else None


def _tensors(batch: Any) -> Iterator[Tensor]:
    """Every tensor of the batch that has a first dimension."""
    return (tensor for tensor in tensors(batch, containers=(tuple, list, Mapping)) if tensor.dim())


def _is_plain(batch: Any) -> bool:
    """Whether the batch holds only tensors, strings, numbers and None, in containers that can be made anew."""
    if isinstance(batch, UserDict) or type(batch) is dict:
        return all(map(_is_plain, batch.values()))
    if type(batch) in (tuple, list) or is_named_tuple(batch):
        return all(map(_is_plain, batch))
    return isinstance(batch, Tensor | str | int | float | None)


def _first(batch: Any, count: int, examples: int) -> Any:
    """The first `count` examples of a plain batch that has `examples` of them."""
    if isinstance(batch, Tensor):
        return batch[:count] if batch.dim() else batch
    if isinstance(batch, Mapping):
        return refilled(batch, [_first(item, count, examples) for item in batch.values()])
    if not isinstance(batch, tuple | list):
        return batch
    if len(batch) == examples and not any(isinstance(item, Tensor) for item in batch):
        return batch[:count]  # one entry per example: names, say
    return refilled(batch, [_first(item, count, examples) for item in batch])
