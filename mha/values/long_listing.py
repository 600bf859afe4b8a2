"""Long listings, shortened to a few lines."""

from collections.abc import Sequence

LINES = 9


def shortened(lines: Sequence[str]) -> list[str]:
    """The lines if at most nine, else the first four, a line that says how many layers are left out, the last four."""
    if len(lines) <= LINES:
        return list(lines)
    half = LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} more layers …", *lines[-half:]]
