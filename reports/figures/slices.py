"""The worst slices: on which parts of the examples pruning costs most."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reports.analyse import changes
from reports.analyse.limits import left_out
from reports.base.table_cells import Cell, Summary, number, word
from reports.draw.style import INK, STRIPE, folded, legend_below, looks, new_figure, reach, shortened
from reports.figures import Panel
from reports.read.run import MINUS, Metric, Run

TITLE = "The worst slices"
ABOUT = "task"
ABSENT = "The task names no slices of its examples, or the run has no slices.csv."
ROWS, WORST = 16, 3  # slices of the figure, and of each plan in the table
ALL = "all examples"


@dataclass(frozen=True)
class Slices:
    """How the metric changes on slices of one task's examples.

    Attributes:
        plans: the labels of a few plans, in the order of their colours.
        table: slice, label, examples, difference, difference_low, difference_high: a row for each slice and plan of
            `plans`, the worst slices first, by the mean over `plans`; before them the row ALL of each plan.
        total: how many slices there are.
    """

    metric: Metric
    plans: tuple[str, ...]
    table: pd.DataFrame
    total: int


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel with `Slices`, and a table of the worst of each plan, if the run has slices of the task's plans."""
    mine = run.slices[run.slices["task"] == task]
    told = changes.told_plans(run, task, mine["plan"])
    few = changes.few(run, task, told)
    if len(few):
        labelled = mine.merge(told[["plan", "label"]], on="plan")
        frame = _frame(run.metric(task), few, labelled)
        yield Panel("", task, frame, (_summary(run.metric(task), told, labelled),))


def _frame(metric: Metric, few: pd.DataFrame, labelled: pd.DataFrame) -> Slices:
    shown = labelled[labelled["plan"].isin(few["plan"])]
    order = shown.groupby("slice")["difference"].mean().sort_values(ascending=metric.higher_is_better, kind="stable")
    worst = [shown[shown["slice"] == name] for name in order.index[:ROWS]]
    whole = few.assign(slice=ALL)[["slice", *(name for name in worst[0].columns if name in few)]]
    return Slices(metric, tuple(few["label"]), pd.concat([whole, *worst], ignore_index=True), len(order))


def draw(frame: Slices) -> Figure:
    names = list(dict.fromkeys(frame.table["slice"]))
    figure = new_figure(8.6, 1.7 + 0.33 * len(names))
    axes = figure.subplots()
    scale = 100 if frame.metric.is_share else 1
    look = looks(frame.plans)
    for place in range(0, len(names), 2):
        axes.axhspan(place - 0.5, place + 0.5, color=STRIPE, linewidth=0, zorder=0)
    for number_, label in enumerate(frame.plans):
        rows = frame.table[frame.table["label"] == label]
        places = np.array([names.index(name) for name in rows["slice"]])
        along = reach(rows["difference"], rows["difference_low"], rows["difference_high"])
        aside = 0.22 * (number_ - (len(frame.plans) - 1) / 2)
        axes.errorbar(
            scale * rows["difference"], places + aside, xerr=scale * along, linestyle="", label=shortened(label),
            color=look[label].color, marker=look[label].marker, markersize=5, elinewidth=1.1,
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=1)
    sizes = frame.table.groupby("slice")["examples"].first()
    axes.set_yticks(range(len(names)), [f"{shortened(name)} ({sizes[name]:,.0f})" for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    unit = " (points)" if frame.metric.is_share else ""
    axes.set_xlabel(folded(f"change of {frame.metric.name} against dense{unit}", 4.5))
    axes.set_ylabel("slice (examples)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", MINUS)))
    legend_below(figure)
    return figure


def caption(frame: Slices) -> str:
    label = frame.plans[len(frame.plans) // 2]
    mine = frame.table[frame.table["label"] == label]
    whole = mine[mine["slice"] == ALL].iloc[0]
    slices = mine[mine["slice"] != ALL]
    worst = slices.iloc[
        slices["difference"].argmin() if frame.metric.higher_is_better else slices["difference"].argmax()
    ]
    rest = left_out(min(ROWS, frame.total), frame.total, "slices", "those that lose most on average")
    return (
        f"With {label}, {frame.metric.name} changes by {_change(whole, frame.metric)} on all examples and by "
        f"{_change(worst, frame.metric)} on its worst slice, {worst['slice']} ({worst['examples']:,.0f} examples). "
        f"In brackets: 95 % intervals; those of all slices of a plan hold at once.{rest}"
    )


def _change(row: pd.Series, metric: Metric) -> str:
    return f"{metric.change(row['difference'])} ({metric.interval(row['difference_low'], row['difference_high'])})"


def _summary(metric: Metric, told: pd.DataFrame, labelled: pd.DataFrame) -> Summary:
    count = labelled["slice"].nunique()
    rows = []
    for label in told["label"]:
        mine = labelled[labelled["label"] == label].sort_values("difference", ascending=metric.higher_is_better)
        rows += [_row(row, metric) for _, row in mine.head(WORST).iterrows()]
    return Summary(
        title=f"The slices on which each plan loses most: {min(WORST, count)} of {count}",
        note="In brackets: intervals that hold for all slices of a plan at once in 95 % of cases (Bonferroni), since "
        "whoever looks for the worst of many finds one by luck.",
        columns=("plan", "slice", "examples", metric.name, "dense", "against dense", "shown to be"),
        rows=tuple(rows),
        folded=True,
    )


def _row(row: pd.Series, metric: Metric) -> tuple[Cell, ...]:
    low, high = sorted(
        (1 if metric.higher_is_better else -1) * row[name] for name in ("difference_low", "difference_high")
    )
    return (
        word(row["label"]),
        word(row["slice"]),
        number(row["examples"], "{:,.0f}".format),
        number(row["value"], metric.text),
        number(row["dense"], metric.text),
        Cell(
            metric.change(row["difference"]),
            metric.interval(row["difference_low"], row["difference_high"]),
            row["difference"],
        ),
        word("worse" if high < 0 else "better" if low > 0 else "open"),
    )
