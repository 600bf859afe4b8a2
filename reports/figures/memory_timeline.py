"""What a pass has allocated at each moment, in the dense model and in pruned ones."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.analyse.frames import device_slug, device_title
from reports.analyse.limits import left_out, spread
from reports.base.formatting import listed, per_cent, size
from reports.draw.style import INK, PALETTE, extent, new_figure
from reports.figures import Panel
from reports.read.run import Run

TITLE = "Memory over one pass"
ABOUT = "task"
ABSENT = "The memory of a pass is measured apart, under the profiler: nox -s profile."
MIB = 2**20
SHOWN = 8  # kept fractions
STEPS = 400  # of one pass; of more, the highest of each stretch of time


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each device and batch size of the task's rows of memory.csv.

    Columns of its frame: kept_fraction, seconds (since the forward pass began) and bytes (allocated since then).
    """
    rows = run.memory[run.memory["task"] == task]
    for (device, machine, batch), steps in rows.groupby(["device", "machine", "batch"]):
        frame = steps.sort_values(["kept_fraction", "seconds"], ascending=[False, True], kind="stable")
        columns = ["kept_fraction", "seconds", "bytes"]
        title = f"{task}, {device_title(device, machine)}, batch {batch:.0f}"
        yield Panel(f"{device_slug(device, machine)}-b{batch:.0f}", title, frame[columns])


def draw(frame: pd.DataFrame) -> Figure:
    groups = [(kept, frame[frame["kept_fraction"] == kept]) for kept in _kept(frame)]
    figure = new_figure(8.6, 0.9 + 1.5 * len(groups))
    grid = figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    color = PALETTE[0]
    for axes, (kept, rows) in zip(grid, groups, strict=True):
        peak = rows["bytes"].max()
        rows = _thinned(rows)
        axes.fill_between(1e3 * rows["seconds"], rows["bytes"] / MIB, step="post", color=color, alpha=0.35, linewidth=0)
        axes.plot(1e3 * rows["seconds"], rows["bytes"] / MIB, drawstyle="steps-post", color=color, linewidth=1.2)
        axes.axhline(peak / MIB, color=INK, linestyle=":", linewidth=0.9)
        name = "dense" if kept == 1 else f"{per_cent(kept)} of the heads"
        axes.set_title(f"{name}: at most {size(peak)}", fontsize="medium")
        axes.set_ylabel("MiB")
    grid[0].set_ylim(bottom=min(0.0, extent(frame, "bytes")[0] / MIB))
    grid[-1].set_xlabel("time since the pass began, under the profiler (ms)")
    return figure


def caption(frame: pd.DataFrame) -> str:
    parts = []
    for kept in _kept(frame):
        peak = frame.loc[frame["kept_fraction"] == kept, "bytes"].max()
        parts.append(f"{size(peak)} " + ("in the dense model" if kept == 1 else f"with {per_cent(kept)} of the heads"))
    count = frame["kept_fraction"].nunique()
    rest = left_out(min(SHOWN, count), count, "kept fractions")
    return f"On top of what was there when it began a pass allocates at most {listed(parts)}.{rest}"


def _kept(frame: pd.DataFrame) -> list[float]:
    return spread(list(frame["kept_fraction"].unique()), SHOWN)


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """At most STEPS of the rows, which are in order of time: of each stretch of them the one with the most bytes."""
    if len(rows) <= STEPS:
        return rows
    stretch = (np.arange(len(rows)) * STEPS) // len(rows)
    return rows.iloc[rows.reset_index().groupby(stretch)["bytes"].idxmax()]
