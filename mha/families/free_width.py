"""A class whose forward gives the heads' context the width of an input, made fit for any number of heads."""

import ast
import functools
import inspect
import sys
import textwrap
from types import FunctionType
from typing import Any

from torch import nn

from mha.families.source import WHOLE
from mha.families.widths import free_width


@functools.cache
def with_free_width(kind: Any) -> type[nn.Module]:
    """A subclass with the same forward, in which a last size that is the input's width is -1."""
    function = ast.parse(textwrap.dedent(inspect.getsource(kind.forward))).body[0]
    assert isinstance(function, ast.FunctionDef)
    free_width(function)
    members = {"forward": _compiled(function, kind), "__module__": kind.__module__, WHOLE: kind}
    return type(f"{kind.__name__}OfAnyWidth", (kind,), members)


def _compiled(function: ast.FunctionDef, kind: Any) -> FunctionType:
    """The function in the namespace of the class's module."""
    tree = ast.fix_missing_locations(ast.Module(body=[function], type_ignores=[]))
    made: dict[str, Any] = {}
    exec(compile(tree, f"<{kind.__name__} of any width>", "exec"), vars(sys.modules[kind.forward.__module__]), made)
    forward: FunctionType = made[function.name]
    return forward
