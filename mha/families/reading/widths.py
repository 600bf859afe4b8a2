"""Finds where a method shapes a tensor by its input's width, and rewrites that to hold for any number of heads.

`context.reshape(b, n, e)`, with e the input's width, is `context.reshape(b, n, -1)` for all heads, and the latter holds
for any number of them.
"""

import ast
from collections.abc import Iterator, Sequence, Set

SHAPING = frozenset(
    {"view", "reshape", "unflatten", "split", "chunk", "expand", "repeat", "repeat_interleave", "zeros"}
)
INPUTS = ("hidden_states", "hidden_state")
REDUCING = ("spatial_reduction", "pool")


def input_widths(method: ast.FunctionDef) -> frozenset[str]:
    """The variables to which the method assigns the last size, e, of a tensor's shape (b, n, e).

    Outside of `forward`, shapes of `query`, `key` and `value` do not count: heads have been projected there already.
    """
    widths: set[str] = set()
    for node in ast.walk(method):
        if not isinstance(node, ast.Assign) or (method.name != "forward" and _is_of_heads(node.value)):
            continue
        if isinstance(node.targets[0], ast.Tuple) and _is_a_shape(node.value):
            names = [target.id for target in node.targets[0].elts if isinstance(target, ast.Name)]
            widths |= set(names[-1:]) if len(node.targets[0].elts) == 3 else set()
    return frozenset(widths)


def shapes_by_input_width(method: ast.FunctionDef) -> bool:
    """Whether the method gives a tensor other than those in `INPUTS` a shape in which an input's width occurs."""
    widths = input_widths(method)
    shaped = (argument for call in shaping_calls(method, but_of=INPUTS) for argument in ast.walk(call))
    return any(isinstance(name, ast.Name) and name.id in widths for name in shaped)


def shaping_calls(node: ast.AST, but_of: Sequence[str] = ()) -> Iterator[ast.AST]:
    """Yield the arguments of calls that shape a tensor, as `x.view(...)`, and tuples assigned to a "shape" variable.

    Args:
        but_of: names of variables; calls on them, as `hidden_states.permute(0, 2, 1).view(...)`, are left out.
    """
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr in SHAPING:
            if _root(inner.func) in but_of:
                continue
            yield from inner.args
        elif isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Tuple) and _names_a_shape(inner.targets):
            yield inner.value


def free_width(method: ast.FunctionDef) -> bool:
    """Where `view` or `reshape` has an input's width, or a fraction of it, as the last size, put -1 there.

    A shape with a -1 already is left alone. The tree that is given is changed in place.

    Returns:
        Whether there was such a place.
    """
    rewriting = _FreeWidth(input_widths(method))
    rewriting.visit(method)
    return rewriting.changed


class _FreeWidth(ast.NodeTransformer):
    """Does what `free_width` says, for variables named in `widths`; `changed` is whether there was such a place."""

    def __init__(self, widths: Set[str]) -> None:
        self.widths = widths
        self.changed = False

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        shapes = isinstance(node.func, ast.Attribute) and node.func.attr in ("view", "reshape")
        if shapes and node.args and self._is_width(node.args[-1]) and not any(map(_is_minus_one, node.args)):
            node.args[-1] = ast.UnaryOp(op=ast.USub(), operand=ast.Constant(1))
            self.changed = True
        return node

    def _is_width(self, node: ast.expr) -> bool:
        """Whether the node is one of the variables in `widths`, or such a variable `//` something."""
        match node:
            case ast.Name(id=name) | ast.BinOp(left=ast.Name(id=name), op=ast.FloorDiv()):
                return name in self.widths
        return False


def _root(node: ast.AST) -> str | None:
    """The name that a chain of attributes and calls begins with; None where it begins with something else.

    A call that makes an input shorter, as `self.pool(x)`, is looked through: the name is `x`.
    """
    while isinstance(node, ast.Attribute | ast.Call):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in REDUCING:
            node = node.args[0]
        else:
            node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else None


def _is_minus_one(node: ast.expr) -> bool:
    """Whether the node is the number -1."""
    return ast.unparse(node) == "-1"


def _names_a_shape(targets: list[ast.expr]) -> bool:
    """Whether one of the targets of an assignment is a name with "shape" in it."""
    return any(isinstance(target, ast.Name) and "shape" in target.id for target in targets)


def _is_a_shape(node: ast.AST) -> bool:
    """Whether the node is the shape of a tensor, as `x.shape` and `x.size()` are."""
    node = node.func if isinstance(node, ast.Call) else node
    return isinstance(node, ast.Attribute) and node.attr in ("shape", "size")


def _is_of_heads(node: ast.AST) -> bool:
    """Whether the node reads `query`, `key` or `value`, which in helpers have been projected to heads already."""
    return any(isinstance(inner, ast.Name) and inner.id in ("query", "key", "value") for inner in ast.walk(node))
