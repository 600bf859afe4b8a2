"""What a criterion has spent so far, counted in runs of the model, and the progress bar that shows it."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mha.scores import Spent

SILENT_SECONDS = 2.0  # before a bar that nobody asked for appears


class Meter:
    """Counts runs of the model over a batch; shows them on stderr.

    Args:
        title: what the bar is called.
        progress: show a bar; None shows one where stderr is a terminal and the work takes more than two seconds.
    """

    def __init__(self, title: str = "", progress: bool | None = False) -> None:
        self.title = title
        self.forward: float = 0
        self.backward: float = 0
        self._progress = progress
        self._start = time.perf_counter()
        self._expected = 0
        self._bar: Any = None

    def expect(self, runs: int) -> None:
        """So many more forward passes are to come."""
        self._expected += runs
        if self._bar is not None:
            self._bar.total = self._expected
            if self._progress:  # a bar that nobody asked for keeps waiting
                self._bar.refresh()

    def ran_forward(self, share: float = 1) -> None:
        """The model has run over a batch, or over this share of its layers."""
        self.forward += share
        if self._bar is not None:
            self._bar.update(share)

    def ran_backward(self, share: float = 1) -> None:
        """Gradients have been computed."""
        self.backward += share

    def spent(self) -> Spent:
        """Everything since the meter was made."""
        return Spent(self.forward, self.backward, time.perf_counter() - self._start)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within the context the bar is there, if it is wanted."""
        wanted = sys.stderr.isatty() if self._progress is None else self._progress
        if not wanted:
            yield
            return
        from tqdm import tqdm

        delay = SILENT_SECONDS if self._progress is None else 0.0
        self._bar = tqdm(desc=self.title, unit="run", file=sys.stderr, delay=delay, leave=False)
        try:
            yield
        finally:
            self._bar.close()
            self._bar = None
