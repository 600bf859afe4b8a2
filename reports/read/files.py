"""Reads one file of a run: returns what is in it, or raises an error that says what is wrong with it."""

import csv
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import pandas as pd

from reports.base.errors import ReportError
from reports.read.description import SCHEMA, Types
from reports.read.intake import (
    MOST_CELLS,
    MOST_COLUMNS,
    MOST_FOOTER,
    MOST_ROWS,
    check_count,
    check_depth,
    check_size,
    contents,
)

REMEDY = "copy the run directory again, or run the benchmark again"
LARGEST = 2**63  # numbers stay below it, so that they fit into any column
MOST_NAMES = 30  # that an error lists


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`, as a dict.

    Raises:
        ReportError: the file can't be opened, is no regular file or too large, is no JSON, or holds something else than
            an object, text that can't be written as UTF-8, or lists and objects that are nested too deeply.
    """
    try:
        text = contents(path).decode("utf-8")
        document = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(document, ensure_ascii=False).encode()  # half a character can be written to no page
    except (ValueError, OSError, RecursionError) as error:
        raise _unreadable(path, "a JSON object", error) from error
    if not isinstance(document, dict):
        raise ReportError(f"{path}: expected a JSON object, got {type(document).__name__}; {REMEDY}")
    check_depth(path, document)
    return document


def check_schema(path: Path, document: Mapping[str, Any], schema: int = SCHEMA) -> None:
    """Raise a ReportError about the file `path` unless the field `schema` of its content is the number `schema`."""
    if document.get("schema") != schema:
        raise ReportError(
            f"{path}: expected schema {schema}, got {document.get('schema')!r:.60}; use the reports that came with "
            "the benchmark which wrote this run, or run the benchmark again"
        )


def check_fields(path: Path, document: Any, fields: Mapping[str, Types], where: str = "") -> None:
    """Raise a ReportError about the file `path` unless `document` is an object with all `fields`, each of its type.

    True and False pass for no number. Fields that are not named may be anything.

    Args:
        fields: name -> Python type, or types, of the value.
        where: what errors call the object inside the file; "" if it is the whole file.
    """
    if not isinstance(document, Mapping):
        raise ReportError(f"{path}: expected an object for {where}, got {document!r:.60}; {REMEDY}")
    if missing := [name for name in fields if name not in document]:
        raise ReportError(f"{path}: missing {_quoted(missing)}{_in(where)}, found {_quoted(document)}; {REMEDY}")
    for name, types in fields.items():
        value = document[name]
        # bool is an int to isinstance, but never a count of anything here
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in kinds(types)):
            raise ReportError(f"{path}: expected {_names(types)} for '{name}'{_in(where)}, got {value!r:.60}; {REMEDY}")


def check_numbers(path: Path, document: Mapping[str, Any], least: Mapping[str, int | None], where: str = "") -> None:
    """Raise a ReportError about the file `path` unless each field in `least` is null or a finite number in its range.

    Args:
        document: an object in the file, whose fields have been checked to be numbers or null.
        least: name -> the least value allowed, or None where any is; all must be below 2^63, and none below -2^63.
        where: what errors call the object; "" if it is the whole file.
    """
    for name, bound in least.items():
        value = document[name]
        if value is not None and not (-LARGEST if bound is None else bound) <= value < LARGEST:  # nor is NaN
            at_least = "" if bound is None else f" of at least {bound}"
            raise ReportError(
                f"{path}: expected a finite number{at_least} for '{name}'{_in(where)}, got {value!r:.60}; {REMEDY}"
            )


def check_items(path: Path, values: Iterable[Any], expected: type, where: str) -> None:
    """Raise a ReportError about the file `path` unless each of `values` is exactly of the type `expected`, no subclass.

    Args:
        where: what errors call the list or object that the values come from.
    """
    if wrong := [value for value in values if type(value) is not expected]:
        raise ReportError(f"{path}: expected {_names(expected)} for each of {where}, got {wrong[0]!r:.60}; {REMEDY}")


def check_choice(path: Path, what: str, choice: str, known: Collection[str]) -> None:
    """Raise a ReportError about the file `path` unless the word `choice` is one of `known`.

    Args:
        what: what errors call the known words, in the plural.
    """
    if choice not in known:
        raise ReportError(f"{path}: expected one of the {what} {_quoted(known)}, got {choice!r:.60}; {REMEDY}")


def read_csv(path: Path, columns: Mapping[str, str], later: Mapping[str, str] = MappingProxyType({})) -> pd.DataFrame:
    """The table in the CSV file `path`, with the columns named in `columns`, in their order; others are dropped.

    Args:
        columns: name -> "text", or anything else for numbers, which become floats. An empty cell is NaN among numbers.
        later: those of them that older files lack: name -> what their cells would hold.

    Raises:
        ReportError: the file can't be read or is too large, its last line does not end, a line has more cells than the
            header, a column is missing, a cell of text is empty, or a cell of numbers is no number.
    """
    try:
        text = contents(path).decode("utf-8")
        _check_table(path, text)
        frame = pd.read_csv(StringIO(text), keep_default_na=False, dtype=str)
        if not text.endswith("\n"):
            raise ValueError("the last line does not end")
        if not isinstance(frame.index, pd.RangeIndex):
            raise ValueError("lines have more cells than the header")
    except (ValueError, OSError, csv.Error) as error:
        raise _unreadable(path, "a CSV table", error) from error
    frame = frame.assign(**{name: cell for name, cell in later.items() if name not in frame})
    check_columns(path, frame.columns, columns)
    frame = frame[list(columns)].copy()
    for name, kind in columns.items():
        if kind != "text":
            frame[name] = _numbers(path, frame[name])
        elif (frame[name].isna() | (frame[name] == "")).any():
            raise ReportError(f"{path}: column '{name}' has empty cells, the file may be cut off; {REMEDY}")
    return frame


def check_footer(path: Path, file: BinaryIO) -> None:
    """Raise a ReportError if the footer of the opened Parquet file `path` says that it is larger than any run's is."""
    file.seek(-8, os.SEEK_END)
    length, mark = file.read(4), file.read()
    if mark == b"PAR1":
        check_size(path, int.from_bytes(length, "little"), MOST_FOOTER, " of names and the like")
    file.seek(0)


@contextmanager
def damage(path: Path, expected: str) -> Iterator[None]:
    """Raise any error of the context again as a ReportError about the file `path`; a ReportError passes as it is.

    Args:
        expected: what the file should have been, in words, for the error.
    """
    try:
        yield
    except ReportError:
        raise
    except Exception as error:  # zip, numpy and Arrow raise dozens of types on damaged bytes, none documented
        raise _unreadable(path, expected, error) from error


def check_columns(path: Path, found: Collection[str], expected: Collection[str]) -> None:
    """Raise a ReportError about the file `path` if one of the names `expected` is not among those `found`."""
    if missing := [name for name in expected if name not in found]:
        raise ReportError(f"{path}: missing columns {_quoted(missing)}, found {_quoted(found)}; {REMEDY}")


def kinds(types: Types) -> tuple[type, ...]:
    """The type or types as a tuple."""
    return types if isinstance(types, tuple) else (types,)


def printable(name: str) -> str:
    """The name of a file as text that can be printed; a name may have bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _check_table(path: Path, text: str) -> None:
    """Raise a ReportError if the text of a CSV file, not yet parsed, has too many rows, cells or columns."""
    rows = max(text.count("\n"), text.count("\r"))
    check_count(path, rows, MOST_ROWS, "rows")
    check_count(path, rows + text.count(","), MOST_CELLS, "cells")
    check_count(path, len(next(csv.reader(StringIO(text)), [])), MOST_COLUMNS, "columns")


def _numbers(path: Path, cells: pd.Series) -> pd.Series:
    try:
        # not pandas' own parser, which can be off in the last place: kept fractions are compared
        return pd.Series([float(cell or "nan") for cell in cells.fillna("")], index=cells.index, dtype=float)
    except ValueError as error:
        raise ReportError(f"{path}: expected numbers in column '{cells.name}' ({error}); {REMEDY}") from error


def _unreadable(path: Path, expected: str, error: Exception) -> ReportError:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__  # strerror names no path
    reason = said.splitlines()[0]
    return ReportError(f"{path}: expected {expected}, but it is cut off or not of that format ({reason}); {REMEDY}")


def _quoted(names: Collection[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in islice(names, MOST_NAMES)) or "nothing"
    return listed if len(names) <= MOST_NAMES else f"{listed} and {len(names) - MOST_NAMES:,} more"


def _names(types: Types) -> str:
    return " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds(types))


def _in(where: str) -> str:
    return f" in {where}" if where else ""
