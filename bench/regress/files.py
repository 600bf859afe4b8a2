"""The files of a gate run: each appears whole or not at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import files
from bench.regress.errors import GateError


def write_text(path: Path, text: str) -> None:
    """Write a text file, and the folders above it.

    Raises:
        GateError: it can't be written, as on a full disk.
    """
    with _stops_if_unwritable(path):
        files.write_text(path, text)


def write_json(path: Path, document: Any) -> None:
    """Write a document as JSON, and the folders above it; non-ASCII is escaped, since text from git may be no Unicode.

    Raises:
        GateError: it can't be written, as on a full disk.
    """
    with _stops_if_unwritable(path):
        files.write_json(path, document, ascii_only=True)


@contextmanager
def _stops_if_unwritable(path: Path) -> Iterator[None]:
    """Make the folders above a file, and raise a GateError that says why if it can't be written within the context."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise GateError(
            f"{path} can't be written ({error.strerror or error}); what was finished before stays. Mend that, then go "
            "on by the same command with the same --run"
        ) from error


def read_json(path: Path) -> Any:
    """The document in a JSON file.

    Raises:
        GateError: the file holds no JSON.
        OSError: the file can't be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GateError(f"{path} is no JSON ({error}); if it was cut off, remove it: it is measured again") from error
