"""How figures look: one theme, one palette, units on axes. Figures are built without pyplot, so none stays open."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from reports.run import BASELINES, Metric

MARKERS = "oD^vsPX"
GREY = "0.55"
INK = "0.15"


class Look(NamedTuple):
    """Colour and marker: the marker still tells criteria apart where colours do not."""

    color: Any
    marker: str


BOUND_LOOKS = {  # what holds a point back
    "compute": Look(sns.color_palette("colorblind")[0], "o"),
    "memory": Look(sns.color_palette("colorblind")[1], "s"),
    "overhead": Look(sns.color_palette("colorblind")[3], "^"),
    "unknown": Look(sns.color_palette("colorblind")[0], "o"),
}


@contextmanager
def theme() -> Iterator[None]:
    """Draw inside this."""
    settings = {
        **sns.plotting_context("notebook", font_scale=0.85),
        **sns.axes_style("whitegrid"),
        "axes.edgecolor": "0.4",
        "grid.color": "0.92",
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "legend.frameon": False,
        "text.parse_math": False,  # a $ in a task's name is a $
        "savefig.dpi": 150,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # tokens may be of any script
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches, or as large as its title needs, laid out without overlaps."""
    return Figure(figsize=(max(width, 6.4), max(height, 2.8)), layout="constrained")


def looks(criteria: Sequence[str]) -> dict[str, Look]:
    """One look for each criterion, the same in all figures of a run; baselines are grey."""
    chosen = [name for name in criteria if name not in BASELINES]
    palette = [color for index, color in enumerate(sns.color_palette("colorblind")) if index != 7]  # 7 is grey
    given = {
        name: Look(palette[index % len(palette)], MARKERS[index % len(MARKERS)]) for index, name in enumerate(chosen)
    }
    return given | {"random": Look(GREY, "p"), "even": Look("0.3", "x")}


def metric_axis(axes: Axes, metric: Metric) -> None:
    axes.set_ylabel(metric.label)
    if metric.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def kept_axis(axes: Axes) -> None:
    axes.set_xlabel("kept heads (%)")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def log_ticks(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis whose ticks are the values measured, as plain numbers."""
    axis.set_major_locator(FixedLocator(sorted(set(values))))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def reach(value: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """How far an interval reaches down and up from its value, (2, n); nowhere where there is none."""
    distances = np.array([value - low, high - value], dtype=float)
    return np.where(distances > 0, distances, 0.0)


def extent(frame: pd.DataFrame, *columns: str) -> tuple[float, float]:
    """The least and the largest number in these columns."""
    values = frame[list(columns)].to_numpy(dtype=float)
    return float(np.nanmin(values)), float(np.nanmax(values))


def legend_right(axes: Axes, **options: Any) -> None:
    """A legend outside the axes, where it covers no data."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, **options)
