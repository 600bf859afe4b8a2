"""A library's own forward with a few places changed, so that it works with any number of heads.

The changes are data: what the code says, and what it is to say instead. Where it does not say that, as another release
of the library may not, the module is refused. All else goes on being the library's own code.
"""

import ast
from collections.abc import Callable
from types import FunctionType
from typing import Any

from mha.families.reading.source import UnclearError, function_of
from mha.runtime.generated_classes import Members, compiled, making_class

Changes = tuple[tuple[str, str], ...]  # what the code says, as ast.unparse spells it -> what it says instead


@making_class
def with_changes(kind: Any, changes: Changes, helper: str = "", in_helper: Changes = ()) -> tuple[str, Members]:
    """A subclass of `kind` whose forward is changed, and with it, if given, a function that the forward calls.

    `making_class` makes the subclass of what is returned here, the end of its name and its members.

    Args:
        changes: pairs of code in the forward and the code that replaces it.
        helper: the function's name, "" for none; the changed forward calls it as `self.<helper>`.
        in_helper: the same pairs for that function.

    Raises:
        UnclearError: the code does not say, exactly once, what is to be changed; its source can't be read; or the
            forward's module defines no function named `helper`.
    """
    if not helper:
        return "OfAnyWidth", {"forward": _changed(kind.forward, changes, kind)}
    called = kind.forward.__globals__.get(helper)
    changes = (*changes, (f"{helper}(", f"self.{helper}("))
    members = {
        "forward": _changed(kind.forward, changes, kind),
        helper: staticmethod(_changed(called, in_helper, kind)),
    }
    return "OfAnyWidth", members


def _changed(function: Callable[..., Any] | None, changes: Changes, kind: Any) -> FunctionType:
    """The function, compiled anew with these changes to its source; `kind` is the class that errors name.

    Raises:
        UnclearError: it is no function, its source can't be read, or that does not say a thing to change exactly once.
    """
    if not isinstance(function, FunctionType):
        raise UnclearError(f"{kind.__name__} does not call what the class of that name is known to call")
    code = ast.unparse(function_of(function, kind.__name__))
    for line, instead in changes:
        if code.count(line) != 1:
            raise UnclearError(f"the code of {kind.__name__} says {line!r} {code.count(line)} times, not once")
        code = code.replace(line, instead)
    rewritten = ast.parse(code).body[0]
    assert isinstance(rewritten, ast.FunctionDef)
    return compiled(rewritten, function)
