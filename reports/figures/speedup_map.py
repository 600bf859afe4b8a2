"""Speedup over kept fraction and batch size: where pruning pays."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from reports.analyse import frames
from reports.analyse.limits import left_out, spread
from reports.base.formatting import between, count, per_cent, times
from reports.draw.heatmaps import log_reach, speedup_bar, speedup_cells, speedup_texts
from reports.draw.style import new_figure
from reports.figures import Panel
from reports.read.run import Run

TITLE = "Speedup over kept heads and batch size"
ABOUT = "task"
ABSENT = "The map of speedups needs finished latency cases of the task."
ROWS, COLUMNS = 16, 10  # kept fractions and batch sizes


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each setting; its frame is that of `frames.latencies` by kept fraction and batch size."""
    for setting, cases in frames.settings(frames.cases_of(run, task)):
        frame = frames.latencies(run, cases, ["kept_fraction", "batch"])
        if len(frame):
            yield Panel(setting.slug, f"{task}, {setting.text}", frame)


def draw(frame: pd.DataFrame) -> Figure:
    frame = _shown(frame).assign(text=speedup_texts)
    speedup = _grid(frame, "speedup")
    figure = new_figure(2.6 + 1.35 * speedup.shape[1], 1.7 + 0.62 * speedup.shape[0])
    axes = figure.subplots()
    reach = log_reach(frame["speedup"])
    speedup_bar(figure, speedup_cells(axes, speedup, _grid(frame, "text"), reach), axes, reach)
    axes.set_xlabel("batch size (examples)")
    axes.set_xticklabels([f"{batch:.0f}" for batch in speedup.columns])
    axes.set_ylabel("kept heads (%)")
    axes.set_yticklabels([f"{100 * kept:.4g}" for kept in speedup.index])
    return figure


def caption(frame: pd.DataFrame) -> str:
    pruned = frame if (frame["kept_fraction"] == 0).all() else frame[frame["kept_fraction"] > 0]
    ends = [pruned.iloc[pruned["speedup"].argmax()], pruned.iloc[pruned["speedup"].argmin()]]
    best, worst = (
        f"{times(row['speedup'])} ({between(row['speedup_low'], row['speedup_high'])}) with "
        f"{per_cent(row['kept_fraction'])} of the heads at batch {int(row['batch'])}"
        for row in ends
    )
    rounds = count(frame["rounds"].sum(), "round")
    fewest, most = int(frame["shapes"].min()), int(frame["shapes"].max())
    shapes = f"{fewest} to {most} shapes" if fewest < most else f"{most} shapes" if most > 1 else "one shape"
    if len(pruned) == 1:
        return f"The median paired speedup is {best}, over {rounds}."
    return (
        f"The median paired speedup goes from {worst} to {best}; each cell is the median over the {shapes} "
        f"timed there, {rounds} in all.{left_out(len(_shown(frame)), len(frame), 'cells')}"
    )


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    kept = spread(sorted(frame["kept_fraction"].unique()), ROWS)
    batches = spread(sorted(frame["batch"].unique()), COLUMNS)
    return frame[frame["kept_fraction"].isin(kept) & frame["batch"].isin(batches)]


def _grid(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame.pivot(index="kept_fraction", columns="batch", values=column).sort_index(ascending=False)
