"""Where the speedup is lost: what was measured, beside what attention's share of the time allows."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reports.analyse import bounds
from reports.analyse.bounds import BOUNDS, amdahl
from reports.analyse.limits import left_out, spread, spread_batches
from reports.base.formatting import between, per_cent, times
from reports.base.table_cells import Summary, interval, number, word
from reports.draw.grid import batch_grid
from reports.draw.style import BOUND_LOOKS, INK, extent, kept_axis, legend_below, reach
from reports.figures import Panel
from reports.read.run import Run

TITLE = "Where the speedup goes"
ABOUT = "task"
ABSENT = "Bounds of the speedup need finished latency cases of the task, one of them without any head."
COLUMNS = 4
BATCHES, SHAPES = 12, 60  # batch sizes, and points of each
TOLD = 4  # batch sizes in the caption
UNKNOWN = "unknown"
NOTE = (
    "The ceiling of a point is the longer of its FLOPs at the measured rate of matrix multiplication and its least "
    "bytes at the measured bandwidth of a copy (within the caches, for what is faster than memory). Where that "
    "explains less than half of the time, the rest is overhead: launching, dispatching, small or strided work."
)


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each setting; its frame is that of `bounds.speedups`, with a row for each pruned shape."""
    for setting, frame in bounds.speedups(run, task):
        yield Panel(setting.slug, f"{task}, {setting.text}", frame, (_table(frame),))


def draw(frame: pd.DataFrame) -> Figure:
    figure, places = batch_grid(_shown(frame), COLUMNS, width=(1.0, 3.3), height=(1.3, 3.1))
    for axes, rows in places:
        _one_batch(axes, rows)
    legend_below(figure, most=3 if len(places) > 2 else 2)
    return figure


def caption(frame: pd.DataFrame) -> str:
    shown = frame[frame["batch"].isin(spread(sorted(frame["batch"].unique()), TOLD))]
    sentences = " ".join(_sentence(rows) for _, rows in shown.groupby("batch"))
    return f"{sentences}{left_out(len(_shown(frame)), len(frame), 'points')}"


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    return spread_batches(frame, BATCHES, SHAPES, ["kept"])


def _one_batch(axes: Axes, frame: pd.DataFrame) -> None:
    share = frame["attention"].iloc[0]
    kept = np.linspace(min(0.05, frame["kept"].min()), 1, 200)
    axes.plot(kept, 1 / kept, color=INK, linestyle=":", linewidth=1.2, label="ideal: 1 / kept heads")
    bound = amdahl(share, pd.Series(kept))
    axes.plot(kept, bound, color=INK, linewidth=1.4, label="Amdahl's bound: only attention shrinks")
    place = frame.groupby("kept").cumcount()  # shapes of one kept fraction stand side by side
    frame = frame.assign(at=frame["kept"] + 0.008 * (place - (frame.groupby("kept")["kept"].transform("size") - 1) / 2))
    for name in (*BOUNDS, UNKNOWN):
        rows = frame[frame["pruned_bound"] == name]
        if len(rows):
            label = "measured" if name == UNKNOWN else f"measured, {name}-bound"
            axes.errorbar(
                rows["at"], rows["speedup"], yerr=reach(rows["speedup"], rows["speedup_low"], rows["speedup_high"]),
                linestyle="", elinewidth=1.1, markersize=5, label=label, color=BOUND_LOOKS[name].color,
                marker=BOUND_LOOKS[name].marker,
            )  # fmt: skip
    low, top = extent(frame, "speedup", "speedup_low", "speedup_high", "amdahl")
    low, top = min(low, 1.0), max(top, 1.2)
    axes.set_ylim(low - 0.06 * (top - low), top + 0.12 * (top - low))
    axes.set_xlim(0, 1.03)
    kept_axis(axes)
    axes.set_ylabel("speedup (dense / pruned, paired)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_title(f"batch {frame['batch'].iloc[0]}: attention takes {100 * share:.0f} %", fontsize="medium")


def _sentence(rows: pd.DataFrame) -> str:
    """A sentence on one batch size: its fastest shape with about half of the heads, and what bounds all its shapes."""
    near = (rows["kept"] - 0.5).abs()
    point = rows.loc[rows[near == near.min()]["speedup"].idxmax()]
    text = (
        f"At batch {point['batch']} attention takes {per_cent(round(point['attention'], 2))} of the dense time, so "
        f"{per_cent(round(point['kept'], 3))} of the heads can give {times(point['amdahl'])} by Amdahl's law, and "
        f"{times(point['speedup'])} ({between(point['speedup_low'], point['speedup_high'])}) was measured"
    )
    bound = bounds.clause(rows["pruned_bound"], "pruned shape")
    return f"{text}; {bound}." if bound else f"{text}."


def _table(frame: pd.DataFrame) -> Summary:
    ordered = frame.sort_values(["batch", "kept"], ascending=[True, False])
    return Summary(
        title="What bounds each point",
        note=NOTE,
        columns=(
            *("batch", "kept", "heads", "speedup", "Amdahl's bound", "ideal", "dense is bound by", "at % of ceiling"),
            *("pruned is bound by", "pruned at % of ceiling"),
        ),
        rows=tuple(
            (
                number(row["batch"], "{:.0f}".format),
                number(row["kept"], lambda kept: f"{100 * kept:.3g} %"),
                word(f"{row['heads_kept']} of {row['heads_total']}"),
                interval(row, "speedup", times),
                number(row["amdahl"], times),
                number(row["ideal"], times),
                *(
                    cell
                    for arm in ("dense", "pruned")
                    for cell in (word(row[f"{arm}_bound"]), number(row[f"{arm}_share"], lambda x: f"{100 * x:.0f} %"))
                ),
            )
            for row in ordered.to_dict("records")
        ),
        folded=len(frame) > 12,
    )
