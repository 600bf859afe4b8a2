"""What the writer of a run directory needs to know of `run-directory.toml`, which describes what is in one."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("run-directory.toml")
_DESCRIPTION = tomllib.loads(FILE.read_text(encoding="utf-8"))
_AXES = {name: field for name, field in _DESCRIPTION["case"].items() if "usual" in field}


class Columns(NamedTuple):
    """Names of a table's columns.

    Attributes:
        origin: those of the names that tell what was measured; () for a table that is written at once when a run ends.
        blank: name -> the value that a cell has before it is filled, None unless the description states a default.
    """

    names: tuple[str, ...]
    origin: tuple[str, ...]
    blank: Mapping[str, Any]

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "Columns":
        """The columns of a table as run-directory.toml describes it."""
        columns = table["columns"]
        blank = {name: None if isinstance(entry, str) else _blank(entry) for name, entry in columns.items()}
        return cls(tuple(columns), tuple(table.get("origin", ())), blank)


def _blank(field: Mapping[str, Any]) -> Any:
    """The value of a field before it is measured: its default if older runs may lack the field, else None."""
    return field.get("usual", field.get("default")) if field.get("optional") else None


SCHEMA: int = _DESCRIPTION["schema"]
OK, FAILED, OUT_OF_MEMORY, SKIPPED = _DESCRIPTION["statuses"]
USUAL: Mapping[str, str] = MappingProxyType({axis: field["usual"] for axis, field in _AXES.items()})
VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {axis: tuple(field.get("values", ())) for axis, field in _AXES.items()}
)
BLANK_CASE: Mapping[str, Any] = MappingProxyType({name: _blank(field) for name, field in _DESCRIPTION["case"].items()})
TABLES: Mapping[str, Columns] = MappingProxyType(
    {name: Columns.of(table) for name, table in _DESCRIPTION["tables"].items()}
)
