"""What is compared: each run on each of its devices, two at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from reports.read.run import Run

EACH_WITH_EACH = 4  # of more sides, each is compared with the first alone


@dataclass(frozen=True)
class Side:
    """A run on one device, or on none where the run has no latencies."""

    run: Run
    device: str | None

    @property
    def name(self) -> str:
        """The name of the run, and of the device where the run has several."""
        several = len(_devices(self.run)) > 1
        return f"{self.run.name}, {self.device}" if several else self.run.name

    @property
    def cases(self) -> pd.DataFrame:
        """The rows of `Run.cases` on this device whose shape was timed; none where the side has no device."""
        cases = _timed(self.run)
        return cases[cases["device"] == self.device]


def sides(runs: Sequence[Run]) -> tuple[Side, ...]:
    """The sides of these runs: each run on each device on which it timed something, or on none if it timed nothing."""
    return tuple(Side(run, device) for run in runs for device in _devices(run) or (None,))


def pairs(sides: Sequence[Side]) -> tuple[tuple[Side, Side], ...]:
    """The pairs to compare: each side with each other, or, of more than EACH_WITH_EACH, the first with each other."""
    if len(sides) <= EACH_WITH_EACH:
        return tuple(combinations(sides, 2))
    return tuple((sides[0], other) for other in sides[1:])


def _devices(run: Run) -> list[str]:
    """The names of the devices on which a run timed something, sorted."""
    return sorted(_timed(run)["device"].unique())


def _timed(run: Run) -> pd.DataFrame:
    """The rows of `Run.cases` whose shape was timed, by themselves or by the case that `timed_by` names."""
    return run.cases[run.cases["timed_by"].isin(run.timed)]
