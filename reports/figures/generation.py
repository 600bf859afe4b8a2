"""Tokens per second of a causal model: reading the prompt (prefill), and one token after another (decode)."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reports.analyse import frames
from reports.analyse.limits import left_out, spread
from reports.base.formatting import between, capitalised, digits, per_cent, size, times
from reports.base.table_cells import Summary, interval, number, word
from reports.draw.style import INK, extent, kept_axis, legend_below, looks, new_figure, reach
from reports.figures import Panel
from reports.read.run import Run

TITLE = "Prefill and decode"
ABOUT = "generation"
ABSENT = "No causal model was timed in this run."
POINT = ["phase", "batch", "seq_len", "kept_fraction"]
LINES = 9  # batch sizes and lengths that are drawn; the table has all
PHASES = {"prefill": "prefill: the prompt at once", "decode": "decode: one token a step, with a cache"}


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each setting and model.

    Columns of its frame: POINT, tokens (of one call), speedup, dense and rate (both in tokens/s), each with _low and
    _high, and cache_bytes. The rate of a pruned model is the paired speedup times the dense model's rate over all cases
    of that batch and length; the dense model itself stands at a kept fraction of 1.
    """
    for setting, cases in frames.conditions(frames.cases_of(run, task)):
        for model, rows in cases.groupby("task"):
            frame = _frame(run, rows)
            if len(frame):
                title = f"{model}, {setting.text}"
                yield Panel(f"{model}-{setting.slug}", title, frame, (_table(frame),))


def draw(frame: pd.DataFrame) -> Figure:
    phases = [phase for phase in PHASES if phase in {*frame["phase"]}]
    figure = new_figure(1.0 + 4.2 * len(phases), 4.6)
    grid = figure.subplots(1, len(phases), squeeze=False)[0]
    for axes, phase in zip(grid, phases, strict=True):
        _one_phase(axes, frame[frame["phase"] == phase])
        axes.set_title(PHASES[phase], fontsize="medium")
    legend_below(figure)
    return figure


def caption(frame: pd.DataFrame) -> str:
    parts = []
    for phase in (phase for phase in PHASES if phase in {*frame["phase"]}):
        rows = frame[(frame["phase"] == phase) & (frame["kept_fraction"] < 1)]
        best = rows.iloc[rows["speedup"].argmax()]
        parts.append(
            f"{phase} gains at most {times(best['speedup'])} ({between(best['speedup_low'], best['speedup_high'])}), "
            f"with {per_cent(best['kept_fraction'])} of the heads at {_size(best)}: {digits(best['rate'])} tokens/s "
            f"instead of {digits(best['dense'])}"
        )
    text = "; ".join(parts)
    sizes = len(frame[["batch", "seq_len"]].drop_duplicates())
    return f"{capitalised(text)}.{left_out(min(LINES, sizes), sizes, 'sizes')}"


def _frame(run: Run, cases: pd.DataFrame) -> pd.DataFrame:
    pruned = frames.latencies(run, cases, POINT)
    if pruned.empty:
        return pruned
    group = POINT[:-1]
    tokens = cases.groupby(group, dropna=False)["tokens"].first().reset_index()
    dense = frames.latencies(run, cases, group)[[*group, "dense", "dense_low", "dense_high"]].merge(tokens, on=group)
    bounds = {"dense": "dense", "dense_low": "dense_high", "dense_high": "dense_low"}
    dense = dense.assign(**{name: dense["tokens"] / dense[seconds] for name, seconds in bounds.items()})
    frame = pruned.drop(columns=list(bounds)).merge(dense, on=group)
    ends = {f"rate{end}": frame["dense"] * frame[f"speedup{end}"] for end in ("", "_low", "_high")}
    whole = dense.assign(kept_fraction=1.0, speedup=1.0, speedup_low=1.0, speedup_high=1.0)
    own = {f"rate{end}": whole[f"dense{end}"] for end in ("", "_low", "_high")}
    frame = frame.assign(**ends)
    frame = pd.concat([frame[frame["kept_fraction"] < 1], whole.assign(**own)], ignore_index=True)
    return frame.merge(_caches(run, cases), on=POINT, how="left")


def _caches(run: Run, cases: pd.DataFrame) -> pd.DataFrame:
    """Bytes of the key/value cache, with the columns POINT and cache_bytes; the dense model's at a kept fraction of 1.

    Where several cases share a POINT, the largest cache counts.
    """
    caches = cases.merge(run.counts[["case", "arm", "cache_bytes"]], on="case")
    kept = caches["kept_fraction"].where(caches["arm"] == "pruned", 1.0)
    caches = caches.assign(kept_fraction=kept)[caches["arm"].isin(frames.ARMS)]
    return caches.groupby(POINT, dropna=False)["cache_bytes"].max().reset_index()


def _one_phase(axes: Axes, frame: pd.DataFrame) -> None:
    groups = spread(list(frame.groupby(["batch", "seq_len"], dropna=False)), LINES)
    look = looks([str(key) for key, _ in groups])
    for key, rows in groups:
        rows = rows.sort_values("kept_fraction")
        axes.errorbar(
            rows["kept_fraction"], rows["rate"], yerr=reach(rows["rate"], rows["rate_low"], rows["rate_high"]),
            label=_size(rows.iloc[0]), color=look[str(key)].color, marker=look[str(key)].marker, linewidth=1.4,
            elinewidth=1.1, markersize=6,
        )  # fmt: skip
        whole = rows[rows["kept_fraction"] == 1]
        axes.plot(whole["kept_fraction"], whole["rate"], linestyle="", marker="*", color=INK, markersize=10, zorder=5)
    axes.set_yscale("log" if frame["rate"].max() > 8 * frame["rate"].min() else "linear")
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.08 * extent(frame, "rate", "rate_high")[1])
    kept_axis(axes)
    axes.set_xlim(-0.03, 1.06)
    axes.set_ylabel("tokens per second")


def _size(row: pd.Series) -> str:
    tokens = "" if pd.isna(row["seq_len"]) else f", {int(row['seq_len'])} tokens"
    return f"batch {int(row['batch'])}{tokens}"


def _table(frame: pd.DataFrame) -> Summary:
    ordered = frame.sort_values(POINT, ascending=[False, True, True, False])
    return Summary(
        title="Tokens per second, and the key/value cache",
        note="",
        columns=("phase", "batch", "tokens", "kept", "tokens/s", "speedup", "cache"),
        rows=tuple(
            (
                word(row["phase"]),
                number(row["batch"], "{:.0f}".format),
                number(row["seq_len"], "{:.0f}".format),
                number(row["kept_fraction"], lambda kept: f"{100 * kept:.3g} %"),
                interval(row, "rate", digits),
                interval(row, "speedup", times),
                number(row["cache_bytes"], size),
            )
            for row in ordered.to_dict("records")
        ),
    )
