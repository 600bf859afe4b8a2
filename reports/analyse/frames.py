"""From a run to the frames that figures draw and tables print. Each row is one point with its interval."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pandas as pd

from reports.analyse.limits import spread
from reports.base import stats
from reports.read import description
from reports.read.description import Field
from reports.read.run import GENERATION, LAYER, RAW, Metric, Run

AXES = {name: axis for name, axis in description.AXES.items() if not axis.beside}  # a figure is of one value of each
CONDITIONS = ["device", *AXES]
SETTING = [*CONDITIONS, "seq_len"]
ARMS = ("dense", "pruned")
PLAN = ["criterion", "kept_fraction", "repair"]  # a row of accuracies
MOST_BATCHES = 12  # of one setting, beside which accuracy is shown
ABOUT_SAMPLES = [
    "case", "task", "criterion", "kept_fraction", "heads_kept", "batch", "seq_len", "device", "dtype", "arm", "round",
    "seconds", "process",
]  # fmt: skip
SAMPLES = [
    *ABOUT_SAMPLES,
    *(name for name in description.CASE if name in description.AXES and name not in ABOUT_SAMPLES),
]


@dataclass(frozen=True)
class Setting:
    """What must agree, besides the batch size, for two times of one task to be comparable.

    Attributes:
        values: one value for each of AXES, in their order.
        seq_len: None where the sequence length is unknown, or an axis of the figure.
    """

    device: str
    values: tuple[str, ...]
    seq_len: int | None = None

    @classmethod
    def of(cls, device: str, seq_len: int | None = None, **values: str) -> "Setting":
        """A setting from values by the names of their axes (of AXES); axes without a value get their usual one."""
        return cls(device, tuple(values.get(name, str(axis.usual)) for name, axis in AXES.items()), seq_len)

    @property
    def text(self) -> str:
        """The setting as titles have it: the device, the dtype, axes with unusual values, and the length."""
        titles = [axis.title(value) for axis, value in self._named]
        return ", ".join([self.device, *titles, *([f"{self.seq_len} tokens"] if self.seq_len is not None else [])])

    @property
    def slug(self) -> str:
        """What `text` names, as a part of a file's name: plain values joined by hyphens, such as cpu-float32-s128."""
        values = [value for _, value in self._named]
        return "-".join([self.device, *values, *([f"s{self.seq_len}"] if self.seq_len is not None else [])])

    @property
    def unusual(self) -> int:
        """The number of axes whose value is not the usual one."""
        return sum(value != axis.usual for axis, value in self._axes)

    @property
    def _axes(self) -> list[tuple[Field, str]]:
        """Each axis with its value."""
        return list(zip(AXES.values(), self.values, strict=True))

    @property
    def _named(self) -> list[tuple[Field, str]]:
        """The dtype and those other axes whose value is not the usual one, each with its value."""
        return [(axis, value) for axis, value in self._axes if axis is AXES["dtype"] or value != axis.usual]


def device_title(device: object, machine: object) -> str:
    """A device as a title names it, with the machine where it is not the run's own: "cuda" or "cuda, h100-5d0c12"."""
    return str(device) if machine == AXES["machine"].usual else f"{device}, {AXES['machine'].title(str(machine))}"


def device_slug(device: object, machine: object) -> str:
    """The same as a part of a file's name."""
    return str(device) if machine == AXES["machine"].usual else f"{device}-{machine}"


@dataclass(frozen=True)
class Tradeoff:
    """Accuracy beside latency of every plan of one task, in one setting at one batch size.

    Attributes:
        setting, batch: None where no latency was measured.
        criteria: all criteria of the run, in the order of their colours.
        table: one row for each criterion, kept fraction and repair, the dense model first: criterion, plan, repair,
            kept_fraction, heads_kept, heads_total, draws (how many plans the row is the mean of), value, low, high,
            difference, difference_low, difference_high, examples; pruned and dense (seconds, in the same rounds) and
            speedup, each with _low and _high, NaN where it was not timed; and front: whether it is on the Pareto front
            of the plans.
    """

    task: str
    metric: Metric
    setting: Setting | None
    batch: int | None
    criteria: tuple[str, ...]
    table: pd.DataFrame


def samples(runs: Sequence[Run]) -> pd.DataFrame:
    """Every sample of the runs, once, in a table with the columns SAMPLES.

    A sample stands under the case that timed it. Other cases of the same shape have no rows: their files name the case
    that timed their shape in `timed_by`. With several runs, the column `case` holds RUN/CASE.
    """
    tables = []
    for run in runs:
        cases = run.cases[[name for name in SAMPLES if name in run.cases]]
        frame = run.samples.merge(cases, on="case", how="left")[SAMPLES]
        tables.append(frame if len(runs) == 1 else frame.assign(case=run.name + "/" + frame["case"]))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=SAMPLES)


def cases_of(run: Run, task: str) -> pd.DataFrame:
    """The rows of `Run.cases` whose shape was timed, by themselves or by another case, of one kind of measurement.

    Args:
        task: the name of a task for its pruned models, LAYER for the bare layer, or GENERATION for all generating
            models.
    """
    kind = task if task in (LAYER, GENERATION) else "pruning"
    mine = (run.cases["kind"] == kind) & ((run.cases["task"] == task) | (kind == GENERATION))
    return run.cases[mine & run.cases["timed_by"].isin(run.timed)]


def settings(cases: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """Yield (setting, its rows of `cases`) for each setting; those with the fewest unusual values come first."""
    pairs = []
    for key, rows in cases.groupby(SETTING, dropna=False, sort=True):
        values = dict(zip(SETTING, cast(tuple[Any, ...], key), strict=True))
        tokens = None if pd.isna(values["seq_len"]) else int(values["seq_len"])
        pairs.append((Setting.of(**values | {"seq_len": tokens}), rows))
    yield from sorted(pairs, key=lambda pair: pair[0].unusual)


def conditions(cases: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """As `settings`, but with cases of all sequence lengths together, whose setting then has the sequence length None.

    It is for figures that have sequence lengths on an axis.
    """
    groups = cases.groupby(CONDITIONS, sort=True)
    pairs = [
        (Setting.of(**dict(zip(CONDITIONS, cast(tuple[Any, ...], key), strict=True))), rows) for key, rows in groups
    ]
    yield from sorted(pairs, key=lambda pair: pair[0].unusual)


def latencies(run: Run, cases: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Seconds of the dense and the pruned arm and their paired speedup (dense / pruned), a row for each group of cases.

    A group is the cases that agree in the columns `by`; it has no row if no shape of it was timed with both arms. A
    shape that several of its cases share counts once. Columns: `by`; shapes (how many were timed), rounds (of all of
    them), processes (the fewest of a shape); dense and pruned (seconds) and speedup, each with `_low` and `_high`.
    """
    rows = []
    timers = cases["timed_by"].to_numpy(dtype=object)
    # places, not groups: a frame for each of 100,000 shapes takes minutes
    groups = _places(cases.groupby(by, sort=True, dropna=False).ngroup().to_numpy())
    keys = cases[by].iloc[[places[0] for places in groups]].itertuples(index=False, name=None)
    for key, places in zip(keys, groups, strict=True):
        timed = _timed(run, timers[places])
        if not timed:
            continue
        ratios = [run.log_ratios[(case, *ARMS)] for case in timed]
        row = dict(zip(by, key, strict=True)) | {
            "shapes": len(timed),
            "rounds": sum(len(rounds) for processes in ratios for rounds in processes),
            "processes": min(map(len, ratios)),
        }
        for arm in ARMS:
            row |= columns(arm, stats.median_estimate(*(run.seconds[case, arm] for case in timed)))
        rows.append(row | columns("speedup", stats.ratio_estimate(*ratios)))
    return pd.DataFrame(rows)


def columns(name: str, estimate: stats.Estimate) -> dict[str, float]:
    """The three columns of an estimate: `name` with its value, and with _low and _high the ends of its interval."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def report_batch(run: Run, task: str, cases: pd.DataFrame) -> int:
    """The batch size that is reported first: the task's own, or the nearest to it by ratio among those of `cases`."""
    default = run.environment["tasks"][task]["batch_size"]
    return int(min(cases["batch"].unique(), key=lambda batch: (abs(np.log(batch / default)), batch)))


@lru_cache(maxsize=64)  # several figures and a table ask for the same
def tradeoffs(run: Run, task: str) -> tuple[Tradeoff, ...]:
    """Accuracy beside latency for each setting and batch size of the task, the one to report first in front.

    Of one setting there are at most MOST_BATCHES batch sizes. Where no latency was measured there is one tradeoff, of
    accuracies alone; where the task has no plans, none.
    """
    plans = accuracies(run, task)
    if plans.empty:
        return ()
    bare = Tradeoff(task, run.metric(task), None, None, run.criteria, plans)
    measured = []
    for setting, cases in settings(cases_of(run, task)):
        first = report_batch(run, task, cases)
        others = sorted({*map(int, cases["batch"].unique())} - {first})
        for batch in (first, *spread(others, MOST_BATCHES - 1)):
            timed = cases[cases["batch"] == batch]
            times = latencies(run, timed, PLAN)
            if not times.empty:
                table = plans.merge(times, how="left", on=PLAN)
                measured.append(
                    replace(bare, setting=setting, batch=batch, table=_finish(run, table, timed, bare.metric))
                )
    return tuple(measured) or (replace(bare, table=_finish(run, plans, None, bare.metric)),)


def accuracies(run: Run, task: str) -> pd.DataFrame:
    """The task's plans as a table, one row for each criterion, kept fraction and repair.

    The dense model comes first, then criteria in the order of `Run.criteria`, raw plans before repaired ones, with
    falling kept fractions, last the model without heads. Columns: those of plans.csv, and draws, the number of plans. A
    row of several plans (random draws) has their mean, and as its interval the range that holds 95 % of them; its other
    columns are those of one of them.
    """
    rows = []
    for _, group in run.plans[run.plans["task"] == task].groupby(PLAN, sort=False):
        row: dict[Hashable, Any] = group.iloc[0].to_dict() | {"draws": len(group)}
        if len(group) > 1:
            row.update(stats.draws_estimate(group["value"].to_numpy())._asdict())
            row.update(columns("difference", stats.draws_estimate(group["difference"].to_numpy())))
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*run.plans.columns, "draws"])
    rank = {name: place for place, name in enumerate(("dense", *run.criteria, "none"))}
    keys = {"rank": frame["criterion"].map(rank), "less": -frame["kept_fraction"], "mended": frame["repair"] != RAW}
    order = frame.assign(**keys).sort_values(["rank", "mended", "less"])
    return frame.loc[order.index].reset_index(drop=True)


def _finish(run: Run, table: pd.DataFrame, cases: pd.DataFrame | None, metric: Metric) -> pd.DataFrame:
    """The table of a tradeoff with the dense model's latency in its own row, and the column `front`.

    A mean over draws and the model without heads are never on the front.

    Args:
        table: accuracies, with the columns of `latencies` if `cases` is not None.
        cases: the cases whose dense arm gives that latency; None where none was measured.
    """
    numbers = [f"{name}{end}" for name in (*ARMS, "speedup") for end in ("", "_low", "_high")]
    table = table.reindex(columns=[*table.columns, *(name for name in numbers if name not in table)])
    table[numbers] = table[numbers].astype(float)
    if cases is not None:
        dense = stats.median_estimate(*(run.seconds[case, "dense"] for case in _timed(run, cases["timed_by"])))
        # by definition: every speedup is relative to the dense arm of its own rounds
        row = columns("pruned", dense) | columns("dense", dense) | columns("speedup", stats.Estimate(1.0, 1.0, 1.0))
        table.loc[table["criterion"] == "dense", list(row)] = list(row.values())
    merit = table["value"] if metric.higher_is_better else -table["value"]
    # a mean over draws is no plan; a model without heads is where latency ends, not a choice
    is_choice = (table["draws"] == 1) & (table["criterion"] != "none")
    cost = np.where(is_choice, 1 / table["speedup"], np.nan)
    return table.assign(front=stats.pareto_front(cost, merit.to_numpy(float)))


def _timed(run: Run, timed_by: Iterable[str]) -> list[str]:
    """Of the cases that timed shapes, each once, those that have rounds of both arms."""
    return [case for case in dict.fromkeys(timed_by) if (case, *ARMS) in run.log_ratios]


def _places(numbers: np.ndarray) -> list[np.ndarray]:
    """Of rows with the numbers of their groups (n,), from 0 to k - 1, the places of each group's, k arrays."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
