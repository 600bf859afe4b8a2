"""The roofline: how near each measured point comes to what the machine can compute and move."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from reports.analyse import bounds, frames
from reports.analyse.bounds import BOUNDS
from reports.analyse.limits import left_out, spread_rows
from reports.base.formatting import capitalised, rate
from reports.draw.style import BOUND_LOOKS, GREY, INK, legend_below, new_figure
from reports.figures import Panel
from reports.read.run import Run

TITLE = "Roofline"
ABOUT = "any"
ABSENT = "The roofline needs ceilings.csv, and cases that count their FLOPs and bytes."
SHOWN = 400  # points


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each setting, all sequence lengths together; its frame is the rows of `bounds.points` there."""
    points = bounds.points(run, task)
    for setting, rows in frames.conditions(points):
        yield Panel(setting.slug, f"{task}, {setting.text}", rows.reset_index(drop=True))


def draw(frame: pd.DataFrame) -> Figure:
    figure = new_figure(8.6, 5.0)
    axes = figure.subplots()
    shown = _shown(frame)
    for bound in BOUNDS:
        for whole, filled in ((True, "full"), (False, "none")):
            rows = shown[(shown["bound"] == bound) & ((shown["arm"] != "pruned") == whole)]
            if len(rows):
                axes.plot(
                    rows["intensity"], rows["achieved"], linestyle="", fillstyle=filled, alpha=0.85, markersize=7,
                    color=BOUND_LOOKS[bound].color, marker=BOUND_LOOKS[bound].marker,
                    label=f"{bound}-bound, {'dense' if whole else 'pruned'}",
                )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    _roof(axes, frame)
    axes.set_xlabel("arithmetic intensity (FLOP per byte that must move)")
    axes.set_ylabel("achieved (FLOP/s)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    legend_below(figure)
    return figure


def caption(frame: pd.DataFrame) -> str:
    bound = bounds.clause(frame["bound"], "point")
    best, worst = (frame.iloc[place] for place in (frame["share"].argmax(), frame["share"].argmin()))
    reached = f"{_reached(best)} of its ceiling" + (f", {_reached(worst)}" if len(frame) > 1 else "")
    rest = left_out(min(SHOWN, len(frame)), len(frame), "points")
    return (
        f"{capitalised(bound)}; {reached}. The machine multiplies matrices at "
        f"{rate(frame['matmul'].iloc[0], 'FLOP/s')} and copies at {rate(frame['copy'].iloc[0], 'B/s')}.{rest}"
    )


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    return spread_rows(frame, SHOWN, ["intensity"])


def _reached(row: pd.Series) -> str:
    tokens = "" if pd.isna(row["seq_len"]) else f", {row['seq_len']} tokens"
    return f"{row['arm']} at batch {row['batch']}{tokens} reaches {100 * row['share']:.2g} %"


def _roof(axes: Axes, frame: pd.DataFrame) -> None:
    """Draw the most that the machine can do over all intensities: the ceilings of matrix products and of copying.

    Both are named on their lines; if copying within the caches is faster, a dashed line shows it.
    """
    matmul, copy, cached = (float(frame[name].iloc[0]) for name in ("matmul", "copy", "cached copy"))
    ridge = matmul / copy
    low, high = min(frame["intensity"].min() / 3, ridge / 12), max(frame["intensity"].max(), ridge) * 4
    axes.set_xlim(low, high)
    axes.set_ylim(min(frame["achieved"].min() / 2, copy * low), max(matmul, frame["achieved"].max()) * 2)
    places = np.array([low, ridge, high])
    axes.plot(places, np.minimum(matmul, copy * places), color=INK, linewidth=1.6, zorder=1)
    axes.axvline(ridge, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    if cached > copy:
        places = np.array([low, matmul / cached])
        axes.plot(
            places,
            cached * places,
            color=INK,
            linewidth=0.9,
            linestyle="--",
            zorder=1,
            label=f"from the caches: {rate(cached, 'B/s')}",
        )
    end = low * (high / low) ** 0.2  # about as far as the name of the slope reaches: above the line from there
    for text, place, side in (
        (f"matrix products: {rate(matmul, 'FLOP/s')}", (high, matmul), "right"),
        (f"copy: {rate(copy, 'B/s')}", (low, min(copy * end, matmul / 2)), "left"),
    ):
        axes.annotate(
            text, place, xytext=(-4 if side == "right" else 4, 4), textcoords="offset points", ha=side, va="bottom",
            color=INK, fontsize="small",
        )  # fmt: skip
