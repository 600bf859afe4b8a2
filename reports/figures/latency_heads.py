"""Latency against kept heads: what each batch size saves."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.analyse import frames
from reports.analyse.limits import left_out, spread_batches
from reports.base.formatting import between, capitalised, digits, milliseconds
from reports.draw.grid import batch_grid
from reports.draw.style import GREY, INK, PALETTE, apart, legend_below, reach
from reports.figures import Panel
from reports.read.run import Run

TITLE = "Latency against kept heads"
ABOUT = "task"
ABSENT = "Latency against kept heads needs finished latency cases of the task."
COLUMNS = 4
BATCHES, SHAPES = 12, 60  # batch sizes, and marks of each
SIZE = ["batch", "heads_total"]
MARKS = {
    "pruned": ("pruned, one mark for each shape: dense time / paired speedup", "o", 5, PALETTE[0]),
    "dense": ("dense model", "*", 13, INK),
}


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each setting.

    Columns of its frame: batch, heads_kept, heads_total, model ("pruned", a row for each shape, or "dense"), and
    seconds of a forward pass with _low and _high. A pruned model's seconds are the dense model's at that batch size
    over the paired speedup, so that a machine that slows down between two cases does not set them apart.
    """
    for setting, cases in frames.settings(frames.cases_of(run, task)):
        pruned = frames.latencies(run, cases, [*SIZE, "heads_kept", "timed_by"])
        if len(pruned):
            dense = frames.latencies(run, cases, SIZE)
            whole = pruned[SIZE].merge(dense, on=SIZE)["dense"]
            bounds = {"seconds": "speedup", "seconds_low": "speedup_high", "seconds_high": "speedup_low"}
            pruned = pruned.assign(**{name: whole / pruned[speedup] for name, speedup in bounds.items()})
            own = {name: dense[name.replace("seconds", "dense")] for name in bounds}
            dense = dense.assign(**own, heads_kept=dense["heads_total"])
            frame = pd.concat([pruned.assign(model="pruned"), dense.assign(model="dense")], ignore_index=True)
            yield Panel(setting.slug, f"{task}, {setting.text}", frame)


def draw(frame: pd.DataFrame) -> Figure:
    figure, places = batch_grid(_shown(frame), COLUMNS, width=(0.8, 2.8), height=(0.7, 2.9))
    for axes, rows in places:
        _one_batch(axes, rows)
        axes.set_title(f"batch {rows['batch'].iloc[0]}")
    legend_below(figure, most=2)
    return figure


def caption(frame: pd.DataFrame) -> str:
    parts = []
    for batch in sorted({frame["batch"].min(), frame["batch"].max()}):
        rows = frame[frame["batch"] == batch]
        dense = rows[rows["model"] == "dense"].iloc[0]
        pruned = rows[rows["model"] == "pruned"].sort_values("heads_kept")
        least = pruned.iloc[int((pruned["heads_kept"] > 0).argmax())]  # of those with heads, if there are any
        parts.append(
            f"at batch {batch} the dense model takes {_with_interval(dense)} and the one with "
            f"{least['heads_kept']} of {least['heads_total']} heads {_with_interval(least)}"
        )
    text = "; ".join(parts)
    return f"{capitalised(text)}.{left_out(len(_shown(frame)), len(frame), 'points')}"


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    return spread_batches(frame, BATCHES, SHAPES, ["model", "heads_kept"])


def _one_batch(axes: Axes, frame: pd.DataFrame) -> None:
    """Draw latency over kept heads at one batch size: a mark for each row, and a line through the medians.

    Times start at zero, so that heights compare.
    """
    line = 1e3 * frame.groupby("heads_kept")["seconds"].median()
    axes.plot(line.index, line, color=GREY, linewidth=1.4)
    for model, (label, marker, size, color) in MARKS.items():
        rows = frame[frame["model"] == model]
        along = 1e3 * reach(rows["seconds"], rows["seconds_low"], rows["seconds_high"])
        axes.errorbar(
            rows["heads_kept"], 1e3 * rows["seconds"], yerr=along, label=label, linestyle="", elinewidth=1.1,
            marker=marker, markersize=size, color=color,
        )  # fmt: skip
    axes.set_ylim(bottom=0, top=1e3 * 1.12 * np.nanmax(frame[["seconds", "seconds_high"]]))
    axes.set_ylabel("latency (ms per forward pass)")
    axes.set_xlabel("kept heads in the whole model")
    axes.set_xticks(list(map(int, apart([0, *frame["heads_kept"]], 0.2 * frame["heads_kept"].max()))))


def _with_interval(row: pd.Series) -> str:
    return f"{milliseconds(row['seconds'])} ({between(1e3 * row['seconds_low'], 1e3 * row['seconds_high'], digits)})"
