"""The metric at each head count: one small panel for each criterion, above what random plans do."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from reports.draw.grid import finish, small_panels
from reports.draw.style import GREY, INK
from reports.figures import Panel
from reports.read.importance_run import BEST, LIKELIHOOD, RANDOM, RIVAL, Tables

TITLE = "The metric at each head count, criterion by criterion"
PERPLEXITY = "perplexity"
ABSENT = "Curves need curves.csv of at least one task."


def panels(tables: Tables) -> Iterator[Panel]:
    """One panel for each task; its frame has the task's rows of curves.csv, and from areas.csv a column share.

    share says how far a criterion gets, over all head counts, from random plans (0) to a model that loses nothing (1).
    Log-likelihoods are there as perplexities, of which less is better.
    """
    shares = tables.areas[["task", "criterion", "share"]]
    for task, rows in tables.curves.groupby("task", sort=False):
        shown = _perplexities(rows) if (rows["metric"] == LIKELIHOOD).all() else rows
        yield Panel(str(task), str(task), shown.merge(shares, how="left", on=["task", "criterion"]))


def draw(frame: pd.DataFrame) -> Figure:
    metric = frame["metric"].iloc[0]
    less_is_better = metric == PERPLEXITY
    label = f"{metric}, less is better" if less_is_better else f"{metric} (%)"
    figure, places = small_panels(_ranked(frame), "kept heads (%)", label)
    for axes, criterion in places:
        rows = frame[frame["criterion"] == criterion]
        _background(axes, frame)
        _line(axes, rows)
        share = rows["share"].iloc[0]
        height, edge = (0.95, "top") if less_is_better else (0.05, "bottom")  # where no curve runs
        text = "" if pd.isna(share) else f"{share:.2f}"
        axes.text(0.96, height, text, transform=axes.transAxes, ha="right", va=edge)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        if less_is_better:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        finish(figure, axes, criterion.replace(", ", "\n"))
    return figure


def caption(frame: pd.DataFrame) -> str:
    criteria = _ranked(frame)
    shares = frame.drop_duplicates("criterion").set_index("criterion")["share"]
    ends = f"{criteria[0]} ({shares[criteria[0]]:.2f}) to {criteria[-1]} ({shares[criteria[-1]]:.2f})"
    return (
        f"On {frame['task'].iloc[0]}, {len(criteria)} ways to choose heads, from {ends}: the number is the share of "
        "the way from random plans (0) to a model that loses nothing (1), over all head counts."
    )


def _perplexities(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of log-likelihoods as rows of perplexities; the larger end of an interval becomes the smaller one."""
    columns = {"value": "value", "low": "high", "high": "low", "draws_low": "draws_high", "draws_high": "draws_low"}
    perplexities = {name: np.exp(-rows[source]) for name, source in columns.items()}
    return rows.assign(**perplexities, metric=PERPLEXITY)


def _ranked(frame: pd.DataFrame) -> list[str]:
    rows = frame[~frame["criterion"].isin([RANDOM, BEST, RIVAL])].drop_duplicates("criterion")
    return list(rows.sort_values("share", ascending=False, kind="stable")["criterion"])


def _background(axes: Axes, frame: pd.DataFrame) -> None:
    """Draw what all panels share, as far as `frame` has it: random plans, best subsets, smaller models trained anew."""
    random = frame[frame["criterion"] == RANDOM].sort_values("kept_fraction")
    if len(random):
        x = random["kept_fraction"]
        axes.fill_between(
            x, random["draws_low"], random["draws_high"], color=GREY, alpha=0.25, linewidth=0, label="random, 95 %"
        )
        axes.plot(x, random["value"], color=GREY, linewidth=1, label="random, mean")
    best = frame[frame["criterion"] == BEST].sort_values("kept_fraction")
    if len(best):
        axes.plot(best["kept_fraction"], best["value"], color=INK, linewidth=0.9, linestyle="--", label=BEST)
    rival = frame[frame["criterion"] == RIVAL]
    if len(rival):
        axes.plot(
            rival["kept_fraction"], rival["value"], "+", color=INK, markersize=6, label="smaller, trained from scratch"
        )


def _line(axes: Axes, rows: pd.DataFrame) -> None:
    color = sns.color_palette("colorblind")[0]
    rows = rows.sort_values("kept_fraction")
    axes.fill_between(rows["kept_fraction"], rows["low"], rows["high"], color=color, alpha=0.25, linewidth=0)
    sns.lineplot(
        rows,
        x="kept_fraction",
        y="value",
        ax=axes,
        color=color,
        linewidth=1.6,
        label="criterion",
        legend=False,
        errorbar=None,
    )
