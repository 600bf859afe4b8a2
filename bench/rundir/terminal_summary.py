"""The tables at the end of a run, made from nothing but the run directory."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from bench.measure.bootstrap import ratio
from bench.rundir.case_store import read_records
from bench.rundir.description import OK, USUAL
from bench.rundir.directory import TRACES

CaseRecord = Mapping[str, Any]

OPERATORS = 10  # that have a row of their own
NO_PEERS = ("mha", "products", "eager", "float32")  # beside ours, and nothing that another would use in its place
NAMES = ("case", "plan", "step")
KEY = ("criterion", "kept_fraction", "repair")
RAW = USUAL["repair"]
ORDER = {"dense": 0, "random": 2, "even": 3, "none": 4}  # every other criterion at 1


def summary(directory: Path, process: int = 0) -> Iterator[str]:
    """The lines at the end of a run: tables for tasks, the bare layer and generation, what failed, and where it all is.

    Args:
        directory: that of the run.
        process: number of the process whose timings are shown.
    """
    environment = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    plans = pd.read_csv(directory / "plans.csv")
    cases = [case for case in read_records(directory / "cases") if case.get("process", 0) == process]
    timed = [case for case in cases if case["status"] == OK]
    for task, facts in environment["tasks"].items():
        yield from _task(task, facts, plans[plans["task"] == task], timed)
    for kind, table in (("attention", _attention_table), ("generation", _generation_table)):
        if cases_of_kind := [case for case in timed if case["kind"] == kind]:
            yield from _lines(table(cases_of_kind))
    yield from _predictions(directory / "predictions.csv")
    yield from _operators(directory)
    yield from _broken_promises(directory / "promises.csv")
    yield from _ends(timed)
    steps = [step for step in read_records(directory / "steps") if step["process"] == process]
    for record in (*cases, *read_records(directory / "plans"), *steps):
        if record["status"] != OK:
            why = (record["error"].strip().splitlines() or ["no reason is given"])[-1]
            yield f"{record['status']}: {next(record[name] for name in NAMES if record.get(name))}: {why}"
    yield from (f"noisy: {sentence}" for sentence in environment["machine"]["noisy"])
    yield f"run directory: {directory}"


def _task(task: str, facts: Mapping[str, Any], plans: pd.DataFrame, timed: Sequence[CaseRecord]) -> Iterator[str]:
    """A task's tables as lines: one for each `_place` where it was timed, or else one without times.

    Args:
        facts: the task's entry in `environment.json`; only cases at its `batch_size` are shown.
        plans: the task's rows of `plans.csv`.
        timed: records of all cases that are ok.
    """
    wanted = ("pruning", task, facts["batch_size"])
    reported = [case for case in timed if (case["kind"], case["task"], case["batch"]) == wanted]
    for place in dict.fromkeys(map(_place, reported)) or [""]:
        here = [case for case in reported if _place(case) == place]
        if here or len(plans):
            yield from _lines(_task_table(task, facts, place, plans, here))


def _place(case: CaseRecord) -> str:
    """A case's device and dtype, and what else of its axes is not usual but for the repair, as "cpu, float32, compile".

    Repaired plans stand in the table of raw ones.
    """
    unusual = [case[axis] for axis, usual in USUAL.items() if axis not in ("dtype", "repair") and case[axis] != usual]
    return ", ".join(filter(None, [case["device"], case["dtype"], *unusual]))


def _ends(timed: Sequence[CaseRecord]) -> Iterator[str]:
    """A line that counts cases by why their timing ended ("steady", "time spent"); none if none were timed."""
    counts = Counter(case["ended"] for case in timed if case["samples"] and case["ended"])
    if counts:
        yield "timing ended: " + ", ".join(f"{count} × {end}" for end, count in counts.most_common())


def _task_table(
    task: str, facts: Mapping[str, Any], place: str, plans: pd.DataFrame, cases: Sequence[CaseRecord]
) -> Table:
    """The table of a task at one `_place`: accuracy and latency by criterion, kept fraction and repair, a row for each.

    Args:
        place: its words for the title; "" where nothing was timed.
        cases: those that were timed there.
    """
    where = f"; latency at batch {facts['batch_size']} on {place}" if place else ""
    names = ("kept", "heads", facts["metric"], "against dense", "ms", "dense beside it", "speedup")
    table = _table(f"{task}: 95 % intervals, of repeated draws 95 % of the draws{where}", "heads chosen by", *names)
    timings = {tuple(case[name] for name in KEY): case for case in cases}
    samples = {case["case"]: case["samples"] for case in cases}
    rows: dict[Any, pd.DataFrame] = dict(iter(plans.groupby([*KEY])))
    for key in sorted({*rows, *timings}, key=lambda key: (ORDER.get(key[0], 1), key[0], key[2] != RAW, -key[1])):
        drawn = f" × {len(rows[key])}" if len(rows.get(key, ())) > 1 else ""
        accuracy = _accuracy(rows[key]) if key in rows else ("", "", "")
        timing = _speedup(samples.get(timings[key]["timed_by"], [])) if key in timings else ("", "", "")
        repaired = "" if key[2] in (RAW, key[0]) else ", repaired"
        table.add_row(f"{key[0]}{repaired}{drawn}", f"{key[1]:g}", *accuracy, *timing)
    return table


def _accuracy(rows: pd.DataFrame) -> tuple[str, str, str]:
    """Three cells for one plan or for all draws of it: heads kept, the metric, and its difference to dense."""
    heads = "–".join(str(count) for count in sorted({rows["heads_kept"].min(), rows["heads_kept"].max()}))
    value = _interval(rows, "value", "low", "high", ".3f")
    return heads, value, _interval(rows, "difference", "difference_low", "difference_high", "+.3f")


def _interval(rows: pd.DataFrame, value: str, low: str, high: str, style: str) -> str:
    """A cell with the mean of column `value`, and of one plan its interval, of several draws their 95 % range."""
    bounds = rows.iloc[0][[low, high]] if len(rows) == 1 else rows[value].quantile([0.025, 0.975])
    return f"{rows[value].mean():{style}} [{bounds.iloc[0]:{style}}, {bounds.iloc[1]:{style}}]"


def _speedup(samples: Sequence[Mapping[str, Any]], target: str = "pruned", baseline: str = "dense") -> tuple[str, ...]:
    """Three cells: median milliseconds of the arms `target` and `baseline`, and how many times faster the target is.

    All three are empty where one of the arms has no samples.
    """
    samples = [sample for sample in samples if sample["arm"] in (target, baseline)]
    if len({sample["arm"] for sample in samples}) < 2:
        return "", "", ""
    times = [median(sample["seconds"] for sample in samples if sample["arm"] == arm) for arm in (target, baseline)]
    value, low, high = ratio(samples, baseline, target)
    return *(f"{seconds * 1e3:.2f}" for seconds in times), f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _attention_table(cases: Sequence[CaseRecord]) -> Table:
    """The table of the bare layer: a row for each case, with the two arms that `_compared` picks."""
    names = ("heads", "kept", "batch", "length", "on", "ms", "ms beside it", "speedup")
    table = _table("bare layer: ours beside the fastest other, and ours sliced beside ours whole", "compared", *names)
    for case in sorted(cases, key=lambda case: (_place(case), -case["kept_fraction"])):
        arms = _compared(case["samples"])
        sizes = [str(case[name]) for name in ("heads_total", "heads_kept", "batch", "seq_len")]
        table.add_row(" / ".join(arms), *sizes, _place(case), *_speedup(case["samples"], *arms))
    return table


def _compared(samples: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The two arms to show: "mha" and the peer with the lowest median, or, without peers, "pruned" and "dense"."""
    times: dict[str, list[float]] = {}
    for sample in samples:
        times.setdefault(sample["arm"], []).append(sample["seconds"])
    peers = [arm for arm in times if arm not in NO_PEERS]
    return ("mha", min(peers, key=lambda arm: median(times[arm]))) if "mha" in times and peers else ("pruned", "dense")


def _generation_table(cases: Sequence[CaseRecord]) -> Table:
    """The table of models that generate: a row for each case."""
    samples = {case["case"]: case["samples"] for case in cases}
    names = ("kept", "batch", "length", "on", "tokens/s", "ms", "dense beside it", "speedup")
    table = _table("generation: pruned beside dense, the same share of every layer", "model", *names)
    for case in sorted(cases, key=lambda case: (case["task"], case["batch"], _place(case), -case["kept_fraction"])):
        timing = _speedup(samples.get(case["timed_by"], []))
        rate = f"{1e3 * case['tokens'] / float(timing[0]):.0f}" if timing[0] and case["tokens"] else ""
        sizes = [str(case[name]) for name in ("batch", "seq_len")]
        table.add_row(case["task"], f"{case['kept_fraction']:g}", *sizes, _place(case), rate, *timing)
    return table


def _predictions(path: Path) -> Iterator[str]:
    """Yield a line for each task and device of `predictions.csv`: median and largest error of predicted latencies."""
    for (task, device), rows in pd.read_csv(path).groupby(["task", "device"], sort=False):
        errors = rows["error"].abs()
        worst: Any = next(rows[errors == errors.max()].itertuples(index=False))
        yield (
            f"predicted latency of {task} on {device}: median error {errors.median():.1%} over {len(rows)} plans, "
            f"largest {worst.error:+.1%} ({worst.plan}: {worst.predicted:.3f}, measured {worst.measured:.3f} "
            f"[{worst.low:.3f}, {worst.high:.3f}])"
        )


def _operators(directory: Path) -> Iterator[str]:
    """Yield the lines of a table for each task and device of `operators.csv`, then one that says where the traces are.

    A table has the milliseconds of one pass, by kept fraction: of the ten slowest operators, of all others, of all.
    """
    frame = pd.read_csv(directory / "operators.csv")
    frame["ms"] = 1e3 * (frame["seconds"] + frame["device_seconds"])
    for (task, device), rows in frame.groupby(["task", "device"], sort=False):
        times = rows.pivot_table(index="operator", columns="kept_fraction", values="ms", aggfunc="sum", fill_value=0.0)
        times = times[sorted(times.columns, reverse=True)]
        times = times.sort_values(times.columns[0], ascending=False)
        title = f"{task} on {device}: milliseconds of one pass by operator, by kept fraction (with the profiler's own)"
        table = _table(title, "operator", *(f"{keep:g}" for keep in times.columns))
        shown = times.head(OPERATORS)
        rest = times.iloc[OPERATORS:].sum()
        for name, values in [*shown.iterrows(), ("all others", rest), ("sum", times.sum())]:
            table.add_row(str(name), *(f"{value:.3f}" for value in values))
        yield from _lines(table)
    if len(frame):
        traces = directory / TRACES
        yield f"traces: {traces}; open one in Perfetto, or all with tensorboard --logdir {traces}"


def _broken_promises(path: Path) -> Iterator[str]:
    """Yield a line for each row of `promises.csv`, the file at `path`, whose promise was not kept."""
    promises = pd.read_csv(path)
    for row in promises[~promises["kept"].astype(bool)].itertuples(index=False):
        yield f"broken: task {row.task} states {row.promise} = {row.bound}; measured {row.value:.3f}"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _lines(table: Table) -> list[str]:
    """A table as lines of text, each as wide as it needs: a line that wraps can be read, a number cut off can't."""
    console = Console(file=io.StringIO(), width=1000, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]
