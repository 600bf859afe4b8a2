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
        """Turn a ReportError that is raised inside into a row about `file`; what it kept from being read stays out."""
        try:
            yield
        except ReportError as error:
            self.add(file, str(error).removeprefix(f"{file}: "))

    def add(self, file: Path, reason: str) -> None:
        """Note a fault of `file`. Faults of one kind in a folder, or in one file, are counted together."""
        what = printable(file.relative_to(self._root).as_posix())
        folder, slash, _ = what.rpartition("/")
        self._found[folder + slash or what, PARTICULARS.sub("…", reason)].append((what, reason))

    def frame(self) -> pd.DataFrame:
        """The faults in the order they were found, one kind together, at most ROWS rows. Columns: what, reason."""
        rows = [row for (place, _), found in self._found.items() for row in _together(place, found)]
        if len(rows) > ROWS:
            kept, others = rows[: ROWS - 1], rows[ROWS - 1 :]
            faults = sum(count for *_, count in others)
            rows = [*kept, (f"{faults:,} more", f"the first of them, {others[0][0]}: {others[0][1]}", faults)]
        return pd.DataFrame([row[:2] for row in rows], columns=COLUMNS, dtype=str)


def _together(place: str, faults: list[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """The rows about faults of one kind, each with how many it stands for: one for all where they are many."""
    if len(faults) <= ALIKE:
        return [(what, reason, 1) for what, reason in faults]
    what, reason = faults[0]
    if what == place:
        return [(what, f"{len(faults):,} times, the first: {reason}", len(faults))]
    files = len({what for what, _ in faults})
    return [(f"{files:,} files in {place}, the first {what}", reason, len(faults))]
