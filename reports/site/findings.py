"""What a run found out, in a few plain sentences. Every number is computed from the run and has its interval."""

from dataclasses import dataclass
from itertools import islice

import pandas as pd

from reports.analyse import frames
from reports.analyse.frames import Tradeoff
from reports.analyse.level import is_level, verdict, within
from reports.analyse.plan_names import chosen
from reports.base.formatting import between, count, duration, per_cent, size, times
from reports.figures import accuracy_latency, kept_accuracy, layer_peers, speedup_bounds, speedup_map
from reports.read.run import LAYER, RAW, REFERENCES, Metric, Run

MOST = 5


@dataclass(frozen=True)
class Finding:
    """A sentence on what a run found out, and what shows it on the run's page.

    Attributes:
        text: the sentence.
        figure: the name of a module in reports/figures.
        task: the task in whose section the figure stands, or LAYER.
    """

    text: str
    figure: str
    task: str


def findings(run: Run) -> tuple[Finding, ...]:
    """The findings of a run, the most telling first and at most MOST; none where the run has nothing to say."""
    measured = [every[0] for task in run.tasks if (every := frames.tradeoffs(run, task)) and every[0].setting]
    halves = [half for tradeoff in measured if (half := Half.of(tradeoff))]
    # real models before those that were trained for the benchmark, and of each the task that can spare most
    halves.sort(key=lambda half: (not run.pretrained(half.task), half.loss))
    kinds = (
        *(_free(half) for half in halves[:2]),
        *(_price(half) for half in halves[:2] if not _says_more(half)),
        *(_chance(half) for half in halves[:1]),
        *(_batches(run, half) for half in halves[:1]),
        _layer(run),
        *(_ceiling(half) for half in halves),
    )
    return tuple(islice((finding for finding in kinds if finding), MOST))


@dataclass(frozen=True, eq=False)
class Half:
    """The best plan of a tradeoff, by the metric, at its kept fraction nearest to a half; and the smallest level one.

    Attributes:
        row: the plan's row of `tradeoff.table`.
        raw: the row of the best plan that was not repaired; None if there is none.
    """

    tradeoff: Tradeoff
    row: pd.Series
    raw: pd.Series | None

    @classmethod
    def of(cls, tradeoff: Tradeoff) -> "Half | None":
        """The best plan at the kept fraction nearest to a half, of those that keep heads, by the tradeoff's metric.

        Only single plans with intervals of both accuracy and speedup count; None if there is none.
        """
        plans = _plans(tradeoff)
        if plans.empty:
            return None
        near = (plans["kept_fraction"] - 0.5).abs()
        plans = plans[near == near.min()]
        best = plans.sort_values("value", ascending=not tradeoff.metric.higher_is_better, kind="stable")
        raw = best[best["repair"] == RAW]
        return cls(tradeoff, best.iloc[0], None if raw.empty else raw.iloc[0])

    @property
    def smallest(self) -> pd.Series | None:
        """The plan with the fewest heads that is level with the dense model, and of these the fastest; None if none."""
        plans = _plans(self.tradeoff)
        level = plans[is_level(plans, self.metric)].sort_values(["heads_kept", "speedup"], ascending=[True, False])
        return None if level.empty else level.iloc[0]

    @property
    def kept(self) -> str:
        """The kept fraction as text."""
        return per_cent(self.row["kept_fraction"])

    @property
    def task(self) -> str:
        return self.tradeoff.task

    @property
    def metric(self) -> Metric:
        return self.tradeoff.metric

    @property
    def loss(self) -> float:
        """How much worse the plan's value is than the dense model's, as a share of the latter; negative if better."""
        worse = -self.row["difference"] if self.metric.higher_is_better else self.row["difference"]
        return float(worse / abs(self.row["value"] - self.row["difference"]) if worse else 0.0)

    def same(self, criterion: str) -> pd.DataFrame:
        """The tradeoff's raw rows of `criterion` with this plan's kept fraction; of dense and none, all their rows."""
        table = self.tradeoff.table[self.tradeoff.table["repair"] == RAW]
        rows = table[table["criterion"] == criterion]
        return rows if criterion in REFERENCES else rows[rows["kept_fraction"] == self.row["kept_fraction"]]


def _plans(tradeoff: Tradeoff) -> pd.DataFrame:
    """The rows of a tradeoff that are single plans with heads, timed, with intervals of both accuracy and speedup."""
    table = tradeoff.table
    plans = table[(table["draws"] == 1) & ~table["criterion"].isin(REFERENCES) & table["speedup"].notna()]
    return plans[(plans["kept_fraction"] > 0) & plans[["speedup_low", "difference_low"]].notna().all(axis=1)]


def _free(half: Half) -> Finding | None:
    """The finding on how many heads can leave at no loss that counts; None if no plan is level with the dense model."""
    plan, tradeoff, metric = half.smallest, half.tradeoff, half.metric
    if plan is None:
        return None
    assert tradeoff.setting is not None  # or there would be no speedup
    gone = f"{plan['heads_total'] - plan['heads_kept']:.0f} of {plan['heads_total']:.0f} heads"
    how, came = ("without", f"chosen by {plan['criterion']}") if plan["repair"] == RAW else ("with", chosen(plan))
    text = (
        f"{half.task}: {how} repair, {gone} can leave and {metric.name} is level with the dense model's, within "
        f"{within(metric)} ({metric.text(plan['value'])}, {metric.change(plan['difference'])}; 95 % interval "
        f"{metric.interval(plan['difference_low'], plan['difference_high'])}), at {_times(plan)} its speed at batch "
        f"{tradeoff.batch} on {tradeoff.setting.text}; the heads that stay were {came}{_took(plan)}."
    )
    return Finding(text, _name(accuracy_latency), half.task)


def _took(plan: pd.Series) -> str:
    """A clause on what the repair of a plan took, as ", in 12.0 s of CPU time and 345 MiB"; "" where unknown."""
    if pd.isna(plan["repair_seconds"]):
        return ""
    memory = "" if pd.isna(plan["repair_bytes"]) else f" and {size(plan['repair_bytes'])}"
    return f", in {duration(plan['repair_seconds'])} of CPU time{memory}"


def _says_more(half: Half) -> bool:
    """Whether the finding on heads that can leave says all that the one on half of them would."""
    return half.smallest is not None and half.smallest["heads_kept"] <= half.row["heads_kept"]


def _price(half: Half) -> Finding:
    """The finding on what keeping this plan's heads alone costs in accuracy, and saves in time."""
    row, tradeoff = half.row, half.tradeoff
    assert tradeoff.setting is not None  # or there would be no speedup
    changed = f"{half.metric.text(row['value'])}{_ratio_of(row, half.metric)}"
    text = (
        f"{half.task}: with {half.kept} of the heads, {chosen(row)}, {half.metric.name} changes by "
        f"{half.metric.change(row['difference'])} "
        f"(95 % interval {half.metric.interval(row['difference_low'], row['difference_high'])}) to {changed}, and a "
        f"forward pass of batch {tradeoff.batch} takes {_share(row)} of the dense model's time on "
        f"{tradeoff.setting.text}.{verdict(row, half.metric)}"
    )
    return Finding(text, _name(accuracy_latency), half.task)


def _chance(half: Half) -> Finding | None:
    """The finding on whether it matters which heads stay: the plan's value beside that of plans with random heads.

    Both are without repair. None if fewer than two random plans keep as many heads, or all others are repaired.
    """
    random, row = half.same("random"), half.raw
    if random.empty or random["draws"].iloc[0] < 2 or row is None:
        return None
    metric, drawn = half.metric, random.iloc[0]
    beats = row["low"] > drawn["high"] if metric.higher_is_better else row["high"] < drawn["low"]
    what = "which heads stay matters" if beats else "whether it matters which heads stay is open"
    text = (
        f"{half.task}: {what}. With {half.kept} of them, {chosen(row)}, the model "
        f"reaches {metric.text(row['value'])} ({metric.interval(row['low'], row['high'])}); with as many at random "
        f"{metric.text(drawn['value'])} on average, 95 % of {count(drawn['draws'], 'draw')} within "
        f"{metric.interval(drawn['low'], drawn['high'])}."
    )
    return Finding(text, _name(kept_accuracy), half.task)


def _batches(run: Run, half: Half) -> Finding | None:
    """The finding on the plan's speedup at the smallest and the largest batch size.

    None if fewer than two batch sizes have an interval of the speedup.
    """
    _, cases = next(iter(frames.settings(frames.cases_of(run, half.task))))
    mine = (cases[frames.PLAN] == half.row[frames.PLAN]).all(axis=1)
    rows = frames.latencies(run, cases[mine], ["batch"])
    rows = rows[rows["speedup_low"].notna()] if len(rows) else rows
    if len(rows) < 2:
        return None
    small, large = rows.iloc[0], rows.iloc[-1]
    apart = small["speedup_high"] < large["speedup_low"] or large["speedup_high"] < small["speedup_low"]
    what = "what it saves depends on the batch" if apart else "whether what it saves depends on the batch is open"
    text = (
        f"{half.task}: {what}. The same plan runs {_times(small)} as fast as the dense "
        f"model at batch {small['batch']:.0f}, and {_times(large)} at batch {large['batch']:.0f}."
    )
    return Finding(text, _name(speedup_map), half.task)


def _layer(run: Run) -> Finding | None:
    """The finding on the bare layer's time beside the fastest other implementation's, in the first setting with any.

    None if no other implementation was timed, or none has an interval.
    """
    for panel in layer_peers.panels(run, LAYER):
        are_peers, nearest = layer_peers.nearest_peers(panel.frame)
        nearest = nearest.dropna(subset=["ratio_low"])
        if nearest.empty or not are_peers:
            continue
        best, worst = (nearest.iloc[place] for place in (nearest["ratio"].argmin(), nearest["ratio"].argmax()))
        ends = [_ratio(row) for row in ((worst,) if len(nearest) == 1 else (best, worst))]
        text = (
            f"The bare layer beside other implementations on the same weights, {panel.title}: over "
            f"{count(len(nearest), 'size')} it takes {' to '.join(ends)} of the time of the fastest of them."
        )
        return Finding(text, _name(layer_peers), LAYER)
    return None


def _ceiling(half: Half) -> Finding | None:
    """The finding on the largest speedup that pruning can give, that of the model without any head.

    None if that model has no speedup with an interval.
    """
    none = half.same("none")
    none = none[none["speedup_low"].notna()]
    if none.empty:
        return None
    without = none.iloc[0]
    text = (
        f"{half.task}: a model without any head takes {_share(without)} of the dense time at batch "
        f"{half.tradeoff.batch}, so that no pruning of heads can make it faster than {_times(without)}; with "
        f"{half.kept} of them it is {_times(half.row)}."
    )
    return Finding(text, _name(speedup_bounds), half.task)


def _ratio_of(row: pd.Series, metric: Metric) -> str:
    """A clause such as ", 1.41 times the dense model's", on the ratio of a plan's value to that; "" of shares."""
    dense = row["value"] - row["difference"]
    return "" if metric.is_share or dense <= 0 else f", {row['value'] / dense:.3g} times the dense model's"


def _share(row: pd.Series) -> str:
    """A plan's time as a percentage of the dense model's, with its interval, as text."""
    share, low, high = (100 / row[name] for name in ("speedup", "speedup_high", "speedup_low"))
    return f"{share:.1f} % ({low:.1f} to {high:.1f})"


def _times(row: pd.Series) -> str:
    return f"{times(row['speedup'])} ({between(row['speedup_low'], row['speedup_high'])})"


def _ratio(row: pd.Series) -> str:
    return f"{row['ratio']:.2f} ({between(row['ratio_low'], row['ratio_high'])})"


def _name(module: object) -> str:
    return str(getattr(module, "__name__", "")).rsplit(".", 1)[-1]
