"""Code that is known line by line: whoever wrote a module, what each line of its forward says is one of a list.

Together the lines of such a list say how heads lie, and that they never meet. A line that stands in none is quoted.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mha.families.reading.source import UnclearError

Lines = Sequence[re.Pattern[str]]


def known_lines(*groups: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    """The patterns of all groups, ready to match whole lines."""
    return tuple(re.compile(line) for group in groups for line in group)


def check_lines(name: str, function: ast.FunctionDef | None, known: Lines) -> None:
    """
    Args:
        name: what errors call the code.

    Raises:
        UnclearError: a line is none of those that are known.
    """
    if function is None:
        raise UnclearError(f"the source of {name} can't be read")
    if unknown := next((line for line in lines_of(function) if not any(one.fullmatch(line) for one in known)), None):
        raise UnclearError(f"the code of {name} says {unknown!r}, which is not understood")


def lines_of(function: ast.FunctionDef) -> Iterator[str]:
    """The function's statements in one spelling, without its docstring, what it logs and what it raises."""
    for statement in function.body:
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            lines = (line.strip() for line in ast.unparse(statement).splitlines())
            yield from (line for line in lines if not line.startswith(("logger.", "warnings.warn(", "raise ")))


def method_of(code: str, name: str) -> ast.FunctionDef | None:
    """The function of that name among several."""
    return next(
        (part for part in ast.parse(code).body if isinstance(part, ast.FunctionDef) and part.name == name), None
    )


def home_of(meant: Any) -> str:
    """The library that something comes from; empty where that is not to be seen."""
    name = getattr(meant, "__module__", None) or (meant.__name__ if hasattr(meant, "__spec__") else "")
    return str(name).partition(".")[0]
