"""Parsers of the words that options are given; the error for a wrong word says which are allowed.

A parser raises a ValueError that says what is wrong; `naming` puts the name of the option before that.
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
    """Parse comma-separated words: the values in their order, equal ones once; () where the option was not given.

    Args:
        flag: the option's name, for errors.
        text: what the option was given; None where it was not.

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
    """A parser that returns a known word as it is, and raises a ValueError, which lists the known ones, for others."""
    known = tuple(known)

    def parse(word: str) -> str:
        if word not in known:
            raise ValueError(f"unknown {word!r}; choose from {', '.join(known)}")
        return word

    return parse


def whole_number(example: str) -> Callable[[str], int]:
    """A parser of whole numbers from 1 up; its ValueError for others gives `example` as what to write instead."""

    def parse(word: str) -> int:
        if not word.isdecimal() or int(word) == 0:
            raise ValueError(f"{word!r} is not a whole number from 1 up; give {example}")
        return int(word)

    return parse


def fraction(word: str) -> float:
    """Parse a kept fraction, the share of heads that stays.

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
