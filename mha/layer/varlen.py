"""Attention over packed sequences of unequal lengths by one kernel, where torch has one for them: on CUDA, in half."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
WIDEST, MULTIPLE = 256, 8  # of a head's width, for the FlashAttention kernels that torch ships
AMPERE = (8, 0)


def has_kernel(q: Tensor, queries: Sequence[int], keys: Sequence[int], *, is_causal: bool, dropout: float) -> bool:
    """Whether `attend_varlen` can compute this: FlashAttention on an NVIDIA GPU from Ampere on, in half precision.

    With a causal mask sequences must have as many keys as queries, since the kernel aligns the mask bottom-right, and
    ours is aligned top-left. A sequence without keys has none to attend to.

    Args:
        q: (all queries, h, d), packed.
        queries, keys: how many each sequence has.
    """
    width = q.shape[-1]
    return (
        q.is_cuda
        and q.dtype in HALF
        and dropout == 0
        and width % MULTIPLE == 0
        and width <= WIDEST
        and len(queries) > 1
        and all(keys)
        and (not is_causal or list(queries) == list(keys))
        and _has_flash(q.device)
    )


def attend_varlen(
    q: Tensor, k: Tensor, v: Tensor, queries: Sequence[int], keys: Sequence[int], *, is_causal: bool
) -> Tensor:
    """Attention within each sequence, all of them in one call of `torch.nn.attention.varlen.varlen_attn`.

    Args:
        q: (all queries, h, d), packed.
        k, v: (all keys, h or a divisor of it, d), packed.
        queries, keys: how many each sequence has, in the order in which they are packed; `has_kernel` says which.

    Returns:
        (all queries, h·d).
    """
    from torch.nn.attention.varlen import varlen_attn

    shared = q.shape[1] // k.shape[1]
    if shared > 1:  # torch 2.11 has no grouped heads here
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    starts_q = _starts(queries, q.device)
    starts_k = starts_q if queries == keys else _starts(keys, q.device)
    window = (-1, 0) if is_causal else (-1, -1)
    context = varlen_attn(q, k, v, starts_q, starts_k, max(queries), max(keys), window_size=window)
    assert isinstance(context, Tensor)
    return context.flatten(1)


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Where each packed sequence begins, and where the last one ends: (sequences + 1,), 32 bits."""
    ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return ends.to(device, non_blocking=True)


@cache
def _has_flash(device: torch.device) -> bool:
    """Whether torch's FlashAttention for sequences of any lengths runs on this CUDA device."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= AMPERE
