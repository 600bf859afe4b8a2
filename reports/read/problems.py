"""Collects what of a run is left out, and why: the one place where an error about a file becomes a row of a table."""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from reports.base.errors import ReportError
from reports.read.files import printable

COLUMNS = ["what", "reason"]
ROWS = 50  # at most
ALIKE = 3  # as many files with the same fault are still named one by one
PARTICULARS = re.compile(r"got \S+|(?:'[^']*'(?:, )?)+|\([^)]*\)|\d+")  # what differs between faults of one kind


class Problems:
    """Collects what is wrong with the files below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._faults: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)

    @contextmanager
    def noted(self, file: Path) -> Iterator[None]:
        """Catch a ReportError that ends the context early, and add it as a fault of `file`."""
        try:
            yield
        except ReportError as error:
            self.add(file, str(error).removeprefix(f"{file}: "))

    def add(self, file: Path, reason: str) -> None:
        """Add a fault of `file`. Faults of one kind in a folder, or in one file, are counted together."""
        what = printable(file.relative_to(self._root).as_posix())
        folder, slash, _ = what.rpartition("/")
        self._faults[folder + slash or what, PARTICULARS.sub("…", reason)].append((what, reason))

    def frame(self) -> pd.DataFrame:
        """The faults as a table, in order of discovery, one kind together, at most ROWS rows. Columns: what, reason."""
        rows = [row for (place, _), alike in self._faults.items() for row in _together(place, alike)]
        if len(rows) > ROWS:
            kept, others = rows[: ROWS - 1], rows[ROWS - 1 :]
            faults = sum(count for *_, count in others)
            rows = [*kept, (f"{faults:,} more", f"the first of them, {others[0][0]}: {others[0][1]}", faults)]
        return pd.DataFrame([row[:2] for row in rows], columns=COLUMNS, dtype=str)


def _together(place: str, faults: list[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Rows (what, reason, how many faults) for the faults of one kind: a row each, or one for all if they are many."""
    if len(faults) <= ALIKE:
        return [(what, reason, 1) for what, reason in faults]
    what, reason = faults[0]
    if what == place:
        return [(what, f"{len(faults):,} times, the first: {reason}", len(faults))]
    files = len({what for what, _ in faults})
    return [(f"{files:,} files in {place}, the first {what}", reason, len(faults))]
