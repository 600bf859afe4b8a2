"""Speedups of one side against those of the other."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from reports.analyse.compare.comparison import Beside, Comparison
from reports.analyse.compare.labels import subjects
from reports.analyse.compare.phrases import largest, tally
from reports.draw.diagonal import scatter
from reports.figures import Panel

TITLE = "Speedups, one against the other"
ABSENT = "No speedup was measured in both."


def panels(comparison: Comparison) -> Iterator[Panel]:
    """One panel, if both sides have speedups of the same cases.

    Its frame is a Beside: the table Comparison.speedups with a column `subject`, which says in words what was timed.
    """
    table = comparison.speedups
    if len(table):
        yield Panel("", "all that both have", comparison.beside(table.assign(subject=subjects(table))))


def draw(frame: Beside) -> Figure:
    return scatter(frame, "subject", "speedup (dense / pruned)")


def caption(frame: Beside) -> str:
    return f"{tally(frame.table, 'speedup')}; {largest(frame)}."
