"""How many examples a criterion needs until it ranks heads as it does on all of them."""

import math
from collections.abc import Iterator

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports.figures import Panel
from reports.importance.load import Tables
from reports.style import log_ticks, new_figure
from reports.words import listed

COLUMNS = 6


def panels(tables: Tables) -> Iterator[Panel]:
    """Frame: stability.csv of what depends on data at all."""
    frame = tables.stability.dropna(subset=["spearman"])
    moving = frame.groupby("criterion")["spearman"].transform("min") < 1
    if moving.any():
        yield Panel("", "", frame[moving])


def draw(frame: pd.DataFrame) -> Figure:
    criteria = _ranked(frame)
    rows = math.ceil(len(criteria) / COLUMNS)
    figure = new_figure(1.9 * COLUMNS, 0.9 + 1.75 * rows)
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    tasks = sorted(frame["task"].unique())
    for axes, criterion in zip(grid.flat, criteria, strict=False):
        sns.lineplot(
            frame[frame["criterion"] == criterion],
            x="examples", y="spearman", hue="task", style="task", hue_order=tasks, style_order=tasks, ax=axes,
            palette="colorblind", errorbar=("pi", 100), markers=True, markersize=5, dashes=False, legend=axes is grid.flat[0],
        )  # fmt: skip
        axes.set_title(criterion, fontsize=8)
        axes.set(xlabel="", ylabel="", xscale="log")
        log_ticks(axes.xaxis, frame["examples"].unique().tolist())
    for axes in grid.flat[len(criteria) :]:
        axes.set_axis_off()
    figure.supxlabel("calibration examples; bands: smallest to largest of several parts")
    figure.supylabel("Spearman's correlation with the scores from all")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    grid.flat[0].get_legend().remove()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def caption(frame: pd.DataFrame) -> str:
    fewest = int(frame["examples"].min())
    mean = frame[frame["examples"] == fewest].groupby("criterion")["spearman"].mean().sort_values(ascending=False)
    said = [f"{mean.index[place]} {mean.iloc[place]:.2f}" for place in (0, -1)]
    return f"From {fewest} examples the correlation with the scores from all of them is from the most to the least stable {listed(said)}."


def _ranked(frame: pd.DataFrame) -> list[str]:
    return list(frame.groupby("criterion")["spearman"].mean().sort_values(ascending=False).index)
