"""Sequences of unequal lengths, laid end to end so that what is padding is not computed."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Ragged:
    """Which positions of a padded batch are real: of every example the first few.

    Args:
        lengths: (b,), how many; more than there are counts as all. Reading them waits for the device.
        longest: positions of each example, real or not.
        device: where what is packed lies.
    """

    def __init__(self, lengths: Tensor, longest: int, device: torch.device) -> None:
        lengths = lengths.to(device).clamp(0, longest)
        self.lengths: list[int] = lengths.tolist()
        self._inside = torch.arange(longest, device=device) < lengths[:, None]
        self._rows = self._inside.flatten().nonzero().squeeze(1)

    def pack(self, padded: Tensor) -> Tensor:
        """(b, longest, e) -> (sum of the lengths, e)."""
        return padded.flatten(0, 1).index_select(0, self._rows)

    def unpack(self, packed: Tensor) -> Tensor:
        """(sum of the lengths, e) -> (b, longest, e), zero where nothing is real."""
        padded = packed.new_zeros(self._inside.numel(), packed.shape[-1])
        return padded.index_copy(0, self._rows, packed).unflatten(0, self._inside.shape)

    def clear(self, padded: Tensor, dim: int = 1) -> Tensor:
        """The same with zeros where nothing is real; `dim` counts the positions, examples come first."""
        shape = [
            len(self.lengths) if axis == 0 else padded.shape[axis] if axis == dim else 1 for axis in range(padded.dim())
        ]
        return padded.masked_fill(~self._inside.reshape(shape), 0.0)


def attend_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_lens: Sequence[int],
    key_lens: Sequence[int],
    *,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Attention within each example, one fused kernel per example: none is masked, and none sees padding.

    Args:
        q: (sum of `query_lens`, h, d).
        k, v: (sum of `key_lens`, h or a divisor of it, d).
        is_causal: query `i` sees keys `0..i` of its example, aligned top-left.

    Returns:
        (sum of `query_lens`, h·d). A query without any key has zero context.
    """
    parts = zip(q.split(list(query_lens)), k.split(list(key_lens)), v.split(list(key_lens)), strict=True)
    contexts = [_attend(*part, is_causal, dropout) for part in parts if len(part[0])]
    return torch.cat(contexts).flatten(1) if contexts else q.flatten(1)


def _attend(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, dropout: float) -> Tensor:
    """(q, h, d) and (k, h, d) -> (q, h, d)."""
    if not len(k):
        return torch.zeros_like(q)
    q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in (q, k, v))
    context = F.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return context.squeeze(0).transpose(0, 1)
