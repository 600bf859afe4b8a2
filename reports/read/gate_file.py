"""Reads the JSON files of the regression gate, each of which names its kind and its schema."""

from pathlib import Path
from typing import Any

from reports.base.errors import ReportError
from reports.read.files import check_schema, read_json

SCHEMA = 1  # of what bench/regress/ writes


def read_gate_file(path: Path, kind: str, *, whose: str, what: str, remedy: str) -> dict[str, Any]:
    """The JSON object in the file `path`, which the regression gate wrote, if its kind and schema are as expected.

    Args:
        kind: what the document's field `kind` must say.
        whose, what, remedy: for errors: which file is expected, what is in it, and what to give instead.

    Raises:
        ReportError: there is no such file, it can't be read, or it is of another kind or schema.
    """
    if not path.is_file():
        raise ReportError(f"{path}: there is no such file; expected {whose}")
    document = read_json(path)
    if document.get("kind") != kind:
        raise ReportError(f"{path}: expected {what}, got {document.get('kind')!r}; give {remedy}")
    check_schema(path, document, SCHEMA)
    return document
