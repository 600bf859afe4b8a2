"""Files of a run directory: each appears whole or not at all, and a run that can't write one stops."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from bench.measure import files
from bench.measure.files import LOCK
from mha.values.atomic_files import appears_whole

# as `appears_whole` and `unfinished` name what is not whole yet
UNFINISHED = re.compile(r"\.(.+)\.\d+-[0-9a-f]+\.partial|\.(benchmarks(?:\+\d+)?\.json)\.partial")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end of the context that file is renamed to `path`.

    Raises:
        pytest.exit.Exception: it can't be written, and the run stops.
    """
    with _stops_if_unwritable(path), appears_whole(path) as temporary:
        yield temporary


@contextmanager
def _stops_if_unwritable(path: Path) -> Iterator[None]:
    """Turn an OSError within the context into the end of the run (`pytest.exit`), which says what can't be written."""
    try:
        yield
    except OSError as error:
        pytest.exit(
            f"{path} can't be written ({error.strerror or error}); what was finished before stays. "
            "Mend that, then go on by the same command with the same --run",
            returncode=pytest.ExitCode.INTERRUPTED,
        )


def write_json(path: Path, document: Any, indent: int | None = None) -> None:
    """Write a document as a JSON file, whole or not at all.

    Raises:
        pytest.exit.Exception: it can't be written, and the run stops.
    """
    with _stops_if_unwritable(path):
        files.write_json(path, document, indent)


def read_json(path: Path) -> Any:
    """The document in a JSON file, None where there is no file; ValueError if the file is no valid JSON."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def unfinished(path: Path) -> Path:
    """The path that pytest-benchmark writes to in place of `path`, where only whole files may appear."""
    return path.with_name(f".{path.name}.partial")


def left_behind(directory: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Yield the paths of files below a directory that a killed process has left unfinished.

    Args:
        patterns: of the files that a run has, as "cases/*.json". Unfinished files of other names are somebody else's.
    """
    patterns = tuple(patterns)
    for path in directory.rglob(".*.partial"):
        if match := UNFINISHED.fullmatch(path.name):
            whole = path.with_name(match[1] or match[2]).relative_to(directory)
            if any(_matches(whole.parts, pattern.split("/")) for pattern in patterns):
                yield path


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether there are as many parts of a path as patterns, and each matches the pattern at its place."""
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def is_ours(path: Path) -> bool:
    """Whether a path is named as the lock or as an unfinished file: a directory with nothing else counts as empty."""
    return path.name == LOCK or UNFINISHED.fullmatch(path.name) is not None


def numbered(name: str, process: int) -> str:
    """A file's name, without its suffix, for what a process measured: NAME for process 0, NAME+1 for process 1."""
    return f"{name}+{process}" if process else name
