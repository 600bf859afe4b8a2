"""calibration.json of the regression gate: how often it finds a slowdown, read and checked."""

from pathlib import Path

import pandas as pd
from scipy import stats

from reports.base.errors import ReportError
from reports.read.files import check_fields, check_schema, read_json

FILE = "calibration.json"
NO_CHANGE = "no-change"
COLUMNS = ("kind", "share", "found", "low", "high", "runs")


def load(path: Path) -> pd.DataFrame:
    """COLUMNS: for each kind of slowdown and share of the time, how often simulated runs said REGRESSED.

    With the exact (Clopper-Pearson) 95 % interval. The kind of no change is "no-change", its share 0.

    Raises:
        ReportError: there is no such file, or it is another.
    """
    if not path.is_file():
        raise ReportError(f"{path}: there is no such file; expected the {FILE} of `nox -s calibrate-gate`")
    document = read_json(path)
    if document.get("kind") != "gate-calibration":
        raise ReportError(f"{path}: expected the gate's calibration, got {document.get('kind')!r}; give its {FILE}")
    check_schema(path, document)
    check_fields(path, document, {"simulated": dict})
    rows = []
    for name, counts in document["simulated"].items():
        kind, share = (name, 0.0) if name == NO_CHANGE else (name.rpartition("-")[0], float(name.rpartition("-")[2]))
        runs, found = sum(counts.values()), counts.get("REGRESSED", 0)
        ends = stats.binomtest(found, runs).proportion_ci(method="exact")
        rows.append((kind, share, found / runs, ends.low, ends.high, runs))
    return pd.DataFrame(rows, columns=list(COLUMNS))
