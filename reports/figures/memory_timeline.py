"""What a pass has allocated at each moment, in the dense model and in pruned ones."""

from collections.abc import Iterator

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports.figures import Panel
from reports.run import Run
from reports.style import new_figure
from reports.words import listed, per_cent, size

TITLE = "Memory over one pass"
ORDER = 9
ABOUT = "task"
ABSENT = "The memory of a pass is measured apart, under the profiler: nox -s profile."
MIB = 2**20


def panels(run: Run, task: str) -> Iterator[Panel]:
    """Frames: kept_fraction, seconds, bytes, as memory.csv has them."""
    rows = run.memory[run.memory["task"] == task]
    for (device, batch), found in rows.groupby(["device", "batch"]):
        frame = found.sort_values(["kept_fraction", "seconds"], ascending=[False, True], kind="stable")
        columns = ["kept_fraction", "seconds", "bytes"]
        yield Panel(f"{device}-b{batch:.0f}", f"{task}, {device}, batch {batch:.0f}", frame[columns])


def draw(frame: pd.DataFrame) -> Figure:
    figure = new_figure(8.6, 4.0)
    axes = figure.subplots()
    groups = list(frame.groupby("kept_fraction", sort=False))
    colors = sns.color_palette("viridis", len(groups) + 1)[: len(groups)]
    for (kept, rows), color in zip(groups, colors, strict=True):
        axes.plot(
            1e3 * rows["seconds"], rows["bytes"] / MIB, drawstyle="steps-post", color=color, linewidth=1.5,
            label="dense" if kept == 1 else f"{per_cent(kept)} of the heads",
        )  # fmt: skip
    axes.set_ylim(bottom=min(0.0, frame["bytes"].min() / MIB))
    axes.set_xlabel("time since the pass began, under the profiler (ms)")
    axes.set_ylabel("allocated since then (MiB)")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def caption(frame: pd.DataFrame) -> str:
    peaks = frame.groupby("kept_fraction", sort=False)["bytes"].max()
    parts = [
        f"{size(peak)} in the dense model" if kept == 1 else f"{size(peak)} with {per_cent(kept)} of the heads"
        for kept, peak in peaks.items()
    ]
    return f"On top of what was there when it began a pass allocates at most {listed(parts)}."
