"""What a criterion costs, beside how far it can be trusted."""

from collections.abc import Iterator

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.base.formatting import between, listed
from reports.draw.style import GREY, new_figure, reach
from reports.figures import Panel
from reports.read.importance_run import ALL, TRUTH, Tables

SHARE = "share of the way\nfrom random to lossless"
SPEARMAN = "Spearman's correlation with\nleave-one-out, held out"
PRICE = "price: readings of the calibration set\n(a backward pass counts as two)"
TICKS = (0, 1, 3, 10, 30, 100, 300, 1000)

TITLE = "What a criterion costs, and how far it can be trusted"
ABSENT = "The cost of criteria needs cost.csv, areas.csv and agreement.csv."


def panels(tables: Tables) -> Iterator[Panel]:
    """One panel; its frame has a row for each criterion: its price, and two measures of how far it can be trusted.

    Columns: criterion; readings (how often the calibration set is read, a backward pass counted as two, on the task on
    which all together take most); share (of the way from random plans to a model that loses nothing), with its interval
    over seeds and examples; and spearman (correlation with leave-one-out on held-out data, the mean over tasks), whose
    interval goes from the lowest task to the highest. Criteria without share or spearman are left out.
    """
    if tables.cost.empty or tables.areas.empty:
        return
    dearest = tables.cost.groupby("task")["readings"].sum().idxmax()
    readings = tables.cost[tables.cost["task"] == dearest].set_index("criterion")["readings"]
    near = tables.agreement[tables.agreement["other"] == TRUTH]
    spearman = near.groupby(["criterion", "task"])["spearman"].mean().groupby("criterion").agg(["mean", "min", "max"])
    spearman.columns = ["spearman", "spearman_low", "spearman_high"]
    share = tables.areas[tables.areas["task"] == ALL].set_index("criterion")[["share", "share_low", "share_high"]]
    frame = readings.to_frame().join(spearman).join(share).dropna(subset=["spearman", "share"])
    if len(frame):
        yield Panel("", "", frame.sort_values("share", ascending=False).reset_index())


def draw(frame: pd.DataFrame) -> Figure:
    """A figure with a row for each criterion, the largest share on top.

    Orange are criteria whose share is positive and larger than that of all cheaper ones.
    """
    figure = new_figure(11.0, 1.2 + 0.27 * len(frame))
    share, spearman, price = figure.subplots(1, 3, sharey=True)
    _merits(share, frame, "share")
    _merits(spearman, frame, "spearman")
    _points(price, frame, "readings")
    price.set_xscale("symlog", linthresh=1, linscale=0.5)
    ticks = [tick for tick in TICKS if tick <= frame["readings"].max() * 1.5]
    price.set_xticks(ticks, labels=map(str, ticks))
    for axes, label in ((share, SHARE), (spearman, SPEARMAN), (price, PRICE)):
        axes.set(xlabel=label, ylabel="")
    share.set_yticks(range(len(frame)), labels=frame["criterion"].astype(str))
    share.invert_yaxis()
    return figure


def caption(frame: pd.DataFrame) -> str:
    front = [
        f"{row['criterion']} ({row['share']:.2f}, {between(row['share_low'], row['share_high'])}, "
        f"at {row['readings']:.3g})"
        for _, row in _front(frame).iterrows()
    ]
    return (
        "Criteria that no cheaper one beats, with their share of the way from random choices to a model that loses "
        f"nothing, its 95 % interval, and the price in readings of the calibration set: {listed(front)}."
    )


def _merits(axes: Axes, frame: pd.DataFrame, merit: str) -> None:
    along = reach(frame[merit], frame[f"{merit}_low"], frame[f"{merit}_high"])
    axes.errorbar(frame[merit], range(len(frame)), xerr=along, fmt="none", ecolor=GREY, elinewidth=1.0)
    axes.axvline(0.0, color=GREY, linewidth=0.8, zorder=0)
    _points(axes, frame, merit)


def _points(axes: Axes, frame: pd.DataFrame, column: str) -> None:
    blue, orange = sns.color_palette("colorblind")[:2]
    front = set(_front(frame)["criterion"])
    colors = [orange if name in front else blue for name in frame["criterion"]]
    axes.scatter(frame[column], range(len(frame)), c=colors, s=36, zorder=3)


def _front(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[frame["share"] > 0].sort_values(["readings", "share"], ascending=[True, False])
    return rows[rows["share"] > rows["share"].cummax().shift(fill_value=0.0)]
