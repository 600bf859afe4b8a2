"""Subclasses, for any number of heads, of classes whose forward gives the heads' context the width of an input."""

from typing import Any

from mha.families.reading.source import function_of
from mha.families.reading.widths import free_width
from mha.runtime.generated_classes import Members, compiled, making_class


@making_class
def with_free_width(kind: Any) -> tuple[str, Members]:
    """A subclass of `kind` whose forward shapes tensors with -1 as the last size where `kind`'s says an input's width.

    `making_class` makes the subclass of what is returned here, the end of its name and its members.

    Raises:
        UnclearError: the source of the forward can't be read.
    """
    function = function_of(kind.forward, kind.__name__)
    free_width(function)
    return "OfAnyWidth", {"forward": compiled(function, kind.forward)}
