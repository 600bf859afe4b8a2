"""How often the regression gate finds a slowdown, by the slowdown's size."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports.draw.style import INK, MARKERS, new_figure, reach
from reports.read.gate_calibration import NO_CHANGE

LABELS = {
    "layer": "in one of 13 benchmarks",
    "constant": "by a constant time (a share of 4 ms), in nearly all",
    "noise": "by a random time, in nearly all",
}


def draw(frame: pd.DataFrame) -> Figure:
    """The figure of `frame`, which `reports.read.gate_calibration.load` reads."""
    figure = new_figure(7.0, 4.2)
    gate_power(frame, figure.subplots())
    return figure


def gate_power(frame: pd.DataFrame, axes: Axes) -> None:
    """Draw how large a share of simulated runs the gate calls REGRESSED, over the size of the slowdown put into them.

    There is a line for each kind of slowdown in LABELS. All begin at a size of 0 with the false alarms.

    Args:
        frame: a row for each kind and size, with the columns COLUMNS of reports.read.gate_calibration.
        axes: what is drawn on.
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
