"""Sequences of unequal lengths, laid end to end so that nothing is computed for padding."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mha.layer.varlen import attend_varlen, has_kernel


class Group(NamedTuple):
    """Examples, packed next to one another, that have equally many real queries and equally many real keys.

    Attributes:
        examples: how many examples they are.
        queries, keys: how many real queries, and real keys, each of them has.
    """

    examples: int
    queries: int
    keys: int


class Ragged:
    """Where the real tokens of a padded batch are: the first few of every example.

    Args:
        lengths: how many tokens of each example are real.
        order: the indices of the examples, in the order in which they are packed.
        longest: how many tokens each example has, real or padding.
        device: where packed tokens lie.
    """

    def __init__(self, lengths: Sequence[int], order: Sequence[int], longest: int, device: torch.device) -> None:
        starts, counts = torch.tensor(order) * longest, torch.tensor([lengths[example] for example in order])
        before = counts.cumsum(0) - counts
        self._rows = ((starts - before).repeat_interleave(counts) + torch.arange(sum(lengths))).to(device)
        self._shape = len(lengths), longest

    def pack(self, padded: Tensor) -> Tensor:
        """The real tokens end to end: (b, longest, e) -> (sum of the lengths, e)."""
        return padded.flatten(0, 1).index_select(0, self._rows)

    def unpack(self, packed: Tensor) -> Tensor:
        """The padded batch again: (sum of the lengths, e) -> (b, longest, e), zero in the padding."""
        examples, longest = self._shape
        padded = packed.new_zeros(examples * longest, packed.shape[-1])
        return padded.index_copy_(0, self._rows, packed).unflatten(0, self._shape)


class Packing:
    """How a batch's real queries, and the keys they may see, are packed: examples of equal lengths together.

    Attributes:
        groups: the examples of equal lengths, in the order in which they are packed; not key/value groups.
        queries, keys: where the real queries, and the real keys, are in the batch; one object where both are alike.

    Args:
        query_lens, key_lens: (b,), how many of each example's queries and keys are real; a number that is too large
            means all. Reading them waits for the device.
        queries, keys: how many of them each example has, real or padding.
    """

    def __init__(self, query_lens: Tensor, key_lens: Tensor, queries: int, keys: int, device: torch.device) -> None:
        lengths = query_lens.clamp(0, queries).tolist(), key_lens.clamp(0, keys).tolist()
        pairs = list(zip(*lengths, strict=True))
        order = sorted(range(len(pairs)), key=pairs.__getitem__)
        self.groups = [Group(len(list(equal)), *pair) for pair, equal in groupby(pairs[example] for example in order)]
        self.queries = Ragged(lengths[0], order, queries, device)
        self.keys = (
            self.queries if lengths[0] == lengths[1] and queries == keys else Ragged(lengths[1], order, keys, device)
        )


def attend_packed(
    q: Tensor, k: Tensor, v: Tensor, groups: Sequence[Group], *, is_causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """Attention within each example, by fused kernels, so that nothing is masked.

    One kernel computes all examples of equal lengths, or all examples where torch has a kernel for any lengths.

    Args:
        q: (all queries, h, d), packed.
        k, v: (all keys, h or a divisor of it, d), packed.
        groups: the examples of equal lengths, in the order in which they are packed; not key/value groups.
        dropout: the probability of dropping an attention weight.
        is_causal: query `i` sees keys `0..i` of its example, aligned top-left.

    Returns:
        (all queries, h·d). A query without any key has zero context.
    """
    queries, keys = ([length for group in groups for length in [group[axis]] * group.examples] for axis in (1, 2))
    if has_kernel(q, queries, keys, is_causal=is_causal, dropout=dropout):
        return attend_varlen(q, k, v, queries, keys, is_causal=is_causal)
    queries, keys = ([group.examples * group[axis] for group in groups] for axis in (1, 2))
    by_group = zip(groups, q.split(queries), k.split(keys), v.split(keys), strict=True)
    contexts = [_attend(*tensors, is_causal, dropout) for tensors in by_group if tensors[0].queries]
    return torch.cat(contexts) if contexts else q.flatten(1)


def _attend(group: Group, q: Tensor, k: Tensor, v: Tensor, is_causal: bool, dropout: float) -> Tensor:
    """Attention in one group's examples: q (examples · queries, h, d), k and v (examples · keys, h or a divisor, d).

    Returns:
        (examples · queries, h·d), zero where the group has no keys.
    """
    if not group.keys:
        return torch.zeros_like(q).flatten(1)
    q, k, v = (tokens.unflatten(0, (group.examples, -1)).transpose(1, 2) for tokens in (q, k, v))
    context = F.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return context.transpose(1, 2).flatten(0, 1).flatten(1)


def clear(padded: Tensor, lengths: Tensor, dim: int = 1) -> Tensor:
    """The padded batch with zeros beyond each example's length.

    Args:
        padded: (b, …), with the tokens along dimension `dim`, which is not the first.
        lengths: (b,), how many tokens of each example are kept.
    """
    inside = torch.arange(padded.shape[dim], device=padded.device) < lengths.to(padded.device)[:, None]
    shape = [len(inside), *(padded.shape[axis] if axis == dim else 1 for axis in range(1, padded.dim()))]
    return padded.masked_fill(~inside.reshape(shape), 0.0)
