"""From frames to figures as files, an SVG and a PNG of each; in several processes where there are many figures."""

import importlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from reports.draw import svg
from reports.draw.style import theme
from reports.draw.style import title as entitle

FEW = 12  # figures that are drawn sooner than another process has started
MOST_PROCESSES = 4
PNG_DPI = 120
CSS_DPI = 96
COLORS = 256


class Drawn(NamedTuple):
    """What is known of a figure that was drawn.

    Attributes:
        width, height: in CSS pixels.
        size: the bytes of its SVG and its PNG together.
    """

    width: int
    height: int
    size: int


class Studio:
    """Draws figures, in several processes once more than `FEW` have been asked for.

    A context manager: when it ends, everything is drawn, or the first error of a figure is raised. If it ends with an
    error, figures that are still waiting are not drawn.

    Args:
        processes: how many; None for one a core, at most MOST_PROCESSES. With 1, all is drawn in this process, at the
            end.
    """

    def __init__(self, processes: int | None = None) -> None:
        self.processes = min(MOST_PROCESSES, os.cpu_count() or 1) if processes is None else processes
        self._waiting: list[tuple[Callable[[], Drawn], Future[Drawn]]] = []
        self._submitted: list[Future[Drawn]] = []
        self._pool: ProcessPoolExecutor | None = None

    def add(self, module: str, frame: Any, title: str, stem: Path, *, narrow: bool = False) -> Future[Drawn]:
        """Have `frame` drawn into `stem`.svg and `stem`.png; returns a future of `Drawn`, done when the context ends.

        Args:
            module: the import path of the figure module, whose `draw` makes the figure from `frame`.
            title: put above the figure.
            narrow: whether the figure is for a phone, as of `style.theme`.
        """
        work = partial(render, module, frame, title, stem, narrow=narrow)
        if self._pool is not None:
            future = self._pool.submit(work)
            self._submitted.append(future)
            return future
        future = Future()
        self._waiting.append((work, future))
        if self.processes > 1 and len(self._waiting) > FEW:
            self._start()
        return future

    def __enter__(self) -> "Studio":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for work, future in self._waiting:
                    future.set_result(work())
                for future in self._submitted:
                    future.result()
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _start(self) -> None:
        # not forked: this process has threads
        """Start the processes, and hand them the figures that are waiting."""
        self._pool = ProcessPoolExecutor(self.processes, mp_context=multiprocessing.get_context("spawn"))
        for work, future in self._waiting:
            submitted = self._pool.submit(work)
            submitted.add_done_callback(partial(_pass_on, future))
            self._submitted.append(submitted)
        self._waiting.clear()


def render(module: str, frame: Any, title: str, stem: Path, *, narrow: bool) -> Drawn:
    """Draw `frame` into `stem`.svg and `stem`.png, and return their sizes; the arguments are those of `Studio.add`."""
    with theme(narrow=narrow):
        figure = importlib.import_module(module).draw(frame)
        entitle(figure, title)
        png, vector = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg"))
        write_png(figure, png)
        figure.set_layout_engine("none")  # it stays as it has just been laid out
        vector.write_text(svg.text(figure), encoding="utf-8")
    width, height = (round(CSS_DPI * inches) for inches in figure.get_size_inches())
    return Drawn(width, height, png.stat().st_size + vector.stat().st_size)


def write_png(figure: Figure, file: Path) -> None:
    """Write the figure as a PNG of at most 256 colours, for a third of the bytes. (savefig would draw it twice.)"""
    figure.set_dpi(PNG_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image.quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, dpi=(PNG_DPI, PNG_DPI))


def _pass_on(future: Future[Drawn], submitted: Future[Drawn]) -> None:
    """Give `future` the outcome of `submitted`: its result, its error, or that it was cancelled."""
    if submitted.cancelled():
        future.cancel()
    elif error := submitted.exception():
        future.set_exception(error)
    else:
        future.set_result(submitted.result())
