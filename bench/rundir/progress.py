"""How far a run is, and how long it will take."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean, median

EVERY = 10.0  # seconds, between two lines
Kind = tuple[str, ...]  # of work: the test function, and whatever else it depends on


class Progress:
    """Counts the cases that have ended, and says now and then how far the run is.

    A case that is left is expected to take as long as those of its kind have taken on average, or else those of its
    test function, or else the median over functions. Time of preparation, as training a model, is not counted.

    Args:
        kinds: pytest's id of each case that will run -> its kind.
        say: called with a line to print.
        clock: returns the time in seconds.
        lanes: returns how many cases run side by side.
    """

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        lanes: Callable[[], int] = lambda: 1,
    ) -> None:
        self._left = dict(kinds)
        self._took: defaultdict[Kind, list[float]] = defaultdict(list)
        self._say, self._clock, self._lanes = say, clock, lanes
        self._done, self._prepared = 0, 0.0
        self._began = self._said = self._case_began = clock()

    def start(self) -> None:
        """Note that a case begins now, from which on its time is counted."""
        self._case_began, self._prepared = self._clock(), 0.0

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Time within the context is not counted as the current case's, since other cases profit from it, too."""
        began = self._clock()
        try:
            yield
        finally:
            self._prepared += self._clock() - began

    def end(self, test: str) -> None:
        """Note that the case with this pytest id has ended; every ten seconds, say how far the run is."""
        self.ended(test, self._clock() - self._case_began - self._prepared)

    def ended(self, test: str, seconds: float | None) -> None:
        """Note that a case has ended that took so many seconds, None where that is not known; say it as `end` does."""
        now, kind = self._clock(), self._left.pop(test)
        self._done += 1
        if seconds is not None:
            for count in range(1, len(kind) + 1):
                self._took[kind[:count]].append(seconds)
        if now - self._said >= EVERY and self._left:
            self._said = now
            self._say(self.line())

    def line(self) -> str:
        """How many cases are done, of how many, in what time, and about how much is left: one line, times as m:ss."""
        so_far = _minutes(self._clock() - self._began)
        of = f"{self._done} of {self._done + len(self._left)} done in {so_far}"
        return f"{of}, about {_minutes(self.seconds_left())} left" if self._took else of

    def seconds_left(self) -> float:
        """About how many seconds the cases that are left will take; known once a case has ended."""
        means = {kind: fmean(took) for kind, took in self._took.items()}
        usual = median(value for kind, value in means.items() if len(kind) == 1)
        kinds = Counter(self._left.values())
        return sum(count * _known(means, kind, usual) for kind, count in kinds.items()) / max(1, self._lanes())


def _known(means: Mapping[Kind, float], kind: Kind, usual: float) -> float:
    """The mean seconds of a kind, or else of the nearest broader kind that has a mean; `usual` if none has."""
    near = (kind[:count] for count in range(len(kind), 0, -1))
    return next((means[each] for each in near if each in means), usual)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
