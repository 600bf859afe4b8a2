"""Accuracy against latency in every runtime: pruned, quantised, or both, and what no other beats."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from reports.base.formatting import between, listed, milliseconds, times
from reports.draw.style import GREY, INK, MARKERS, PALETTE, PAPER, legend_right, metric_axis, new_figure, reach
from reports.figures import Panel
from reports.read.runtimes_run import DENSE, FLOAT32, TORCH, Setting, Table

TITLE = "Pruned, quantised, or both"
ABSENT = "This figure needs models that were timed in a runtime."
OF = "latency, % of the dense model's in PyTorch in the same rounds"
FAR = 4.0  # times the dense model's perplexity, from where an axis is logarithmic


def panels(table: Table) -> Iterator[Panel]:
    """One panel for each task, batch and length that was timed; its frame is a Setting."""
    for setting in table.settings():
        heading = f"{setting.metric.name.capitalize()} against latency in every runtime"
        yield Panel(setting.slug, setting.title, setting, heading=heading)


def draw(frame: Setting) -> Figure:
    """A point for each model in each runtime: colours are runtimes, markers models; hollow ones have int8 weights."""
    figure = new_figure(9.0, 5.4)
    axes = figure.subplots()
    table, metric = frame.table, frame.metric
    colors = dict(zip(table["runtime"].unique(), PALETTE, strict=False))
    models = table.drop_duplicates(["variant", "kept_fraction"])
    markers = {(row["variant"], row["kept_fraction"]): MARKERS[n % 7] for n, (_, row) in enumerate(models.iterrows())}
    best = front(frame).sort_values("ratio")
    axes.plot(best["ratio"], best["value"], color=GREY, linewidth=6, alpha=0.35, drawstyle="steps-post", zorder=1)
    for place in range(len(table)):
        rows = table.iloc[[place]]
        row = rows.iloc[0]
        axes.errorbar(
            rows["ratio"], rows["value"], xerr=reach(rows["ratio"], rows["ratio_low"], rows["ratio_high"]),
            yerr=reach(rows["value"], rows["low"], rows["high"]), color=colors[row["runtime"]],
            marker=markers[row["variant"], row["kept_fraction"]], markersize=8, linestyle="", elinewidth=1.0,
            markerfacecolor=colors[row["runtime"]] if row["weights"] == FLOAT32 else PAPER,
        )  # fmt: skip
    worst = table["value"].max()
    log = not metric.higher_is_better and worst > FAR * table.loc[table["variant"] == DENSE, "value"].min()
    metric_axis(axes, metric, log=log)
    axes.set_xlabel(OF)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    axes.set_xlim(left=0)
    handles = [_entry(name, "s", color) for name, color in colors.items()]
    for _, row in models.iterrows():
        name = row["name"].partition(", int8")[0]
        marker = markers[row["variant"], row["kept_fraction"]]
        handles.append(_entry(name, marker, INK))
    if (table["weights"] != FLOAT32).any():
        handles.append(_entry("int8 weights", "o", INK, inside=PAPER))
    handles.append(Line2D([], [], color=GREY, linewidth=6, alpha=0.35, label="what no other beats"))
    legend_right(axes, handles=handles)
    return figure


def _entry(label: str, marker: str, color: Any, inside: Any = None) -> Line2D:
    """An entry of the legend: a marker, hollow if `inside` is the paper's colour."""
    return Line2D(
        [], [], color=color, marker=marker, markersize=8, markerfacecolor=inside or color, linestyle="", label=label
    )


def caption(frame: Setting) -> str:
    table, metric = frame.table, frame.metric
    dense = table[(table["variant"] == DENSE) & (table["runtime"] == TORCH) & (table["weights"] == FLOAT32)]
    start = f"The dense model in PyTorch takes {milliseconds(dense.iloc[0]['seconds'])}; " if len(dense) else ""
    found = [
        f"{row['name']} in {row['runtime']} ({times(1 / row['ratio'])} as fast, "
        f"{between(1 / row['ratio_high'], 1 / row['ratio_low'])}; {metric.text(row['value'])}, "
        f"{metric.change(row['difference'])}, 95 % interval "
        f"{metric.interval(row['difference_low'], row['difference_high'])})"
        for _, row in front(frame).sort_values("ratio", ascending=False).iterrows()
    ]
    return f"{worth(frame)} {start}what no other beats in both is {listed(found)}."


def front(frame: Setting) -> pd.DataFrame:
    """The rows that no other is as good as and faster than, or as fast as and better, to three digits of the metric.

    Runtimes add up in another order, so that further digits make none better.
    """
    sign = 1 if frame.metric.higher_is_better else -1
    merit = sign * frame.table["value"].map(lambda value: float(f"{value:.3g}"))
    rows = frame.table.assign(merit=merit).sort_values(["ratio", "merit"], ascending=[True, False])
    return rows[rows["merit"] > rows["merit"].cummax().shift(fill_value=float("-inf"))]


def worth(frame: Setting) -> str:
    """Whether pruning is worth it where int8 weights can be had: what it adds to them, and at which price."""
    pruned = front(frame).query("variant == 'pruned'")
    if pruned.empty:
        return "Pruning heads is not worth it here: other models are as good and faster, or as fast and better."
    both = pruned[pruned["weights"] != FLOAT32]
    compared = (both if len(both) else pruned).dropna(subset=["own_ratio"]).sort_values("ratio", ascending=False)
    told = [_beside_all_heads(row, frame) for _, row in compared.iterrows()]
    start = "Pruned models are among those that no other beats here"
    if len(both):
        speed = "speed" if (both["own_ratio_high"] < 1).any() else "no speed that shows"
        start = f"Pruning adds {speed} to int8 weights here"
    return f"{start}: {listed(told)}." if told else f"{start}."


def _beside_all_heads(row: pd.Series, frame: Setting) -> str:
    """What a pruned model gains and loses beside the dense one in the same runtime with the same weights."""
    table = frame.table
    there = (table["runtime"] == row["runtime"]) & (table["weights"] == row["weights"])
    (before,) = table.loc[there & (table["variant"] == DENSE), "value"]
    faster = f"{times(1 / row['own_ratio'])} as fast, {between(1 / row['own_ratio_high'], 1 / row['own_ratio_low'])}"
    values = f"{frame.metric.text(row['value'])} instead of {frame.metric.text(before)}"
    return f"{row['name']} in {row['runtime']} beside all heads there ({faster}; {values})"
