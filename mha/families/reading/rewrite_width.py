"""Subclasses, for any number of heads, of classes whose forward gives the heads' context the width of an input."""

from typing import Any

from mha.families.reading.source import function_of
from mha.families.reading.widths import free_width
from mha.runtime.generated_classes import Members, compiled, making_class


@making_class
def with_free_width(kind: Any) -> tuple[str, Members]:
    """A subclass with the same forward, but for a size of -1 where it gives a tensor the width of its input."""
    function = function_of(kind.forward, kind.__name__)
    free_width(function)
    return "OfAnyWidth", {"forward": compiled(function, kind.forward)}
