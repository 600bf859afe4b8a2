"""One small panel for each criterion, all on the same axes."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.draw.style import folded, new_figure

COLUMNS = 6


def small_panels(names: Sequence[str], x: str, y: str) -> tuple[Figure, Iterator[tuple[Axes, str]]]:
    """The figure, and its panels with their names; whoever draws calls `finish` in the end."""
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
    """Name a panel; the first one's legend becomes the figure's."""
    axes.set_title(name, fontsize=7.5)
    axes.set(xlabel="", ylabel="", **words)
    if axes is figure.axes[0]:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
    if (legend := axes.get_legend()) is not None:
        legend.remove()
