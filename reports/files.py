"""Reading one file of a run: what is in it, or an error that says what is wrong with it."""

import json
import zipfile
import zlib
from collections.abc import Collection, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reports.errors import ReportError

SCHEMA = 1
REMEDY = "copy the run directory again, or run the benchmark again"
Types = type | tuple[type, ...]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _unreadable(path, "a JSON object", error) from error
    if not isinstance(document, dict):
        raise ReportError(f"{path}: expected a JSON object, got {type(document).__name__}; {REMEDY}")
    return document


def check_schema(path: Path, document: Mapping[str, Any]) -> None:
    """The document is of the schema that is read here."""
    if document.get("schema") != SCHEMA:
        raise ReportError(
            f"{path}: expected schema {SCHEMA}, got {document.get('schema')!r}; use the reports that came with "
            "the benchmark which wrote this run, or run the benchmark again"
        )


def check_fields(path: Path, document: Mapping[str, Any], fields: Mapping[str, Types], where: str = "") -> None:
    """Every field is there and of its type; `where` names the object inside the file."""
    inside = f" in {where}" if where else ""
    if missing := [name for name in fields if name not in document]:
        raise ReportError(f"{path}: missing {_quoted(missing)}{inside}, found {_quoted(document)}; {REMEDY}")
    for name, types in fields.items():
        value = document[name]
        # bool is an int to isinstance, but never a count of anything here
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            raise ReportError(f"{path}: expected {_names(types)} for '{name}'{inside}, got {value!r}; {REMEDY}")


def read_csv(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table in `path`, `columns` (name -> "text", or some kind of number) checked and in their order.

    Numbers may be NaN; text may not be missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
        frame = pd.read_csv(StringIO(text), keep_default_na=False, dtype=str)
    except (ValueError, OSError) as error:
        raise _unreadable(path, "a CSV table", error) from error
    if not text.endswith("\n"):
        raise _unreadable(path, "a CSV table", ValueError("the last line does not end"))
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
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, "a Parquet file", error) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays in `path`, by key; pickled ones are refused."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        # TypeError: a bare .npy array, which is no archive
        raise _unreadable(path, "an npz archive of plain arrays", error) from error


def check_columns(path: Path, found: Collection[str], expected: Collection[str]) -> None:
    if missing := [name for name in expected if name not in found]:
        raise ReportError(f"{path}: missing columns {_quoted(missing)}, found {_quoted(found)}; {REMEDY}")


def _numbers(path: Path, cells: pd.Series) -> pd.Series:
    try:
        # not pandas' own parser, which can be off in the last place: kept fractions are compared
        return pd.Series([float(cell or "nan") for cell in cells.fillna("")], index=cells.index, dtype=float)
    except ValueError as error:
        raise ReportError(f"{path}: expected numbers in column '{cells.name}' ({error}); {REMEDY}") from error


def _unreadable(path: Path, expected: str, error: Exception) -> ReportError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ReportError(f"{path}: expected {expected}, but it is cut off or not of that format ({reason}); {REMEDY}")


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"


def _names(types: Types) -> str:
    return " or ".join(
        "null" if kind is type(None) else kind.__name__ for kind in (types if isinstance(types, tuple) else (types,))
    )
