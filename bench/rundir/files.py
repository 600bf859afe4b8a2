"""Files of a run directory: each appears whole or not at all, and a run that can't write one stops."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mha.values.atomic_files import appears_whole

LOCK = ".lock"
PARTIAL = ".*.partial"  # what a killed process may leave


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A place to write to, renamed to `path` at the end.

    Raises:
        pytest.exit.Exception: it can't be written, as on a full disk. The run stops: what could not be kept would be
            measured in vain.
    """
    try:
        with appears_whole(path) as temporary:
            yield temporary
    except OSError as error:
        pytest.exit(
            f"{path} can't be written ({error.strerror or error}); what was finished before stays. "
            "Mend that, then go on by the same command with the same --run",
            returncode=pytest.ExitCode.INTERRUPTED,
        )


def write_json(path: Path, document: Any, indent: int | None = None) -> None:
    text = json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=False)
    with written(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The document; None where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def unfinished(path: Path) -> Path:
    """Where a file stands until it is whole."""
    return path.with_name(f".{path.name}.partial")


def is_ours(path: Path) -> bool:
    """Whether a file says nothing about what else is in a directory: a lock, or what a killed process left."""
    return path.name == LOCK or path.match(PARTIAL)


def numbered(name: str, process: int) -> str:
    """The name of what process number `process` of a figure measured; the first process's is the name itself."""
    return f"{name}+{process}" if process else name
