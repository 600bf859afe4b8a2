"""Run -> frames that figures draw and tables print. Each row is one point with its interval."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pandas as pd

from reports.analyse.limits import spread
from reports.base import stats
from reports.read import description
from reports.read.description import Field
from reports.read.run import GENERATION, LAYER, Metric, Run

AXES = {name: axis for name, axis in description.AXES.items() if not axis.beside}  # a figure is of one value of each
CONDITIONS = ["device", *AXES]
SETTING = [*CONDITIONS, "seq_len"]
ARMS = ("dense", "pruned")
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
    """What must agree for two times of one task to be comparable, besides the batch size.

    Attributes:
        values: one for each of AXES.
        seq_len: None where the sequence length is unknown, or an axis of the figure.
    """

    device: str
    values: tuple[str, ...]
    seq_len: int | None = None

    @classmethod
    def of(cls, device: str, seq_len: int | None = None, **values: str) -> "Setting":
        """A setting by the names of AXES; those that aren't given are as usual."""
        return cls(device, tuple(values.get(name, str(axis.usual)) for name, axis in AXES.items()), seq_len)

    @property
    def text(self) -> str:
        """The setting in a title: the device, the dtype, and what is unusual besides."""
        titles = [axis.title(value) for axis, value in self._named]
        return ", ".join([self.device, *titles, *([f"{self.seq_len} tokens"] if self.seq_len is not None else [])])

    @property
    def slug(self) -> str:
        """The setting in the name of a file."""
        values = [value for _, value in self._named]
        return "-".join([self.device, *values, *([f"s{self.seq_len}"] if self.seq_len is not None else [])])

    @property
    def unusual(self) -> int:
        """The number of axes that are not as usual."""
        return sum(value != axis.usual for axis, value in self._axes)

    @property
    def _axes(self) -> list[tuple[Field, str]]:
        """Each axis with its value."""
        return list(zip(AXES.values(), self.values, strict=True))

    @property
    def _named(self) -> list[tuple[Field, str]]:
        """The dtype, and those of the other axes that are not as usual."""
        return [(axis, value) for axis, value in self._axes if axis is AXES["dtype"] or value != axis.usual]


@dataclass(frozen=True)
class Tradeoff:
    """Accuracy beside latency of every plan of one task, in one setting at one batch size.

    Attributes:
        setting, batch: None where no latency was measured.
        table: one row for each criterion and kept fraction, the dense model first: criterion, plan, kept_fraction,
            heads_kept, heads_total, draws, value, low, high, difference, difference_low, difference_high,
            examples, and with _low and _high pruned, dense (seconds, the dense model in the same rounds) and speedup;
            front, whether no other plan beats it.
    """

    task: str
    metric: Metric
    setting: Setting | None
    batch: int | None
    criteria: tuple[str, ...]
    table: pd.DataFrame


def samples(runs: Sequence[Run]) -> pd.DataFrame:
    """Every sample of the runs once, tidy, with the columns SAMPLES.

    A sample stands under the case that timed it; cases that share its shape name that case in `timed_by` of
    their own file and have no rows here. With several runs, cases read RUN/CASE.
    """
    tables = []
    for run in runs:
        cases = run.cases[[name for name in SAMPLES if name in run.cases]]
        frame = run.samples.merge(cases, on="case", how="left")[SAMPLES]
        tables.append(frame if len(runs) == 1 else frame.assign(case=run.name + "/" + frame["case"]))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=SAMPLES)


def cases_of(run: Run, task: str) -> pd.DataFrame:
    """The cases whose shape has been timed: of a task, of the bare layer, or of all in which a model generates."""
    kind = task if task in (LAYER, GENERATION) else "pruning"
    mine = (run.cases["kind"] == kind) & ((run.cases["task"] == task) | (kind == GENERATION))
    return run.cases[mine & run.cases["timed_by"].isin(run.timed)]


def settings(cases: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """The cases of each setting, usual settings first."""
    pairs = []
    for key, rows in cases.groupby(SETTING, dropna=False, sort=True):
        values = dict(zip(SETTING, cast(tuple[Any, ...], key), strict=True))
        tokens = None if pd.isna(values["seq_len"]) else int(values["seq_len"])
        pairs.append((Setting.of(**values | {"seq_len": tokens}), rows))
    yield from sorted(pairs, key=lambda pair: pair[0].unusual)


def conditions(cases: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """The cases of each setting without a sequence length, which is an axis of the figure then; usual ones first."""
    groups = cases.groupby(CONDITIONS, sort=True)
    pairs = [
        (Setting.of(**dict(zip(CONDITIONS, cast(tuple[Any, ...], key), strict=True))), rows) for key, rows in groups
    ]
    yield from sorted(pairs, key=lambda pair: pair[0].unusual)


def latencies(run: Run, cases: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Seconds of both arms and the paired speedup (dense / pruned), one row for each group of cases.

    A shape that several cases share counts once. Adds to the columns `by`: shapes, rounds, processes (the fewest
    of a shape), and with `_low` and `_high` dense, pruned (seconds) and speedup.
    """
    rows = []
    for key, group in cases.groupby(by, sort=True, dropna=False):
        timed = _timed(run, group)
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
    """The three columns of an estimate: its value, and with _low and _high its interval."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def report_batch(run: Run, task: str, cases: pd.DataFrame) -> int:
    """The batch size that is reported first: the task's own, or the nearest to it that was timed."""
    default = run.environment["tasks"][task]["batch_size"]
    return int(min(cases["batch"].unique(), key=lambda batch: (abs(np.log(batch / default)), batch)))


@lru_cache(maxsize=64)  # several figures and a table ask for the same
def tradeoffs(run: Run, task: str) -> tuple[Tradeoff, ...]:
    """Accuracy beside latency for each setting and batch size of the task, the one to report first in front.

    One without latencies if there is none.
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
            times = latencies(run, timed, ["criterion", "kept_fraction"])
            if not times.empty:
                table = plans.merge(times, how="left", on=["criterion", "kept_fraction"])
                measured.append(
                    replace(bare, setting=setting, batch=batch, table=_finish(run, table, timed, bare.metric))
                )
    return tuple(measured) or (replace(bare, table=_finish(run, plans, None, bare.metric)),)


def accuracies(run: Run, task: str) -> pd.DataFrame:
    """One row for each criterion and kept fraction of plans.csv.

    Of several draws: the mean, and the range that holds 95 % of them.
    """
    rows = []
    for _, group in run.plans[run.plans["task"] == task].groupby(["criterion", "kept_fraction"], sort=False):
        row: dict[Hashable, Any] = group.iloc[0].to_dict() | {"draws": len(group)}
        if len(group) > 1:
            row.update(stats.draws_estimate(group["value"].to_numpy())._asdict())
            row.update(columns("difference", stats.draws_estimate(group["difference"].to_numpy())))
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*run.plans.columns, "draws"])
    rank = {name: place for place, name in enumerate(("dense", *run.criteria, "none"))}
    order = frame.assign(rank=frame["criterion"].map(rank), less=-frame["kept_fraction"]).sort_values(["rank", "less"])
    return frame.loc[order.index].reset_index(drop=True)


def _finish(run: Run, table: pd.DataFrame, cases: pd.DataFrame | None, metric: Metric) -> pd.DataFrame:
    """The table with the dense model's own latency, and with the Pareto front."""
    numbers = [f"{name}{end}" for name in (*ARMS, "speedup") for end in ("", "_low", "_high")]
    table = table.reindex(columns=[*table.columns, *(name for name in numbers if name not in table)])
    table[numbers] = table[numbers].astype(float)
    if cases is not None:
        dense = stats.median_estimate(*(run.seconds[case, "dense"] for case in _timed(run, cases)))
        # by definition: every speedup is relative to the dense arm of its own rounds
        row = columns("pruned", dense) | columns("dense", dense) | columns("speedup", stats.Estimate(1.0, 1.0, 1.0))
        table.loc[table["criterion"] == "dense", list(row)] = list(row.values())
    merit = table["value"] if metric.higher_is_better else -table["value"]
    # a mean over draws is no plan; a model without heads is where latency ends, not a choice
    is_choice = (table["draws"] == 1) & (table["criterion"] != "none")
    cost = np.where(is_choice, 1 / table["speedup"], np.nan)
    return table.assign(front=stats.pareto_front(cost, merit.to_numpy(float)))


def _timed(run: Run, cases: pd.DataFrame) -> list[str]:
    """The names of the cases that timed the shapes of `cases`, pruned beside dense."""
    return [case for case in cases["timed_by"].unique() if (case, *ARMS) in run.log_ratios]
