"""Classes that are made while the program runs: a library's own class, computing with fewer heads or with none.

A class that stands in no module can't be pickled by its name. These know how they were made, so another process makes
them again: a model can be pickled, saved whole, copied and sent to spawned workers, whatever its classes are. Why
modules are given other classes at all is explained in `mha.runtime.intercept`.
"""

import ast
import copyreg
import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, cast

from torch import nn

WHOLE = "_mha_whole"  # the class that a generated one, for fewer heads or none, is made from
RECIPE = "_mha_made_by"  # a function of this package, and what it was called with
Members = Mapping[str, Any]


def making_class(describe: Callable[..., tuple[str, Members]]) -> Callable[..., type[nn.Module]]:
    """Turn a function of (class, …) -> (suffix, members) into one that returns a subclass of that class with them.

    The subclass has those members, and a name that ends in the suffix; it is made once for the same arguments. All
    arguments after the class must be hashable and picklable.
    """

    @functools.cache
    @functools.wraps(describe)
    def make(kind: Any, *arguments: Any) -> type[nn.Module]:
        suffix, members = describe(kind, *arguments)
        common = {"__module__": kind.__module__, WHOLE: getattr(kind, WHOLE, kind), RECIPE: (make, (kind, *arguments))}
        of: Any = type(kind)
        metaclass: Any = _metaclass(of)
        return cast(type[nn.Module], metaclass(f"{kind.__name__}{suffix}", (kind,), {**members, **common}))

    return make


@functools.cache
def _metaclass(of: Any) -> type:
    """A subclass of the metaclass `of`, whose classes pickle writes as `_reduce` says."""
    made = type(f"Generated{of.__name__.capitalize()}", (of,), {"__module__": __name__})
    copyreg.pickle(made, _reduce)
    return made


def _reduce(kind: type) -> str | tuple[Any, ...]:
    """How pickle writes the class `kind`: a generated one as (function, arguments), the call that made it.

    A class that somebody derived from a generated one is written by its qualified name.
    """
    recipe: str | tuple[Any, ...] = vars(kind).get(RECIPE, kind.__qualname__)
    return recipe


def whole(module: nn.Module) -> Any:
    """The module's class or, where that is generated, the class that it was made from, as its library defines it."""
    return getattr(type(module), WHOLE, type(module))


def compiled(function: ast.FunctionDef, original: Callable[..., Any]) -> FunctionType:
    """The function that this tree defines, with the globals of `original`, from whose source the tree was rewritten."""
    tree = ast.fix_missing_locations(ast.Module(body=[function], type_ignores=[]))
    namespace: dict[str, Any] = getattr(inspect.unwrap(original), "__globals__")  # noqa: B009
    made: dict[str, Any] = {}
    exec(compile(tree, f"<{original.__qualname__} of fewer heads>", "exec"), namespace, made)
    return cast(FunctionType, made[function.name])
