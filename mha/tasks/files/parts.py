"""The rows of calibration, evaluation and further data: read, divided, drawn, and kept apart by what is in them."""

import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mha.tasks.files.near_copies import Known
from mha.tasks.files.near_images import KnownImages
from mha.tasks.files.settings import NEEDED, UNLABELLED, Settings
from mha.tasks.files.tables import Row, Table, read_table
from mha.values.errors import OverlapWarning, TaskError
from mha.values.unknown_words import unknown

Columns = Mapping[str, tuple[str, ...]]  # what is read of an example -> the usual names of such a column
BEGINNING = 40  # letters of a text that an error shows
SHOWN = 5  # rows that an error names


def read_parts(
    settings: Settings, columns: Columns, optional: frozenset[str], labels: frozenset[str]
) -> dict[str, list[Row]]:
    """Part -> its rows, in the order of their file, at most as many as the limits say, none empty.

    Args:
        columns: what is read, with the usual names of its columns.
        optional: what is read where there is such a column, or where the file names one.
        labels: what unlabelled rows need not have.

    Raises:
        TaskError: a file can't be read, has no such column, a part has no rows, or a row has nothing in a column.
    """
    for word in settings.columns:
        if word not in columns:
            raise TaskError(f"{settings.path}: [columns] {unknown('key', word, columns)}")
    parts = {}
    for part, table in _tables(settings).items():
        if not table.rows:
            raise TaskError(f"{settings.path}: {part} is empty: {table.path} gives it no rows; {_advice(settings)}")
        free = {*(optional - settings.columns.keys()), *(labels if part == UNLABELLED else ())}
        named = {word: _column(settings, table, word, usual, word in free) for word, usual in columns.items()}
        if part == UNLABELLED:
            named |= {word: None for word in labels if any(_is_empty(row.get(named[word] or "")) for row in table.rows)}
        columns_read = {word: column for word, column in named.items() if column is not None}
        rows = [Row({word: row[column] for word, column in columns_read.items()}, row.where) for row in table.rows]
        _check_filled(settings, part, rows)
        parts[part] = _drawn(rows, settings.limits.get(part), settings.seed)
    _check_alike(settings, parts, optional)
    return parts


def keep_apart(
    settings: Settings,
    parts: dict[str, list[Row]],
    content: Callable[[Row], Any],
    known_as: Callable[[Iterable[Any]], Known | KnownImages] = Known,
) -> dict[str, int]:
    """See to it that evaluation shares no example with the other parts, nor unlabelled ones with calibration.

    With `overlap = "drop"`, rows of the later part leave `parts`.

    Args:
        content: what an example is known by: its text, or, of an image, its `Looks`.
        known_as: makes of such contents what others are compared with.

    Returns:
        Part -> how many of its rows were dropped.

    Raises:
        TaskError: rows are in both, by number; or nothing would be left.
    """
    order = [part for part in ("evaluation", "calibration", UNLABELLED) if part in parts]
    dropped: dict[str, int] = {}
    for place, part in enumerate(order[1:], start=1):
        before = [(other, row) for other in order[:place] for row in parts[other]]
        known = known_as(content(row) for _, row in before)
        copies = {number: known.copied_by(content(row)) for number, row in enumerate(parts[part])}
        found = {number: before[place] for number, place in copies.items() if place is not None}
        if found and settings.overlap == "error":
            raise TaskError(_overlap(settings, part, parts[part], found))
        parts[part] = [row for number, row in enumerate(parts[part]) if number not in found]
        if part in NEEDED and not parts[part]:
            raise TaskError(
                f"{settings.path}: {part} is empty once what evaluation has too is dropped; give it other data"
            )
        if not parts[part]:
            del parts[part]
        if found:
            dropped[part] = len(found)
    if dropped:
        told = ", ".join(f"{count} rows of {part}" for part, count in dropped.items())
        warnings.warn(
            f"{settings.path}: dropped {told}, which stand in evaluation or calibration too", OverlapWarning, 4
        )
    return dropped


def _tables(settings: Settings) -> dict[str, Table]:
    """Part -> its table: a file of its own, or its share of the one that is divided."""
    data = settings.data
    if data.file is None:
        return {part: read_table(path, data.unit or "line") for part, path in data.files.items()}
    table = read_table(data.file, data.unit or "line")
    places = list(range(len(table.rows)))
    random.Random(settings.seed).shuffle(places)
    tables, start = {}, 0.0
    for part, share in data.split.items():
        end = start + share
        own = sorted(places[round(start * len(places)) : round(end * len(places))])
        tables[part], start = table._replace(rows=[table.rows[place] for place in own]), end
    return tables


def _column(settings: Settings, table: Table, word: str, usual: Sequence[str], optional: bool) -> str | None:
    """The column of the table that `word` is read from; None where it may be missing and is.

    Raises:
        TaskError: the table lacks the column that the file names, or has none of the usual names.
    """
    if (named := settings.columns.get(word)) is not None:
        if named in table.columns:
            return named
        if optional:
            return None
        what = f"column of {table.path.name}"
        raise TaskError(f"{settings.path}: [columns] {word}: {unknown(what, named, table.columns)}")
    found = next((name for name in usual if name in table.columns), None)
    if found is None and not optional:
        raise TaskError(
            f"{settings.path}: no column of {table.path.name} is named as {word} usually is ({', '.join(usual)}); say "
            f'which it is under [columns], as {word} = "…". There are: {", ".join(table.columns) or "none"}'
        )
    return found


def _check_filled(settings: Settings, part: str, rows: Sequence[Row]) -> None:
    """Raise a TaskError where a row has nothing in a column that is read."""
    empty = [(row, word) for row in rows for word, value in row.items() if _is_empty(value)]
    if empty:
        row, word = empty[0]
        raise TaskError(
            f"{settings.path}: {len(empty)} rows of {part} lack something, first {row.where}: its {word} is empty; "
            "fill it in or leave such rows out"
        )


def _is_empty(value: Any) -> bool:
    """Whether a cell has nothing: no value, no more than white space, or a list without anything."""
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, list) and not value)


def _check_alike(settings: Settings, parts: Mapping[str, Sequence[Row]], optional: frozenset[str]) -> None:
    """Raise a TaskError where some parts have what others lack, as a second text."""
    for word in optional:
        having = [part for part, rows in parts.items() if word in rows[0]]
        if having and len(having) < len(parts):
            lacking = ", ".join(part for part in parts if part not in having)
            raise TaskError(
                f"{settings.path}: {', '.join(having)} has a column for {word}, and {lacking} has none; examples of "
                f"all parts must be alike: add the column, or name those that are read under [columns]"
            )


def _drawn(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    """At most `limit` rows, drawn at random, in their order."""
    if limit is None or len(rows) <= limit:
        return rows
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def _overlap(settings: Settings, part: str, rows: Sequence[Row], found: Mapping[int, tuple[str, Row]]) -> str:
    """That rows of a part are in earlier ones too, which, and what to do."""
    some = list(found.items())[:SHOWN]
    shown = ", ".join(
        f"{rows[number].where}{_begins(rows[number])} is {other}'s {beside.where}" for number, (other, beside) in some
    )
    more = ", …" if len(found) > SHOWN else ""
    return (
        f"{settings.path}: {len(found)} of the {len(rows)} rows of {part} are copies, or nearly, of others ({shown}"
        f'{more}): what is measured would be too good. Take them out of {part}, or write overlap = "drop", which does '
        "so"
    )


def _begins(row: Row) -> str:
    """How a row's first text begins, or which file its image is, by which it is found; nothing of another row."""
    texts = (value if isinstance(value, str) else getattr(value, "filename", "") for value in row.values())
    first = " ".join(next(filter(None, texts), "").split())
    return f' ("{first[:BEGINNING]}{"…" if len(first) > BEGINNING else ""}")' if first else ""


def _advice(settings: Settings) -> str:
    """What to do about a part without rows."""
    if settings.data.file is None:
        return "name a file that has some"
    return "give it a larger share, or divide a larger file" + (
        ' (unit = "paragraph" or "line" makes more rows of plain text)' if settings.data.unit == "document" else ""
    )
