"""The code of a method as one module runs it, without the branches that the module's settings rule out.

One class often holds several layouts and picks one by a flag (`if self.multi_query`); only the picked one says how
this module's heads lie.
"""

import ast
from typing import Any

from torch import nn

Settings = frozenset[tuple[str, bool | str | None]]
CHANGING = ("training", "gradient_checkpointing")


def settings_of(module: nn.Module) -> Settings:
    """The module's own flags as pairs (name, value): its attributes that are a truth value, a string or None.

    Private ones, `training` and `gradient_checkpointing`, which change between calls, are left out.
    """
    return frozenset(
        (name, value)
        for name, value in vars(module).items()
        if (value is None or isinstance(value, bool | str)) and name not in CHANGING and not name.startswith("_")
    )


class LiveCode(ast.NodeTransformer):
    """Replaces each `if` whose test the settings decide by the branch that is taken, and each `assert` by `pass`.

    An `x if test else y` is replaced likewise. The settings are those of `settings_of`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = dict(settings)

    def visit_If(self, node: ast.If) -> Any:
        taken = self._holds(node.test)
        self.generic_visit(node)
        if taken is None:
            return node
        return (node.body if taken else node.orelse) or ast.Pass()

    def visit_Assert(self, node: ast.Assert) -> Any:  # noqa: ARG002
        return ast.Pass()  # computes nothing; what it would find wrong, it says

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        taken = self._holds(node.test)
        self.generic_visit(node)
        if taken is None:
            return node
        return node.body if taken else node.orelse

    def _holds(self, test: ast.expr) -> bool | None:
        """Whether the test of an `if` is true under the settings; None where they do not decide it.

        Understood are a setting alone, `== constant`, `!= constant`, `is None`, `is not None`, `not`, `and`, `or`.
        """
        match test:
            case ast.UnaryOp(op=ast.Not()):
                inner = self._holds(test.operand)
                return None if inner is None else not inner
            case ast.BoolOp():
                deciding = isinstance(test.op, ast.Or)  # one True decides an `or`, one False an `and`
                known = [self._holds(operand) for operand in test.values]
                if deciding in known:
                    return deciding
                return None if None in known else not deciding
            case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq() as op], comparators=[ast.Constant() as other]):
                if (name := self._setting(left)) is None:
                    return None
                return (self.settings[name] == other.value) == isinstance(op, ast.Eq)
            case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[ast.Constant(value=None)]):
                if (name := self._setting(left)) is None:
                    return None
                return (self.settings[name] is None) == isinstance(op, ast.Is)
        name = self._setting(test)
        return None if name is None else bool(self.settings[name])

    def _setting(self, node: ast.expr) -> str | None:
        """The name of the setting that the node reads, "multi_query" for `self.multi_query`; None for other nodes."""
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in self.settings:
                return name
        return None
