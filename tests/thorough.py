"""Which members of a large product `nox -s tests` tries; the others wait for `nox -s tests-all`."""

from collections.abc import Iterable
from typing import TypeVar

import pytest

T = TypeVar("T")


def few(values: Iterable[T], *kept: T) -> list[object]:
    """Parameters of a test: those that are kept as they are, all others marked as thorough.

    Kept are those that differ in mechanism; a name among them that is none of the values is an error.
    """
    values = list(values)
    assert {*kept} <= {*values}
    return [value if value in kept else pytest.param(value, marks=pytest.mark.thorough) for value in values]
