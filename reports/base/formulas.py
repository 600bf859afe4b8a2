"""Makes text harmless that a spreadsheet would take for a formula, in the CSV files that a page offers.

A run may come from anyone, and so may its names. Files of the run itself, and Parquet, keep every cell as it is.
"""

import csv
import re
from io import StringIO

import pandas as pd

START = ("=", "+", "-", "@", "\t", "\n")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")


def harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of the table with an apostrophe before each text that begins like a formula; numbers stay numbers."""
    changed = frame.copy()
    for name in (name for name in frame if not pd.api.types.is_numeric_dtype(frame[name].dtype)):
        texts = {value for value in frame[name] if isinstance(value, str)}  # few of them, however many rows
        if any(_cell(text) != text for text in texts):
            changed[name] = frame[name].map(_cell)
    return changed


def harmless_csv(text: str) -> str:
    """The text of a CSV file, changed as `harmless` does it; without such cells it stays as it is, to the byte."""
    rows = [*csv.reader(StringIO(text, newline=""))]
    changed_rows = [[_cell(cell) for cell in row] for row in rows]
    if changed_rows == rows:
        return text
    changed = StringIO(newline="")
    csv.writer(changed, lineterminator="\n").writerows(changed_rows)
    return changed.getvalue()


def _cell(value: object) -> object:
    """The cell, with an apostrophe before it if it is text that begins like a formula and is not a number."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    value = value.replace("\r\n", "\n").replace(
        "\r", "\n"
    )  # the writer would not quote it, and a row would begin there
    return f"'{value}" if value.startswith(START) else value
