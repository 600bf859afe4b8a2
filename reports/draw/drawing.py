"""Frames -> figures as files: SVG for the page, PNG beside it; in processes of their own where there are many."""

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
    """The size of a figure: width and height in CSS pixels, and the bytes of both files together."""

    width: int
    height: int
    size: int


class Studio:
    """Draws figures, in several processes once more than `FEW` have been asked for.

    Within `with`; at its end everything is drawn, or the first error of a figure has been raised.
    """

    def __init__(self, processes: int | None = None) -> None:
        self.processes = min(MOST_PROCESSES, os.cpu_count() or 1) if processes is None else processes
        self._waiting: list[tuple[Callable[[], Drawn], Future[Drawn]]] = []
        self._given: list[Future[Drawn]] = []
        self._pool: ProcessPoolExecutor | None = None

    def add(self, module: str, frame: Any, title: str, stem: Path, *, narrow: bool = False) -> Future[Drawn]:
        """Have the figure module `module` draw `frame` into `stem`.svg and `stem`.png."""
        work = partial(render, module, frame, title, stem, narrow=narrow)
        if self._pool is not None:
            future = self._pool.submit(work)
            self._given.append(future)
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
                for future in self._given:
                    future.result()
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _start(self) -> None:
        # not forked: this process has threads
        """Start the processes, and hand them what is waiting."""
        self._pool = ProcessPoolExecutor(self.processes, mp_context=multiprocessing.get_context("spawn"))
        for work, future in self._waiting:
            given = self._pool.submit(work)
            given.add_done_callback(partial(_pass_on, future))
            self._given.append(given)
        self._waiting.clear()


def render(module: str, frame: Any, title: str, stem: Path, *, narrow: bool) -> Drawn:
    """Draw one figure into both files."""
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
    """Write a PNG in a palette, for a third of the bytes; without savefig, which draws everything twice."""
    figure.set_dpi(PNG_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image.quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, dpi=(PNG_DPI, PNG_DPI))


def _pass_on(future: Future[Drawn], given: Future[Drawn]) -> None:
    """Hand the result of one future to another."""
    if given.cancelled():
        future.cancel()
    elif error := given.exception():
        future.set_exception(error)
    else:
        future.set_result(given.result())
