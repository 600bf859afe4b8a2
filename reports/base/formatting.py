"""Numbers as a reader would write them."""

import math
from collections.abc import Callable


def digits(value: float) -> str:
    """The number with three significant digits, more if it is 1000 or above, and never an exponent: 1234, 12.0, 0.0123.

    – if it is not finite.
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    rounded = float(f"{value:.2e}")  # or 9.996 would get two places, and four digits
    places = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value:.{places}f}"


def milliseconds(seconds: float) -> str:
    """A time in seconds as text in milliseconds, with three significant digits: 12.3 ms."""
    return f"{digits(1e3 * seconds)} ms"


def times(ratio: float) -> str:
    """A ratio as text, with two decimals: 1.25×."""
    return f"{ratio:.2f}×"


def per_cent(share: float) -> str:
    """A share as text in per cent, with up to four significant digits: 12.5 %."""
    return f"{100 * share:.4g} %"


def duration(seconds: float) -> str:
    """A time in seconds as text, in milliseconds where it is below 0.1 s: 12.3 ms, 1.20 s."""
    return milliseconds(seconds) if seconds < 0.1 else f"{digits(seconds)} s"


def between(low: float, high: float, text: Callable[[float], str] = "{:.2f}".format) -> str:
    """An interval of positive numbers, low–high, each written by `text`; "one round, no interval" if one is NaN."""
    return "one round, no interval" if math.isnan(low) or math.isnan(high) else f"{text(low)}–{text(high)}"


def capitalised(text: str) -> str:
    """The text with a capital first letter, and the rest as it is."""
    return f"{text[:1].upper()}{text[1:]}"


def count(number: float, noun: str) -> str:
    """A number with its noun, in the plural where it is not 1: 3 cases."""
    return f"{number:.0f} {noun}" if number == 1 else f"{number:.0f} {noun}s"


def listed(names: list[str]) -> str:
    """The names, of which there must be one at least, as one text: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def size(count: float) -> str:
    """A number of bytes as text with a binary prefix and three significant digits: 512 B, 1.50 KiB, 12.0 MiB."""
    power = min(4, max(0, int(math.log2(abs(count)) // 10))) if count else 0
    return (
        f"{digits(count / 2 ** (10 * power)) if power else f'{count:.0f}'} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    )


def rate(value: float, unit: str) -> str:
    """A rate in `unit` as text with a decimal prefix: 123 GFLOP/s, 45.6 GB/s, 789 tokens/s."""
    power = min(5, max(0, int(math.log10(abs(value)) // 3))) if value else 0
    return f"{digits(value / 1000**power)} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"
