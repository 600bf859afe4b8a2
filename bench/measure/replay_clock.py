"""A clock that hands pytest-benchmark samples which were taken elsewhere, so that its report holds them."""

from collections.abc import Iterable, Iterator
from itertools import chain


class ReplayClock:
    """Stands in for the `timer` of pytest-benchmark's marker, and shows recorded times in place of the time."""

    def __init__(self, samples: Iterable[float] = ()) -> None:
        self.show(samples)

    def show(self, samples: Iterable[float]) -> None:
        """From now on return readings in pairs, 0 and a sample's seconds, so that each difference is one sample."""
        self._readings: Iterator[float] = chain.from_iterable((0.0, seconds) for seconds in samples)

    def __call__(self) -> float:
        """The next reading."""
        return next(self._readings)
