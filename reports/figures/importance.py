"""The map of importance: which heads each criterion would keep."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.analyse.limits import left_out, spread
from reports.base.formatting import duration, listed
from reports.base.stats import rank_correlation
from reports.draw.grid import panel_grid
from reports.draw.style import color_bar, shortened, text_width
from reports.figures import Panel
from reports.read.run import BASELINES, Run

TITLE = "Head importance"
ABOUT = "task"
ABSENT = "The map of importance needs scores.csv with scores of the task."
COLUMNS = 2
SHOWN = 16  # criteria
LABELS = 24  # layers and heads that are named
MOST_INCHES = 7.0  # of one map, to either side


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel, if the task has scores of criteria other than the baselines (BASELINES).

    Its frame has those rows of scores.csv, with the column layer as a Categorical in the order of the model's layers.
    """
    frame = run.scores[(run.scores["task"] == task) & ~run.scores["criterion"].isin(BASELINES)]
    if len(frame):
        layers = list(dict.fromkeys([*run.environment["tasks"][task].get("layers", ()), *frame["layer"]]))
        yield Panel("", task, frame.assign(layer=pd.Categorical(frame["layer"], categories=layers)))


def draw(frame: pd.DataFrame) -> Figure:
    criteria = _shown(frame)
    grids = {criterion: _grid(frame, criterion) for criterion in criteria}
    titles = {criterion: _title(criterion, scores.to_numpy()) for criterion, scores in grids.items()}
    layers, heads = frame["layer"].nunique(), frame["head"].nunique()
    widest = max(text_width(title, "medium", "bold") for title in titles.values()) / 72 + 0.2
    width = max(2.4, widest, min(MOST_INCHES, 0.42 * heads))
    height = 1.3 + min(MOST_INCHES, 0.36 * layers)
    figure, grid, places = panel_grid(criteria, COLUMNS, (2.8, width), (0.8, height), sharey=True)
    for axes, criterion in places:
        scores = grids[criterion]
        low, high = _range(scores.to_numpy())
        # not seaborn's heatmap, which draws the whole figure each time to see whether labels overlap
        image = axes.imshow(
            (scores - low) / ((high - low) or 1.0), cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="none"
        )
        axes.grid(False)
        axes.set_title(titles[criterion], fontsize="medium")
        shown = spread(range(scores.shape[1]), LABELS)
        axes.set_xticks(shown, labels=[f"{scores.columns[place]:.0f}" for place in shown])
        shown = spread(range(scores.shape[0]), LABELS)
        axes.set_yticks(shown, labels=[shortened(str(scores.index[place])) for place in shown])
        axes.tick_params(length=0)
        axes.set_xlabel("head")
    bar = color_bar(figure, image, grid, "importance, each by its own range", aspect=25, shrink=0.6)
    bar.set_ticks([0, 1], labels=["least", "most"])
    return figure


def caption(frame: pd.DataFrame) -> str:
    criteria = sorted(frame["criterion"].unique())
    tops = []
    for criterion in _shown(frame):
        rows = frame[frame["criterion"] == criterion]
        top = rows.iloc[int(rows["score"].argmax())]
        tops.append(f"head {int(top['head'])} of {top['layer']} by {criterion} ({duration(rows['seconds'].iloc[0])})")
    rest = left_out(len(tops), len(criteria), "criteria")
    return f"Most important, and the time it took to find out: {listed(tops)}{_agreement(frame, criteria)}.{rest}"


def _shown(frame: pd.DataFrame) -> list[str]:
    return spread(sorted(frame["criterion"].unique()), SHOWN)


def _range(scores: np.ndarray) -> tuple[float, float]:
    return float(np.nanmin(scores)), float(np.nanmax(scores))


def _title(criterion: str, scores: np.ndarray) -> str:
    low, high = _range(scores)
    return f"{shortened(criterion)}:\n{low:.2g} to {high:.2g}"


def _agreement(frame: pd.DataFrame, criteria: list[str]) -> str:
    """A clause that names the two criteria with the highest rank correlation over heads, and the two with the lowest.

    One pair alone is named without the word "highest"; empty if no pair has a correlation.
    """
    scores = frame.pivot(index=["layer", "head"], columns="criterion", values="score")[criteria]
    correlation = rank_correlation(scores).to_numpy()
    pairs = {
        (one, other): correlation[i, j]
        for i, one in enumerate(criteria)
        for j, other in enumerate(criteria)
        if i < j and not np.isnan(correlation[i, j])
    }
    if not pairs:
        return ""
    (most, high), (least, low) = (pick(pairs.items(), key=lambda item: item[1]) for pick in (max, min))
    text = f"; rank correlation is {high:.2f} between {most[0]} and {most[1]}"
    return (
        text
        if len(pairs) == 1
        else f"{text} (the highest) and {low:.2f} between {least[0]} and {least[1]} (the lowest)"
    )


def _grid(frame: pd.DataFrame, criterion: str) -> pd.DataFrame:
    rows = frame[frame["criterion"] == criterion]
    return rows.pivot(index="layer", columns="head", values="score").sort_index()
