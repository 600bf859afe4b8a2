"""Memory that was freed within the process and is kept there for later, given back to the system."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache


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
