"""A class whose forward gives the heads' context the width of an input, made fit for any number of heads."""

from typing import Any

from mha.families.generated import Members, compiled, forward_of, making_class
from mha.families.widths import free_width


@making_class
def with_free_width(kind: Any) -> tuple[str, Members]:
    """A subclass with the same forward, in which a last size that is the input's width is -1."""
    function = forward_of(kind)
    free_width(function)
    return "OfAnyWidth", {"forward": compiled(function, kind)}
