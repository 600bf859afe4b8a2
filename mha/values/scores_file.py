"""The contents of a file that `HeadScores.to_json` wrote, checked entry by entry."""

from collections.abc import Mapping
from typing import Any

from mha.values.documents import (
    Kind,
    entry,
    flag,
    mapping,
    number,
    numbers,
    sequence,
    whole_number,
    whole_numbers,
)
from mha.values.errors import ScoresError

DOCUMENT = Kind("mha.HeadScores", 1, "a file of scores", ScoresError)


def arguments(document: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `HeadScores` that the document holds, by name; `spent` is a mapping, not yet a `Spent`.

    Raises:
        ValueError: an entry is missing, or is not of the JSON type that `to_json` writes there.
    """
    examples, spent = entry(document, "examples"), entry(document, "spent")
    rows = {name: _layer(name, row) for name, row in mapping(entry(document, "layers"), "layers").items()}
    return {
        **{part: {name: row[part] for name, row in rows.items()} for part in ("scores", "groups", "heads")},
        **{part: _of_every_layer(rows, part) for part in ("interactions", "errors")},
        "examples": None if examples is None else whole_number(examples, "examples", 1),
        "comparable": flag(entry(document, "comparable"), "comparable"),
        "spent": None if spent is None else _spent(mapping(spent, "spent")),
    }


def _layer(name: str, row: Any) -> dict[str, Any]:
    """What the file says of one layer: "scores", "groups", "heads", "interactions" and "errors" -> the value of each.

    Raises:
        ValueError: an entry is missing or is not of the type that belongs there. Only the last two may be null (None).
    """
    where = f"layer {name!r}"
    row = mapping(row, where)
    interactions, errors = entry(row, "interactions"), entry(row, "errors")
    return {
        "scores": numbers(entry(row, "scores"), where),
        "groups": whole_number(entry(row, "groups"), where),
        "heads": whole_numbers(entry(row, "heads"), where),
        "interactions": None if interactions is None else _matrix(interactions, f"{where}: interactions"),
        "errors": None if errors is None else numbers(errors, f"{where}: errors"),
    }


def _matrix(value: Any, where: str) -> list[list[float]]:
    """The value, a square matrix of finite numbers, as a list of rows; otherwise a ValueError that calls it `where`."""
    rows = sequence(value, where)
    return [[number(value, where) for value in sequence(row, where, len(rows))] for row in rows]


def _of_every_layer(rows: Mapping[str, Mapping[str, Any]], part: str) -> dict[str, Any] | None:
    """Layer -> what stands in its row under `part`, for the layers where that is not None; None where none is left."""
    by_layer = {name: row[part] for name, row in rows.items() if row[part] is not None}
    return by_layer or None


def _spent(row: Mapping[str, Any]) -> dict[str, float]:
    """The arguments of `Spent`, by name, from the file's entry "spent"; a ValueError where one is no finite number."""
    return {name: number(entry(row, name), f"spent: {name}") for name in ("forward", "backward", "seconds")}
