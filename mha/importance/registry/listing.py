"""The names of the criteria, which print as a table of what each needs, takes and measures."""

from collections.abc import Iterable, Sequence
from typing import Self

from mha.importance.registry.criterion import Criterion

WIDTH = 120  # characters in a line
GAP = "  "  # between columns
HEADER = ("name", "needs", "compares layers", "options")


class Criteria(tuple[str, ...]):
    """A tuple of names in every respect, but that it prints as a table."""

    _table: str

    def __new__(cls, names: Iterable[str] = (), table: str = "") -> Self:
        """A tuple of these names that prints as the text `table`."""
        made = super().__new__(cls, names)
        made._table = table
        return made

    @classmethod
    def of(cls, criteria: Sequence[Criterion], default: str) -> Self:
        """The names of these criteria, in their order, with the one named `default` marked in the table."""
        return cls((criterion.name for criterion in criteria), _table(criteria, default))

    def __repr__(self) -> str:
        return self._table


def _table(criteria: Sequence[Criterion], default: str) -> str:
    """The text of the table: a header, and two lines for each criterion, or more where its options need them.

    Args:
        default: the name of the criterion that is marked as the default.
    """
    rows = [_cells(criterion, default) for criterion in criteria]
    widths = [max(map(len, column)) for column in zip(HEADER[:-1], *rows, strict=True)]
    lines = [_line(HEADER, widths)]
    for row, criterion in zip(rows, criteria, strict=True):
        start = _line((*row, ""), widths)
        options = [f"{name}={value!r}" for name, value in criterion.options.items()] or ["none"]
        first, *rest = _joined(options, WIDTH - len(start))
        lines += [start + first, *(" " * len(start) + more for more in rest), f"    {criterion.summary}"]
    return "\n".join(lines)


def _cells(criterion: Criterion, default: str) -> tuple[str, str, str]:
    """A criterion's name (marked if it is `default`), what it needs, and whether its scores compare layers, as text."""
    mark = " (default)" if criterion.name == default else ""
    return criterion.name + mark, criterion.needs, "yes" if criterion.comparable else "no"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line of the table: the cells side by side, all but the last padded to these widths."""
    *padded, last = cells
    return "".join(f"{cell:<{width}}{GAP}" for cell, width in zip(padded, widths, strict=False)) + last


def _joined(parts: Sequence[str], width: int) -> list[str]:
    """The texts `parts` with commas between them, in as many lines of at most `width` characters as that takes."""
    lines = [parts[0]]
    for text in parts[1:]:
        if len(lines[-1]) + len(text) + 3 <= width:
            lines[-1] += f", {text}"
        else:
            lines[-1] += ","
            lines.append(text)
    return lines
