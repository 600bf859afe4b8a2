"""Accuracy against kept heads: how far each criterion can go, and what chance choices do."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.analyse import frames
from reports.analyse.frames import Tradeoff
from reports.analyse.limits import best_criteria
from reports.base.formatting import listed, per_cent
from reports.draw.style import GREY, INK, kept_axis, legend_right, looks, metric_axis, new_figure, reach, shortened
from reports.figures import Panel
from reports.read.run import BASELINES, REFERENCES, Metric, Run

TITLE = "Accuracy against kept heads"
ABOUT = "task"
ABSENT = "Accuracy against kept heads needs plans.csv with pruned plans of the task."
CRITERIA = 18


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel, if the task has a plan other than `dense` and `none`; its frame is the task's first Tradeoff.

    Accuracy is the same in all of the task's tradeoffs.
    """
    for tradeoff in frames.tradeoffs(run, task)[:1]:  # accuracy is the same in all settings
        if (~tradeoff.table["criterion"].isin(REFERENCES)).any():
            yield Panel("", task, tradeoff)


def draw(frame: Tradeoff) -> Figure:
    figure = new_figure(8.6, 4.8)
    axes = figure.subplots()
    table, _ = best_criteria(frame.table, frame.metric, CRITERIA)
    drawn = [name for name in frame.criteria if (table["criterion"] == name).any()]
    for place, criterion in enumerate(drawn):
        rows = table[table["criterion"] == criterion]
        if criterion == "random" and rows["draws"].max() > 1 and len(rows) > 1:
            _band(axes, rows.sort_values("kept_fraction"))
        else:
            aside = 0.006 * (place - (len(drawn) - 1) / 2)  # intervals side by side
            style = "--" if criterion in BASELINES else "-"
            color, marker = looks(frame.criteria)[criterion]
            _points(axes, rows, shortened(criterion), aside, linestyle=style, color=color, marker=marker, markersize=6)
    for criterion, label, marker in (("dense", "dense", "*"), ("none", "no heads", "P")):
        rows = table[table["criterion"] == criterion]
        if len(rows):
            _points(axes, rows, label, linestyle="", color=INK, marker=marker, markersize=12, zorder=5)
    axes.axhline(frame.metric.chance, color=INK, linestyle=":", linewidth=1, label="chance")
    kept_axis(axes)
    metric_axis(axes, frame.metric)
    legend_right(axes)
    return figure


def caption(frame: Tradeoff) -> str:
    table, metric = frame.table, frame.metric
    pruned = table[~table["criterion"].isin([*REFERENCES, *BASELINES])]
    if pruned.empty:
        pruned = table[~table["criterion"].isin(REFERENCES)]
    fraction = min(pruned["kept_fraction"].unique(), key=lambda kept: (abs(kept - 0.5), kept))
    rows = pruned[pruned["kept_fraction"] == fraction]
    best = rows.loc[rows["value"].idxmax() if metric.higher_is_better else rows["value"].idxmin()]
    parts = [f"With {per_cent(fraction)} of the heads kept the best is {best['criterion']} at {_value(best, metric)}"]
    others = table[(table["kept_fraction"] == fraction) & table["criterion"].isin(BASELINES)]
    parts += [f"{row['criterion']} {_draws(row['draws'])}{_value(row, metric)}" for _, row in others.iterrows()]
    for criterion, phrase in (("dense", "the dense model reaches"), ("none", "without any head it is")):
        if len(rows := table[table["criterion"] == criterion]):
            parts.append(f"{phrase} {_value(rows.iloc[0], metric)}")
    _, rest = best_criteria(table, metric, CRITERIA)
    return f"{listed(parts)}; in brackets 95 % intervals, of several draws the range of 95 % of them.{rest}"


def _value(row: pd.Series, metric: Metric) -> str:
    return f"{metric.text(row['value'])} ({metric.interval(row['low'], row['high'])})"


def _draws(draws: int) -> str:
    return f"choices average, of {draws} draws, " if draws > 1 else "reaches "


def _points(axes: Axes, rows: pd.DataFrame, label: str, aside: float = 0.0, **look: Any) -> None:
    along = reach(rows["value"], rows["low"], rows["high"])
    options = {"linewidth": 1.6, "elinewidth": 1.1} | look
    axes.errorbar(rows["kept_fraction"] + aside, rows["value"], yerr=along, label=label, **options)


def _band(axes: Axes, rows: pd.DataFrame) -> None:
    label = f"random, 95 % of {rows['draws'].max()} draws"
    axes.fill_between(
        rows["kept_fraction"], rows["low"], rows["high"], color=GREY, alpha=0.25, linewidth=0, label=label
    )
    axes.plot(rows["kept_fraction"], rows["value"], color=GREY, linewidth=1.6, label="random, mean")
