"""The tables of a page about two sides."""

from collections.abc import Iterator

import pandas as pd

from reports.analyse.compare.comparison import Comparison
from reports.analyse.compare.labels import labels
from reports.analyse.compare.phrases import ranked
from reports.base.formatting import count, digits, per_cent, times
from reports.base.table_cells import MOST_ROWS, NONE, Cell, Summary, interval, number, word
from reports.read.run import Metric


def summaries(comparison: Comparison) -> Iterator[Summary]:
    """Yield the tables of a comparison: speedups, accuracies of each task, dense models, and differing environments.

    Of the first three those without rows are left out; the last, if it has none, says that nothing differs.
    """
    if len(comparison.speedups):
        yield _speedups(comparison)
    for task, rows in comparison.accuracies.groupby("task", sort=False):
        yield _accuracies(comparison, str(task), rows)
    if len(comparison.dense):
        yield _dense(comparison)
    yield _environments(comparison)


def _speedups(comparison: Comparison) -> Summary:
    table = ranked(comparison.speedups)
    more = len(table) - MOST_ROWS
    note = (
        "In brackets: 95 % intervals. A speedup is the median of the ratios dense / pruned of rounds of one side; its "
        "ratio is of two that were measured apart. The largest that differ beyond their intervals come first."
    )
    return Summary(
        title="Speedups of both",
        note=f"{note} {count(more, 'row')} more are in the data." if more > 0 else note,
        columns=("what", comparison.first, comparison.second, "ratio", "differs", "heads"),
        rows=tuple(
            (
                word(label),
                *(interval(row, name, times) for name in ("first", "second")),
                interval(row, "ratio", "{:.3f}".format),
                word(NONE if pd.isna(row["ratio_low"]) else "yes" if row["differs"] else "no"),
                word(row["heads"]),
            )
            for label, (_, row) in zip(labels(table), table.head(MOST_ROWS).iterrows(), strict=False)
        ),
        folded=True,
    )


def _accuracies(comparison: Comparison, task: str, rows: pd.DataFrame) -> Summary:
    metric = comparison.metrics[task]
    sides = (comparison.first, comparison.second)
    return Summary(
        title=f"{task}: {metric.name} of both",
        note="In brackets: 95 % intervals over held-out examples; of several draws the range that holds 95 % of them. "
        "Both sides are judged on the same examples as a rule, so that their intervals are not independent.",
        columns=(
            "criterion", "kept", "heads", *(f"{metric.name}, {side}" for side in sides),
            *(f"against dense, {side}" for side in sides),
        ),
        rows=tuple(
            (
                word(row["criterion"]),
                number(row["kept_fraction"], per_cent),
                word(row["heads"]),
                *(_value(row, f"{side}_value", metric) for side in ("first", "second")),
                *(_change(row, f"{side}_difference", metric) for side in ("first", "second")),
            )
            for _, row in rows.iterrows()
        ),
        folded=True,
    )  # fmt: skip


def _dense(comparison: Comparison) -> Summary:
    return Summary(
        title="The dense models of both",
        note="Milliseconds of one pass, with 95 % intervals, as context. There is no ratio: the two were not timed in "
        "the same rounds, and a machine that is faster or slower on another day looks like a difference.",
        columns=("what", f"{comparison.first} (ms)", f"{comparison.second} (ms)"),
        rows=tuple(
            (word(label), *(interval(row, side, _milliseconds) for side in ("first", "second")))
            for label, (_, row) in zip(labels(comparison.dense), comparison.dense.iterrows(), strict=True)
        ),
    )


def _environments(comparison: Comparison) -> Summary:
    table = comparison.environments
    return Summary(
        title="What was not the same",
        note="" if len(table) else "Nothing that is recorded differs: neither machine, code, packages nor settings.",
        columns=("field", comparison.first, comparison.second),
        rows=tuple(tuple(map(word, row)) for row in table.itertuples(index=False, name=None)),
    )


def _value(row: pd.Series, name: str, metric: Metric) -> Cell:
    return Cell(metric.text(row[name]), metric.interval(row[f"{name}_low"], row[f"{name}_high"]), row[name])


def _change(row: pd.Series, name: str, metric: Metric) -> Cell:
    if row["criterion"] == "dense" or pd.isna(row[name]):
        return Cell(NONE)
    return Cell(metric.change(row[name]), metric.interval(row[f"{name}_low"], row[f"{name}_high"]), row[name])


def _milliseconds(seconds: float) -> str:
    return digits(1e3 * seconds)
