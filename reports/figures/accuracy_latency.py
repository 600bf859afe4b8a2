"""Accuracy against latency: what each plan costs, what it saves, and which ones no other beats."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from reports.analyse import frames
from reports.analyse.frames import Tradeoff
from reports.analyse.level import is_level, none_level, within
from reports.analyse.limits import best_criteria
from reports.analyse.metric_view import View, beyond, view
from reports.analyse.plan_names import has_repairs, label
from reports.base.formatting import between, capitalised, count, digits, milliseconds, per_cent, times
from reports.draw.style import (
    GREY,
    INK,
    PAPER,
    extent,
    folded,
    legend_right,
    looks,
    metric_axis,
    new_figure,
    reach,
    shortened,
    text_width,
)
from reports.figures import Panel
from reports.read.run import RAW, REFERENCES, Metric, Run

TITLE = "Accuracy against latency"
ABOUT = "task"
ABSENT = "Accuracy against latency needs a plan whose accuracy and whose shape's latency were both measured."
CRITERIA = 18
CORNERS = ((False, True), (True, True), (False, False), (True, False))  # of a point: right of it, above it


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each setting and batch size in which a plan other than dense was timed; its frame is a Tradeoff."""
    for tradeoff in frames.tradeoffs(run, task):
        if tradeoff.setting and (tradeoff.table["speedup"].notna() & (tradeoff.table["criterion"] != "dense")).any():
            title = f"{task}, batch {tradeoff.batch}, {tradeoff.setting.text}"
            heading = f"{capitalised(tradeoff.metric.name)} against latency"
            yield Panel(f"{tradeoff.setting.slug}-b{tradeoff.batch}", title, tradeoff, heading=heading)


def draw(frame: Tradeoff) -> Figure:
    figure = new_figure(8.6, 5.2)
    axes = figure.subplots()
    table, _ = best_criteria(frame.table, frame.metric, CRITERIA)
    bounds = {"share": "speedup", "share_low": "speedup_high", "share_high": "speedup_low"}
    table = table.assign(**{name: 1 / table[speedup] for name, speedup in bounds.items()})
    table = table[table["share"].notna()]
    shown = view(table, frame.metric)
    outside, table = _at_the_edge(table, frame.metric, shown)
    _front(axes, table[table["front"]].sort_values("share"))
    beside = has_repairs(table)
    for criterion, look in looks(frame.criteria).items():
        for repair, rows in table[table["criterion"] == criterion].groupby("repair", sort=False):
            name = shortened(label(rows.iloc[0], beside=beside))
            several = f" (mean of {_count(rows['draws'])} draws)" if rows["draws"].max() > 1 else ""
            fill = {"markerfacecolor": PAPER} if beside and repair == RAW else {}
            _points(axes, rows, f"{name}{several}", color=look.color, marker=look.marker, **fill)
        _arrows(axes, outside[outside["criterion"] == criterion], frame.metric, look.color)
    if len(outside):
        _arrows(axes, outside[:0], frame.metric, INK, label="beyond the figure")
    for floor in table.loc[table["criterion"] == "none", "share"]:
        axes.axvline(floor, color=INK, linestyle=":", linewidth=1.2, label="latency without any head")
    dense = table[table["criterion"] == "dense"]
    _points(axes, dense, "dense", color=INK, marker="*", markersize=15, zorder=5)
    metric_axis(axes, frame.metric, log=shown is not None and shown.log)
    _end(axes, table, frame.metric, shown)
    room = 0.75 * figure.get_figwidth()
    axes.set_xlabel(folded("latency, % of the dense model's in the same rounds", room))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    if len(dense):
        _milliseconds_on_top(axes, 1e3 * dense["pruned"].iloc[0], frame.batch, room)
    legend_right(axes)
    _label_front(figure, axes, table)
    return figure


def caption(frame: Tradeoff) -> str:
    table, metric = frame.table, frame.metric
    timed = table[table["speedup"].notna()]
    pruned = timed[(timed["draws"] == 1) & ~timed["criterion"].isin(REFERENCES)]
    level = pruned[is_level(pruned, metric)]
    where = f"At batch {frame.batch} on {frame.setting.device if frame.setting else 'no device'}"
    among = "among" if timed.loc[timed["criterion"] == "dense", "front"].any() else "not among"
    front = f"the Pareto front has {count(timed['front'].sum(), 'plan')}, the dense model {among} them"
    if len(level):
        best = level.sort_values("speedup").iloc[-1]
        which = f"the fastest plan that is level with the dense model, within {within(metric)}"
    elif len(pruned):
        best = pruned.sort_values("value", ascending=not metric.higher_is_better).iloc[0]
        which = f"{none_level(pruned, metric)}; the best"
    else:
        return f"{where} only plans of several draws were timed."
    dense = timed.loc[timed["criterion"] == "dense", "pruned"]
    rest = beyond(timed, metric, view(timed, metric)) + best_criteria(table, metric, CRITERIA)[1]
    latency = dense.iloc[0] / best["speedup"] if len(dense) else best["pruned"]
    return (
        f"{where} {which}, {_named(best, beside=has_repairs(table))} {per_cent(best['kept_fraction'])} of the heads, "
        "reaches "
        f"{metric.text(best['value'])} ({metric.change(best['difference'])}; 95 % interval "
        f"{metric.interval(best['difference_low'], best['difference_high'])}) in {milliseconds(latency)}, "
        f"{times(best['speedup'])} as fast ({between(best['speedup_low'], best['speedup_high'])}); {front}.{rest}"
    )


def _named(plan: pd.Series, *, beside: bool) -> str:
    """The plan's label and "with", after a comma where the label has one: "taylor, repaired, with"."""
    name = label(plan, beside=beside)
    return f"{name}, with" if "," in name else f"{name} with"


def _at_the_edge(table: pd.DataFrame, metric: Metric, shown: View | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that a figure has no room for, moved to its edge, and the others; dense and none count among others."""
    if shown is None:
        return table[:0], table
    is_outside = ~shown.inside(table["value"], metric) & ~table["criterion"].isin(REFERENCES)
    return table[is_outside].assign(value=shown.edge), table[~is_outside]


def _arrows(axes: Axes, rows: pd.DataFrame, metric: Metric, color: Any, **options: Any) -> None:
    """Draw an arrow out of the figure, at its edge, for each row; without rows, only the entry of a legend."""
    marker = CARETDOWN if metric.higher_is_better else CARETUP
    axes.plot(rows["share"], rows["value"], linestyle="", marker=marker, markersize=9, color=color, **options)


def _end(axes: Axes, table: pd.DataFrame, metric: Metric, shown: View | None) -> None:
    """End the y axis at the edge of what is shown, a little beyond the best value on the other side."""
    if shown is None:
        return
    least, most = extent(table[table["criterion"] != "none"], "value", "low", "high")
    if metric.higher_is_better:
        axes.set_ylim(shown.edge - 0.04 * (most - shown.edge), most + 0.06 * (most - shown.edge))
    else:
        axes.set_ylim(0.9 * least, 1.1 * shown.edge)


def _points(axes: Axes, rows: pd.DataFrame, entry: str, **look: Any) -> None:
    """Draw each row at `share` (latency / dense latency) and `value` (the metric), with the intervals of both.

    Args:
        entry: all rows' entry in the legend.
        look: options of `Axes.errorbar`.
    """
    if rows.empty:
        return
    across = reach(rows["share"], rows["share_low"], rows["share_high"])
    along = reach(rows["value"], rows["low"], rows["high"])
    options = {"linestyle": "", "elinewidth": 1.1, "capsize": 0, "markersize": 7, "markeredgewidth": 1.4} | look
    axes.errorbar(rows["share"], rows["value"], xerr=across, yerr=along, label=entry, **options)  # type: ignore[arg-type]


def _front(axes: Axes, rows: pd.DataFrame) -> None:
    axes.plot(
        rows["share"], rows["value"], color=GREY, linewidth=6, alpha=0.35, drawstyle="steps-post",
        solid_capstyle="round", zorder=1, label="Pareto front, with heads kept",
    )  # fmt: skip


def _label_front(figure: Figure, axes: Axes, rows: pd.DataFrame) -> None:
    """Write the kept fraction beside each point of the Pareto front but the dense model.

    It stands at the first of CORNERS in which it overlaps no point and no other label, and is left out if there is
    none.
    """
    figure.draw_without_rendering()  # places are known once everything else is laid out
    inside, dot = axes.get_window_extent(), figure.dpi / 72
    places = axes.transData.transform(rows[["share", "value"]].to_numpy(dtype=float))
    taken = [Bbox.from_bounds(x - 3 * dot, y - 3 * dot, 6 * dot, 6 * dot) for x, y in places]
    on_front = (rows["front"] & (rows["criterion"] != "dense")).to_numpy()
    for (x, y), (_, row) in zip(places[on_front], rows[on_front].iterrows(), strict=True):
        text = per_cent(row["kept_fraction"])
        width, height = dot * (text_width(text, "small") + 4), dot * 14
        for right, up in CORNERS:
            left = x + 3 * dot if right else x - 3 * dot - width
            bottom = y + 4 * dot if up else y - 4 * dot - height
            box = Bbox.from_bounds(left, bottom, width, height)
            fits = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
            if fits and not box.count_overlaps(taken):
                taken.append(box)
                axes.annotate(
                    text, (row["share"], row["value"]), xytext=(6 if right else -6, 7 if up else -7),
                    textcoords="offset points", ha="left" if right else "right", va="bottom" if up else "top",
                    fontsize="small", color=INK, zorder=6,
                )  # fmt: skip
                break


def _milliseconds_on_top(axes: Axes, dense: float, batch: int | None, room: float) -> None:
    def milliseconds_of(share: Any) -> Any:
        return dense * share

    def share_of(milliseconds: Any) -> Any:
        return milliseconds / dense

    top = axes.secondary_xaxis("top", functions=(milliseconds_of, share_of))
    top.set_xlabel(folded(f"ms per forward pass of batch {batch} (dense: {digits(dense)} ms)", room))


def _count(draws: pd.Series) -> str:
    low, high = int(draws.min()), int(draws.max())
    return f"{low}" if low == high else f"{low}–{high}"
