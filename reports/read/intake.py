"""Limits what is read at all: regular files, no larger than any run makes them. Every limit is here, and checked first.

A run may be anyone's. What is beyond a limit is left out like any other file that can't be used.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from reports.base.errors import ReportError
from reports.base.formatting import size

MIB = 2**20
MOST_BYTES: Mapping[str, int] = {  # of one file, by its suffix
    ".json": 32 * MIB, ".csv": 128 * MIB, ".npz": 256 * MIB, ".parquet": 512 * MIB,
}  # fmt: skip
OTHERS = 16 * MIB  # of one file of any other kind
MOST_RECORDS = 256 * MIB  # cases/ together, and plans/: about four million samples
MOST_FILES = 100_000  # of a folder
MOST_ROWS, MOST_COLUMNS, MOST_CELLS = 1_000_000, 1_000, 20_000_000  # of a table
MOST_ARRAYS, MOST_VALUES = 512 * MIB, 2**26  # of all arrays of one file, unpacked
MOST_EXAMPLES = 10_000_000  # of all plans
MOST_FOOTER = 16 * MIB  # of a Parquet file
MOST_SAMPLES = 3_000_000  # of all cases
MOST_TASKS = 200
MOST_DEPTH = 32  # of lists and objects within each other; a run has six
MOST_ENTRIES, MOST_DIRECTORY = 200_000, 64 * MIB  # of an archive: files, and the bytes of their names
MOST_ARCHIVE, MOST_UNPACKED = 1024 * MIB, 1024 * MIB  # as it is, and what is read of it
NESTED = {dict, list}  # what JSON is nested of
NO_LINKS = "copy the run directory again, with files in place of links"
TOO_MUCH = "no benchmark writes so much: look where it comes from"
FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"))


def most(path: Path) -> int:
    """The largest number of bytes that a file with the suffix of `path` may have."""
    return MOST_BYTES.get(path.suffix.lower(), OTHERS)


@contextmanager
def opened(path: Path, limit: int | None = None) -> Iterator[BinaryIO]:
    """Yield the file `path`, opened for reading bytes, if it is a regular file of at most `limit` bytes, and no link.

    Args:
        limit: the most bytes; default: that of the file's suffix.

    Raises:
        ReportError: it is no regular file (a link is none, wherever it leads), or larger.
        OSError: it can't be opened.
    """
    limit = most(path) if limit is None else limit
    _check(path, path.lstat(), limit)
    with open(os.open(path, FLAGS), "rb") as file:  # noqa: PTH123
        _check(path, os.fstat(file.fileno()), limit)
        yield file


def contents(path: Path) -> bytes:
    """The bytes of the file `path`; more than its suffix allows is never read, even if the file is growing.

    Raises:
        ReportError: it is no regular file, or larger than a file of its suffix may be.
        OSError: it can't be opened.
    """
    content = bytearray()
    with opened(path) as file:
        while chunk := file.read(MIB):
            content += chunk
            check_size(path, len(content), most(path))
    return bytes(content)


def check_size(path: Path, actual: int, limit: int, where: str = "") -> None:
    """Raise a ReportError about the file `path` if `actual` bytes are more than `limit`.

    Args:
        where: which bytes of the file they are, in words that begin with a space; "" if they are all of it.
    """
    if actual > limit:
        raise ReportError(f"{path}: expected at most {size(limit)}{where}, got {size(actual)}; {TOO_MUCH}")


def check_count(path: Path, actual: int, limit: int, what: str) -> None:
    """Raise a ReportError about `path` if there are more than `limit` things (`actual`); the text calls them `what`."""
    if actual > limit:
        raise ReportError(f"{path}: expected at most {limit:,} {what}, got {actual:,}; {TOO_MUCH}")


def check_depth(path: Path, document: Any) -> None:
    """Raise a ReportError if lists and objects in `document` are nested too deeply to be printed (MOST_DEPTH)."""
    level = [document]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in NESTED
        ]
        if not level:
            return
    raise ReportError(f"{path}: expected lists and objects no deeper than {MOST_DEPTH} within one another, got deeper")


def files_in(folder: Path, suffix: str) -> list[Path]:
    """What is directly in `folder` under a name with this suffix, sorted by name; none where there is no folder.

    Raises:
        ReportError: it is a link or a file instead of a folder, or has more such files than are read.
    """
    kind = kind_at(folder)
    if kind not in (None, "directory"):
        raise ReportError(f"{folder}: expected a folder, found a {kind}; {NO_LINKS}")
    files = [path for path in folder.iterdir() if path.suffix == suffix] if kind else []
    check_count(folder, len(files), MOST_FILES, "files")
    return sorted(files, key=attrgetter("name"))


def kind_at(path: Path) -> str | None:
    """What is at the path: "file", "directory", "link" (whatever that leads to), …; None where nothing is."""
    try:
        return kind_of(path.lstat().st_mode)
    except FileNotFoundError:
        return None


def _check(path: Path, status: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ReportError(f"{path}: expected a file, found a {kind_of(status.st_mode)}; {NO_LINKS}")
    check_size(path, status.st_size, limit)


def kind_of(mode: int) -> str:
    kinds = (("link", stat.S_ISLNK), ("directory", stat.S_ISDIR), ("file", stat.S_ISREG))
    return next((kind for kind, is_so in kinds if is_so(mode)), "device or pipe")
