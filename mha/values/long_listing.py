"""Long values as a few lines."""

from collections.abc import Sequence

LINES = 9


def shortened(lines: Sequence[str]) -> list[str]:
    """At most nine of the lines, from the start and the end, and how many are left out between."""
    if len(lines) <= LINES:
        return list(lines)
    half = LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} more layers …", *lines[-half:]]
