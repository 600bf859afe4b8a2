"""Examples out of batches, and batches out of examples: for calibration sets of other sizes and other draws.

A batch is a tuple of tensors, or a mapping of names to tensors; examples are their first dimension.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def count(batches: Sequence[Any]) -> int:
    """How many examples the batches have together."""
    return sum(map(size_of, batches))


def size_of(batch: Any) -> int:
    """How many examples a batch has."""
    return len(_tensors(batch)[0])


def pick(batches: Sequence[Any], rows: Sequence[int], size: int) -> list[Any]:
    """The examples with these numbers, in the order of `rows`, as batches of `size` examples, the last maybe smaller.

    Args:
        rows: numbers of examples, counted from 0 through all batches.
        batches: those to pick from. Sequences padded to different lengths are padded to the longest with zeros.
    """
    ends = torch.tensor([size_of(batch) for batch in batches]).cumsum(0)
    numbers = [int(torch.searchsorted(ends, row, right=True)) for row in rows]
    starts = [0, *ends.tolist()]
    examples = [_example(batches[number], row - starts[number]) for number, row in zip(numbers, rows, strict=True)]
    return [_merged(examples[start : start + size]) for start in range(0, len(examples), size)]


def repeat(batch: Any, times: int) -> Any:
    """The batch's examples `times` times over, as one batch: all of them in order, then all again, and so on."""
    return _like(batch, [tensor.repeat(times, *(1,) * (tensor.dim() - 1)) for tensor in _tensors(batch)])


def _example(batch: Any, row: int) -> Any:
    """The example at place `row` of a batch: of the batch's type, with tensors that lack the batch's dimension."""
    return _like(batch, [tensor[row] for tensor in _tensors(batch)])


def _merged(examples: Sequence[Any]) -> Any:
    """These examples as one batch, in which each tensor is padded with zeros at the end of its axes to the largest."""
    return _like(examples[0], [_stacked(parts) for parts in zip(*map(_tensors, examples), strict=True)])


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors padded to the largest size of each axis, and stacked."""
    sizes = [max(tensor.shape[axis] for tensor in tensors) for axis in range(tensors[0].dim())]
    return torch.stack([_padded(tensor, sizes) for tensor in tensors])


def _padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """The tensor, padded with zeros at the end of each axis until its shape is `sizes`."""
    missing = [(0, size - have) for size, have in zip(sizes, tensor.shape, strict=True)]
    return F.pad(tensor, [number for pair in reversed(missing) for number in pair])


def _tensors(batch: Any) -> tuple[Tensor, ...]:
    """The tensors of a batch."""
    return tuple(batch.values()) if isinstance(batch, Mapping) else tuple(batch)


def _like(batch: Any, parts: Sequence[Tensor]) -> Any:
    """These tensors as a batch of the same type: a mapping with its names, or a tuple, which may be a named one."""
    if isinstance(batch, Mapping):
        return dict(zip(batch, parts, strict=True))
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
