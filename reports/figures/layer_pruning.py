"""The pruned bare layer against the dense one: how close the time saved comes to the heads cut."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports import frames
from reports.figures import Panel
from reports.run import Run
from reports.style import INK, kept_axis, legend_right, new_figure, reach
from reports.words import between, milliseconds, per_cent

TITLE = "The bare layer, pruned against dense"
ORDER = 2
ABOUT = "layer"
ABSENT = "The pruned bare layer was not measured in this run."
SIZE = ["heads_total", "head_dim", "batch", "seq_len"]


def panels(run: Run, task: str) -> Iterator[Panel]:
    """Frames: SIZE, kept_fraction, dense and pruned (seconds), and share (pruned / dense), with intervals."""
    for setting, cases in frames.conditions(frames.cases_of(run, task)):
        frame = frames.latencies(run, cases, [*SIZE, "kept_fraction"])
        if len(frame):
            share = {"share": "speedup", "share_low": "speedup_high", "share_high": "speedup_low"}
            frame = frame.assign(**{name: 1 / frame[column] for name, column in share.items()})
            yield Panel(setting.slug, setting.text, frame)


def draw(frame: pd.DataFrame) -> Figure:
    figure = new_figure(8.6, 5.0)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", label="ideal: time = heads kept")
    sizes = sorted(frame.groupby(SIZE, dropna=False), key=lambda item: item[1]["dense"].median())
    colors = sns.color_palette("viridis_r", len(sizes) + 1)[1:]
    for place, ((_, rows), color) in enumerate(zip(sizes, colors, strict=True)):
        rows = rows.sort_values("kept_fraction")
        along = reach(rows["share"], rows["share_low"], rows["share_high"])
        axes.errorbar(
            rows["kept_fraction"] + 0.004 * (place - (len(sizes) - 1) / 2), rows["share"],
            yerr=along, label=f"{_size(rows.iloc[0])}: dense {milliseconds(rows['dense'].median())}",
            color=color, marker="o", markersize=5, linewidth=1.4, elinewidth=1.1,
        )  # fmt: skip
    axes.set_xlim(0, 1.03)
    kept_axis(axes)
    axes.set_ylabel("time of pruned / time of dense (paired)")
    axes.set_ylim(bottom=0)
    legend_right(axes, title="sizes, quickest first")
    return figure


def caption(frame: pd.DataFrame) -> str:
    largest = frame.iloc[frame.groupby(SIZE, dropna=False)["dense"].transform("median").argmax()]
    same = frame[(frame[SIZE].astype(float).fillna(-1) == largest[SIZE].astype(float).fillna(-1)).all(axis=1)]
    half = same.iloc[(same["kept_fraction"] - 0.5).abs().argmin()]
    at_half = frame[np.isclose(frame["kept_fraction"], half["kept_fraction"])]
    spread = (
        ""
        if len(at_half) == 1
        else f"; over all {len(at_half)} sizes it takes {at_half['share'].min():.2f} to {at_half['share'].max():.2f}"
    )
    return (
        f"With {per_cent(half['kept_fraction'])} of its heads the slowest layer ({_size(half)}, dense "
        f"{milliseconds(half['dense'])}) takes {half['share']:.2f} of the dense time "
        f"({between(half['share_low'], half['share_high'])}){spread}."
    )


def _size(row: pd.Series) -> str:
    tokens = "" if pd.isna(row["seq_len"]) else f", {int(row['seq_len'])} tokens"
    width = "" if pd.isna(row["head_dim"]) else f" × {int(row['head_dim'])}"
    return f"{int(row['heads_total'])} heads{width}, batch {int(row['batch'])}{tokens}"
