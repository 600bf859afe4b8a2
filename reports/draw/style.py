"""How figures look: one theme, one palette, units on axes. Figures are built without pyplot, so none stays open."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from reports.read.run import BASELINES, Metric

PAPER, INK = "#ffffff", "#262626"
DIM, EDGE, GREY = "#4d4d4d", "#666666", "#8c8c8c"
BAND, GRID, STRIPE = "#dedede", "#ebebeb", "#f6f6f6"
DARK: Mapping[str, str] = {  # neutral colour -> what stands in its place on a dark screen
    PAPER: "#15171b", INK: "#e8e9ec",
    DIM: "#bfc3ca", EDGE: "#8b9099", GREY: "#979ca5",
    BAND: "#3a3e46", GRID: "#2b2e34", STRIPE: "#1c1f24",
}  # fmt: skip
ON_LIGHT, ON_DARK = "#101010", "#fefefe"  # text on a coloured cell, which is as pale or dark on any screen
MARKERS = "oD^vsPX"
PALETTE = [sns.color_palette("colorblind")[place] for place in (0, 3, 2, 4, 1, 5, 9, 6, 8)]  # pale ones last, no grey
FONTS = ["DejaVu Sans", "Verdana"]  # as wide as one another: what is laid out with one has room for the other
LONGEST = 40  # characters of a name
WIDE, NARROW = 6.4, 3.9  # inches: the least width of a figure, and the largest on a phone
LEGEND_HANDLE = 48.0  # points beside the text of a legend's entry
LINE_INCHES = 0.2  # of a legend
BAR_INCHES = 5.0  # the longest bar of colours
_narrow: ContextVar[bool] = ContextVar("narrow", default=False)


class Look(NamedTuple):
    """The colour and the marker of a criterion: the marker still tells criteria apart where colours do not."""

    color: Any
    marker: str


BOUND_LOOKS = {  # what holds a point back
    "compute": Look(PALETTE[0], "o"),
    "memory": Look(PALETTE[4], "s"),
    "overhead": Look(PALETTE[1], "^"),
    "unknown": Look(PALETTE[0], "o"),
}


@contextmanager
def theme(narrow: bool = False) -> Iterator[None]:
    """Within this context, figures are drawn in the look of a report.

    Args:
        narrow: for a phone: figures are at most NARROW inches wide, their legends below, their text as large as ever.
    """
    settings = {
        **sns.plotting_context("notebook", font_scale=0.85),
        **sns.axes_style("whitegrid"),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "patch.edgecolor"), PAPER),
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        "axes.edgecolor": EDGE,
        "legend.edgecolor": EDGE,
        "grid.color": GRID,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "legend.frameon": False,
        "font.family": "sans-serif",
        "font.sans-serif": FONTS,
        "text.parse_math": False,  # a $ in a task's name is a $
        "savefig.dpi": 150,
        "svg.fonttype": "none",
        "svg.hashsalt": "mha",  # the same figure, the same file
    }
    token = _narrow.set(narrow)
    try:
        with mpl.rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # tokens may be of any script
            yield
    finally:
        _narrow.reset(token)


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, at least WIDE wide, or in a narrow theme at most NARROW; at least 2.8 high."""
    width = min(width, NARROW) if _narrow.get() else max(width, WIDE)
    return Figure(figsize=(width, max(height, 2.8)), layout="constrained")


def title(figure: Figure, text: str) -> None:
    """Put a title above the figure, in as many lines as it needs."""
    figure.suptitle(folded(text, 0.96 * figure.get_figwidth()), x=0.01, ha="left", fontsize="medium")


def looks(criteria: Sequence[str]) -> dict[str, Look]:
    """The look of each criterion by name, the same in all figures that are given the same criteria in the same order.

    Baselines are grey, have a look even if they are not among the criteria, and take no colour away from others.
    """
    chosen = [name for name in criteria if name not in BASELINES]
    by_criterion = {
        name: Look(PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]) for index, name in enumerate(chosen)
    }
    return by_criterion | {"random": Look(GREY, "p"), "even": Look(DIM, "x")}


def luminance(color: Any) -> float:
    """The relative luminance of a colour, from 0 (black) to 1; WCAG 2.2."""
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def text_on(color: Any) -> str:
    """The colour, ON_LIGHT or ON_DARK, of text that can be read on a cell of this colour."""
    return ON_LIGHT if luminance(color) > 0.18 else ON_DARK  # where both contrast alike


def metric_axis(axes: Axes, metric: Metric, *, log: bool = False) -> None:
    """Name the y axis after the metric, in per cent where it is a share; `log` makes it logarithmic."""
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel(folded(metric.label, 0.6 * _figure(axes).get_figheight()))
    if metric.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes are made by their figure
    return figure


def kept_axis(axes: Axes) -> None:
    """Make the x axis show the share of kept heads in per cent."""
    axes.set_xlabel("kept heads (%)")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def log_ticks(axis: Any, values: Sequence[float]) -> None:
    """Put ticks on a logarithmic axis at `values` and nowhere else, labelled as plain numbers."""
    axis.set_major_locator(FixedLocator(sorted(set(values))))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def apart(values: Sequence[float], gap: float) -> list[float]:
    """The least of the values, others in ascending order, and the largest, all at least `gap` apart.

    Between the two as many are taken as fit, from below. If the largest is nearer than `gap` to the least, it is left
    out.
    """
    ordered = sorted(set(values))
    kept = ordered[:1]
    for value in ordered[1:-1]:
        if value - kept[-1] >= gap and ordered[-1] - value >= gap:
            kept.append(value)
    return [*kept, *(value for value in ordered[1:][-1:] if value - ordered[0] >= gap)]


def reach(value: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """The distances from each value down and up to the ends of its interval, (2, n), as error bars; 0 without one."""
    distances = np.array([value - low, high - value], dtype=float)
    return np.where(distances > 0, distances, 0.0)


def extent(frame: pd.DataFrame, *columns: str) -> tuple[float, float]:
    """The least and the largest number in these columns of the frame together, NaN left aside."""
    values = frame[list(columns)].to_numpy(dtype=float)
    return float(np.nanmin(values)), float(np.nanmax(values))


def shortened(name: str, longest: int = LONGEST) -> str:
    """The name, with an ellipsis in place of its middle if it has more than `longest` characters.

    Names often differ at their ends, so both are kept.
    """
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"


def text_width(text: str, size: Any = "medium", weight: str = "normal") -> float:
    """The length of the longest line of a text, in points."""
    font = FontProperties(size=size, weight=weight)
    return max(float(text_to_path.get_text_width_height_descent(line, font, False)[0]) for line in text.split("\n"))


def folded(text: str, inches: float, size: float | str = "medium") -> str:
    """The text in lines no longer than `inches` in letters of this size, broken between words.

    Words of more than 60 characters are shortened; one that is longer than a line has a line of its own.
    """
    lines = [""]
    for word in text.split(" "):
        line = f"{lines[-1]} {shortened(word, 60)}".strip()
        if lines[-1] and text_width(line, size) > 72 * inches:
            lines.append(shortened(word, 60))
        else:
            lines[-1] = line
    return "\n".join(lines)


def color_bar(figure: Figure, image: Any, axes: Any, label: str, **options: Any) -> Colorbar:
    """Add a colour bar for `image` beside the axes, and return it; an SVG holds it as one picture instead of 256 paths.

    Args:
        axes: one, or several as an array, whose room it takes.
        options: as of `Figure.colorbar`.
    """
    shrink = min(options.pop("shrink", 1.0), BAR_INCHES / figure.get_figheight())
    room = 0.75 * shrink * figure.get_figheight()
    bar = figure.colorbar(image, ax=axes, label=folded(label, room), shrink=shrink, **options)
    assert bar.solids is not None  # it has just been drawn
    bar.solids.set_rasterized(True)
    bar.outline.set_visible(False)
    return bar


def legend_right(axes: Axes, **options: Any) -> None:
    """Add a legend right of the axes, where it covers no data; below them in a narrow theme (`legend_below`)."""
    if _narrow.get():
        legend_below(_figure(axes), **options)
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, **options)


def legend_below(figure: Figure, most: int = 3, **options: Any) -> None:
    """Add one legend for all axes below them, each label once, in as many columns as there is room for, at most `most`.

    None is added where nothing has a label. In a narrow theme the figure grows by what the legend takes.
    """
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    if not handles:
        return
    widest = max(text_width(label, mpl.rcParams["legend.fontsize"]) for label in handles) + LEGEND_HANDLE
    columns = max(1, min(most, int(72 * figure.get_figwidth() // widest)))
    if _narrow.get():
        figure.set_figheight(figure.get_figheight() + LINE_INCHES * len(handles) / columns)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, **options)
