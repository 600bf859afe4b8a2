"""From two sides to everything that the page which compares them shows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from reports.analyse import frames
from reports.analyse.compare import matching
from reports.analyse.compare.notes import differences, notes
from reports.analyse.compare.sides import Side
from reports.analyse.frames import Setting, Tradeoff
from reports.read.run import Metric


@dataclass(frozen=True, eq=False)
class Beside:
    """A table about two sides, with `first` and `second`, the names of the sides."""

    first: str
    second: str
    table: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Judged(Beside):
    """A table about one task on two sides, and the metric by which the task is judged."""

    metric: Metric


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two sides have in common.

    Attributes:
        first, second: the names of the sides.
        speedups, peers: what both timed, as `matching.joined` has it.
        accuracies, dense: what both measured, as the functions of these names in matching.py have it.
        fronts: title of a figure -> the tables of both sides' tradeoffs (frames.py), one below the other, with the
            columns task, side (its name) and share (latency / dense latency), with _low and _high.
        metrics: task -> the metric by which it is judged, of the tasks that both sides judge alike.
        environments: the table of `notes.differences`: field, first, second.
        notes: sentences about what only one side has, and about what makes their numbers differ.
    """

    first: str
    second: str
    speedups: pd.DataFrame
    peers: pd.DataFrame
    accuracies: pd.DataFrame
    dense: pd.DataFrame
    fronts: dict[str, pd.DataFrame]
    metrics: dict[str, Metric]
    environments: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Whether the two sides have no measurement in common."""
        return all(table.empty for table in (self.speedups, self.peers, self.accuracies, self.dense))

    def beside(self, table: pd.DataFrame) -> Beside:
        """The table with the names of both sides."""
        return Beside(self.first, self.second, table)

    def judged(self, table: pd.DataFrame) -> Judged:
        """A table about one task, which must have rows, with the names of both sides and the task's metric."""
        return Judged(self.first, self.second, table, self.metrics[table["task"].iloc[0]])


def compare(first: Side, second: Side) -> Comparison:
    """Everything that both sides have measured. What one of them lacks is no error; `notes` names it.

    Accuracies are compared, and fronts drawn, only of tasks that both runs judge by a metric of the same name;
    accuracies not at all where both sides are of one run, which measures them once.
    """
    metrics = {
        task: first.run.metric(task)
        for task in first.run.tasks
        if task in second.run.tasks and first.run.metric(task).name == second.run.metric(task).name
    }
    speedups = matching.speedups(first), matching.speedups(second)
    peers = matching.peers(first), matching.peers(second)
    return Comparison(
        first=first.name,
        second=second.name,
        speedups=(both := matching.joined(*speedups)),
        peers=matching.joined(*peers),
        accuracies=(
            accuracies := matching.accuracies(first, second, () if first.run is second.run else tuple(metrics))
        ),
        dense=matching.dense(first, second),
        fronts={title: table for task in metrics for title, table in _fronts(first, second, task)},
        metrics=metrics,
        environments=(environments := differences(first, second)),
        notes=tuple(notes(first, second, speedups, both, accuracies, environments)),
    )


def _fronts(first: Side, second: Side, task: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield, for each setting and batch size that both sides timed, a title and a table, as in Comparison.fronts."""
    one, other = _tradeoffs(first, task), _tradeoffs(second, task)
    for key in (key for key in one if key in other):
        setting, batch = key
        devices = " and ".join(dict.fromkeys(str(side.device) for side in (first, second)))
        both = [_points(side, tradeoffs[key]) for side, tradeoffs in ((first, one), (second, other))]
        yield f"{task}, batch {batch}, {replace(setting, device=devices).text}", pd.concat(both, ignore_index=True)


def _tradeoffs(side: Side, task: str) -> dict[tuple[Setting, int | None], Tradeoff]:
    """(setting with "" as its device, batch size) -> the task's tradeoff there, if at least one pruned plan was timed.

    Only tradeoffs on the side's device count.
    """
    return {
        (replace(tradeoff.setting, device=""), tradeoff.batch): tradeoff
        for tradeoff in frames.tradeoffs(side.run, task)
        if tradeoff.setting and tradeoff.setting.device == side.device
        if (tradeoff.table["speedup"].notna() & (tradeoff.table["criterion"] != "dense")).any()
    }


def _points(side: Side, tradeoff: Tradeoff) -> pd.DataFrame:
    """The rows of a tradeoff that were timed, with the columns task, side (its name) and share, with _low and _high.

    The share is latency / dense latency, 1 / speedup.
    """
    table = tradeoff.table[tradeoff.table["speedup"].notna()]
    return table.assign(
        task=tradeoff.task, side=side.name, share=1 / table["speedup"], share_low=1 / table["speedup_high"],
        share_high=1 / table["speedup_low"],
    )  # fmt: skip
