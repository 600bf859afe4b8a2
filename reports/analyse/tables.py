"""The tables of a run's page, their cells as finished text."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from reports.analyse import frames
from reports.analyse.frames import Tradeoff
from reports.analyse.limits import left_out as not_shown
from reports.analyse.limits import spread
from reports.analyse.plan_names import has_repairs, label
from reports.base import stats
from reports.base.formatting import count, digits, duration, per_cent, rate, size, times
from reports.base.table_cells import NONE, Cell, Summary, interval, number, word
from reports.read.cases import LEFT_OUT, last_line
from reports.read.run import Metric, Run

UNKNOWN = "unknown"
REPAIR = ("repair (CPU)", "repair's memory")
GIB = 2**30
MOST_CASES = 1_000  # of the table of percentiles
CEILINGS = {
    "matmul": ("matrix multiplication", "FLOP/s"),
    "copy": ("copy from memory, read plus written", "B/s"),
    "cached copy": ("copy within the caches, read plus written", "B/s"),
}


def summaries(run: Run, task: str) -> Iterator[Summary]:
    """Yield a table of the plans' accuracy and latency for each setting and batch size, all but the first folded."""
    for place, tradeoff in enumerate(frames.tradeoffs(run, task)):
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
                *REPAIR[: len(REPAIR) * has_repairs(tradeoff.table)],
            ),
            rows=tuple(_row(row, tradeoff) for _, row in tradeoff.table.iterrows()),
            folded=place > 0,
        )


def promises(run: Run, task: str) -> Iterator[Summary]:
    """Yield the table of what the task states about itself, beside what was measured; none where it states nothing."""
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


def percentiles(run: Run, task: str) -> Iterator[Summary]:
    """Yield the table of percentiles, throughput and memory: a row for each arm of each case with samples of its own.

    Nothing is yielded where no case of the task has samples.
    """
    cases = frames.cases_of(run, task)
    timed = cases[cases["case"] == cases["timed_by"]]
    total, timed = len(timed), timed.iloc[spread(range(len(timed)), MOST_CASES)]
    counts = run.counts.set_index(["case", "arm"])["peak_bytes"]
    arms = defaultdict(list)
    for (name, arm), processes in run.seconds.items():
        arms[name].append((arm, np.concatenate(processes)))
    rows = [
        _percentiles(case, arm, seconds, counts.get((case["case"], arm)))
        for case in timed.to_dict("records")
        for arm, seconds in arms[case["case"]]
    ]
    if rows:
        every = "all " if total == len(timed) else ""
        yield Summary(
            title=f"Percentiles, throughput and memory of {every}{count(len(timed), 'case')}",
            note="In brackets: 95 % intervals from order statistics, over all rounds of all processes; a dash where "
            "there are too few (6 for p50, 36 for p90, 368 for p99). Throughput is that of the median. The last "
            "column says what ended the sampling: that the interval was narrow enough, or that time was up."
            + not_shown(len(timed), total, "cases"),
            columns=(
                *("case", "arm", "p50 (ms)", "p90 (ms)", "p99 (ms)", "n", "examples/s", "tokens/s", "peak memory"),
                "ended",
            ),
            rows=tuple(rows),
            folded=True,
        )


def ceilings(run: Run) -> Iterator[Summary]:
    """Yield the table of the most that the machine can compute and move, measured in this run; none if it was not."""
    rows = []
    by = ["device", "machine", "dtype", "ceiling"]
    for (device, machine, dtype, ceiling), measurements in run.ceilings.groupby(by, sort=True):
        name, unit = CEILINGS.get(str(ceiling), (str(ceiling), ""))
        measured = stats.Estimate(measurements["value"].median(), measurements["low"].min(), measurements["high"].max())
        value = interval(frames.columns("value", measured), "value", partial(rate, unit=unit))
        rows.append((word(frames.device_title(device, machine)), word(dtype), word(name), value))
    if rows:
        note = "In brackets: from the lowest bound to the highest, over the processes that measured it."
        columns = ("device", "dtype", "ceiling", "measured")
        yield Summary("Ceilings of this machine, measured in the same run", note, columns, tuple(rows))


def left_out(run: Run) -> Iterator[Summary]:
    """Yield the table of what ran out of memory, was skipped or could not be used, with the reasons; none if nothing.

    What failed in another way is not in it.
    """
    unfinished = run.unfinished[run.unfinished["status"].isin(LEFT_OUT)]
    rows = [
        (word(row.name), word(row.status), word(last_line(row.error))) for row in unfinished.itertuples(index=False)
    ]
    for (arm, reason), cases in run.skipped_arms.groupby(["arm", "reason"]):
        rows.append((word(f"arm {arm} of {count(len(cases), 'case')}"), word("skipped"), word(reason)))
    for row in run.left_out.itertuples(index=False):
        rows.append((word(row.what), word("could not be used"), word(row.reason)))
    if rows:
        yield Summary("What was left out, and why", "", ("what", "outcome", "reason"), tuple(rows))


def environment(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the contents of environment.json say of machine, software and run, as pairs (name, text) for a list.

    What is not recorded is "unknown", but accelerators are then "none", and a run without an end is "cut off".
    """
    memory = facts.get("memory_bytes")
    revision = str(facts.get("revision") or UNKNOWN)
    dirty = {True: " with uncommitted changes", False: ", clean"}.get(facts.get("dirty", ""), "")
    return [
        ("CPU", _text(facts, "cpu")),
        ("cores and threads", f"{_text(facts, 'cores')}, {_text(facts, 'threads')}"),
        ("clock governor", _text(facts, "governor")),
        ("memory", f"{memory / GIB:.1f} GiB" if memory else UNKNOWN),
        ("accelerators", _pairs(facts.get("accelerators")) or "none"),
        ("platform", _text(facts, "platform")),
        ("Python", _text(facts, "python")),
        ("packages", _pairs(facts.get("packages")) or UNKNOWN),
        ("preset", _text(facts, "preset")),
        ("revision", revision + dirty),
        ("command", _text(facts, "command")),
        ("started", _text(facts, "created")),
        ("finished", "cut off" if facts.get("finished") is None else str(facts["finished"])),
        *((f"machine {name}", _machine(about)) for name, about in (facts.get("machines") or {}).items()),
    ]


def _machine(facts: Any) -> str:
    """What is said of another kind of machine that cases of a run were measured on, in a line."""
    if not isinstance(facts, Mapping):
        return UNKNOWN
    cores = f"{_text(facts, 'cores')} cores, {_text(facts, 'threads')} threads"
    return "; ".join(
        filter(None, [_pairs(facts.get("accelerators")), _text(facts, "cpu"), cores, _pairs(facts.get("packages"))])
    )


def _row(row: pd.Series, tradeoff: Tradeoff) -> tuple[Cell, ...]:
    metric, repairs = tradeoff.metric, has_repairs(tradeoff.table)
    criterion = "no heads" if row["criterion"] == "none" else label(row, beside=repairs)
    return (
        Cell(f"{criterion} ({row['draws']} draws)" if row["draws"] > 1 else criterion, order=criterion),
        Cell(per_cent(row["kept_fraction"]), order=row["kept_fraction"]),
        Cell(f"{row['heads_kept']:.0f} of {row['heads_total']:.0f}", order=row["heads_kept"]),
        Cell(metric.text(row["value"]), metric.interval(row["low"], row["high"]), row["value"]),
        _difference(row, metric),
        interval(row, "pruned", _thousandths),
        number(row["dense"], _thousandths),
        interval(row, "speedup", times),
        *((number(row["repair_seconds"], duration), number(row["repair_bytes"], size)) if repairs else ()),
    )


def _percentiles(case: Mapping[Hashable, Any], arm: str, seconds: np.ndarray, peak: float | None) -> tuple[Cell, ...]:
    median = float(np.median(seconds))
    return (
        word(case["case"]),
        word(arm),
        *(_quantile(seconds, share) for share in (0.5, 0.9, 0.99)),
        number(len(seconds), "{:.0f}".format),
        number(case["batch"] / median, digits),
        number(case["tokens"] / median, digits),
        number(peak, size),
        word(case["ended"] or NONE),
    )


def _quantile(seconds: np.ndarray, share: float) -> Cell:
    quantile = stats.quantile_estimate(seconds, share)
    if quantile is None:
        return Cell(NONE)
    return Cell(
        _thousandths(quantile.value), f"{_thousandths(quantile.low)} to {_thousandths(quantile.high)}", quantile.value
    )


def _thousandths(seconds: float) -> str:
    return digits(1e3 * seconds)


def _difference(row: pd.Series, metric: Metric) -> Cell:
    if row["criterion"] == "dense" or np.isnan(row["difference"]):
        return Cell("–")
    bounds = metric.interval(row["difference_low"], row["difference_high"])
    return Cell(metric.change(row["difference"]), bounds, row["difference"])


def _notes(run: Run, tradeoff: Tradeoff) -> Iterator[str]:
    batches = frames.cases_of(run, tradeoff.task)["batch"].nunique()
    if batches > frames.MOST_BATCHES:
        yield f"Of {batches} batch sizes {frames.MOST_BATCHES} have a table and a figure like this; the data has all."
    default = run.environment["tasks"][tradeoff.task]["batch_size"]
    if tradeoff.batch == frames.tradeoffs(run, tradeoff.task)[0].batch not in (None, default):
        yield f"The task's own batch size, {default}, was not timed; {tradeoff.batch} is the nearest that was."
    processes = tradeoff.table.get("processes", pd.Series(dtype=float)).min()
    over = f"at least {processes:.0f} processes and the rounds within each" if processes > 1 else "rounds"
    yield f"In brackets: 95 % intervals, for accuracy over held-out examples, for times over {over}."
    yield "Dense is timed in the same rounds; speedup is the median of the rounds' ratios, not the ratio of medians."
    if has_repairs(tradeoff.table):
        yield (
            "Repaired plans (mha.compensate; shrink: mha.shrink) were fitted again on the calibration data, which has "
            "none of the held-out examples; the last columns say what that took on one thread, for shrink with scoring."
        )
    draws = tradeoff.table.loc[tradeoff.table["draws"] > 1, "draws"]
    if len(draws):
        yield "Rows of several draws give their mean and the range that holds 95 % of them."
    random = tradeoff.table.loc[tradeoff.table["criterion"] == "random", "draws"]
    if len(random) and random.min() < 20:
        yield f"Random choices have only {random.min()} draws; 20 are wanted."
    rounds = tradeoff.table.get("rounds", pd.Series(dtype=float)).dropna()
    if len(rounds) and rounds.min() < stats.ENOUGH_ROUNDS:
        yield f"Some speedups rest on only {count(rounds.min(), 'round')}; their intervals are too narrow."


def _text(facts: Any, name: str) -> str:
    value = facts.get(name)
    return UNKNOWN if value is None else str(value)


def _pairs(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items())
