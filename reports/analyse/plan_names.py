"""What a plan is called: how its heads were chosen, and whether what is left was repaired."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from reports.read.run import RAW, REFERENCES, SHRINK

Row = Mapping[Hashable, Any] | pd.Series


def has_repairs(table: pd.DataFrame) -> bool:
    """Whether a table of plans has any that was repaired, beside which raw ones are called so."""
    return bool((table["repair"] != RAW).any())


def label(row: Row, *, beside: bool) -> str:
    """A plan in a list or a legend: "taylor", "taylor, repaired" or "shrink".

    Args:
        beside: whether repaired plans stand beside it, so that a raw one is "taylor, raw".
    """
    criterion = str(row["criterion"])
    if criterion in (SHRINK, *REFERENCES):
        return criterion
    if row["repair"] != RAW:
        return f"{criterion}, repaired"
    return f"{criterion}, raw" if beside else criterion


def chosen(row: Row) -> str:
    """How a plan came about, as a sentence has it: "chosen by taylor and repaired"."""
    if row["criterion"] == SHRINK:
        return "chosen and repaired by shrink"
    return f"chosen by {row['criterion']}{', without repair' if row['repair'] == RAW else ' and repaired'}"
