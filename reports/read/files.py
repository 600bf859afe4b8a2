"""Reads one file of a run: returns what is in it, or raises an error that says what is wrong with it."""

import csv
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

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
    opened,
)

REMEDY = "copy the run directory again, or run the benchmark again"
LARGEST = 2**63  # numbers stay below it, so that they fit into any column
MOST_NAMES = 30  # that an error lists


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`."""
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
    """Check that the field `schema` of the document is the number of the schema that can be read here."""
    if document.get("schema") != schema:
        raise ReportError(
            f"{path}: expected schema {schema}, got {document.get('schema')!r:.60}; use the reports that came with "
            "the benchmark which wrote this run, or run the benchmark again"
        )


def check_fields(path: Path, document: Any, fields: Mapping[str, Types], where: str = "") -> None:
    """Check that the document has all fields, each of its type; `where` names the object inside the file."""
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
    """Check that the fields in `least` are null, or finite numbers no smaller than it says."""
    for name, bound in least.items():
        value = document[name]
        if value is not None and not (-LARGEST if bound is None else bound) <= value < LARGEST:  # nor is NaN
            at_least = "" if bound is None else f" of at least {bound}"
            raise ReportError(
                f"{path}: expected a finite number{at_least} for '{name}'{_in(where)}, got {value!r:.60}; {REMEDY}"
            )


def check_items(path: Path, values: Iterable[Any], expected: type, where: str) -> None:
    """Check that all values of a list or an object are of one type."""
    if wrong := [value for value in values if type(value) is not expected]:
        raise ReportError(f"{path}: expected {_names(expected)} for each of {where}, got {wrong[0]!r:.60}; {REMEDY}")


def check_choice(path: Path, what: str, choice: str, known: Collection[str]) -> None:
    """Check that the word `choice` is one of the known ones, which errors call `what`, a plural."""
    if choice not in known:
        raise ReportError(f"{path}: expected one of the {what} {_quoted(known)}, got {choice!r:.60}; {REMEDY}")


def read_csv(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table in a CSV file, with the columns of `columns` (name -> "text", or some kind of number) in their order.

    All of them are checked: numbers may be NaN; text may not be missing.
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
    check_columns(path, frame.columns, columns)
    frame = frame[list(columns)].copy()
    for name, kind in columns.items():
        if kind != "text":
            frame[name] = _numbers(path, frame[name])
        elif (frame[name].isna() | (frame[name] == "")).any():
            raise ReportError(f"{path}: column '{name}' has empty cells, the file may be cut off; {REMEDY}")
    return frame


def read_parquet_columns(path: Path) -> list[str]:
    """The column names of a Parquet file; its footer, written last, shows that it is whole."""
    with damage(path, "a Parquet file"), opened(path) as file:
        file.seek(-8, os.SEEK_END)
        length, mark = file.read(4), file.read()
        if mark == b"PAR1":
            check_size(path, int.from_bytes(length, "little"), MOST_FOOTER, " of names and the like")
        return list(pq.read_schema(file).names)


@contextmanager
def damage(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever reading a damaged file raises in the context into a ReportError that says what was `expected`."""
    try:
        yield
    except ReportError:
        raise
    except Exception as error:  # zip, numpy and Arrow raise dozens of types on damaged bytes, none documented
        raise _unreadable(path, expected, error) from error


def check_columns(path: Path, found: Collection[str], expected: Collection[str]) -> None:
    """Check that all expected columns are among those that are there."""
    if missing := [name for name in expected if name not in found]:
        raise ReportError(f"{path}: missing columns {_quoted(missing)}, found {_quoted(found)}; {REMEDY}")


def kinds(types: Types) -> tuple[type, ...]:
    """The type or types as a tuple."""
    return types if isinstance(types, tuple) else (types,)


def printable(name: str) -> str:
    """The name of a file as text that can be printed; a name may have bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _check_table(path: Path, text: str) -> None:
    """Check, before a CSV file is parsed, that its text has no more rows, cells and columns than the limits allow."""
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
