"""One type of each convention that docs/families.csv calls proven, on trial again: a new one needs no edit here."""

import csv
import re
from pathlib import Path

import pytest

pytest.importorskip("transformers", minversion="5.0", reason="the trial is of transformers' models")

from tests.thorough import few
from tools.model_zoo.prove import prove

Row = dict[str, str]

QUICK = ("uneven", "zero_head")  # what a convention is about; the walk does all others
OTHERS = ("twice", "count", "save_load")
TABLE = Path(__file__).parents[3] / "docs" / "families.csv"


def cost(row: Row) -> tuple[int, int, str]:
    """What makes a trial long: layers above all."""
    return int(row["layers"]), int(row["heads"]), row["type"]


def cheapest(rows: list[Row]) -> dict[str, list[str]]:
    """Types -> their conventions, cheapest first, so that each convention is there and no type could be left out."""
    proven = sorted((row for row in rows if row["status"] == "proven"), key=cost)
    chosen: dict[str, list[str]] = {}
    covered: set[str] = set()
    every = {name for row in proven for name in row["conventions"].split(" | ")}
    by_rarity = {name: sum(name in row["conventions"].split(" | ") for row in proven) for name in every}
    for convention in sorted(every, key=lambda name: (by_rarity[name], name)):
        if convention not in covered:  # rarest first: their types cover common ones on the way
            row = next(row for row in proven if convention in row["conventions"].split(" | "))
            chosen[row["type"]] = row["conventions"].split(" | ")
            covered |= set(chosen[row["type"]])
    return {row["type"]: chosen[row["type"]] for row in proven if row["type"] in chosen}


def kind(convention: str) -> str:
    """A convention less the names of its projections, in which alone most conventions differ."""
    return re.sub(r"\S+( \([^)]*\))? … \S+(?<!,)", r"…\1", convention)


def first_of_each_kind(chosen: dict[str, list[str]]) -> list[str]:
    """Types, in order, so that each kind of convention is there."""
    seen: set[str] = set()
    types = []
    for name, conventions in chosen.items():
        if kinds := {kind(one) for one in conventions} - seen:
            types.append(name)
            seen |= kinds
    return types


with TABLE.open(encoding="utf-8", newline="") as file:
    CHOSEN = cheapest(list(csv.DictReader(file)))


@pytest.mark.filterwarnings("ignore")  # what transformers warns about is not ours
@pytest.mark.parametrize("model_type", few(CHOSEN, *first_of_each_kind(CHOSEN)))
def test_a_type_of_each_convention_is_proven(model_type):
    row = prove(model_type, QUICK)
    assert row["status"] == "proven", row
    assert set(CHOSEN[model_type]) <= set(row["conventions"].split(" | "))


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", CHOSEN)
def test_further_checks_of_a_type_of_each_convention(model_type):
    row = prove(model_type, OTHERS)
    assert row["status"] == "proven", row


def test_the_cheapest_types_cover_every_convention():
    def row(name: str, conventions: str, layers: int, status: str = "proven") -> Row:
        return {"type": name, "status": status, "conventions": conventions, "layers": str(layers), "heads": "1"}

    rows = [
        row("a", "x", 2),
        row("b", "x | y", 4),
        row("c", "z", 9),
        row("d", "z", 1),
        row("e", "w", 1, status="failed"),
    ]
    assert cheapest(rows) == {"b": ["x", "y"], "d": ["z"]}
    assert len(CHOSEN) >= 15
