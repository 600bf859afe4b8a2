"""What a device can do at most: the rate of matrix products, and of copies from memory and within its caches."""

from collections.abc import Callable

import torch

from mha.timing import cache_bytes

SIDES = {"cpu": 2048}  # of square matrices, large enough for the highest rate
SIDE = 8192  # on an accelerator
OUTSIDE, INSIDE = 8, 1 / 8  # times the last cache: what a copy reads and writes


def matmul(device: str, dtype: str) -> tuple[Callable[[], object], float]:
    """A call that multiplies two large square matrices, as a linear layer does, and the FLOPs of one such call."""
    side = SIDES.get(torch.device(device).type, SIDE)
    x, weight = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    return lambda: torch.nn.functional.linear(x, weight), 2.0 * side**3


def copy(device: str, dtype: str, share: float) -> tuple[Callable[[], object], float]:
    """A call that copies a buffer to another, both together `share` times the last cache, and the bytes it moves."""
    kind = getattr(torch, dtype)
    count = int(share * cache_bytes(device) / 2 / kind.itemsize)
    source, target = (torch.ones(count, device=device, dtype=kind) for _ in range(2))
    return lambda: target.copy_(source), 2.0 * count * kind.itemsize


def ceilings(device: str, dtype: str) -> dict[str, tuple[Callable[[], object], float]]:
    """Name of a ceiling -> a call to time, and its FLOPs ("matmul") or the bytes that it reads and writes (copies)."""
    return {
        "matmul": matmul(device, dtype),
        "copy": copy(device, dtype, OUTSIDE),
        "cached copy": copy(device, dtype, INSIDE),
    }
