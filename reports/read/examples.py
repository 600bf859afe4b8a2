"""`examples.parquet`: what each model did on each held-out example."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reports.base.errors import ReportError
from reports.read.files import REMEDY, check_columns, check_footer, damage
from reports.read.intake import MOST_EXAMPLES, MOST_UNPACKED, check_count, check_size, kind_at, opened
from reports.read.problems import Problems

COLUMNS = ("task", "plan", "example", "value_0")
ALONE, FURTHER = "alone", "value_1"
NAMES = ("task", "plan")
EMPTY = pd.DataFrame({"task": [], "plan": [], "example": [], "value": [], "told": []})


def read_examples(file: Path, problems: Problems) -> pd.DataFrame:
    """The table in `file`: task, plan, example, value (the metric of that example alone, or else the one value that it
    has), and told (whether the file says that value is such a metric).

    A plan is left out where its examples have several values, and nothing says what metric they make alone. The table
    is empty where there is no file; and, which `problems` is told, where that is cut off, too large or lacks a column.
    """
    if kind_at(file):
        with problems.noted(file), damage(file, "a Parquet file"), opened(file) as opened_file:
            return _table(file, opened_file)
    return EMPTY


def _table(file: Path, opened_file: BinaryIO) -> pd.DataFrame:
    check_footer(file, opened_file)
    about = pq.ParquetFile(opened_file)
    check_columns(file, about.schema_arrow.names, COLUMNS)
    check_count(file, about.metadata.num_rows, MOST_EXAMPLES, "rows")
    groups = (about.metadata.row_group(place) for place in range(about.num_row_groups))
    check_size(file, sum(group.total_byte_size for group in groups), MOST_UNPACKED, " unpacked")
    wanted = [name for name in (*COLUMNS, ALONE, FURTHER) if name in about.schema_arrow.names]
    _check_types(file, about.schema_arrow, wanted)
    # only now, when NAMES are known to be there: Arrow raises a bare KeyError about one that is not
    coded = pq.ParquetFile(opened_file, metadata=about.metadata, read_dictionary=list(NAMES))
    frame = coded.read(columns=wanted).to_pandas()
    alone = frame.get(ALONE, pd.Series(np.nan, index=frame.index))
    single = frame["value_0"].mask(frame[FURTHER].notna()) if FURTHER in frame else frame["value_0"]
    value = alone.fillna(single).astype(float)
    frame = frame[["task", "plan", "example"]].assign(value=value, told=alone.notna())
    return frame[np.isfinite(value)].reset_index(drop=True)


def _check_types(file: Path, schema: pa.Schema, names: list[str]) -> None:
    """Raise a ReportError about `file` unless its columns hold text (NAMES) and numbers (all others)."""
    for name in names:
        kind = schema.field(name).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if name in NAMES:
            fits = pa.types.is_string(inner) or pa.types.is_large_string(inner)
        else:
            fits = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_null(inner)
        if not fits:
            expected = "text" if name in NAMES else "numbers"
            raise ReportError(f"{file}: expected {expected} in column '{name}', got {inner}; {REMEDY}")
