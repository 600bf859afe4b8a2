"""Accuracy against kept heads: how far each criterion can go, and what chance choices do."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.analyse import frames
from reports.analyse.frames import Tradeoff
from reports.analyse.limits import best_criteria
from reports.analyse.metric_view import MOST
from reports.analyse.plan_names import has_repairs, label
from reports.base.formatting import listed, per_cent
from reports.draw.style import (
    GREY,
    INK,
    PAPER,
    kept_axis,
    legend_right,
    looks,
    metric_axis,
    new_figure,
    reach,
    shortened,
)
from reports.figures import Panel
from reports.read.run import BASELINES, RAW, REFERENCES, Metric, Run

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
    beside, log = has_repairs(table), _spans(table, frame.metric)
    lines = [
        rows
        for criterion in frame.criteria
        for _, rows in table[table["criterion"] == criterion].groupby("repair", sort=False)
    ]
    for place, rows in enumerate(lines):
        criterion, repair = rows[["criterion", "repair"]].iloc[0]
        if criterion == "random" and rows["draws"].max() > 1 and len(rows) > 1:
            _band(axes, rows.sort_values("kept_fraction"))
        else:
            aside = 0.006 * (place - (len(lines) - 1) / 2)  # intervals side by side
            color, marker = looks(frame.criteria)[criterion]
            look = {"linestyle": "--" if criterion in BASELINES else "-", "color": color, "marker": marker}
            look |= {"markerfacecolor": PAPER} if beside and repair == RAW else {}
            _points(axes, rows, shortened(label(rows.iloc[0], beside=beside)), aside, markersize=6, **look)
    for criterion, name, marker in (("dense", "dense", "*"), ("none", "no heads", "P")):
        rows = table[table["criterion"] == criterion]
        if len(rows):
            _points(axes, rows, name, linestyle="", color=INK, marker=marker, markersize=12, zorder=5)
    if not log:
        axes.axhline(frame.metric.chance, color=INK, linestyle=":", linewidth=1, label="chance")
    kept_axis(axes)
    metric_axis(axes, frame.metric, log=log)
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
    named = label(best, beside=has_repairs(table))
    parts = [f"With {per_cent(fraction)} of the heads kept the best is {named} at {_value(best, metric)}"]
    others = table[(table["kept_fraction"] == fraction) & table["criterion"].isin(BASELINES)]
    parts += [f"{row['criterion']} {_draws(row['draws'])}{_value(row, metric)}" for _, row in others.iterrows()]
    for criterion, phrase in (("dense", "the dense model reaches"), ("none", "without any head it is")):
        if len(rows := table[table["criterion"] == criterion]):
            parts.append(f"{phrase} {_value(rows.iloc[0], metric)}")
    _, rest = best_criteria(table, metric, CRITERIA)
    return f"{listed(parts)}; in brackets 95 % intervals, of several draws the range of 95 % of them.{rest}"


def _spans(table: pd.DataFrame, metric: Metric) -> bool:
    """Whether a metric of which less is better goes over more than a plain axis can show, also without heads."""
    dense = table.loc[table["criterion"] == "dense", "value"].astype(float)
    positive = bool((table["value"] > 0).all())
    return not metric.higher_is_better and positive and table["value"].max() > MOST * dense.min()


def _value(row: pd.Series, metric: Metric) -> str:
    return f"{metric.text(row['value'])} ({metric.interval(row['low'], row['high'])})"


def _draws(draws: int) -> str:
    return f"choices average, of {draws} draws, " if draws > 1 else "reaches "


def _points(axes: Axes, rows: pd.DataFrame, entry: str, aside: float = 0.0, **look: Any) -> None:
    along = reach(rows["value"], rows["low"], rows["high"])
    options = {"linewidth": 1.6, "elinewidth": 1.1} | look
    axes.errorbar(rows["kept_fraction"] + aside, rows["value"], yerr=along, label=entry, **options)


def _band(axes: Axes, rows: pd.DataFrame) -> None:
    entry = f"random, 95 % of {rows['draws'].max()} draws"
    axes.fill_between(
        rows["kept_fraction"], rows["low"], rows["high"], color=GREY, alpha=0.25, linewidth=0, label=entry
    )
    axes.plot(rows["kept_fraction"], rows["value"], color=GREY, linewidth=1.6, label="random, mean")
