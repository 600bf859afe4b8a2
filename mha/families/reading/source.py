"""What a module's own code says about it: the attributes and configuration fields it reads, and what it returns.

Shapes can't tell whether a number is a head count or happens to equal one; the code that uses it can.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from mha.families.reading.dead_branches import LiveCode, Settings, settings_of
from mha.families.reading.widths import free_width, shapes_by_input_width, shaping_calls
from mha.runtime.generated_classes import whole


class UnclearError(Exception):
    """The reason why a module that resembles a convention's attention is not understood, and so is refused."""


@dataclass(frozen=True)
class Reading:
    """What the methods of a class, other than its constructor, refer to.

    Attributes:
        attributes: names of attributes of `self` that are read.
        shaping: those of them that are read only to give a tensor its shape.
        divided: those that are read only to be divided by the number of heads.
        of_input: those that are read only as the last size in `hidden_states.new_zeros(…)`.
        config: names of fields of `self.config` that are read.
        variables: arguments and other names, local or global, that `forward` reads.
        returned: the length of the tuple that `forward` returns; None for a bare value.
        as_list: whether it returns a list instead of a tuple.
        freed: whether the code gives a tensor the width of an input where -1 would do; all other attributes here
            describe the code with -1 in that place.
        input_width: whether a tensor is given the width of an input in other places.
    """

    attributes: frozenset[str]
    shaping: frozenset[str]
    divided: frozenset[str]
    of_input: frozenset[str]
    config: frozenset[str]
    variables: frozenset[str]
    returned: int | None
    as_list: bool
    input_width: bool
    freed: bool


def reading(module: nn.Module) -> Reading | None:
    """What the module's methods refer to, but for branches that its flags (`settings_of`) rule out.

    None where their source can't be had, as in an interpreter.
    """
    return _reading(whole(module), settings_of(module))


def text(module: nn.Module) -> str:
    """The source of the module's methods as `ast.unparse` spells it, without branches that its flags rule out.

    The constructor is left out, and "" returned where the source can't be had.
    """
    return _text(whole(module), settings_of(module))


@functools.cache
def _reading(kind: Any, settings: Settings) -> Reading | None:
    """What `reading` returns of a module of this class with these settings."""
    try:
        methods = list(_live_methods(kind, settings))
        freed = any(free_width(method) for method in _methods(kind) if method.name == "forward")
    except (OSError, TypeError, SyntaxError):
        return None
    forward = [method for method in methods if method.name == "forward"]
    returned, as_list = _returned(methods)
    shaping = [name for method in methods for call in shaping_calls(method) for name in _own_attributes(call)]
    attributes = _all(_own_attributes, methods)
    return Reading(
        attributes=frozenset(attributes),
        shaping=_only(attributes, shaping),
        divided=_only(attributes, _all(_divided, methods)),
        of_input=_only(attributes, _all(_of_input, methods)),
        config=frozenset(_all(_config_fields, methods)),
        variables=frozenset(_all(_variables, forward)),
        returned=returned,
        as_list=as_list,
        input_width=any(shapes_by_input_width(method) for method in methods),
        freed=freed,
    )


def function_of(function: Any, name: str) -> ast.FunctionDef:
    """The syntax tree of a function's source.

    Args:
        name: what the error calls the function.

    Raises:
        UnclearError: it can't be read, or is no function.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise UnclearError(f"the source of {name} can't be read") from error
    if not isinstance(tree, ast.FunctionDef):
        raise UnclearError(f"{name} is no function")
    return tree


def _all(names_in: Callable[[ast.AST], Iterator[str]], methods: list[ast.FunctionDef]) -> list[str]:
    """The names that `names_in` finds in the methods, each as often as it occurs."""
    return [name for method in methods for name in names_in(method)]


def _only(everywhere: list[str], here: list[str]) -> frozenset[str]:
    """The names in `here` that occur nowhere else: `everywhere` holds them just as often."""
    return frozenset(name for name in here if everywhere.count(name) == here.count(name))


@functools.cache
def _text(kind: Any, settings: Settings) -> str:
    """What `text` returns of a module of this class with these settings."""
    try:
        return "\n".join(ast.unparse(method) for method in _live_methods(kind, settings))
    except (OSError, TypeError, SyntaxError):
        return ""


def _live_methods(kind: Any, settings: Settings) -> Iterator[ast.FunctionDef]:
    """Yield the trees of a class's methods without branches that the settings rule out.

    In `forward`, shapes have -1 for an input's width (`free_width`). What `_methods` raises is raised.
    """
    for method in _methods(kind):
        if method.name == "forward":
            free_width(method)
        yield LiveCode(settings).visit(method)


def _methods(kind: type) -> Iterator[ast.FunctionDef]:
    """Yield the trees of the class's methods, inherited ones too, except constructors and what torch's bases define.

    Raises:
        OSError, TypeError, SyntaxError: the source of the class, or of a base, can't be had or parsed alone.
    """
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
    """The attributes of `self` that the code under the node reads."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Load) and _is_self(inner.value):
            yield inner.attr


def _divided(node: ast.AST) -> Iterator[str]:
    """The attributes of `self` that code under the node divides by the number of heads.

    In `self.embed_dim // self.num_heads` it is `embed_dim`.
    """
    for inner in ast.walk(node):
        match inner:
            case ast.BinOp(left=dividend, op=ast.FloorDiv(), right=divisor) if "num_heads" in ast.unparse(divisor):
                yield from _own_attributes(dividend)


def _of_input(node: ast.AST) -> Iterator[str]:
    """The attributes of `self` in the last argument of `hidden_states.new_zeros(…)` in the code under the node."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and ast.unparse(inner.func) == "hidden_states.new_zeros":
            yield from _own_attributes(inner.args[-1])


def _variables(node: ast.AST) -> Iterator[str]:
    """The local and global names that the code under the node reads."""
    return (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load))


def _config_fields(node: ast.AST) -> Iterator[str]:
    """The fields of `self.config` that the code under the node reads."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and _is_own_config(inner.value):
            yield inner.attr


def _is_own_config(node: ast.AST) -> bool:
    """Whether the node is `self.config`."""
    return isinstance(node, ast.Attribute) and node.attr == "config" and _is_self(node.value)


def _is_self(node: ast.AST) -> bool:
    """Whether the node is `self`."""
    return isinstance(node, ast.Name) and node.id == "self"


def _returned(methods: list[ast.FunctionDef]) -> tuple[int | None, bool]:
    """How many values `forward` among these methods returns, and whether in a list instead of a tuple.

    Returns:
        (number, whether in a list); the number is None for a bare value, or without a `forward` that returns.
    """
    forward = next((method for method in methods if method.name == "forward"), None)
    returns = [node for node in ast.walk(forward) if isinstance(node, ast.Return)] if forward else []
    if forward is None or not returns:
        return None, False
    value = _made(returns[-1].value, forward)
    last = forward.body[-1]
    if isinstance(value, ast.Call) and isinstance(last, ast.Return):  # of a base's forward, on some condition
        value = _made(last.value, forward)
    return len(value.elts) if isinstance(value, ast.Tuple | ast.List) else None, isinstance(value, ast.List)


def _made(value: ast.expr | None, forward: ast.FunctionDef, seen: tuple[str, ...] = ()) -> ast.expr | None:
    """The expression that a returned value comes from, where attention weights are not asked for.

    It is `(context,)` for `return outputs`, where `outputs = (context, weights) if output_attentions else (context,)`.
    """
    match value:
        case ast.IfExp(orelse=first) | ast.BinOp(left=first):
            return _made(first, forward, seen)
        case ast.Name(id=name) if name not in seen:
            assignments = (node for node in ast.walk(forward) if isinstance(node, ast.Assign))
            assigned = next((node.value for node in assignments if _names(node, name)), None)
            return value if assigned is None else _made(assigned, forward, (*seen, name))
    return value


def _names(assignment: ast.Assign, name: str) -> bool:
    """Whether the assignment is to a variable of that name."""
    return any(isinstance(target, ast.Name) and target.id == name for target in assignment.targets)
