"""How far a run is, and how long it will take."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from statistics import mean

EVERY = 10.0  # seconds, between two lines


class Progress:
    """Counts what ends, and says now and then how much is left.

    What is left is judged by what has ended of the same test function, or of all where none of it has.

    Args:
        ids: pytest's, of everything that will run.
        say: told a line.
    """

    def __init__(
        self, ids: Iterable[str], say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._left = Counter(map(_function, ids))
        self._took: defaultdict[str, list[float]] = defaultdict(list)
        self._say, self._clock = say, clock
        self._began = self._said = self._case_began = clock()

    def start(self) -> None:
        """A case begins."""
        self._case_began = self._clock()

    def end(self, test: str) -> None:
        """It has ended."""
        now = self._clock()
        self._left[_function(test)] -= 1
        self._took[_function(test)].append(now - self._case_began)
        if now - self._said >= EVERY and self._left.total():
            self._said = now
            self._say(self.line())

    def line(self) -> str:
        done, left = sum(map(len, self._took.values())), self._left.total()
        so_far = _minutes(self._clock() - self._began)
        return f"{done} of {done + left} done in {so_far}, about {_minutes(self.seconds_left())} left"

    def seconds_left(self) -> float:
        overall = mean(seconds for took in self._took.values() for seconds in took)
        means = {function: mean(took) for function, took in self._took.items()}
        return sum(count * means.get(function, overall) for function, count in self._left.items())


def _function(test: str) -> str:
    return test.partition("[")[0]


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
