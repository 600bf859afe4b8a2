"""What a task's TOML file says: which keys there are, what each may be, and the values as one object."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mha.tasks.base.objects import TAKEN, check_name
from mha.values.errors import TaskError
from mha.values.unknown_words import unknown

PARTS = ("calibration", "evaluation", "unlabelled")
NEEDED = PARTS[:2]
UNLABELLED = PARTS[2]
UNITS = ("line", "paragraph", "document")
OVERLAPS = ("error", "drop")
TYPES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}

KEYS: dict[str, type] = {
    "kind": str,
    "name": str,
    "metric": str,
    "batch_size": int,
    "max_length": int,
    "truncate": bool,
    "overlap": str,
    "seed": int,
    "data": dict,
    "columns": dict,
    "labels": dict,
    "limits": dict,
    "options": dict,
}
DATA_KEYS: dict[str, type] = {**dict.fromkeys(PARTS, str), "file": str, "split": dict, "unit": str}


@dataclass(frozen=True)
class Data:
    """Where the rows of each part are.

    Attributes:
        files: part ("calibration", "evaluation", "unlabelled") -> its file or image folder; empty where there is one
            file for all.
        file: the one file or image folder that is divided, or None.
        split: part -> the share of the file's rows that it gets, together at most 1.
        unit: of plain text: what a row is, "line", "paragraph" (between blank lines) or "document" (a whole file);
            None for what is usual of the kind.
    """

    files: Mapping[str, Path]
    file: Path | None = None
    split: Mapping[str, float] = field(default_factory=dict)
    unit: str | None = None


@dataclass(frozen=True)
class Settings:
    """A task's file, checked as far as it can be without the model and the data.

    Attributes:
        path: the file itself.
        kind: as "text-classification"; `mha.tasks.kinds` has one file for each.
        metric: None for what is usual of the kind.
        columns: what is read from the data (as "text") -> the name of its column; what is not named is looked for.
        labels: a label as the data have it -> the model's name or number of it.
        limits: part -> the most rows it may have, drawn at random.
        options: what only some kinds have, as "stride".
        batch_size: examples in a batch.
        max_length: tokens that an example may have; None for what the model takes.
        truncate: whether longer examples are cut off, instead of refused.
        overlap: what is done with examples that evaluation has too: "error" or "drop".
        seed: by which rows are drawn and divided.
    """

    path: Path
    kind: str
    name: str
    data: Data
    metric: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    max_length: int | None = None
    truncate: bool = False
    overlap: str = "error"
    seed: int = 0


def read_settings(path: Path, name: str | None = None) -> Settings:
    """What the TOML file at `path` says.

    Args:
        name: the task's name, in place of the file's `name`; without either, the task is named after its file.

    Raises:
        TaskError: the file can't be read or is no TOML, a key is unknown, missing, or has a value that it may not have.
    """
    document = _document(path)
    _check(document, KEYS, path)
    if "kind" not in document:
        raise TaskError(f'{path}: says no kind; begin with a line as kind = "text-classification"')
    values = {key: value for key, value in document.items() if key not in ("data", "name")}
    for key, allowed in (("overlap", OVERLAPS),):
        _check_word(values.get(key, allowed[0]), key, allowed, path)
    for key in ("batch_size", "max_length"):
        if values.get(key, 1) < 1:
            raise TaskError(f"{path}: {key} is {values[key]}; expected a whole number from 1 up")
    _check(values.get("columns", {}), str, path, "columns")
    _check(values.get("limits", {}), dict.fromkeys(PARTS, int), path, "limits")
    if few := {part: limit for part, limit in values.get("limits", {}).items() if limit < 1}:
        raise TaskError(f"{path}: [limits] {few}: expected whole numbers from 1 up; leave a part out that has no limit")
    title = name if name is not None else document.get("name", _named_after(path))
    check_name(title, str(path))
    return Settings(path=path, name=title, data=_data(document.get("data", {}), path), **values)


def _document(path: Path) -> dict[str, Any]:
    """The file as nested dicts.

    Raises:
        TaskError: it can't be read or is no TOML, with line and column.
    """
    import tomllib  # takes longer to import than all other modules of this folder

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(f"{path}: can't be read ({error.strerror or error})") from error
    except ValueError as error:  # both of TOML and of UTF-8
        raise TaskError(f"{path}: not TOML: {error}") from error


def _check(table: Mapping[str, Any], keys: Mapping[str, type] | type, path: Path, where: str = "") -> None:
    """Refuse a table with a key that there is not, or a value of another type than its key has.

    Args:
        keys: key -> type; or one type for all values, where any key may be.
        where: the table's name; "" for the top of the file.

    Raises:
        TaskError: as said above.
    """
    place = f"{path}: [{where}]" if where else f"{path}:"
    for key, value in table.items():
        if isinstance(keys, Mapping) and key not in keys:
            raise TaskError(f"{place} {unknown('key', key, keys)}")
        kind = keys[key] if isinstance(keys, Mapping) else keys
        right = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        if not right or (isinstance(value, bool) and kind is not bool):
            raise TaskError(f"{place} {key} = {value!r}: expected {TYPES[kind]}")


def _check_word(word: str, key: str, allowed: tuple[str, ...], path: Path) -> None:
    """Raise a TaskError where the value of a key is none of those that it may have."""
    if word not in allowed:
        raise TaskError(f"{path}: {unknown(key, word, allowed)}")


def check_options(settings: Settings, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a kind: those of the file, over the defaults.

    Raises:
        TaskError: the kind has no such option, or it is of another type.
    """
    _check(settings.options, {name: type(value) for name, value in defaults.items()}, settings.path, "options")
    return {**defaults, **settings.options}


def _data(table: Mapping[str, Any], path: Path) -> Data:
    """The table [data]; files are looked for beside the task's file.

    Raises:
        TaskError: a key is wrong, calibration or evaluation is missing, there are both one file and several, a file is
            not there, or shares are none.
    """
    _check(table, DATA_KEYS, path, "data")
    if table.get("unit") is not None:
        _check_word(table["unit"], "unit", UNITS, path)
    files = {part: _there(table[part], path) for part in PARTS if part in table}
    if "file" not in table:
        if lacking := [part for part in NEEDED if part not in files]:
            raise TaskError(
                f"{path}: [data] has no {' and no '.join(lacking)}; name a file for calibration and one for "
                'evaluation, or one to be divided: file = "all.csv" and split = { calibration = 0.3, evaluation = 0.7 }'
            )
        if "split" in table:
            raise TaskError(f"{path}: [data] split divides one file: name it as file = …, and no others")
        return Data(files, unit=table.get("unit"))
    if files:
        raise TaskError(
            f"{path}: [data] has a file that is divided and files by part ({', '.join(files)}); give either"
        )
    return Data({}, _there(table["file"], path), _shares(table.get("split", {}), path), table.get("unit"))


def _shares(split: Mapping[str, float], path: Path) -> Mapping[str, float]:
    """The shares by which one file is divided.

    Raises:
        TaskError: an unknown part, no calibration or no evaluation, or shares that are not above 0 and together at
            most 1.
    """
    for part in split:
        if part not in PARTS:
            raise TaskError(f"{path}: [data] {unknown('split', part, PARTS)}")
    _check(split, float, path, "data.split")
    lacking = [part for part in NEEDED if part not in split]
    if lacking or min(split.values()) <= 0 or sum(split.values()) > 1 + 1e-9:
        raise TaskError(
            f"{path}: [data] split = {dict(split)}: expected shares above 0, together at most 1, of calibration and of "
            "evaluation, as split = { calibration = 0.3, evaluation = 0.7 }"
        )
    return split


def _there(name: str, path: Path) -> Path:
    """The file or folder of this name, beside the task's file unless the name is absolute.

    Raises:
        TaskError: it is not there.
    """
    place = path.parent / Path(name).expanduser()
    if not place.exists():
        raise TaskError(f"{path}: [data] there is no {place}; files are looked for beside the task's file")
    return place


def _named_after(path: Path) -> str:
    """A task's name from that of its file: in lower case, with a dash for what can't stand in a name."""
    name = re.sub(r"[^a-z0-9_.-]+", "-", path.stem.lower()).strip("-_.")
    return name if name and name != TAKEN else "task"
