"""Code that is known line by line: a module may be anybody's, if each line of its forward is on a list.

Together the lines of a list say how heads lie, and that they never meet. A line that is on no list is quoted in the
reason why the module is refused.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mha.families.reading.source import UnclearError

Lines = Sequence[re.Pattern[str]]


def known_lines(*groups: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    """All regular expressions of these sequences, compiled; each is to match a whole line of code."""
    return tuple(re.compile(line) for group in groups for line in group)


def check_lines(name: str, function: ast.FunctionDef | None, known: Lines) -> None:
    """Refuse a function with a line that no regular expression of `known` matches whole.

    Args:
        name: what errors call the code.
        function: the function's tree; None for one whose source can't be read.

    Raises:
        UnclearError: a line is not known, and the message quotes it; or `function` is None.
    """
    if function is None:
        raise UnclearError(f"the source of {name} can't be read")
    lines = lines_of(function)
    if unknown := next((line for line in lines if not any(pattern.fullmatch(line) for pattern in known)), None):
        raise UnclearError(f"the code of {name} says {unknown!r}, which is not understood")


def lines_of(function: ast.FunctionDef) -> Iterator[str]:
    """Yield the lines of the function's body as `ast.unparse` spells them, without indentation.

    The docstring, and lines that log, warn or raise, are left out.
    """
    for statement in function.body:
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            lines = (line.strip() for line in ast.unparse(statement).splitlines())
            yield from (line for line in lines if not line.startswith(("logger.", "warnings.warn(", "raise ")))


def method_of(code: str, name: str) -> ast.FunctionDef | None:
    """The tree of the function of that name at the top level of this source code; None where it defines none."""
    functions = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    return next((function for function in functions if function.name == name), None)


def home_of(value: Any) -> str:
    """The top-level package of a function, class or module, "torch" for `torch.nn.Linear`; "" where it has none."""
    name = getattr(value, "__module__", None) or (value.__name__ if hasattr(value, "__spec__") else "")
    return str(name).partition(".")[0]
