"""What each plan loses against the dense model, on both sides."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports.analyse.compare.comparison import Comparison, Judged
from reports.analyse.compare.matching import ROUNDING, SAME_HEADS
from reports.analyse.plan_names import has_repairs, label
from reports.base.formatting import count, per_cent
from reports.draw.style import GREY, looks, new_figure, reach
from reports.figures import Panel
from reports.read.run import REFERENCES

TITLE = "Accuracy against dense, both"
ABSENT = "No pruned plan has an accuracy on both sides."
COLUMNS = 4
ASIDE = {"first": -0.012, "second": 0.012}  # of all heads, so that both intervals are seen


def panels(comparison: Comparison) -> Iterator[Panel]:
    """One panel for each task in `choices`; its frame is a Judged, with the task's rows of that table."""
    table = choices(comparison)
    for task, rows in table.groupby("task", sort=False):
        yield Panel(str(task), str(task), comparison.judged(rows))


def choices(comparison: Comparison) -> pd.DataFrame:
    """The rows of `comparison.accuracies` but for dense and none, the plans that keep all heads or no head."""
    table = comparison.accuracies
    return table[~table["criterion"].isin(REFERENCES)]


def draw(frame: Judged) -> Figure:
    """A figure with a small panel for each criterion, repaired plans apart: differences to dense over kept shares."""
    beside = has_repairs(frame.table)
    groups = list(frame.table.groupby(["criterion", "repair"], sort=False))
    columns = min(COLUMNS, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = new_figure(1.0 + 2.5 * columns, 1.3 + 2.2 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        is_last = place + columns >= len(groups)
        axes.tick_params(labelbottom=is_last)
        axes.set_xlabel("kept heads (%)" if is_last else "")
        if place < len(groups):
            rows = groups[place][1].sort_values("kept_fraction")
            _one_criterion(axes, frame, rows, label(rows.iloc[0], beside=beside))
        else:
            axes.set_axis_off()
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    points = " (points)" if frame.metric.is_share else ""
    figure.supylabel(f"{frame.metric.name} against dense{points}", fontsize="medium")
    return figure


def caption(frame: Judged) -> str:
    table, metric = frame.table, frame.metric
    apart = (table["second_difference"] - table["first_difference"]).abs()
    if not apart.max() > ROUNDING:  # nor is NaN
        return f"{agreement(table)}."
    row = table.iloc[int(apart.argmax())]
    first, second = (
        f"{metric.change(row[f'{side}_difference'])} "
        f"({metric.interval(row[f'{side}_difference_low'], row[f'{side}_difference_high'])}) in {name}"
        for side, name in (("first", frame.first), ("second", frame.second))
    )
    plan = f"{label(row, beside=has_repairs(table))} with {per_cent(row['kept_fraction'])} of the heads"
    return f"{agreement(table)}; farthest apart against dense is {plan}: {first}, {second}."


def agreement(table: pd.DataFrame) -> str:
    """A clause with three counts: rows, those that keep the same heads on both sides, those of them with equal values.

    Args:
        table: what `choices` returns. Values of the metric are equal if they differ by at most 1e-12.
    """
    same = table[table["heads"] == SAME_HEADS]
    equal = int(np.isclose(same["first_value"], same["second_value"], rtol=0, atol=1e-12).sum())
    return (
        f"Of {count(len(table), 'choice')} of heads in common {len(same)} keep the very same heads on both sides, and "
        f"{equal} of these have the same value to the last digit"
    )


def _one_criterion(axes: Axes, frame: Judged, rows: pd.DataFrame, criterion: str) -> None:
    """Draw the rows of one criterion, sorted by kept fraction, below its name as a title."""
    look = looks([frame.first, frame.second])
    for side, name in (("first", frame.first), ("second", frame.second)):
        value, low, high = (rows[f"{side}_difference{end}"] for end in ("", "_low", "_high"))
        axes.errorbar(
            rows["kept_fraction"] + ASIDE[side], value, yerr=reach(value, low, high), label=name, linewidth=1,
            elinewidth=1, color=look[name].color, marker=look[name].marker, markersize=4.5,
        )  # fmt: skip
    axes.axhline(0, color=GREY, linewidth=0.9, zorder=1)
    draws = min(rows["first_draws"].min(), rows["second_draws"].min())
    axes.set_title(f"{criterion} ({count(draws, 'draw')})" if draws > 1 else criterion, fontsize="small")
    axes.set_xticks(sorted(frame.table["kept_fraction"].unique()))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    if frame.metric.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
