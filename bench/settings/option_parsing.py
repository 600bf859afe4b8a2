"""The words of an option, checked: what they may be is said where one is not."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

T = TypeVar("T")


def several(flag: str, text: str | None, parse: Callable[[str], T]) -> tuple[T, ...]:
    """Each of the comma-separated words once, parsed; () where the option was not given."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise pytest.UsageError(f"{flag}: expected one value or several, separated by commas, got {text!r}")
    return tuple(dict.fromkeys(parse(word) for word in words))


def one_of(flag: str, known: Iterable[str]) -> Callable[[str], str]:
    """What takes a word that is known."""
    known = tuple(known)

    def parse(word: str) -> str:
        if word not in known:
            raise pytest.UsageError(f"{flag}: unknown {word!r}; choose from {', '.join(known)}")
        return word

    return parse


def whole_number(flag: str, example: str) -> Callable[[str], int]:
    """What takes a number from 1 up."""

    def parse(word: str) -> int:
        if not word.isdecimal() or int(word) == 0:
            raise pytest.UsageError(f"{flag}: {word!r} is not a whole number from 1 up; give {example}")
        return int(word)

    return parse


def fraction(word: str) -> float:
    """A kept fraction."""
    try:
        value = float(word)
    except ValueError:
        raise pytest.UsageError(f"--keep: {word!r} is not a number; give fractions in (0, 1], as 0.75,0.5") from None
    if not 0.0 < value <= 1.0:
        raise pytest.UsageError(f"--keep: {word} is not in (0, 1]; give the share of heads that stays, as 0.75,0.5")
    return value
