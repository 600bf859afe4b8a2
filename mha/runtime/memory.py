"""The memory of this process: how much it is, and what was freed within it given back to the system."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

STATUS = Path("/proc/self/status")


def resident_bytes() -> int | None:
    """How much memory the process has at present; None where the system does not say so in /proc."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")), None)


def give_back() -> None:
    """Give memory that is free within the process back to the system, where the C library can (glibc's malloc_trim).

    glibc keeps what a thread has freed for the next block of that thread. Of many threads that run one after the other
    each keeps as much as a single one needs.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The function of the C library; None where it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
