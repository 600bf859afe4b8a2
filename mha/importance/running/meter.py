"""What a criterion has spent so far, counted in runs of the model, and the progress bar that shows it."""

import time
from typing import ClassVar

from mha.runtime.progress import Bar
from mha.values.scores import Spent


class Meter(Bar):
    """Counts runs of the model over a batch; shows them on stderr.

    Args:
        title: what the bar is called.
        progress: show a bar; None shows one where stderr is a terminal and the work takes more than two seconds.
    """

    FORMAT: ClassVar[str | None] = None  # with the number of runs

    def __init__(self, title: str = "", progress: bool | None = False) -> None:
        super().__init__(title, progress)
        self.backward: float = 0
        self._start = time.perf_counter()

    @property
    def forward(self) -> float:
        """Runs of the model over a batch so far; a run of a part of the model counts as that share of one."""
        return self.done

    def ran_forward(self, share: float = 1) -> None:
        """Count a run of the model over a batch, or of this share of the model."""
        self.advance(share)

    def ran_backward(self, share: float = 1) -> None:
        """Count a backward pass over a batch, or over this share of one."""
        self.backward += share

    def spent(self) -> Spent:
        """Runs of the model, backward passes and seconds since the meter was made."""
        return Spent(self.forward, self.backward, time.perf_counter() - self._start)
