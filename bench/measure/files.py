"""How results are kept: files that appear whole or not at all, and a lock on the directory that they are in."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from mha.values.atomic_files import appears_whole

LOCK = ".lock"


def now() -> str:
    """The present time in UTC, to the second, as ISO 8601 text."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_directory(kind: str = "") -> Path:
    """A path for a new run, not made yet, by `kind` and time: runs/gate-20260101T120000Z for "gate-"."""
    return Path("runs", datetime.now(UTC).strftime(f"{kind}%Y%m%dT%H%M%SZ"))


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8.

    Raises:
        OSError: it can't be written, as on a full disk.
    """
    with appears_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any, indent: int | None = None, *, ascii_only: bool = False) -> None:
    """Write a document as a JSON file that ends with a line break.

    Args:
        ascii_only: escape all letters outside ASCII, so that even text which is no valid Unicode can be written.

    Raises:
        OSError: it can't be written, as on a full disk.
        ValueError: it holds a number that is NaN or infinite.
    """
    text = json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=ascii_only)
    write_text(path, f"{text}\n")


def lock(directory: Path) -> BaseFileLock:
    """Take the lock on a directory, which is held until it is released or this process ends, however it ends.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the directory can't be written.
    """
    held = FileLock(directory / LOCK)
    held.acquire(timeout=0)
    return held


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock on a directory within the context, so that no other process works there.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the directory can't be written.
    """
    held = lock(directory)
    try:
        yield
    finally:
        held.release()
