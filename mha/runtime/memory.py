"""The memory of this process: how much it is, and what was freed within it given back to the system."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

STATUS = Path("/proc/self/status")
SLACK = 256 << 20  # bytes


def resident_bytes() -> int | None:
    """How much memory the process has at present; None where the system does not say so in /proc."""
    return status_bytes("VmRSS", STATUS)


def status_bytes(field: str, status: Path) -> int | None:
    """The bytes in a field of a process's /proc status, such as VmHWM; None if there is no such field, or no file."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:")), None)


class Trimmed:
    """Gives memory that was freed within the process back to the system, whenever much of it has come together.

    glibc keeps what a thread has freed for the next block of that thread. Of many threads that run one after the other
    each keeps as much as a single one needs. (Giving it back takes some milliseconds, and it has to be cleared anew.)
    """

    def __init__(self) -> None:
        self._least = resident_bytes()

    def look(self) -> None:
        """Give back what is free, if the process has grown by more than `SLACK` since the last time it did so."""
        if self._least is None or (resident_bytes() or 0) - self._least <= SLACK:
            return
        give_back()
        self._least = resident_bytes()


def give_back() -> None:
    """Give memory that is free within the process back, where the C library can (glibc's malloc_trim)."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The function of the C library; None where it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
