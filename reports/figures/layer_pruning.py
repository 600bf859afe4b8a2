"""The pruned bare layer against the dense one: how close the time saved comes to the heads cut."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reports.analyse import frames
from reports.analyse.limits import left_out, spread, spread_rows
from reports.base.formatting import between, milliseconds, per_cent
from reports.draw.style import INK, legend_below, looks, new_figure, reach
from reports.figures import Panel
from reports.read.run import Run

TITLE = "The bare layer, pruned against dense"
ABOUT = "layer"
ABSENT = "The pruned bare layer was not measured in this run."
TARGETS = ((2, 10, 1.25), (10, 1e5, 1.05))  # where dense takes over (ms), up to, at most: what the project wants
SIZE = ["heads_total", "head_dim", "batch", "seq_len"]
KEPT, SIZES = 9, 60  # kept fractions, and sizes of each, from the fastest to the slowest


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each setting.

    Its frame has a row for each SIZE and kept fraction. Columns: SIZE, kept_fraction, and dense and pruned (seconds)
    and share (pruned / dense), each with _low and _high.
    """
    for setting, cases in frames.conditions(frames.cases_of(run, task)):
        frame = frames.latencies(run, cases, [*SIZE, "kept_fraction"])
        if len(frame):
            share = {"share": "speedup", "share_low": "speedup_high", "share_high": "speedup_low"}
            frame = frame.assign(**{name: 1 / frame[column] for name, column in share.items()})
            yield Panel(setting.slug, setting.text, frame)


def draw(frame: pd.DataFrame) -> Figure:
    frame = _shown(frame)
    figure = new_figure(8.6, 5.0)
    axes = figure.subplots()
    kept = sorted({fraction for fraction in frame["kept_fraction"] if fraction > 0}, reverse=True)
    look = looks([per_cent(fraction) for fraction in kept])
    for fraction in kept:
        rows = frame[frame["kept_fraction"] == fraction].sort_values("dense")
        excess = [rows[name] / fraction for name in ("share", "share_low", "share_high")]
        axes.errorbar(
            1e3 * rows["dense"], excess[0], yerr=reach(*excess), linestyle="", elinewidth=1.1, markersize=6,
            label=f"{per_cent(fraction)} of the heads", color=look[per_cent(fraction)].color,
            marker=look[per_cent(fraction)].marker,
        )  # fmt: skip
    axes.axhline(1, color=INK, linewidth=1, label="ideal: time = heads kept")
    for (start, end, target), style in zip(TARGETS, (":", "--"), strict=True):
        label = f"target: at most {target} where dense takes over {start} ms"
        axes.plot([start, end], [target, target], color=INK, linewidth=0.9, linestyle=style, zorder=1, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = 1e3 * frame["dense"].min(), 1e3 * frame["dense"].max()
    axes.set_xlim(min(low, 2) / 1.5, max(high, 30) * 1.5)
    axes.set_xlabel("time of the dense layer (ms), one mark for each size")
    axes.set_ylabel("time of pruned / (heads kept × time of dense)")
    legend_below(figure)
    return figure


def caption(frame: pd.DataFrame) -> str:
    largest = frame.iloc[frame.groupby(SIZE, dropna=False)["dense"].transform("median").argmax()]
    same = frame[(frame[SIZE].astype(float).fillna(-1) == largest[SIZE].astype(float).fillna(-1)).all(axis=1)]
    half = same.iloc[(same["kept_fraction"] - 0.5).abs().argmin()]
    at_half = frame[np.isclose(frame["kept_fraction"], half["kept_fraction"])]
    others = (
        ""
        if len(at_half) == 1
        else f"; over all {len(at_half)} sizes it takes {at_half['share'].min():.2f} to {at_half['share'].max():.2f}"
    )
    rest = left_out(len(_shown(frame)), len(frame), "points")
    return (
        f"With {per_cent(half['kept_fraction'])} of its heads the slowest layer ({_size(half)}, dense "
        f"{milliseconds(half['dense'])}) takes {half['share']:.2f} of the dense time "
        f"({between(half['share_low'], half['share_high'])}){others}.{rest}"
    )


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn: at most KEPT kept fractions, and at most SIZES rows of each, spread over dense times."""
    kept = spread(sorted(frame["kept_fraction"].unique()), KEPT)
    return pd.concat([spread_rows(frame[frame["kept_fraction"] == fraction], SIZES, ["dense"]) for fraction in kept])


def _size(row: pd.Series) -> str:
    tokens = "" if pd.isna(row["seq_len"]) else f", {int(row['seq_len'])} tokens"
    width = "" if pd.isna(row["head_dim"]) else f" × {int(row['head_dim'])}"
    return f"{int(row['heads_total'])} heads{width}, batch {int(row['batch'])}{tokens}"
