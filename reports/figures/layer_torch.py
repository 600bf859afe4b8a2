"""The bare layer beside torch.nn.MultiheadAttention, in the same rounds, with the same weights."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports import frames, stats
from reports.figures import Panel
from reports.run import Run
from reports.style import INK, log_ticks, looks, new_figure, reach
from reports.words import between, times

TITLE = "The bare layer beside torch.nn.MultiheadAttention"
ORDER = 7
ABOUT = "layer"
ABSENT = "The comparison with torch.nn.MultiheadAttention was not measured in this run."


def panels(run: Run, task: str) -> Iterator[Panel]:
    """Frames: heads, batch, seq_len, mha and torch (seconds), and ratio (torch / mha) with its interval."""
    cases = frames.cases_of(run, task)
    for (device, dtype), group in cases.groupby(["device", "dtype"]):
        rows = [
            {"heads": case["heads_kept"], "batch": case["batch"], "seq_len": case["seq_len"]}
            | {arm: float(np.median(run.seconds[case["case"], arm])) for arm in ("mha", "torch")}
            | frames.columns("ratio", stats.ratio_estimate(run.log_ratios[case["case"], "torch", "mha"]))
            for case in group.to_dict("records")
            if (case["case"], "torch", "mha") in run.log_ratios
        ]
        if rows:
            yield Panel(f"{device}-{dtype}", f"{device}, {dtype}", pd.DataFrame(rows))


def draw(frame: pd.DataFrame) -> Figure:
    heads = sorted(frame["heads"].unique())
    figure = new_figure(1.4 + 3.0 * len(heads), 4.4)
    grid = figure.subplots(1, len(heads), squeeze=False, sharey=True)[0]
    batches = sorted(frame["batch"].unique())
    look = looks([str(batch) for batch in batches])
    for axes, count in zip(grid, heads, strict=True):
        axes.axhline(1, color=INK, linewidth=1)
        for place, batch in enumerate(batches):
            rows = frame[(frame["heads"] == count) & (frame["batch"] == batch)].sort_values("seq_len")
            along = reach(rows["ratio"], rows["ratio_low"], rows["ratio_high"])
            axes.errorbar(
                rows["seq_len"].astype(float) * 1.06 ** (place - (len(batches) - 1) / 2), rows["ratio"],
                yerr=along, label=f"batch {batch}", color=look[str(batch)].color,
                marker=look[str(batch)].marker, linewidth=1.4, elinewidth=1.1, markersize=6,
            )  # fmt: skip
        axes.set_title(f"{count} heads")
        axes.set_xscale("log")
        log_ticks(axes.xaxis, frame["seq_len"].astype(float).tolist())
        axes.set_xlabel("sequence length (tokens)")
        axes.margins(x=0.12)
    grid[0].set_ylabel("time of torch / time of ours\n(paired; above 1 ours is faster)")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(batches))
    return figure


def caption(frame: pd.DataFrame) -> str:
    slower, faster = int((frame["ratio_high"] < 1).sum()), int((frame["ratio_low"] > 1).sum())
    slow, fast = frame.iloc[frame["ratio"].argmin()], frame.iloc[frame["ratio"].argmax()]
    if len(frame) == 1:
        return f"In the one setting measured the time of torch over ours is {_setting(slow)}."
    return (
        f"Over {len(frame)} settings torch takes a median of {times(frame['ratio'].median())} the time of ours, from "
        f"{_setting(slow)} to {_setting(fast)}; ours is faster beyond the interval in {faster} and slower in {slower}."
    )


def _setting(row: pd.Series) -> str:
    where = f"{int(row['heads'])} heads, batch {int(row['batch'])}, {int(row['seq_len'])} tokens"
    return f"{times(row['ratio'])} ({between(row['ratio_low'], row['ratio_high'])}; {where})"
