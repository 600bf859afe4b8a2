"""A clock that hands pytest-benchmark samples which were taken elsewhere, so that its report holds them."""

from collections.abc import Iterable, Iterator
from itertools import chain


class ReplayClock:
    """A timer for pytest-benchmark's marker whose readings differ by recorded seconds rather than by time passed.

    Args:
        samples: as `show` takes them.
    """

    def __init__(self, samples: Iterable[float] = ()) -> None:
        self.show(samples)

    def show(self, samples: Iterable[float]) -> None:
        """From now on return readings in pairs, 0 and a sample's seconds, so that each difference is one sample."""
        self._readings: Iterator[float] = chain.from_iterable((0.0, seconds) for seconds in samples)

    def __call__(self) -> float:
        """The next reading in seconds; StopIteration when every sample has been shown."""
        return next(self._readings)
