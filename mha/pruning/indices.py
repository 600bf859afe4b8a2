"""Which entries of a tensor stay, dimension by dimension."""

from collections.abc import Mapping

from torch import Tensor

from mha.values.layout import take

Indices = Mapping[int, Tensor]  # dimension -> ascending indices of the entries that stay; one not named stays whole


def taken(tensor: Tensor, indices: Indices) -> Tensor:
    """A detached copy of the tensor with only the entries that stay; the tensor itself where `indices` is empty.

    Args:
        indices: dimension -> ascending indices of the entries that stay along it; other dimensions stay whole.
    """
    for dim, index in indices.items():
        tensor = take(tensor, dim, index)
    return tensor
