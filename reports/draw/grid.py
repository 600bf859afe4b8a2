"""Several panels in one figure, row by row."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.draw.style import folded, new_figure

COLUMNS = 6
T = TypeVar("T")


def panel_grid(
    items: Sequence[T], most: int, width: tuple[float, float], height: tuple[float, float], **options: Any
) -> tuple[Figure, np.ndarray, list[tuple[Axes, T]]]:
    """A figure with a panel for each item, all its axes (rows, columns), and pairs of an item's axes and the item.

    There must be at least one item. Axes that are left over are switched off.

    Args:
        most: the largest number of columns.
        width: inches beside all panels together, and of each panel.
        height: inches above and below all panels together, and of each panel.
        options: as of `Figure.subplots`.
    """
    columns = min(most, len(items))
    rows = math.ceil(len(items) / columns)
    figure = new_figure(width[0] + width[1] * columns, height[0] + height[1] * rows)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat[len(items) :]:
        axes.set_axis_off()
    return figure, grid, list(zip(grid.flat, items, strict=False))


def batch_grid(
    frame: pd.DataFrame, most: int, width: tuple[float, float], height: tuple[float, float]
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A figure with a panel for each batch size in `frame`, ascending, and pairs of a panel's axes and its rows.

    The other arguments are those of `panel_grid`.
    """
    batches = [rows for _, rows in frame.groupby("batch", sort=True)]
    figure, _, panels = panel_grid(batches, most, width, height)
    return figure, panels


def small_panels(names: Sequence[str], x: str, y: str) -> tuple[Figure, Iterator[tuple[Axes, str]]]:
    """A figure with COLUMNS small panels a row, one for each name, and an iterator of pairs of a panel's axes and name.

    Call `finish` on each when it is drawn. The panels share both axes.

    Args:
        x, y: the labels of the shared axes.
    """
    rows = math.ceil(len(names) / COLUMNS)
    figure = new_figure(2.0 * COLUMNS, 0.9 + 1.75 * rows)
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(panels.flat):
        if place >= len(names):
            axes.set_axis_off()
        axes.tick_params(labelbottom=place + COLUMNS >= len(names))
    figure.supxlabel(folded(x, 0.9 * figure.get_figwidth()), fontsize="medium")
    figure.supylabel(folded(y, 0.75 * figure.get_figheight()), fontsize="medium")
    return figure, zip(panels.flat, names, strict=False)


def finish(figure: Figure, axes: Axes, name: str, **words: Any) -> None:
    """Set a panel's title, and properties of its axes (`words`); the first panel's legend becomes the figure's."""
    axes.set_title(name, fontsize=7.5)
    axes.set(xlabel="", ylabel="", **words)
    if axes is figure.axes[0]:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
    if (legend := axes.get_legend()) is not None:
        legend.remove()
