"""How experiments of their own, such as `bench.repair`, tell their rows: a table on disk, and lines on the terminal."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mha.values.atomic_files import appears_whole


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a table, a row each; the file appears whole or not at all.

    Raises:
        OSError: it can't be written, as on a full disk.
    """
    with appears_whole(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def say(line: str) -> None:
    """Print a line, and flush the output: a long run shows each row when it is there."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
