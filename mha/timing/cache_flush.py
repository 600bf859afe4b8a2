"""Emptying the caches of a device, so that the next call reads everything from memory."""

from collections.abc import Callable
from pathlib import Path

import torch

CPU = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux says it here, in KiB
UNKNOWN = 64 << 20  # bytes, where nothing says how much it is: what large ones have


def cache_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes of the device's largest cache: of the first core's caches on a CPU, of the L2 on an accelerator.

    Where neither Linux nor torch says it: 64 MiB.

    Raises:
        RuntimeError: torch has no such device here.

    Example:
        >>> mha.timing.cache_bytes("cpu") > 0
        True
    """
    device = torch.device(device)
    if device.type == "cpu":
        sizes = [path.read_text(encoding="ascii").strip() for path in CPU.glob("index*/size")]
        return max((int(size.removesuffix("K")) << 10 for size in sizes), default=UNKNOWN)
    module = torch.get_device_module(device)
    properties = module.get_device_properties(device) if hasattr(module, "get_device_properties") else None
    return int(getattr(properties, "L2_cache_size", UNKNOWN))


def emptying(device: torch.device | str = "cpu") -> Callable[[], object]:
    """A function whose call reads and writes twice `cache_bytes`, so that nothing older is left in the device's caches.

    Raises:
        RuntimeError: torch has no such device here.

    Example:
        >>> empty = mha.timing.emptying("cpu")
        >>> _ = empty()  # the next call on this device reads everything from memory
    """
    buffer = torch.zeros(2 * cache_bytes(device), dtype=torch.uint8, device=device)
    return lambda: buffer.add_(1)  # a plain fill may write past the caches
