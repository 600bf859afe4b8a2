"""python -m reports.gate.power DIR|calibration.json [-o DIR]: what the gate finds, by the size of a slowdown."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from scipy import stats

from reports.base.errors import ReportError
from reports.draw.style import INK, MARKERS, new_figure, reach, theme
from reports.gate.__main__ import saved
from reports.read.files import check_fields, check_schema, read_json

FILE = "calibration.json"
NO_CHANGE = "no-change"
LABELS = {
    "layer": "in one of 13 benchmarks",
    "constant": "by a constant time (a share of 4 ms), in nearly all",
    "noise": "by a random time, in nearly all",
}
COLUMNS = ("kind", "share", "found", "low", "high", "runs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw power.svg and power.png; wrong input is a usage error (exit code 2)."""
    parser = argparse.ArgumentParser(prog="python -m reports.gate.power", allow_abbrev=False)
    parser.add_argument("run", metavar="DIR|calibration.json", type=Path)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: beside calibration.json")
    given = parser.parse_args(arguments)
    path = given.run / FILE if given.run.is_dir() else given.run
    try:
        frame = load(path)
        with theme():
            figure = new_figure(7.0, 4.2)
            gate_power(frame, figure.subplots())
            print(saved(figure, given.output or path.parent, ("power.svg", "power.png")))  # noqa: T201
    except ReportError as error:
        parser.error(str(error))


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


def gate_power(frame: pd.DataFrame, axes: Axes) -> None:
    """The share of runs that find a slowdown, against its size; a line for each kind, from the false alarms at 0.

    Args:
        frame: COLUMNS.
    """
    none = frame[frame["kind"] == NO_CHANGE]
    kinds = [kind for kind in LABELS if kind in set(frame["kind"])]
    for kind, color, marker in zip(kinds, sns.color_palette("colorblind"), MARKERS, strict=False):
        rows = pd.concat([none, frame[frame["kind"] == kind]]).sort_values("share")
        axes.errorbar(
            100 * rows["share"], rows["found"], yerr=reach(rows["found"], rows["low"], rows["high"]),
            color=color, marker=marker, capsize=3, label=LABELS[kind],
        )  # fmt: skip
    axes.axvline(3, color=INK, linewidth=0.9, linestyle="--", zorder=1)
    axes.annotate(" least effect 3 %", (3, 0.02), color=INK, fontsize="small")
    axes.set(xlabel="slowdown put in (%)", ylabel="simulated runs that say REGRESSED (%)", ylim=(-0.03, 1.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_title("What the regression gate finds", pad=10)
    axes.legend(loc="lower right")


if __name__ == "__main__":
    main()
