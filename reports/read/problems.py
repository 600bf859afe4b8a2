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
    """Collects what is wrong with the files below `root`, so that reading can go on without it."""

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
        """Add a fault of `file`, which is below the root; `reason` says in a sentence what is wrong.

        Faults in one folder, or at the top in one file, are of one kind if their reasons differ only in numbers, quoted
        names, words in brackets, or what was got. More than ALIKE of one kind share a row of `frame`.
        """
        what = printable(file.relative_to(self._root).as_posix())
        folder, slash, _ = what.rpartition("/")
        self._faults[folder + slash or what, PARTICULARS.sub("…", reason)].append((what, reason))

    def frame(self) -> pd.DataFrame:
        """The faults as a table with the columns what and reason, in order of discovery, those of one kind together.

        `what` is a path relative to the root, or a text about several files. Of more than ROWS rows the last counts the
        others.
        """
        rows = [row for (place, _), alike in self._faults.items() for row in _together(place, alike)]
        if len(rows) > ROWS:
            kept, others = rows[: ROWS - 1], rows[ROWS - 1 :]
            faults = sum(count for *_, count in others)
            rows = [*kept, (f"{faults:,} more", f"the first of them, {others[0][0]}: {others[0][1]}", faults)]
        return pd.DataFrame([row[:2] for row in rows], columns=COLUMNS, dtype=str)


def _together(place: str, faults: list[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Rows (what, reason, how many faults it stands for) for `faults` of one kind, each a pair (path, reason).

    A fault has its own row, but more than ALIKE share one, which gives their number and the first of them.

    Args:
        place: the folder that the files are in, with a slash at its end, or, of a file at the top, the file itself.
    """
    if len(faults) <= ALIKE:
        return [(what, reason, 1) for what, reason in faults]
    what, reason = faults[0]
    if what == place:
        return [(what, f"{len(faults):,} times, the first: {reason}", len(faults))]
    files = len({what for what, _ in faults})
    return [(f"{files:,} files in {place}, the first {what}", reason, len(faults))]
