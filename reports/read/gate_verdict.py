"""verdict.json of the regression gate, read and checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.base.errors import ReportError
from reports.read.description import Types
from reports.read.files import REMEDY, check_fields
from reports.read.gate_file import read_gate_file

FILE = "verdict.json"
VERDICTS = ("REGRESSED", "ERROR", "INCONCLUSIVE", "IMPROVED", "NEW", "SKIPPED", "PASS")
NUMBERS = ("effect", "low", "high", "floor")
COLUMNS = ("name", "kind", "verdict", *NUMBERS, "screen", "is_control")
Number: Types = (int, float, type(None))
FIELDS: Mapping[str, Types] = {
    "kind": str, "verdict": str, "why": list, "base": dict, "head": dict, "rules": dict,
    "control": (dict, type(None)), "benchmarks": list,
}  # fmt: skip
ROW: Mapping[str, Types] = {
    "name": str, "kind": str, "verdict": str, **dict.fromkeys(NUMBERS, Number), "screen": (dict, type(None)),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Gate:
    """A verdict, as far as its figure shows it.

    Attributes:
        frame: a row for each benchmark and, where the run has a control, one for that. Columns: name, kind, verdict;
            effect (head / base - 1) with its 95 % interval from low to high; floor (that of noise); screen (the effect
            that the first look saw, of what was measured again); and is_control. Numbers are shares, NaN where there is
            none.
        threshold: what the lower bound of a regression exceeds, a share.
        least: the least effect of a regression, a share.
        verdict: that of the whole run, such as "PASS".
        why: the first reason for the verdict; "" if there is none.
        sides: the labels of base and head.
    """

    frame: pd.DataFrame
    threshold: float
    least: float
    verdict: str
    why: str
    sides: tuple[str, str]


def load(path: Path) -> Gate:
    """The verdict of the regression gate in the file `path`, or in verdict.json of the directory `path`.

    Raises:
        ReportError: there is none, it can't be read, it is of another kind or schema, a field is missing or of a wrong
            type, or a benchmark's verdict is none of VERDICTS.
    """
    path = path / FILE if path.is_dir() else path
    document = read_gate_file(
        path,
        "gate",
        whose=f"the directory of a gate run that has ended, or its {FILE}",
        what="the verdict of the regression gate ('kind': 'gate')",
        remedy=f"the {FILE} of a gate run",
    )
    check_fields(path, document, FIELDS)
    check_fields(path, document["rules"], dict.fromkeys(("threshold", "least"), (int, float)), "rules")
    rows = [_row(path, row, f"benchmarks[{place}]") for place, row in enumerate(document["benchmarks"])]
    if document["control"] is not None:
        rows.append(_row(path, document["control"], "control") | {"is_control": True})
    numbers = dict.fromkeys((*NUMBERS, "screen"), float)
    return Gate(
        pd.DataFrame(rows, columns=list(COLUMNS)).astype(numbers | {"is_control": bool}),
        float(document["rules"]["threshold"]),
        float(document["rules"]["least"]),
        document["verdict"],
        str(next(iter(document["why"]), "")),
        (str(document["base"].get("label", "base")), str(document["head"].get("label", "head"))),
    )


def _row(path: Path, row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ReportError(f"{path}: expected an object for {where}, got {row!r:.60}; {REMEDY}")
    check_fields(path, row, ROW, where)
    if row["verdict"] not in VERDICTS:
        raise ReportError(
            f"{path}: expected one of {', '.join(VERDICTS)} for 'verdict' in {where}, got {row['verdict']!r}; {REMEDY}"
        )
    screen = row["screen"] or {}
    if screen:
        check_fields(path, screen, {"effect": Number}, f"{where}.screen")
    numbers = {name: _number(row[name]) for name in NUMBERS}
    texts = {name: row[name] for name in ("name", "kind", "verdict")}
    return {**texts, **numbers, "screen": _number(screen.get("effect")), "is_control": False}


def _number(value: int | float | None) -> float:
    try:
        return float(value) if value is not None and math.isfinite(value) else math.nan
    except OverflowError:  # an integer beyond any float
        return math.nan
