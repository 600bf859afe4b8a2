"""Heatmaps of paired speedups: a cell for each, with its number on it; colours are centred on a speedup of 1."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from reports.base.formatting import between, times
from reports.draw.style import PAPER, color_bar, text_on

SCALE = sns.color_palette("vlag_r", as_cmap=True)


def log_reach(speedup: pd.Series) -> float:
    """How far colours must reach to either side of a speedup of 1: the largest |log2(speedup)|, at least 0.05."""
    return max(0.05, float(np.log2(speedup).abs().max()))


def speedup_texts(frame: pd.DataFrame) -> pd.Series:
    """The text of each row's cell, a Series with the frame's index: its speedup, and its interval in a line below."""
    rows = zip(frame["speedup"], frame["speedup_low"], frame["speedup_high"], strict=True)
    texts = [f"{times(value)}\n{'one round' if np.isnan(low) else between(low, high)}" for value, low, high in rows]
    return pd.Series(texts, index=frame.index, dtype=object)


def speedup_cells(axes: Axes, speedup: pd.DataFrame, texts: pd.DataFrame, reach: float) -> QuadMesh:
    """Draw a cell for each number of `speedup`, with the text at the same place of `texts`; the first row is on top.

    A cell without a number stays empty. The ticks are put at the middles of the cells; the caller labels them.

    Args:
        reach: what `log_reach` gives.

    Returns:
        The mesh of cells, for `speedup_bar`.
    """
    logs = np.log2(speedup.to_numpy(dtype=float))
    mesh = axes.pcolormesh(logs, cmap=SCALE, vmin=-reach, vmax=reach, edgecolors=PAPER, linewidth=1.5)
    for (row, column), value in np.ndenumerate(logs):
        if not np.isnan(value):
            axes.text(
                column + 0.5, row + 0.5, str(texts.iloc[row, column]), ha="center", va="center", fontsize="small",
                color=text_on(mesh.to_rgba(np.array(value))),
            )  # fmt: skip
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(speedup.shape[1]) + 0.5)
    axes.set_yticks(np.arange(speedup.shape[0]) + 0.5)
    axes.tick_params(length=0)
    return mesh


def speedup_bar(figure: Figure, mesh: QuadMesh, axes: Any, reach: float) -> None:
    """Add the colour bar that shows which speedup a colour stands for; `reach` is what `log_reach` gives."""
    bar = color_bar(figure, mesh, axes, "speedup (dense / pruned)", aspect=25)
    bar.set_ticks([-reach, 0, reach], labels=[times(2**-reach), "1×", times(2**reach)])
