"""calibration.json of the regression gate: how often it finds a slowdown, read and checked."""

from pathlib import Path

import pandas as pd
from scipy import stats

from reports.read.files import check_fields
from reports.read.gate_file import read_gate_file

FILE = "calibration.json"
NO_CHANGE = "no-change"
COLUMNS = ("kind", "share", "found", "low", "high", "runs")


def load(path: Path) -> pd.DataFrame:
    """How often simulated runs of the gate said REGRESSED, a row for each kind of slowdown and its share of the time.

    Args:
        path: the calibration.json.

    Returns:
        The columns kind, share (the slowdown that was put in, as a share of the time; 0 where kind is "no-change"),
        found (the share of runs that said REGRESSED), low and high (its exact, Clopper-Pearson, 95 % interval) and runs
        (their number).

    Raises:
        ReportError: there is no such file, it can't be read, it is of another kind or schema, or it has no `simulated`.
    """
    document = read_gate_file(
        path,
        "gate-calibration",
        whose=f"the {FILE} of `nox -s calibrate-gate`",
        what="the gate's calibration",
        remedy=f"its {FILE}",
    )
    check_fields(path, document, {"simulated": dict})
    rows = []
    for name, counts in document["simulated"].items():
        kind, share = (name, 0.0) if name == NO_CHANGE else (name.rpartition("-")[0], float(name.rpartition("-")[2]))
        runs, regressed = sum(counts.values()), counts.get("REGRESSED", 0)
        ends = stats.binomtest(regressed, runs).proportion_ci(method="exact")
        rows.append((kind, share, regressed / runs, ends.low, ends.high, runs))
    return pd.DataFrame(rows, columns=list(COLUMNS))
