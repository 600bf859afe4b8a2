"""How alike criteria rank heads, and how near each comes to the truth."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage

from reports.draw.style import PAPER, color_bar, new_figure, text_on
from reports.figures import Panel
from reports.read.importance_run import TRUTH, Tables

MOST = f"leave-one-out, {TRUTH}"

TITLE = "How alike criteria rank heads"
ABSENT = "How alike criteria rank heads needs agreement.csv with leave-one-out on held-out data."


def panels(tables: Tables) -> Iterator[Panel]:
    """One panel for each task on which criteria were compared with the truth, leave-one-out on held-out data.

    Its frame holds Spearman's correlation of each two criteria, the mean over seeds: a square table whose index and
    columns are the criteria, the truth first (as MOST), similar ones side by side.
    """
    for task, rows in tables.agreement.groupby("task", sort=False):
        wide = rows.pivot_table(index="criterion", columns="other", values="spearman", aggfunc="mean", dropna=False)
        others = [name for name in wide.index if name != TRUTH]
        if TRUTH in wide.index and others:
            order = [TRUTH, *_alike(wide.loc[others, others])]
            yield Panel(str(task), str(task), wide.loc[order, order].rename(index={TRUTH: MOST}, columns={TRUTH: MOST}))


def draw(frame: pd.DataFrame) -> Figure:
    size = len(frame)
    figure = new_figure(3.6 + 0.42 * size, 2.6 + 0.36 * size)
    axes = figure.subplots()
    colors = sns.color_palette("vlag_r", as_cmap=True)
    image = axes.imshow(frame, cmap=colors, vmin=-1, vmax=1, aspect="auto", interpolation="none")
    axes.grid(False)
    axes.set_xticks(range(size), labels=list(frame.columns), rotation=90)
    axes.set_yticks(range(size), labels=list(frame.index))
    axes.tick_params(length=0)
    values = frame.to_numpy(float)
    for row, column in np.ndindex(size, size):
        value = values[row, column]
        text = "" if np.isnan(value) else f"{100 * value:.0f}"
        color = text_on(image.to_rgba(value))
        axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=color)
    axes.axhline(0.5, color=PAPER, linewidth=3)
    axes.axvline(0.5, color=PAPER, linewidth=3)
    color_bar(figure, image, axes, "Spearman's correlation (numbers: × 100)", aspect=40, shrink=0.7)
    return figure


def caption(frame: pd.DataFrame) -> str:
    near = frame[MOST].drop(MOST).dropna().sort_values(ascending=False)
    best, worst = (f"{near.index[place]} ({near.iloc[place]:.2f})" for place in (0, -1))
    return (
        f"Nearest to what leaving a head out does on held-out data is {best}, farthest {worst}; one half of the "
        f"held-out data beside the other agrees to {frame[MOST][MOST]:.2f}."
    )


def _alike(wide: pd.DataFrame) -> list[str]:
    """The criteria (index of `wide`) reordered so that those with similar rows of correlations stand side by side.

    By average linkage with an optimal order of leaves; fewer than three stay as they are.
    """
    if len(wide) < 3:
        return list(wide.index)
    order = leaves_list(linkage(wide.fillna(0.0).to_numpy(), method="average", optimal_ordering=True))
    return [str(wide.index[place]) for place in order]
