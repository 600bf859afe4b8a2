"""Tables of a run directory that grow while it runs."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rundir.files import written

Row = tuple[str, ...]


class Table:
    """A CSV file that is written anew, whole, whenever rows are added; what it held before stays.

    Args:
        columns: the names of all columns, in order.
        group: the columns that tell what was measured. Rows that are equal in these are added together, and replace
            those that the file has.
        blank: name of a column -> what it holds in rows that are added without the last ones.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], group: Sequence[str], blank: Mapping[str, Any] | None = None
    ) -> None:
        self.columns = tuple(columns)
        self._blank = [(blank or {}).get(name) for name in columns]
        self._path = path
        self._key = [self.columns.index(name) for name in group]
        self._groups: dict[Row, list[Row]] = self._grouped(_read(path))

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows, each in the columns' order, in place of those in the file that equal one in `group`.

        A row may lack the last columns: they get what is in `blank`, or stay empty.
        """
        whole = ((*row, *self._blank[len(row) :]) for row in rows)
        self._groups |= self._grouped(tuple(map(_cell, row)) for row in whole)
        write_csv(self._path, self.columns, (row for rows in self._groups.values() for row in rows))

    def has(self, **values: Any) -> bool:
        """Whether there is a row with all of these values, given by column."""
        wanted = {self.columns.index(name): _cell(value) for name, value in values.items()}
        rows = (row for rows in self._groups.values() for row in rows)
        return any(all(row[index] == cell for index, cell in wanted.items()) for row in rows)

    def _grouped(self, rows: Iterable[Row]) -> dict[Row, list[Row]]:
        groups = defaultdict(list)
        for row in rows:
            groups[tuple(row[index] for index in self._key)].append(row)
        return dict(groups)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as a CSV file with a header; each value becomes a cell as in `_cell`."""
    cells = [[_cell(value) for value in row] for row in rows]
    with written(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *cells])


def _read(path: Path) -> list[Row]:
    """The rows of a CSV file, without its header; [] where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def _cell(value: Any) -> str:
    """A value as the text of a cell: JSON for a list, tuple or mapping, nothing for None, else `str`."""
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    return "" if value is None else str(value)
