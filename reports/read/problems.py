"""What of a run is left out, and why: the one place where an error about a file becomes a row about it."""

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
        self._found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)

    @contextmanager
    def noted(self, file: Path) -> Iterator[None]:
        """A ReportError that is raised inside becomes a row about `file`; what it kept from being read stays out."""
        try:
            yield
        except ReportError as error:
            self.add(file, str(error).removeprefix(f"{file}: "))

    def add(self, file: Path, reason: str) -> None:
        """A row about `file`; faults of one kind are counted together, within a folder or within a file beside it."""
        what = printable(file.relative_to(self._root).as_posix())
        folder, slash, _ = what.rpartition("/")
        self._found[folder + slash or what, PARTICULARS.sub("…", reason)].append((what, reason))

    def frame(self) -> pd.DataFrame:
        """what, reason: in the order in which they were found, those of one kind together, no more than ROWS rows."""
        rows = [row for (place, _), found in self._found.items() for row in _together(place, found)]
        if len(rows) > ROWS:
            kept, others = rows[: ROWS - 1], rows[ROWS - 1 :]
            faults = sum(count for *_, count in others)
            rows = [*kept, (f"{faults:,} more", f"the first of them, {others[0][0]}: {others[0][1]}", faults)]
        return pd.DataFrame([row[:2] for row in rows], columns=COLUMNS, dtype=str)


def _together(place: str, found: list[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """what, reason, how many: a row each, or one for all where there are many."""
    if len(found) <= ALIKE:
        return [(what, reason, 1) for what, reason in found]
    what, reason = found[0]
    if what == place:
        return [(what, f"{len(found):,} times, the first: {reason}", len(found))]
    files = len({what for what, _ in found})
    return [(f"{files:,} files in {place}, the first {what}", reason, len(found))]
