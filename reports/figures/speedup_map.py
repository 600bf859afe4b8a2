"""Speedup over kept fraction and batch size: where pruning pays."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports import frames
from reports.figures import Panel
from reports.run import Run
from reports.style import new_figure
from reports.words import between, count, per_cent, times

TITLE = "Speedup over kept heads and batch size"
ORDER = 4
ABOUT = "task"
ABSENT = "The map of speedups needs finished latency cases of the task."


def panels(run: Run, task: str) -> Iterator[Panel]:
    for setting, cases in frames.settings(frames.cases_of(run, task)):
        frame = frames.latencies(run, cases, ["kept_fraction", "batch"])
        if len(frame):
            yield Panel(setting.slug, f"{task}, {setting.text}", frame)


def draw(frame: pd.DataFrame) -> Figure:
    speedup = _grid(frame, "speedup")
    low, high = _grid(frame, "speedup_low"), _grid(frame, "speedup_high")
    cells = [
        [
            "" if np.isnan(value) else f"{times(value)}\n{_interval(*bounds)}"
            for value, *bounds in zip(*rows, strict=True)
        ]
        for rows in zip(speedup.to_numpy(), low.to_numpy(), high.to_numpy(), strict=True)
    ]
    figure = new_figure(2.6 + 1.35 * speedup.shape[1], 1.7 + 0.62 * speedup.shape[0])
    axes = figure.subplots()
    reach = max(0.05, float(np.nanmax(np.abs(np.log2(speedup.to_numpy())))))
    sns.heatmap(
        np.log2(speedup), ax=axes, annot=np.array(cells), fmt="", cmap="vlag_r", vmin=-reach, vmax=reach,
        linewidths=1.5, annot_kws={"fontsize": "small"}, cbar_kws={"label": "speedup (dense / pruned)"},
    )  # fmt: skip
    bar = axes.collections[0].colorbar
    assert bar is not None  # seaborn has just drawn it
    bar.set_ticks([-reach, 0, reach], labels=[times(2**-reach), "1×", times(2**reach)])
    axes.set_xlabel("batch size (examples)")
    axes.set_ylabel("kept heads (%)")
    axes.set_yticklabels([f"{100 * kept:.4g}" for kept in speedup.index], rotation=0)
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
        f"timed there, {rounds} in all."
    )


def _grid(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame.pivot(index="kept_fraction", columns="batch", values=column).sort_index(ascending=False)


def _interval(low: float, high: float) -> str:
    return "one round" if np.isnan(low) else f"{low:.2f}–{high:.2f}"
