"""What repair after pruning gives back, and what it costs: every method beside no repair, on the trained tasks.

    python -m bench.repair -o DIR
    python -m bench.repair -o DIR --tasks sentences --only shrink --distill 5min    # a pretrained model, shrunk

Heads chosen by several criteria are cut out of each task's model, and what is left is repaired from the calibration
set (`mha.compensate`). `repair.csv` says how much of the lost metric comes back, on the same held-out examples, with
intervals over resamples of them, and the repair's CPU time beside that of one evaluation, both on one thread.
`shrink.csv` says what `mha.shrink` reaches on the same examples, in which time and memory; with `--distill`, also after
training on the task's unlabelled texts.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

import mha
from bench import tasks
from bench.measure.bootstrap import Estimate, Interval
from bench.measure.memory import with_peak
from bench.measure.row_tables import say, write_csv
from bench.measure.threads import one_thread
from bench.models.experiment import DENSE, Experiment
from mha.repair.compensate import METHODS
from mha.repair.shrink import RATE

Result = TypeVar("Result")

KEEP = 0.75, 0.5, 0.3, 0.11
CRITERIA = "leave_one_out", "fluctuation", "magnitude", "random"
EVALUATIONS = 10  # the time of how many evaluations a repair may take
HALF = 0.5  # how much of a gap that is there least squares is to close


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m bench.repair`: repair pruned models, print a line for each and a verdict, write both tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.repair", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tasks", nargs="*", default=tasks.usual(), choices=tasks.names())
    parser.add_argument("--criteria", nargs="*", default=CRITERIA, choices=mha.criteria())
    parser.add_argument("--keep", type=float, nargs="*", default=KEEP)
    parser.add_argument("--only", choices=("repair", "shrink"), help="one of the two tables")
    parser.add_argument("--distill", metavar="TIME", help='train what was shrunk for so long at most: "5min"')
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {"repair": [], "shrink": []}
    with one_thread():
        for experiment in map(Experiment, map(tasks.load, options.tasks)):
            for name, row in _rows(experiment, options):
                rows[name].append(row)
                write_csv(options.output / f"{name}.csv", rows[name])
                say(_line(name, row))
    for line in verdict(rows["repair"]) if rows["repair"] else ():
        say(line)


def _rows(experiment: Experiment, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (table, row) for one task: "repair" for each criterion, share and method, then "shrink" for each share."""
    batches = list(experiment.task.calibration())
    dense = experiment.metric_of(experiment.model())
    if options.only != "shrink":
        _, evaluation = _timed(
            lambda: experiment.task.evaluate(experiment.model())
        )  # warm, and without the intervals' resamples
        for criterion in options.criteria:
            for share in options.keep:
                for row in repairs(experiment, criterion, share, batches, dense, evaluation):
                    yield "repair", row
    if options.only != "repair":
        for share in options.keep:
            for row in _shrunk(experiment, share, batches, dense, options.distill):
                yield "shrink", row


def repairs(
    experiment: Experiment, criterion: str, keep: float, batches: Sequence[Any], dense: Estimate, evaluation: float
) -> Iterator[dict[str, Any]]:
    """Prune a model by a criterion, and repair it by each method: a row of `repair.csv` for each of them.

    Args:
        keep: share of the heads that stays.
        batches: the calibration set, which repair fits to.
        dense: the dense model's metric.
        evaluation: CPU seconds of one evaluation of the dense model.
    """
    pruned = experiment.pruned(experiment.plan(criterion, keep))
    bare = experiment.metric_of(pruned)
    lost = dense - bare
    for method in METHODS:
        repair = partial(mha.compensate, pruned, experiment.model(), batches, experiment.task.forward, method)
        repaired, seconds = _timed(repair)
        metric = experiment.metric_of(repaired)
        yield {
            "task": experiment.task.name, "criterion": criterion, "keep": keep, "method": method,
            **_columns("dense", dense.interval()), **_columns("pruned", bare.interval()),
            **_columns("repaired", metric.interval()), **_columns("gap", lost.interval()),
            **_columns("gained", (metric - bare).interval()), **_columns("closed", closed(metric - bare, lost)),
            "seconds": seconds, "evaluations": seconds / evaluation,
        }  # fmt: skip


def closed(gained: Estimate, lost: Estimate) -> Interval:
    """The share gained / lost of a lost metric that repair gave back, with its interval.

    The interval leaves out resamples in which nothing was lost. All is NaN if the interval of `lost` includes 0.
    """
    _, low, high = lost.interval()
    if low <= 0 <= high:
        return Interval(np.nan, np.nan, np.nan)
    there = lost.replicates != 0
    return Estimate(gained.value / lost.value, gained.replicates[there] / lost.replicates[there]).interval()


def verdict(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Sum up the rows of `repair.csv` by least squares, as lines.

    They count the rows, and name them, that close less than half of a gap, that are significantly worse than without
    repair, and that took longer than 10 evaluations.
    """
    fitted = [row for row in rows if row["method"] == "least_squares"]
    gaps = [row for row in fitted if not np.isnan(row["closed"])]
    enough = [row for row in gaps if row["closed"] >= HALF]
    worse = [row for row in fitted if np.sign(row["gap"]) * _far(row) < 0]
    slow = [row for row in fitted if row["evaluations"] > EVALUATIONS]
    yield f"least squares closes at least half of {len(enough)} of {len(gaps)} gaps whose interval excludes 0"
    yield from (f"  not of {_where(row)}: {row['closed']:.2f}" for row in gaps if row not in enough)
    yield f"significantly worse than no repair: {len(worse)} of {len(fitted)}"
    yield from (f"  {_where(row)}: {row['gained']:+.4f}" for row in worse)
    yield f"took more than {EVALUATIONS} evaluations: {len(slow)} of {len(fitted)}"
    yield from (f"  {_where(row)}: {row['evaluations']:.1f}" for row in slow)


def _far(row: dict[str, Any]) -> float:
    """The change of the metric by the repair in a row of `repair.csv`; 0 if the interval of the change includes 0."""
    return 0.0 if row["gained_low"] <= 0 <= row["gained_high"] else float(row["gained"])


def _shrunk(
    experiment: Experiment, keep: float, batches: Sequence[Any], dense: Estimate, distill: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `shrink.csv` for the task's model that `mha.shrink` has made with this share of the heads.

    Its `share` is the metric above chance, divided by that of the dense model; where a lower metric is better, the
    metric divided by that of the dense model.

    Args:
        distill: how long the model is trained then, for a second row; None for no such row.
    """
    task, model = experiment.task, experiment.model()
    distance = getattr(task, "distance", None)
    shrink = partial(mha.shrink, model, batches, task.loss, task.forward, keep=keep, distance=distance)
    (small, seconds), peak = with_peak(lambda: _timed(shrink))
    yield _shrink_row(experiment, keep, small, dense, {"distill": "", "seconds": seconds, "peak_bytes": peak})
    if distill is not None:
        unlabelled = getattr(task, "unlabelled", list)
        train = partial(
            mha.distill,
            small,
            model,
            list(unlabelled()) or batches,
            task.forward,
            seconds=distill,
            learning_rate=RATE,
            distance=distance,
        )
        (trained, further), peak_of_training = with_peak(lambda: _timed(train))
        peaks = [bytes_ for bytes_ in (peak, peak_of_training) if bytes_ is not None]
        spent = {"distill": distill, "seconds": seconds + further, "peak_bytes": max(peaks, default=None)}
        yield _shrink_row(experiment, keep, trained, dense, spent)


def _shrink_row(
    experiment: Experiment, keep: float, small: nn.Module, dense: Estimate, spent: dict[str, Any]
) -> dict[str, Any]:
    """A row of `shrink.csv`, for this model; `spent` says what it took."""
    task, metric = experiment.task, experiment.metric_of(small)
    chance = task.chance if task.higher_is_better else 0.0
    share = Estimate(
        (metric.value - chance) / (dense.value - chance), (metric.replicates - chance) / (dense.replicates - chance)
    )
    heads = [layer.num_heads for layer in mha.find_attention(small).values()]
    return {"task": task.name, "keep": keep, **_columns("share", share.interval()), **spent, "shape": heads}


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """The result of some work, and the CPU seconds that it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def _line(name: str, row: dict[str, Any]) -> str:
    if name == "shrink":
        what = f"share of {DENSE} {Interval(row['share'], row['share_low'], row['share_high'])}, heads {row['shape']}"
        trained = f", trained for {row['distill']}" if row["distill"] else ""
        memory = "" if row["peak_bytes"] is None else f", {row['peak_bytes'] / 2**20:,.0f} MiB"
        return f"{row['task']}, shrunk to {row['keep']:g}{trained}: {what}, {row['seconds']:.0f} s{memory}"
    values = f"{row['pruned']:.3f} -> {row['repaired']:.3f}"
    return f"{_where(row)}, {row['method']}: {values}, closed {row['closed']:.2f}, {row['evaluations']:.1f} evaluations"


def _where(row: dict[str, Any]) -> str:
    return f"{row['task']}, {row['criterion']}, {row['keep']:g} kept"


if __name__ == "__main__":
    main()
