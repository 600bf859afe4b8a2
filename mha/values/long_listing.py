"""Long listings, shortened to a few lines."""

from collections.abc import Sequence

LINES = 9


def shortened(lines: Sequence[str]) -> list[str]:
    """The lines if there are at most nine, else the first four, how many are left out, and the last four."""
    if len(lines) <= LINES:
        return list(lines)
    half = LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} more layers …", *lines[-half:]]
