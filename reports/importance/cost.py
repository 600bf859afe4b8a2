"""What a criterion costs, beside how far it can be trusted."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures import Panel
from reports.importance.load import ALL, TRUTH, Tables
from reports.style import GREY, new_figure, reach
from reports.words import listed

LABELS = {
    "spearman": "Spearman's correlation with leave-one-out, held out",
    "share": "share of the way from random to lossless",
}
GAP = 0.034  # between labels, as a share of the axis


def panels(tables: Tables) -> Iterator[Panel]:
    """Frame: criterion, readings (on the dearest task), and both merits as means over tasks, with intervals."""
    if tables.cost.empty or tables.areas.empty:
        return
    readings = tables.cost.groupby("criterion")["readings"].max()
    near = tables.agreement[tables.agreement["other"] == TRUTH]
    spearman = near.groupby(["criterion", "task"])["spearman"].mean().groupby("criterion").agg(["mean", "min", "max"])
    spearman.columns = ["spearman", "spearman_low", "spearman_high"]
    share = tables.areas[tables.areas["task"] == ALL].set_index("criterion")[["share", "share_low", "share_high"]]
    frame = readings.to_frame().join(spearman).join(share).dropna(subset=["spearman", "share"]).reset_index()
    if len(frame):
        yield Panel("", "", frame)


def draw(frame: pd.DataFrame) -> Figure:
    figure = new_figure(13.0, 6.4)
    for axes, merit in zip(figure.subplots(1, 2, sharex=True), LABELS, strict=True):
        _scatter(axes, frame, merit)
    figure.supxlabel("price: readings of the calibration set (a backward pass counts as two)", fontsize="medium")
    return figure


def caption(frame: pd.DataFrame) -> str:
    front = [f"{row.criterion} ({row.share:.2f} at {row.readings:.3g})" for row in _front(frame).itertuples()]
    return f"Share and price of the criteria that no cheaper one beats: {listed(front)}."


def _scatter(axes: Axes, frame: pd.DataFrame, merit: str) -> None:
    along = reach(frame[merit], frame[f"{merit}_low"], frame[f"{merit}_high"])
    axes.errorbar(frame["readings"], frame[merit], yerr=along, fmt="none", ecolor=GREY, elinewidth=0.7, alpha=0.6)
    sns.scatterplot(frame, x="readings", y=merit, ax=axes, color=sns.color_palette("colorblind")[0], s=36, zorder=3)
    if merit == "share":
        front = _front(frame)
        axes.plot(
            front["readings"], front[merit], color=sns.color_palette("colorblind")[1], linewidth=1, alpha=0.7,
            drawstyle="steps-post", zorder=1,
        )  # fmt: skip
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_xlim(-0.15, 12 * max(frame["readings"].max(), 1))
    ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000) if tick <= frame["readings"].max() * 1.5]
    axes.set_xticks(ticks, labels=map(str, ticks))
    low, high = frame[f"{merit}_low"].min(), frame[f"{merit}_high"].max()
    margin = 0.04 * (high - low)
    axes.set_ylim(low - margin, high + margin)
    axes.set(xlabel="", ylabel=LABELS[merit])
    _label(axes, frame, merit)


def _label(axes: Axes, frame: pd.DataFrame, merit: str) -> None:
    """Names beside the points; where several cost about the same they are moved apart."""
    low, high = axes.get_ylim()
    for _, rows in frame.groupby(frame["readings"].map(_shelf)):
        rows = rows.sort_values(merit)
        heights = apart(rows[merit].tolist(), GAP * (high - low), high - 0.02 * (high - low))
        start = rows["readings"].max()
        for row, height in zip(rows.itertuples(), heights, strict=True):
            axes.annotate(
                str(row.criterion),
                (row.readings, getattr(row, merit)),
                xytext=(start * 1.25 + 0.12, height),
                fontsize=7,
                va="center",
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "linewidth": 0},
                arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "shrinkB": 3},
            )


def _shelf(readings: float) -> int:
    """Prices that are so near that their labels would meet."""
    return int(np.searchsorted([0.5, 2, 5, 12, 28, 80, 160, 400], readings))


def apart(values: Sequence[float], gap: float, ceiling: float) -> list[float]:
    """Ascending values, moved as little as it takes to be `gap` apart and below the ceiling."""
    moved: list[float] = []
    for value in values:
        moved.append(max(value, moved[-1] + gap) if moved else value)
    for place in range(len(moved) - 1, -1, -1):
        above = moved[place + 1] - gap if place + 1 < len(moved) else ceiling
        moved[place] = min(moved[place], above)
    return moved


def _front(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[frame["share"] > 0].sort_values(["readings", "share"], ascending=[True, False])
    return rows[rows["share"] > rows["share"].cummax().shift(fill_value=0.0)]
