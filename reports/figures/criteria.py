"""The criteria of this run compared: what their plans keep, whether they agree with leave-one-out, what they cost."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter
from scipy.stats import rankdata

from reports.analyse import frames
from reports.analyse.level import margin, within
from reports.analyse.limits import left_out
from reports.analyse.metric_view import view
from reports.base.formatting import duration, per_cent
from reports.draw.style import GREY, folded, legend_below, looks, new_figure, reach, shortened
from reports.figures import Panel
from reports.read.run import RAW, REFERENCES, Metric, Run

TITLE = "The criteria compared"
ABOUT = "task"
ABSENT = (
    "The criteria are compared where plans.csv has pruned plans of the task, and random draws or the dense "
    "model beside them."
)
RANDOM, TRUTH = "random", "leave_one_out"
ENDS = ("", "_low", "_high")
SHOWN = 30  # criteria
LINEAR = 0.1  # of the dense model's value: up to that from it, an axis of decades is plain
RESAMPLES, SEED = 1000, 0
ENOUGH_HEADS = 6  # below that a bootstrap over heads says nothing
ELSEWHERE = (
    "How stable scores are over seeds, and how near they come to held-out truth, the importance experiment says "
    "(docs/importance.md), not this run."
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The criteria of one task beside one another.

    Attributes:
        metric: the metric by which the task is judged; "value" below is of it.
        kept: the kept fraction of the plans that are compared.
        table: a row for each criterion but random, the best first: criterion, value, advantage (its value less the
            reference) and spearman (with leave_one_out's scores), both with _low and _high, and seconds (to score all
            heads). NaN where something was not measured.
        random: the mean value of random plans, and the ends of the range that holds 95 % of them; None without them.
        draws: the number of random plans; 0 without them.
        reference: the mean value of the random plans, or the dense model's value where there are none, or values span
            decades.
        criteria: all criteria of the run; their order gives each its colour.
        log: whether values span decades, as perplexities do, so that the advantage stands on a logarithm.
    """

    metric: Metric
    kept: float
    table: pd.DataFrame
    random: tuple[float, ...] | None
    draws: int
    reference: float
    criteria: tuple[str, ...]
    log: bool = False


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel, whose frame is a Comparison at the kept fraction nearest to a half that the task's plans have.

    None if the task has no pruned plans, or neither a dense model nor several random draws to compare them with.
    """
    plans = frames.accuracies(run, task)
    plans = plans[plans["repair"] == RAW]  # repair is no way to choose heads
    pruned = plans[~plans["criterion"].isin([*REFERENCES, RANDOM])]
    if pruned.empty:
        return
    kept = min(pruned["kept_fraction"].unique(), key=lambda fraction: (abs(fraction - 0.5), fraction))
    random = plans[(plans["criterion"] == RANDOM) & (plans["kept_fraction"] == kept) & (plans["draws"] > 1)]
    dense = plans.loc[plans["criterion"] == "dense", "value"]
    references = pd.concat([random["value"], dense])
    if references.empty:
        return
    metric = run.metric(task)
    shown = view(plans[plans["kept_fraction"].isin([kept, 1.0])], metric)
    log = shown is not None and shown.log
    reference = float((dense if log else references).iloc[0])
    table = pruned[pruned["kept_fraction"] == kept].set_index("criterion")[["value", "low", "high"]].astype(float)
    ends = dict(zip(ENDS, ("value", "low", "high"), strict=True))
    gains = {f"advantage{end}": table[name] - reference for end, name in ends.items()}
    table = table[["value"]].assign(**gains).join(_scored(run, task), how="outer")
    table = table.sort_values("value", ascending=not metric.higher_is_better, kind="stable").rename_axis("criterion")
    band = tuple(map(float, random[["value", "low", "high"]].iloc[0])) if len(random) else None
    draws = int(random["draws"].iloc[0]) if len(random) else 0
    yield Panel("", task, Comparison(metric, kept, table.reset_index(), band, draws, reference, run.criteria, log))


def draw(frame: Comparison) -> Figure:
    """A figure with a row for each criterion, the best on top.

    Columns: the advantage over the reference and, as far as any is known, the correlation with leave_one_out and
    seconds.
    """
    table = frame.table.iloc[:SHOWN]
    columns = [("advantage", _advantage_axis)]
    columns += [("spearman", _spearman_axis)] if table["spearman"].notna().any() else []
    columns += [("seconds", _seconds_axis)] if table["seconds"].notna().any() else []
    figure = new_figure(11.0, 1.7 + 0.3 * len(table))
    grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, (column, finish) in zip(grid, columns, strict=True):
        _points(axes, table, column, frame.criteria)
        finish(axes, frame)
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(table)), labels=[shortened(name) for name in table["criterion"]])
    grid[0].set_ylim(len(table) - 0.5, -0.5)
    grid[0].set_ylabel("criterion")
    legend_below(figure)
    return figure


def caption(frame: Comparison) -> str:
    table, metric = frame.table[frame.table["value"].notna()], frame.metric
    best = table.iloc[0]
    low, high = best["advantage_low"], best["advantage_high"]
    interval = "" if np.isnan([low, high]).any() else f" (95 % interval {metric.interval(low, high)})"
    parts = [
        f"With {per_cent(frame.kept)} of the heads {best['criterion']} is best at {metric.text(best['value'])}, "
        f"{metric.change(best['advantage'])} against {_reference(frame)}{interval}",
        *_cheapest(table, metric),
    ]
    if frame.random:
        mean, *ends = frame.random
        share = f"95 % of them {metric.interval(*ends)}"
        parts.append(f"{frame.draws} random draws reach {metric.text(mean)} on average, {share}")
    scored = frame.table["spearman"].notna().any()
    ranks = "" if scored else f" {TRUTH} was not scored, so no ranks are compared with it."
    rest = left_out(min(SHOWN, len(frame.table)), len(frame.table), "criteria", "the best")
    return f"{'; '.join(parts)}.{ranks} {ELSEWHERE}{rest}"


def _scored(run: Run, task: str) -> pd.DataFrame:
    """A row for each criterion, its index, that scored the task's heads, baseline random left out.

    Columns: spearman, the rank correlation of its scores with leave_one_out's, with _low and _high; and seconds.
    """
    rows = run.scores[(run.scores["task"] == task) & (run.scores["criterion"] != RANDOM)]
    seconds = rows.groupby("criterion")["seconds"].first().astype(float)
    scores = rows.pivot(index=["layer", "head"], columns="criterion", values="score").astype(float)
    truth = scores[TRUTH] if TRUTH in scores else pd.Series(np.nan, index=scores.index)
    correlations = {str(name): _spearman(scores[name], truth, itself=name == TRUTH) for name in scores.columns}
    columns = pd.DataFrame.from_dict(
        correlations, orient="index", columns=[f"spearman{end}" for end in ENDS], dtype=float
    )
    return columns.join(seconds)


def _spearman(one: pd.Series, other: pd.Series, *, itself: bool) -> tuple[float, float, float]:
    """Spearman's correlation of two criteria's scores over heads, and both ends of its 95 % bootstrap interval.

    Heads that one of the two did not score are left out; with fewer than two others all three numbers are NaN. Only the
    ends are NaN if `itself` (a criterion beside itself), for fewer than ENOUGH_HEADS heads, or if the correlation is
    undefined in most resamples.
    """
    both = np.stack([one, other])
    both = both[:, ~np.isnan(both).any(axis=0)]
    count = both.shape[1]
    if count < 2:
        return np.nan, np.nan, np.nan
    value = float(_correlations(both[:, None])[0])
    if count < ENOUGH_HEADS or itself:
        return value, np.nan, np.nan
    drawn = np.random.default_rng(SEED).integers(0, count, (RESAMPLES, count))
    replicates = _correlations(both[:, drawn])
    if np.isnan(replicates).mean() > 0.5:  # nearly all scores are the same
        return value, np.nan, np.nan
    low, high = np.nanpercentile(replicates, [2.5, 97.5])
    return value, float(low), float(high)


def _correlations(pairs: np.ndarray) -> np.ndarray:
    """Spearman's correlation, over heads, of each of n pairs, (2, n, heads) -> (n,).

    NaN where all scores of one of a pair are the same.
    """
    ranks = rankdata(pairs, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (ranks[0] * ranks[1]).sum(axis=-1) / np.sqrt((ranks**2).sum(axis=-1).prod(axis=0))


def _cheapest(table: pd.DataFrame, metric: Metric) -> Iterator[str]:
    """Yield a clause on the fastest of the criteria whose interval stays within the margin of the best one's value.

    If none of these is faster than the best, the clause says so. Nothing if the best one's seconds, or all others', are
    not known.
    """
    best, known = table.iloc[0], table[table["seconds"].notna()]
    if np.isnan(best["seconds"]) or len(known) < 2:
        return
    sign = 1 if metric.higher_is_better else -1
    behind = sign * (best["advantage"] - known["advantage_low" if sign > 0 else "advantage_high"])
    cheaper = known[(behind < margin(best["value"], metric)) & (known["seconds"] < best["seconds"])]
    if len(cheaper):
        row = cheaper.loc[cheaper["seconds"].idxmin()]
        yield (
            f"{row['criterion']} is the cheapest whose interval stays within {within(metric)} of that, at "
            f"{duration(row['seconds'])}"
        )
    elif best["seconds"] == known["seconds"].min():
        yield f"it is also the cheapest, at {duration(best['seconds'])}"
    else:
        yield f"no cheaper one's interval stays within {within(metric)} of that, at {duration(best['seconds'])}"


def _points(axes: Axes, table: pd.DataFrame, column: str, criteria: tuple[str, ...]) -> None:
    look_of = looks(criteria)
    for place, row in enumerate(table.to_dict("records")):
        look, value = look_of[row["criterion"]], pd.Series([row[column]])
        low, high = (pd.Series([row.get(f"{column}{end}", np.nan)]) for end in ENDS[1:])
        axes.errorbar(
            value, [place], xerr=reach(value, low, high), color=look.color, marker=look.marker, markersize=7,
            elinewidth=1.4, linestyle="",
        )  # fmt: skip


def _advantage_axis(axes: Axes, frame: Comparison) -> None:
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    if frame.random:
        _, low, high = (value - frame.reference for value in frame.random)
        label = f"random: 95 % of {frame.draws} draws"
        axes.axvspan(low, high, color=GREY, alpha=0.25, linewidth=0, zorder=0, label=label)
    if frame.metric.is_share:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    if frame.log:
        axes.set_xscale("symlog", linthresh=LINEAR * frame.reference)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _in_thousands(value)))
        axes.xaxis.set_minor_locator(NullLocator())
    unit = " (points)" if frame.metric.is_share else "" if frame.metric.higher_is_better else " (lower is better)"
    axes.set_xlabel(folded(f"{frame.metric.name} less {_reference(frame)}{unit}", 2.6))


def _in_thousands(value: float) -> str:
    """A tick's value as short as it goes: 100, 10k."""
    return f"{value:g}" if abs(value) < 1000 else f"{value / 1000:g}k"


def _spearman_axis(axes: Axes, frame: Comparison) -> None:  # noqa: ARG001
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.set_xlim(-1.06, 1.06)
    axes.set_xlabel(f"Spearman's correlation with\nthe scores of {TRUTH}")


def _seconds_axis(axes: Axes, frame: Comparison) -> None:  # noqa: ARG001
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("time to score all heads (s)")


def _reference(frame: Comparison) -> str:
    return "the mean of random draws" if frame.random and not frame.log else "the dense model"
