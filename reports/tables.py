"""The tables of a page, as text that only needs to be set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports import frames, stats
from reports.frames import Tradeoff
from reports.run import Metric, Run
from reports.words import count, digits, per_cent, times

UNKNOWN = "unknown"
GIB = 2**30


@dataclass(frozen=True)
class Cell:
    """A value, its interval where it has one, and the number it sorts by."""

    text: str
    interval: str = ""
    order: float | str = ""


@dataclass(frozen=True)
class Summary:
    """A table with a title above it, and a note where it needs one."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def summaries(run: Run, task: str) -> Iterator[Summary]:
    """One table for each setting."""
    for tradeoff in frames.tradeoffs(run, task):
        where = f"Batch {tradeoff.batch}, {tradeoff.setting.text}" if tradeoff.setting else "No latency was measured"
        metric = tradeoff.metric
        yield Summary(
            title=where,
            note=" ".join(_notes(run, tradeoff)),
            columns=(
                "criterion",
                "kept",
                "heads",
                metric.name,
                "against dense",
                "latency (ms)",
                "dense (ms)",
                "speedup",
            ),
            rows=tuple(_row(row, metric) for _, row in tradeoff.table.iterrows()),
        )


def promises(run: Run, task: str) -> Iterator[Summary]:
    """What the task states about itself, as measured; no table where it states nothing."""
    stated = run.promises[run.promises["task"] == task]
    if len(stated):
        yield Summary(
            title="What the task promises",
            note="",
            columns=("promise", "bound", "measured", "kept"),
            rows=tuple(
                (
                    Cell(row["promise"].replace("_", " "), order=row["promise"]),
                    Cell(f"{row['bound']:.3g}", order=row["bound"]),
                    Cell(f"{row['value']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}", row["value"]),
                    Cell("yes" if row["kept"] == "True" else "no", order=row["kept"]),
                )
                for _, row in stated.iterrows()
            ),
        )


def environment(run: Run) -> list[tuple[str, str]]:
    """What the numbers were measured on: name, value."""
    about = run.environment
    memory = about.get("memory_bytes")
    revision = str(about.get("revision") or UNKNOWN)
    dirty = {True: " with uncommitted changes", False: ", clean"}.get(about.get("dirty", ""), "")
    return [
        ("CPU", _text(about, "cpu")),
        ("cores, threads", f"{_text(about, 'cores')}, {_text(about, 'threads')}"),
        ("clock governor", _text(about, "governor")),
        ("memory", f"{memory / GIB:.1f} GiB" if memory else UNKNOWN),
        ("accelerators", _pairs(about.get("accelerators")) or "none"),
        ("platform", _text(about, "platform")),
        ("Python", _text(about, "python")),
        ("packages", _pairs(about.get("packages")) or UNKNOWN),
        ("revision", revision + dirty),
        ("command", _text(about, "command")),
        ("started", _text(about, "created")),
        ("finished", _text(about, "finished")),
    ]


def _row(row: pd.Series, metric: Metric) -> tuple[Cell, ...]:
    criterion = {"none": "no heads"}.get(row["criterion"], row["criterion"])
    return (
        Cell(f"{criterion} ({row['draws']} draws)" if row["draws"] > 1 else criterion, order=criterion),
        Cell(per_cent(row["kept_fraction"]), order=row["kept_fraction"]),
        Cell(f"{row['heads_kept']:.0f} of {row['heads_total']:.0f}", order=row["heads_kept"]),
        Cell(metric.text(row["value"]), metric.interval(row["low"], row["high"]), row["value"]),
        _difference(row, metric),
        _number(row, "pruned", lambda seconds: digits(1e3 * seconds)),
        Cell("–" if np.isnan(row["dense"]) else digits(1e3 * row["dense"]), order=row["dense"]),
        _number(row, "speedup", times),
    )


def _difference(row: pd.Series, metric: Metric) -> Cell:
    if row["criterion"] == "dense" or np.isnan(row["difference"]):
        return Cell("–")
    interval = metric.interval(row["difference_low"], row["difference_high"])
    return Cell(metric.change(row["difference"]), interval, row["difference"])


def _number(row: pd.Series, name: str, text: Any) -> Cell:
    if np.isnan(row[name]):
        return Cell("–")
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    by_definition = low == high
    return Cell(text(row[name]), "" if np.isnan(low) or by_definition else f"{text(low)} to {text(high)}", row[name])


def _notes(run: Run, tradeoff: Tradeoff) -> Iterator[str]:
    default = run.environment["tasks"][tradeoff.task]["batch_size"]
    if tradeoff.batch is not None and tradeoff.batch != default:
        yield f"The task's own batch size, {default}, was not timed; {tradeoff.batch} is the nearest that was."
    yield "In brackets: 95 % intervals, for accuracy over held-out examples, for times over rounds."
    yield "Dense is timed in the same rounds; speedup is the median of the rounds' ratios, not the ratio of medians."
    draws = tradeoff.table.loc[tradeoff.table["draws"] > 1, "draws"]
    if len(draws):
        yield "Rows of several draws give their mean and the range that holds 95 % of them."
    random = tradeoff.table.loc[tradeoff.table["criterion"] == "random", "draws"]
    if len(random) and random.min() < 20:
        yield f"Random choices have only {random.min()} draws; 20 are wanted."
    rounds = tradeoff.table.get("rounds", pd.Series(dtype=float)).dropna()
    if len(rounds) and rounds.min() < stats.ENOUGH_ROUNDS:
        yield f"Some speedups rest on only {count(rounds.min(), 'round')}; their intervals are too narrow."


def _text(about: Any, name: str) -> str:
    value = about.get(name)
    return UNKNOWN if value is None else str(value)


def _pairs(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items())
