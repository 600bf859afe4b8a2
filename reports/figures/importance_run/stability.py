"""How many examples a criterion needs until it ranks heads as it does on all of them."""

from collections.abc import Iterator

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports.base.formatting import listed
from reports.draw.grid import finish, small_panels
from reports.draw.style import log_ticks
from reports.figures import Panel
from reports.read.importance_run import Tables

TITLE = "How stable rankings are"
ABSENT = "Stability needs stability.csv."


def panels(tables: Tables) -> Iterator[Panel]:
    """One panel; its frame has the rows of stability.csv that have a correlation.

    Criteria whose correlation is 1 in all rows are left out: their ranking doesn't depend on the data. No panel if no
    other is there.
    """
    frame = tables.stability.dropna(subset=["spearman"])
    moving = frame.groupby("criterion")["spearman"].transform("min") < 1
    if moving.any():
        yield Panel("", "", frame[moving])


def draw(frame: pd.DataFrame) -> Figure:
    x_label = "calibration examples; bands: smallest to largest of several parts"
    figure, places = small_panels(_ranked(frame), x_label, "Spearman's correlation with the scores from all")
    tasks = sorted(frame["task"].unique())
    for axes, criterion in places:
        sns.lineplot(
            frame[frame["criterion"] == criterion],
            x="examples", y="spearman", hue="task", style="task", hue_order=tasks, style_order=tasks, ax=axes,
            palette="colorblind", errorbar=("pi", 100), markers=True, markersize=5, dashes=False,
        )  # fmt: skip
        finish(figure, axes, criterion, xscale="log")
        log_ticks(axes.xaxis, frame["examples"].unique().tolist())
    return figure


def caption(frame: pd.DataFrame) -> str:
    fewest = int(frame["examples"].min())
    mean = frame[frame["examples"] == fewest].groupby("criterion")["spearman"].mean().sort_values(ascending=False)
    ends = [f"{mean.index[place]} {mean.iloc[place]:.2f}" for place in (0, -1)]
    return (
        f"From {fewest} examples the correlation with the scores from all of them is, from the most to the least "
        f"stable criterion, {listed(ends)}."
    )


def _ranked(frame: pd.DataFrame) -> list[str]:
    return list(frame.groupby("criterion")["spearman"].mean().sort_values(ascending=False).index)
