"""Reads `bench/rundir/run-directory.toml`, which says what a run directory holds: as much as readers of runs need.

That file belongs to bench/, which writes runs, and is all of bench/ that reports/ knows.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2].joinpath("bench", "rundir", "run-directory.toml")
Types = type | tuple[type, ...]
PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "text": (str,), "whole number": (int,), "number": (int, float), "truth value": (bool,), "list": (list,),
    "object": (dict,),
}  # fmt: skip
OR_NULL = " or null"


@dataclass(frozen=True)
class Field:
    """What may stand in one field of a run's files, as run-directory.toml says it.

    Attributes:
        kind: "text", "whole number", "number", "truth value", "list" or "object", each also with " or null"; or
            "anything", which is not checked.
        optional: whether older runs lack the field.
        default: what holds where they do, unless `usual` is stated.
        least: the least number that it may be; None where any is.
        values: the words that it may be; () where any are.
        usual: of an axis, the value that holds unless something else is said; None where the field is no axis.
        words: what a value of the axis is called, with {} for the value.
        names: value -> what it is called, where `words` doesn't say it.
        titles: value -> what titles of figures call it, where that is another word again.
        beside: whether all values of the axis stand beside one another in one figure.
    """

    kind: str  # `type` in the description
    optional: bool = False
    default: Any = None
    least: int | None = None
    values: tuple[str, ...] = ()
    usual: str | None = None
    words: str = "{}"
    names: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    beside: bool = False

    @property
    def is_checked(self) -> bool:
        """Whether the field's type is checked; a field that may be anything is shown as it is."""
        return self.kind != "anything"

    @property
    def is_number(self) -> bool:
        return "number" in self.kind

    @property
    def types(self) -> tuple[type, ...]:
        """The Python types of the field's values as read from JSON; a KeyError if the field may be anything."""
        types = PYTHON_TYPES[self.kind.removesuffix(OR_NULL)]
        return (*types, type(None)) if self.kind.endswith(OR_NULL) else types

    @property
    def missing(self) -> Any:
        """The value to take where a run lacks the field: of an axis the usual one, of other fields `default`."""
        return self.default if self.usual is None else self.usual

    def word(self, value: str) -> str:
        """What a value of an axis is called in a sentence or a table."""
        return self.names.get(value, self.words.format(value))

    def title(self, value: str) -> str:
        """What a value of an axis is called in the title of a figure."""
        return self.titles.get(value, self.word(value))


@dataclass(frozen=True)
class Table:
    """What a CSV table of a run holds.

    Attributes:
        columns: the name of each column -> what may stand in its cells.
        key: the columns whose values together no two rows share; () where rows may be alike.
    """

    columns: Mapping[str, Field]
    key: tuple[str, ...] = ()


Fields = Mapping[str, Field]


def required(fields: Fields) -> dict[str, Types]:
    """Name -> Python types of the values, of those fields that no run may lack (not `optional`)."""
    return {name: each.types for name, each in fields.items() if not each.optional}


def optional(fields: Fields) -> dict[str, Types]:
    """Name -> Python types of the values, of those fields that older runs lack, without those of kind "anything"."""
    return {name: each.types for name, each in fields.items() if each.optional and each.is_checked}


def _fields(section: str) -> dict[str, Field]:
    return {name: _field(entry) for name, entry in _DESCRIPTION[section].items()}


def _field(entry: Mapping[str, Any]) -> Field:
    others = {name: value for name, value in entry.items() if name not in ("type", "values")}
    return Field(entry["type"], values=tuple(entry.get("values", ())), **others)


def _axes(case: Fields) -> dict[str, Field]:
    """The axes by name: those fields of `case` for which a usual value is stated.

    First come those that the list `axes` of run-directory.toml names, in its order, then the others in the order of
    `case`.
    """
    named = [*_DESCRIPTION["axes"], *case]
    return {name: case[name] for name in sorted(case, key=named.index) if case[name].usual is not None}


def _table(entry: Mapping[str, Any]) -> Table:
    columns = {name: Field(it) if isinstance(it, str) else _field(it) for name, it in entry["columns"].items()}
    return Table(columns, tuple(entry.get("key", ())))


_DESCRIPTION = tomllib.loads(FILE.read_text(encoding="utf-8"))
SCHEMA: int = _DESCRIPTION["schema"]
STATUSES: tuple[str, ...] = tuple(_DESCRIPTION["statuses"])
ENVIRONMENT, MACHINE, TASK = (_fields(section) for section in ("environment", "machine", "task"))
RECORD, CASE, SAMPLE, COUNTS = (_fields(section) for section in ("record", "case", "sample", "counts"))
AXES: Fields = _axes(CASE)
TABLES: Mapping[str, Table] = {name: _table(entry) for name, entry in _DESCRIPTION["tables"].items()}
