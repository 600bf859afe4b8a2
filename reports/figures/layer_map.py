"""The pruned bare layer over batch size and length: its speedup, and the milliseconds behind it."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from reports.analyse import frames
from reports.analyse.limits import left_out, spread
from reports.base.formatting import between, count, digits, per_cent, times
from reports.draw.grid import panel_grid
from reports.draw.heatmaps import log_reach, speedup_bar, speedup_cells, speedup_texts
from reports.draw.style import text_width
from reports.figures import Panel
from reports.read.run import Run

TITLE = "The bare layer over batch size and length"
ABOUT = "layer"
ABSENT = "The map of the bare layer needs cases that time it pruned beside dense."
LAYER = ["heads_total", "head_dim", "kept_fraction"]
MAPS, SIDE = 9, 6  # heatmaps, and rows and columns of each
CELL_INCHES = 1.3, 0.6
PAGE_INCHES = 12.0


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each setting.

    Its frame has a row for each layer, kept fraction, batch size and length. Columns: LAYER, batch, seq_len (0 where
    there is none), and speedup, dense and pruned (seconds), each with _low and _high.
    """
    for setting, cases in frames.conditions(frames.cases_of(run, task)):
        frame = frames.latencies(run, cases, [*LAYER, "batch", "seq_len"])
        if len(frame):
            frame = frame.assign(**frame[["head_dim", "seq_len"]].fillna(0).astype(int))
            yield Panel(setting.slug, setting.text, frame)


def draw(frame: pd.DataFrame) -> Figure:
    """A figure with a heatmap of speedups, batch size by length, for each layer and kept fraction, all on one scale."""
    frame = _shown(frame).assign(text=_texts)
    maps = [(_name(rows.iloc[0]), rows) for _, rows in _maps(frame)]
    widest = max(rows["seq_len"].nunique() for _, rows in maps), max(rows["batch"].nunique() for _, rows in maps)
    width = 0.7 + max(CELL_INCHES[0] * widest[0], max(text_width(name) for name, _ in maps) / 72)
    columns = max(1, int(PAGE_INCHES // width))
    figure, grid, places = panel_grid(maps, columns, (1.4, width), height=(0.6, 0.9 + CELL_INCHES[1] * widest[1]))
    reach = log_reach(frame["speedup"])
    for axes, (name, rows) in places:
        speedup, texts = (rows.pivot(index="batch", columns="seq_len", values=it) for it in ("speedup", "text"))
        mesh = speedup_cells(axes, speedup, texts, reach)
        axes.set_title(name, fontsize="medium", fontweight="normal")
        axes.set_xticklabels([str(tokens or "none") for tokens in speedup.columns])
        axes.set_yticklabels([f"{batch:.0f}" for batch in speedup.index])
        axes.set(xlabel="length (tokens)", ylabel="batch size")
    speedup_bar(figure, mesh, grid, reach)
    return figure


def caption(frame: pd.DataFrame) -> str:
    best, worst = (_described(frame.iloc[place]) for place in (frame["speedup"].argmax(), frame["speedup"].argmin()))
    rounds = count(frame["rounds"].sum(), "round")
    if len(frame) == 1:
        return f"The bare layer's median paired speedup is {best}, over {rounds}."
    cells = left_out(len(_shown(frame)), len(frame), "cells")
    return f"The bare layer's median paired speedup goes from {worst} to {best}; {rounds} in all.{cells}"


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    maps = [rows for _, rows in _maps(frame)]
    frame = pd.concat(spread(maps, MAPS))
    batches = spread(sorted(frame["batch"].unique()), SIDE)
    lengths = spread(sorted(frame["seq_len"].unique()), SIDE)
    return frame[frame["batch"].isin(batches) & frame["seq_len"].isin(lengths)]


def _maps(frame: pd.DataFrame) -> list[tuple[object, pd.DataFrame]]:
    """Pairs of the values of LAYER and the rows of one heatmap, a heatmap for each layer and kept fraction.

    Those of one layer stand side by side, most heads kept first.
    """
    maps = list(frame.groupby(LAYER))
    return sorted(maps, key=lambda pair: (*pair[1][LAYER[:2]].iloc[0], -pair[1]["kept_fraction"].iloc[0]))


def _texts(frame: pd.DataFrame) -> pd.Series:
    ends = zip(frame["dense"], frame["pruned"], strict=True)
    return speedup_texts(frame) + [f"\n{digits(1e3 * dense)}→{digits(1e3 * pruned)} ms" for dense, pruned in ends]


def _name(row: pd.Series) -> str:
    width = f" × {row['head_dim']:.0f}" if row["head_dim"] else ""
    return f"{row['heads_total']:.0f} heads{width}, {per_cent(round(row['kept_fraction'], 3))} kept"


def _described(row: pd.Series) -> str:
    tokens = f" × {row['seq_len']:.0f} tokens" if row["seq_len"] else ""
    return (
        f"{times(row['speedup'])} ({between(row['speedup_low'], row['speedup_high'])}; {_name(row)}, batch "
        f"{row['batch']:.0f}{tokens}, {digits(1e3 * row['dense'])} to {digits(1e3 * row['pruned'])} ms)"
    )
