"""The words of an option, checked: what they may be is said where one is not.

What parses a word says in a ValueError what is wrong with it; `naming` puts the name of the option before that.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

T = TypeVar("T")


@contextmanager
def naming(flag: str) -> Iterator[None]:
    """Turn a ValueError within the context into pytest's usage error, which begins with the name of the option."""
    try:
        yield
    except ValueError as error:
        raise pytest.UsageError(f"{flag}: {error}") from error.__cause__


def several(flag: str, text: str | None, parse: Callable[[str], T]) -> tuple[T, ...]:
    """Parse each of the comma-separated words once; () where the option was not given.

    Raises:
        pytest.UsageError: there is no word, or one that `parse` refuses with a ValueError.
    """
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",") if word.strip()]
    with naming(flag):
        if not words:
            raise ValueError(f"expected one value or several, separated by commas, got {text!r}")
        return tuple(dict.fromkeys(parse(word) for word in words))


def one_of(known: Iterable[str]) -> Callable[[str], str]:
    """A parser that takes only words which are known."""
    known = tuple(known)

    def parse(word: str) -> str:
        if word not in known:
            raise ValueError(f"unknown {word!r}; choose from {', '.join(known)}")
        return word

    return parse


def whole_number(example: str) -> Callable[[str], int]:
    """A parser of numbers from 1 up; `example` says in an error what to give."""

    def parse(word: str) -> int:
        if not word.isdecimal() or int(word) == 0:
            raise ValueError(f"{word!r} is not a whole number from 1 up; give {example}")
        return int(word)

    return parse


def fraction(word: str) -> float:
    """Parse a kept fraction.

    Raises:
        ValueError: it is no number in (0, 1].
    """
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{word!r} is not a number; give fractions in (0, 1], as 0.75,0.5") from None
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{word} is not in (0, 1]; give the share of heads that stays, as 0.75,0.5")
    return value
