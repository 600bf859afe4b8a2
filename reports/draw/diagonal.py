"""Scatter plots of the second side's ratios against the first side's; on the diagonal both agree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from reports.analyse.compare.comparison import Beside
from reports.draw.style import GREY, INK, extent, legend_right, looks, new_figure, reach

TICKS = (  # for axes whose ends are up to so many times apart; on shorter ones than the first they are evenly spaced
    (
        10.0,
        (0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20),
    ),
    (np.inf, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)),
)
SHORT = 2.0


def scatter(frame: Beside, by: str, quantity: str) -> Figure:
    """A figure of the second side's ratios against the first's, with intervals, and the diagonal on which both agree.

    Args:
        frame: its table has the columns first and second, with _low and _high, and `by`.
        by: the column whose values have a colour and a marker each.
        quantity: what the ratios are called on the axes.
    """
    table = frame.table
    figure = new_figure(8.6, 5.8)
    axes = figure.subplots()
    names = list(dict.fromkeys(table[by]))
    look = looks(names)
    for name in names:
        rows = table[table[by] == name]
        across, along = (reach(rows[side], rows[f"{side}_low"], rows[f"{side}_high"]) for side in ("first", "second"))
        axes.errorbar(
            rows["first"], rows["second"], xerr=across, yerr=along, label=name, linestyle="", elinewidth=0.9,
            color=look[name].color, marker=look[name].marker, markersize=5.5, alpha=0.8,
        )  # fmt: skip
    low, high = extent(table, *(f"{side}{end}" for side in ("first", "second") for end in ("", "_low", "_high")))
    low, high = low / (high / low) ** 0.05 / 1.01, high * (high / low) ** 0.05 * 1.01
    axes.plot([low, high], [low, high], color=INK, linewidth=1, zorder=1, label="the same in both")
    for line in (axes.axhline, axes.axvline):
        line(1, color=GREY, linewidth=0.9, linestyle=":", zorder=1)
    axes.set_aspect("equal")
    for axis in ("x", "y"):
        ratio_axis(axes, axis, low, high)
    axes.set_xlabel(f"{quantity} in {frame.first}")
    axes.set_ylabel(f"{quantity} in {frame.second}")
    legend_right(axes)
    return figure


def ratio_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Make the axis `which` ("x" or "y") logarithmic, from `low` to `high`, with plain numbers as ticks."""
    axis: Any = {"x": axes.xaxis, "y": axes.yaxis}[which]
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis.set_major_locator(FixedLocator(_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{np.round(value, 6):g}"))


def _ticks(low: float, high: float) -> Sequence[float]:
    if high / low <= SHORT:
        return list(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    return next(ticks for most, ticks in TICKS if high / low <= most)
