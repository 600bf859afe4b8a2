"""The device-aware timer."""

import gc
import time
from collections.abc import Callable

import torch


def synchronize(device: torch.device | str) -> None:
    """Wait until an accelerator has finished what was asked of it; nothing to wait for on the CPU.

    Raises:
        RuntimeError: torch has no such device here.
    """
    device = torch.device(device)
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


def time_call(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds that one call takes, from an idle device until the device has finished.

    Garbage is not collected meanwhile: a collection would land in whichever sample it happens to meet.

    Raises:
        RuntimeError: torch has no such device here.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        return time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()
