"""Accuracy against latency: what each plan costs, what it saves, and which ones no other beats."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from reports import frames
from reports.figures import Panel
from reports.frames import Tradeoff
from reports.run import REFERENCES, Run
from reports.style import GREY, INK, legend_right, looks, metric_axis, new_figure, reach
from reports.words import between, count, digits, milliseconds, per_cent, times

TITLE = "Accuracy against latency"
ORDER = 1
ABOUT = "task"
ABSENT = "Accuracy against latency needs a plan whose accuracy and whose shape's latency were both measured."


def panels(run: Run, task: str) -> Iterator[Panel]:
    for tradeoff in frames.tradeoffs(run, task):
        if tradeoff.setting and (tradeoff.table["speedup"].notna() & (tradeoff.table["criterion"] != "dense")).any():
            title = f"{task}, batch {tradeoff.batch}, {tradeoff.setting.text}"
            yield Panel(tradeoff.setting.slug, title, tradeoff)


def draw(frame: Tradeoff) -> Figure:
    figure = new_figure(8.6, 5.2)
    axes = figure.subplots()
    table = frame.table.assign(
        share=1 / frame.table["speedup"], share_low=1 / frame.table["speedup_high"],
        share_high=1 / frame.table["speedup_low"],
    )  # fmt: skip
    table = table[table["share"].notna()]
    _front(axes, table[table["front"]].sort_values("share"))
    for criterion, look in looks(frame.criteria).items():
        rows = table[table["criterion"] == criterion]
        if len(rows):
            label = f"{criterion} (mean of {_count(rows['draws'])} draws)" if rows["draws"].max() > 1 else criterion
            _points(axes, rows, label, color=look.color, marker=look.marker)
    for floor in table.loc[table["criterion"] == "none", "share"]:
        axes.axvline(floor, color=INK, linestyle=":", linewidth=1.2, label="latency without any head")
    dense = table[table["criterion"] == "dense"]
    _points(axes, dense, "dense", color=INK, marker="*", markersize=15, zorder=5)
    _label_front(axes, table[table["front"] & (table["criterion"] != "dense")])
    metric_axis(axes, frame.metric)
    axes.set_xlabel("latency, % of the dense model's in the same rounds")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    if len(dense):
        _milliseconds_on_top(axes, 1e3 * dense["pruned"].iloc[0], frame.batch)
    legend_right(axes)
    return figure


def caption(frame: Tradeoff) -> str:
    table, metric = frame.table, frame.metric
    timed = table[table["speedup"].notna()]
    pruned = timed[(timed["draws"] == 1) & ~timed["criterion"].isin(REFERENCES)]
    level = pruned["difference_high"] >= 0 if metric.higher_is_better else pruned["difference_low"] <= 0
    where = f"At batch {frame.batch} on {frame.setting.device if frame.setting else 'no device'}"
    among = "among" if timed.loc[timed["criterion"] == "dense", "front"].any() else "not among"
    front = f"the Pareto front has {count(timed['front'].sum(), 'plan')}, the dense model {among} them"
    if level.any():
        best = pruned[level].sort_values("speedup").iloc[-1]
        which = f"the fastest plan whose {metric.name} is level with the dense model's"
    elif len(pruned):
        best = pruned.sort_values("value", ascending=not metric.higher_is_better).iloc[0]
        which = f"no pruned plan's {metric.name} is level with the dense model's; the best"
    else:
        return f"{where} only plans of several draws were timed."
    dense = timed.loc[timed["criterion"] == "dense", "pruned"]
    latency = dense.iloc[0] / best["speedup"] if len(dense) else best["pruned"]
    return (
        f"{where} {which}, {best['criterion']} with {per_cent(best['kept_fraction'])} of the heads, reaches "
        f"{metric.text(best['value'])} ({metric.change(best['difference'])}; 95 % interval "
        f"{metric.interval(best['difference_low'], best['difference_high'])}) in {milliseconds(latency)}, "
        f"{times(best['speedup'])} as fast ({between(best['speedup_low'], best['speedup_high'])}); {front}."
    )


def _points(axes: Axes, rows: pd.DataFrame, label: str, **look: Any) -> None:
    """Points with intervals on both axes."""
    if rows.empty:
        return
    across = reach(rows["share"], rows["share_low"], rows["share_high"])
    along = reach(rows["value"], rows["low"], rows["high"])
    options = {"linestyle": "", "elinewidth": 1.1, "capsize": 0, "markersize": 7, "markeredgewidth": 1.4} | look
    axes.errorbar(rows["share"], rows["value"], xerr=across, yerr=along, label=label, **options)  # type: ignore[arg-type]


def _front(axes: Axes, rows: pd.DataFrame) -> None:
    axes.plot(
        rows["share"], rows["value"], color=GREY, linewidth=6, alpha=0.35, drawstyle="steps-post",
        solid_capstyle="round", zorder=1, label="Pareto front, with heads kept",
    )  # fmt: skip


def _label_front(axes: Axes, rows: pd.DataFrame) -> None:
    """The kept fraction beside each point of the front that has room for it."""
    axes.autoscale_view()
    taken: list[np.ndarray] = []
    for _, row in rows.iterrows():
        place = axes.transData.transform((row["share"], row["value"]))
        if all((np.abs(place - other) > (55, 18)).any() for other in taken):
            taken.append(place)
            axes.annotate(
                per_cent(row["kept_fraction"]), (row["share"], row["value"]), xytext=(-6, 7),
                textcoords="offset points", ha="right", fontsize="small", color=INK,
                path_effects=[withStroke(linewidth=3, foreground="white")], zorder=6,
            )  # fmt: skip


def _milliseconds_on_top(axes: Axes, dense: float, batch: int | None) -> None:
    def milliseconds_of(share: Any) -> Any:
        return dense * share

    def share_of(milliseconds: Any) -> Any:
        return milliseconds / dense

    top = axes.secondary_xaxis("top", functions=(milliseconds_of, share_of))
    top.set_xlabel(f"ms per forward pass of batch {batch} (dense: {digits(dense)} ms)")


def _count(draws: pd.Series) -> str:
    low, high = int(draws.min()), int(draws.max())
    return f"{low}" if low == high else f"{low}–{high}"
