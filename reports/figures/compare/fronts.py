"""Accuracy against latency of both sides, each in per cent of its own dense model."""

from collections.abc import Iterator

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reports.analyse.compare.comparison import Comparison, Judged
from reports.analyse.level import is_level, none_level, within
from reports.analyse.plan_names import has_repairs, label
from reports.base.formatting import between, capitalised, count, per_cent, times
from reports.draw.style import INK, legend_right, looks, metric_axis, new_figure, reach
from reports.figures import Panel

TITLE = "Accuracy against latency, both"
ABSENT = "No task has both accuracy and latency of pruned plans on both sides."


def panels(comparison: Comparison) -> Iterator[Panel]:
    """One panel for each table of Comparison.fronts (a task, setting and batch size); its frame is a Judged of it."""
    for title, table in comparison.fronts.items():
        yield Panel(title, title, comparison.judged(table))


def draw(frame: Judged) -> Figure:
    figure = new_figure(8.6, 5.2)
    axes = figure.subplots()
    look = looks([frame.first, frame.second])
    for side in (frame.first, frame.second):
        color, marker = look[side]
        rows = frame.table[frame.table["side"] == side]
        front = rows[rows["front"]].sort_values("share")
        axes.plot(
            front["share"], front["value"], color=color, linewidth=5, alpha=0.3, drawstyle="steps-post",
            solid_capstyle="round", zorder=1, label=f"Pareto front of {side}",
        )  # fmt: skip
        pruned = rows[rows["criterion"] != "dense"]
        axes.errorbar(
            pruned["share"], pruned["value"], xerr=reach(pruned["share"], pruned["share_low"], pruned["share_high"]),
            yerr=reach(pruned["value"], pruned["low"], pruned["high"]), label=side, linestyle="", elinewidth=0.9,
            color=color, marker=marker, markersize=5.5, alpha=0.8,
        )  # fmt: skip
    dense = frame.table[frame.table["criterion"] == "dense"]
    axes.plot(dense["share"], dense["value"], "*", color=INK, markersize=14, zorder=5, label="dense")
    metric_axis(axes, frame.metric)
    axes.set_xlabel("latency, % of each side's own dense model in the same rounds")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    legend_right(axes)
    return figure


def caption(frame: Judged) -> str:
    """A clause for each side, on how many plans its Pareto front has, and on its fastest plan that is level with dense.

    A plan is level if its whole interval stays within the margin; where none is, the clause says so.
    """
    clauses = "; ".join(_side(frame, side) for side in (frame.first, frame.second))
    return f"{capitalised(clauses)}."


def _side(frame: Judged, side: str) -> str:
    metric = frame.metric
    rows = frame.table[(frame.table["side"] == side) & (frame.table["draws"] == 1)]
    pruned = rows[~rows["criterion"].isin(["dense", "none"])]
    level = pruned[is_level(pruned, metric)]
    front = f"its front has {count(rows['front'].sum(), 'plan')}"
    if level.empty:
        return f"in {side} {none_level(pruned, metric)}, and {front}"
    best = level.sort_values("speedup").iloc[-1]
    plan = f"{label(best, beside=has_repairs(rows))} with {per_cent(best['kept_fraction'])} of the heads"
    speedup = f"{times(best['speedup'])} ({between(best['speedup_low'], best['speedup_high'])})"
    return (
        f"in {side} the fastest plan level with the dense model, within {within(metric)}, is {plan}, "
        f"{metric.text(best['value'])} at {speedup}, and {front}"
    )
