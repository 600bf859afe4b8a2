"""Where a method gives a tensor the width of its input, and how to say the same without it.

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
    """The names given to the last of the three sizes of a sequence, (b, n, e)."""
    widths: set[str] = set()
    for part in ast.walk(method):
        if not isinstance(part, ast.Assign) or (method.name != "forward" and _is_of_heads(part.value)):
            continue
        if isinstance(part.targets[0], ast.Tuple) and _is_a_shape(part.value):
            names = [target.id for target in part.targets[0].elts if isinstance(target, ast.Name)]
            widths |= set(names[-1:]) if len(part.targets[0].elts) == 3 else set()
    return frozenset(widths)


def shapes_by_input_width(method: ast.FunctionDef) -> bool:
    """Whether such a size comes back where a tensor other than the input is shaped."""
    widths = input_widths(method)
    shaped = (argument for call in shaping_calls(method, but_of=INPUTS) for argument in ast.walk(call))
    return any(isinstance(name, ast.Name) and name.id in widths for name in shaped)


def shaping_calls(node: ast.AST, but_of: Sequence[str] = ()) -> Iterator[ast.AST]:
    """The arguments of outermost calls such as `x.view(...)`, and tuples named as a shape.

    Args:
        but_of: tensors whose shaping is left out, as that of `hidden_states.permute(0, 2, 1).view(...)`.
    """
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in SHAPING:
            if _root(part.func) in but_of:
                continue
            yield from part.args
        elif isinstance(part, ast.Assign) and isinstance(part.value, ast.Tuple) and _names_a_shape(part.targets):
            yield part.value


def free_width(method: ast.FunctionDef) -> bool:
    """Say with -1 what is, or is derived from, an input's width and comes last where a tensor is shaped; whether there
    was such a place."""
    rewriting = _FreeWidth(input_widths(method))
    rewriting.visit(method)
    return rewriting.changed


class _FreeWidth(ast.NodeTransformer):
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
        match node:
            case ast.Name(id=name) | ast.BinOp(left=ast.Name(id=name), op=ast.FloorDiv()):
                return name in self.widths
        return False


def _root(node: ast.AST) -> str | None:
    """The name that a chain of attributes and calls begins with, seen through what reduces an input's length."""
    while isinstance(node, ast.Attribute | ast.Call):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in REDUCING:
            node = node.args[0]
        else:
            node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else None


def _is_minus_one(node: ast.expr) -> bool:
    return ast.unparse(node) == "-1"


def _names_a_shape(targets: list[ast.expr]) -> bool:
    return any(isinstance(target, ast.Name) and "shape" in target.id for target in targets)


def _is_a_shape(node: ast.AST) -> bool:
    """`x.shape`, `x.size()`."""
    node = node.func if isinstance(node, ast.Call) else node
    return isinstance(node, ast.Attribute) and node.attr in ("shape", "size")


def _is_of_heads(node: ast.AST) -> bool:
    """`query.shape` in a helper, which is handed queries that are projected already."""
    return any(isinstance(part, ast.Name) and part.id in ("query", "key", "value") for part in ast.walk(node))
