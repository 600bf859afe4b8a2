"""What a module's own code says about it: attributes and configuration fields it reads, and what it returns.

Shapes can't tell whether a number is a head count or happens to equal one; the code that uses it can.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

SHAPING = frozenset(
    {"view", "reshape", "unflatten", "split", "chunk", "expand", "repeat", "repeat_interleave", "zeros"}
)


@dataclass(frozen=True)
class Reading:
    """What the methods of a class, other than its constructor, refer to.

    Attributes:
        attributes: own attributes that are read.
        shaping: those of them that are read only to give a tensor its shape.
        config: fields of `self.config` that are read.
        returned: the length of the tuple that `forward` returns; None for a bare value.
        input_width: whether a tensor is given the width of an input, as its shape says it.
    """

    attributes: frozenset[str]
    shaping: frozenset[str]
    config: frozenset[str]
    returned: int | None
    input_width: bool


@functools.cache
def reading(kind: Any) -> Reading | None:
    """None where the source can't be had, as for a class made in an interpreter."""
    try:
        methods = list(_methods(kind))
    except (OSError, TypeError, SyntaxError):
        return None
    attributes = [name for method in methods for name in _own_attributes(method)]
    shaping = [name for method in methods for call in _shaping_calls(method) for name in _own_attributes(call)]
    config = frozenset(name for method in methods for name in _config_fields(method))
    only_shaping = frozenset(name for name in attributes if attributes.count(name) == shaping.count(name))
    input_width = any(_shapes_by_input_width(method) for method in methods)
    return Reading(frozenset(attributes), only_shaping, config, _returned(methods), input_width)


@functools.cache
def text(kind: Any) -> str:
    """The code of the class's methods, in one spelling; empty where it can't be had."""
    try:
        return "\n".join(ast.unparse(method) for method in _methods(kind))
    except (OSError, TypeError, SyntaxError):
        return ""


def _methods(kind: type) -> Iterator[ast.FunctionDef]:
    """The methods that instances of the class have, those of its bases in transformers and elsewhere too."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if base in (nn.Module, object) or base.__module__.startswith("torch."):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for method in tree.body:
            if isinstance(method, ast.FunctionDef) and method.name != "__init__" and method.name not in seen:
                seen.add(method.name)
                yield method


def _own_attributes(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load) and _is_self(part.value):
            yield part.attr


def _config_fields(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and _is_own_config(part.value):
            yield part.attr


def _shaping_calls(node: ast.AST) -> Iterator[ast.AST]:
    """The arguments of outermost calls such as `x.view(...)`, and tuples named as a shape."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in SHAPING:
            yield from part.args
        elif isinstance(part, ast.Assign) and isinstance(part.value, ast.Tuple) and _names_a_shape(part.targets):
            yield part.value


def _names_a_shape(targets: list[ast.expr]) -> bool:
    return any(isinstance(target, ast.Name) and "shape" in target.id for target in targets)


def _is_own_config(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "config" and _is_self(node.value)


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _shapes_by_input_width(method: ast.FunctionDef) -> bool:
    """Whether the last of the three sizes of a sequence (b, n, e) comes back where a tensor is shaped."""
    widths = set()
    for part in ast.walk(method):
        if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Tuple) and _is_a_shape(part.value):
            names = [target.id for target in part.targets[0].elts if isinstance(target, ast.Name)]
            widths |= set(names[-1:]) if len(part.targets[0].elts) == 3 else set()
    shaping = [name for call in _shaping_calls(method) for name in ast.walk(call)]
    return any(isinstance(name, ast.Name) and name.id in widths for name in shaping)


def _is_a_shape(node: ast.AST) -> bool:
    """`x.shape`, `x.size()`."""
    node = node.func if isinstance(node, ast.Call) else node
    return isinstance(node, ast.Attribute) and node.attr in ("shape", "size")


def _returned(methods: list[ast.FunctionDef]) -> int | None:
    forward = next((method for method in methods if method.name == "forward"), None)
    returns = [part for part in ast.walk(forward) if isinstance(part, ast.Return)] if forward else []
    if forward is None or not returns:
        return None
    value = returns[-1].value
    if isinstance(value, ast.Name):  # return outputs, where outputs = (context, weights) if … else (context,)
        named = [part.value for part in ast.walk(forward) if isinstance(part, ast.Assign) and _names(part, value.id)]
        value = named[0] if named else value
        value = value.orelse if isinstance(value, ast.IfExp) else value
    return len(value.elts) if isinstance(value, ast.Tuple) else None


def _names(assignment: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in assignment.targets)
