"""JSON documents with a format and a version: they appear whole when written, and are checked when read.

A `Kind` of document writes and reads its files. The functions below it check a part of a document: each returns the
part as it is, or raises a ValueError that says `where` it stands and what came instead.
"""

import json
import math
import os
import reprlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mha.values.atomic_files import appears_whole
from mha.values.errors import MhaError

DEEPEST = 50  # what is written here is 6 deep; what is read is walked by functions that call themselves
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Kind:
    """One kind of document.

    Attributes:
        format, version: the values under these names in its files.
        noun: what errors call such a document, as "a plan".
        error: the class of errors about files that can't be read as such a document.
    """

    format: str
    version: int
    noun: str
    error: type[MhaError]

    def write(self, path: str | os.PathLike[str], content: Mapping[str, Any], indent: int | None = 1) -> None:
        """Write the content to `path` as JSON, after the keys "format" and "version"; it appears whole or not at all.

        Args:
            indent: as in `json.dump`: spaces a level, or None for a single line.

        Raises:
            ValueError: a number that is NaN or infinite.
        """
        document = {"format": self.format, "version": self.version, **content}
        text = json.dumps(document, indent=indent, allow_nan=False) + "\n"
        with appears_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def read(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """The JSON object in the file, of which nothing but its format and version has been checked.

        Raises:
            MhaError, of the class `error`: the file can't be read, is no JSON (as one that is cut off), or its "format"
                or "version" is another.
        """
        try:
            document = _parsed(_text(Path(path)))
        except OSError as error:
            raise self.error(f"{path}: can't be read ({error.strerror or error})") from error
        except (ValueError, RecursionError) as error:
            raise self.error(f"{path}: not {self.noun}, or cut off in the middle ({error})") from error
        if not isinstance(document, dict) or document.get("format") != self.format:
            raise self.error(f'{path}: not {self.noun}: expected a JSON object with "format": "{self.format}"')
        version = document.get("version")
        if type(version) is not int or version != self.version:
            raise self.error(
                f"{path}: {self.noun} in version {reprlib.repr(version)} of its format; this release reads version "
                f"{self.version}"
            )
        return document

    @contextmanager
    def checked(self, path: str | os.PathLike[str], advice: str) -> Iterator[None]:
        """Within the context, turn a ValueError or MhaError into this kind's `error`.

        Its message says that the file at `path` is damaged, how, and then `advice`.
        """
        try:
            yield
        except (ValueError, MhaError) as error:
            raise self.error(f"{path}: a damaged {self.noun.removeprefix('a ')} ({error}); {advice}") from error


def entry(document: Mapping[str, Any], key: str) -> Any:
    """The value that the document has under this key; a ValueError where there is none."""
    if key not in document:
        raise ValueError(f"{key!r} is missing")
    return document[key]


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The value if it is a JSON object; otherwise a ValueError that calls it `where`."""
    return value if isinstance(value, dict) else _refuse(where, "an object", value)


def sequence(value: Any, where: str, length: int | None = None) -> list[Any]:
    """The value if it is a list, of this length if one is given; otherwise a ValueError that calls it `where`."""
    if not isinstance(value, list) or length not in (None, len(value)):
        _refuse(where, "a list" if length is None else f"a list of {length}", value)
    return value


def text(value: Any, where: str) -> str:
    """The value if it is a string; otherwise a ValueError that calls it `where`."""
    return value if isinstance(value, str) else _refuse(where, "a string", value)


def flag(value: Any, where: str) -> bool:
    """The value if it is true or false; otherwise a ValueError that calls it `where`."""
    return value if isinstance(value, bool) else _refuse(where, "true or false", value)


def number(value: Any, where: str) -> float:
    """The value, as it is, if it is a finite number; otherwise a ValueError that calls it `where`.

    The number 3 does not become 3.0. Refused are also true and false, and whole numbers beyond ±(2**63 - 1).
    """
    finite = math.isfinite(value) if type(value) is float else type(value) is int and abs(value) <= LARGEST
    return value if finite else _refuse(where, "a finite number", value)


def whole_number(value: Any, where: str, least: int = 0) -> int:
    """The value if it is an int from `least` to 2**63 - 1, not a bool; otherwise a ValueError that calls it `where`."""
    if type(value) is not int or not least <= value <= LARGEST:
        _refuse(where, f"a whole number, {least} or more", value)
    return value


def numbers(value: Any, where: str) -> list[float]:
    """The value if it is a list of finite numbers; otherwise a ValueError that calls it `where`."""
    return [number(item, where) for item in sequence(value, where)]


def whole_numbers(value: Any, where: str) -> list[int]:
    """The value if it is a list of whole numbers, none negative; otherwise a ValueError that calls it `where`."""
    return [whole_number(item, where) for item in sequence(value, where)]


def _refuse(where: str, expected: str, value: Any) -> NoReturn:
    """Raise a ValueError that says where, what was expected, and which value came instead."""
    raise ValueError(f"{where}: expected {expected}, got {reprlib.repr(value)}")


def _text(path: Path) -> str:
    """The text in a regular file, read as UTF-8.

    Raises:
        OSError: it can't be read, or is a directory, a pipe or a device.
        ValueError: it is not UTF-8.
    """
    with open(path, "rb", opener=_without_waiting) as file:  # Path.open takes no opener
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no regular file")
        return file.read().decode("utf-8")


def _without_waiting(path: str, flags: int) -> int:
    """Open a file and return its descriptor; a pipe is opened at once too, without waiting for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would never open


def _parsed(content: str) -> Any:
    """The value that this JSON text stands for.

    Raises:
        ValueError: it is no JSON, has a key twice, holds NaN, or is nested too deep.
        RecursionError: it is nested deeper than Python reads.
    """
    document = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_number)
    level: list[Any] = [document]
    for _ in range(DEEPEST):
        level = [part for container in level for part in _parts(container) if isinstance(part, list | dict)]
    if level:
        raise ValueError(f"nested more than {DEEPEST} deep")
    return document


def _parts(container: Any) -> Iterable[Any]:
    """The values in a JSON object or a list; none for anything else."""
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object as a dictionary.

    Raises:
        ValueError: a key occurs twice.
    """
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return unique


def _no_number(name: str) -> NoReturn:
    """Raise a ValueError for NaN and Infinity, which Python's parser would accept as numbers."""
    raise ValueError(f"{name} is no number in JSON")
