"""Where a pass spends its time, operator by operator, in the dense model and in pruned ones."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports.analyse.frames import device_slug, device_title
from reports.analyse.limits import left_out, spread
from reports.base.formatting import digits, per_cent
from reports.base.table_cells import NONE, Cell, Summary, number, word
from reports.draw.style import legend_below, new_figure, shortened
from reports.figures import Panel
from reports.read.run import Run

TITLE = "Operators, dense against pruned"
ABOUT = "task"
ABSENT = "Operators are measured apart, under the profiler: nox -s profile."
SHOWN = 10  # operators with a row of their own
KEPT = 6  # kept fractions that are drawn; the table has all
OTHERS = "all others"
WORTH_A_WORD = 0.02  # of the dense pass


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each device and batch size.

    Its frame has milliseconds of one forward pass: the device's own where there are any, else the host's. It has a
    column for each kept fraction, the largest first, and a row for each operator, those that take longest in the first
    column on top. With more than SHOWN + 1 operators, all after the first SHOWN are summed in one last row, OTHERS.
    """
    rows = run.operators[run.operators["task"] == task]
    for (device, machine, batch), operators in rows.groupby(["device", "machine", "batch"]):
        # on an accelerator the host only launches, and waits
        clock = "device_seconds" if (operators["device_seconds"] > 0).any() else "seconds"
        operators = operators.assign(ms=1e3 * operators[clock])
        wide = operators.pivot_table(
            index="operator", columns="kept_fraction", values="ms", aggfunc="sum", fill_value=0.0
        )
        wide = wide[sorted(wide.columns, reverse=True)]
        frame = _dearest(wide)
        title = f"{task}, {device_title(device, machine)}, batch {batch:.0f}"
        yield Panel(f"{device_slug(device, machine)}-b{batch:.0f}", title, frame, (_table(frame),))


def draw(frame: pd.DataFrame) -> Figure:
    frame = frame[spread(list(frame.columns), KEPT)]
    kept = list(map(float, frame.columns))
    figure = new_figure(9.0, 1.4 + len(frame) * (0.16 + 0.13 * len(kept)))
    axes = figure.subplots()
    height = 0.82 / len(kept)
    colors = sns.color_palette("viridis", len(kept) + 1)[: len(kept)]
    for place, (fraction, color) in enumerate(zip(kept, colors, strict=True)):
        label = "dense" if fraction == 1 else f"{per_cent(fraction)} of the heads"
        offsets = np.arange(len(frame)) + height * (place - (len(kept) - 1) / 2)
        axes.barh(offsets, frame[fraction], height=0.94 * height, color=color, label=label)
    axes.set_yticks(range(len(frame)), labels=[shortened(str(name)) for name in frame.index])
    axes.set_ylim(len(frame) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel("own time in one pass under the profiler (ms)")
    axes.set_ylabel("operator")
    legend_below(figure)
    return figure


def caption(frame: pd.DataFrame) -> str:
    count = frame.shape[1]
    return f"{_sentence(frame)}{left_out(min(KEPT, count), count, 'kept fractions')}"


def _sentence(frame: pd.DataFrame) -> str:
    dense, least = frame.iloc[:, 0], frame.iloc[:, -1]
    if frame.shape[1] == 1:
        return f"{frame.index[0]} takes {_share(dense.iloc[0], dense.sum())} of {digits(dense.sum())} ms."
    most = frame.index[int((dense - least).argmax())]
    text = (
        f"Of {digits(dense.sum())} ms of the dense pass {digits(least.sum())} remain with "
        f"{per_cent(float(frame.columns[-1]))} of the heads ({_share(least.sum(), dense.sum())}); {most} gives most "
        f"of it, {digits(dense[most])} to {digits(least[most])} ms"
    )
    left = (least / dense)[dense > WORTH_A_WORD * dense.sum()].drop(OTHERS, errors="ignore")
    if left.empty:
        return f"{text}."
    return f"{text}, and {left.idxmax()} gives least, {_share(left.max(), 1.0)} of it is left."


def _dearest(wide: pd.DataFrame) -> pd.DataFrame:
    ordered = wide.sort_values(wide.columns[0], ascending=False)
    if len(ordered) <= SHOWN + 1:
        return ordered
    others = ordered.iloc[SHOWN:].sum().rename(OTHERS)
    return pd.concat([ordered.iloc[:SHOWN], others.to_frame().T])


def _table(frame: pd.DataFrame) -> Summary:
    dense = frame.columns[0]
    whole = pd.concat([frame, frame.sum().rename("sum").to_frame().T])
    pruned = list(map(float, frame.columns[1:]))
    return Summary(
        title="Milliseconds of one pass by operator, and what remained",
        note="The profiler takes time of its own; these are shares, not latencies.",
        columns=("operator", "dense (ms)", *(f"{per_cent(kept)} kept (ms)" for kept in pruned),
                 *(f"left at {per_cent(kept)}" for kept in pruned)),
        rows=tuple(
            (
                word(name),
                *(number(row[kept], digits) for kept in frame.columns),
                *(_left(row[kept], row[dense]) for kept in pruned),
            )
            for name, row in whole.iterrows()
        ),
    )  # fmt: skip


def _left(pruned: float, dense: float) -> Cell:
    return Cell(NONE) if dense == 0 else Cell(_share(pruned, dense), order=pruned / dense)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"
