"""Where a figure's texts lie: which of them cover one another, and which are cut off."""

import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

SLACK = 1.0  # pixels


def faults(figure: Figure) -> list[str]:
    """A sentence for each two texts that overlap, and for each that leaves the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = _texts(figure)
    names = [text.get_text() for text in found]
    boxes = np.array([text.get_window_extent(canvas.get_renderer()).extents for text in found]).reshape(-1, 4)
    low, high = boxes[:, :2] + SLACK, boxes[:, 2:] - SLACK
    meet = ((low[:, None] < high[None]) & (low[None] < high[:, None])).all(axis=-1)
    wrong = [f"{names[one]!r} overlaps {names[other]!r}" for one, other in np.argwhere(np.triu(meet, 1))]
    outside = (low < 0).any(axis=1) | (high > figure.bbox.size).any(axis=1)
    return wrong + [f"{names[place]!r} leaves the figure" for place in np.flatnonzero(outside)]


def _texts(figure: Figure) -> list[Text]:
    """Those that are drawn."""
    hidden: set[Text] = set()
    for axis in figure.findobj(Axis):
        is_on = axis.axes.axison and axis.get_visible()
        drawn = axis._update_ticks() if is_on else []  # those within the view
        ticks = [*axis.majorTicks, *axis.minorTicks]
        hidden |= {label for tick in ticks if tick not in drawn for label in (tick.label1, tick.label2)}
        hidden |= set() if is_on else {axis.label, axis.offsetText}
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [text for text in found if text.get_text().strip() and text not in hidden]
