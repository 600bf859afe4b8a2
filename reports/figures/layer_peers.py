"""The bare layer beside its peers, in the same rounds, with the same weights and the same kept heads."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from reports.analyse import frames
from reports.analyse.limits import left_out
from reports.base import stats
from reports.base.formatting import between, count, listed
from reports.draw.style import INK, STRIPE, Look, extent, legend_below, looks, new_figure, reach
from reports.figures import Panel
from reports.read.run import Run

TITLE = "The bare layer beside its peers"
ABOUT = "layer"
ABSENT = "The comparison of the bare layer with its peers was not measured in this run."
TARGET = 1.03  # where the project wants every cell's upper bound
FLOOR = "products"  # what no layer can undercut, and so no peer
PEERS: Mapping[str, str] = {
    "torch": "torch.nn.MultiheadAttention",
    "linears": "four linears around SDPA",
    "textbook": "textbook, explicit softmax",
    "transformers": "transformers, SDPA",
    "nested": "nested tensors, no padding",
    "torch_pruning": "Torch-Pruning's result",
    "masked": "heads masked, not cut",
    FLOOR: "bare products and kernel, no layer",
    "float32": "ours in float32",
    "eager": "ours, eager",
}
NO_PEERS = (FLOOR, "float32", "eager")  # shown, but nothing that another would use in our place
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)
CELL = ["heads_kept", "heads_total", "head_dim", "batch", "seq_len"]
SHOWN = 32  # sizes


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each setting.

    Its frame has a row for each case and peer. Columns: case, CELL, peer, and ratio (time of ours / time of the peer)
    with _low and _high.
    """
    for setting, cases in frames.conditions(frames.cases_of(run, task)):
        rows = [row for case in cases.sort_values(CELL).to_dict("records") for row in _rows(run, case)]
        if rows:
            yield Panel(setting.slug, setting.text, pd.DataFrame(rows))


def draw(frame: pd.DataFrame) -> Figure:
    frame = frame[frame["case"].isin(_slowest(frame))]
    cells = list(dict.fromkeys(frame["case"]))
    peers = _peers(frame)
    figure = new_figure(9.6, 1.8 + len(cells) * (0.14 + 0.075 * len(peers)))
    axes = figure.subplots()
    look = looks([peer for peer in dict.fromkeys((*PEERS, *peers)) if peer != FLOOR]) | {FLOOR: Look(INK, "|")}
    for line in range(0, len(cells), 2):
        axes.axhspan(line - 0.5, line + 0.5, color=STRIPE, linewidth=0, zorder=0)
    for place, peer in enumerate(peers):
        rows = frame[frame["peer"] == peer]
        aside = 0.7 * ((place + 0.5) / len(peers) - 0.5)
        axes.errorbar(
            rows["ratio"], rows["case"].map(cells.index) + aside,
            xerr=reach(rows["ratio"], rows["ratio_low"], rows["ratio_high"]), linestyle="", elinewidth=1.1,
            label=PEERS.get(peer, peer), color=look[peer].color, marker=look[peer].marker, markersize=5,
        )  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1)
    axes.axvline(TARGET, color=INK, linewidth=0.8, linestyle=":", label=f"target: at most {TARGET}")
    axes.set_yticks(range(len(cells)), labels=_labels(frame.drop_duplicates("case")))
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.grid(False, axis="y")
    _ratio_axis(axes, frame)
    axes.set_ylabel("size of the layer")
    legend_below(figure)
    return figure


def caption(frame: pd.DataFrame) -> str:
    real, nearest = nearest_peers(frame)
    beside = "the fastest peer there" if real else "its bare products"
    above = int((nearest["ratio_high"] > TARGET).sum())
    sizes = frame["case"].nunique()
    rest = left_out(min(SHOWN, sizes), sizes, "sizes", "those at which ours is slowest beside the fastest peer")
    return (
        f"Over {count(len(nearest), 'size')} ours takes {_ends(nearest)} times as long as {beside}; the upper bound is "
        f"above {TARGET} in {above}. By peer, geometric means (faster or slower: beyond the interval): "
        f"{_by_peer(frame)}.{rest}"
    )


def nearest_peers(frame: pd.DataFrame) -> tuple[bool, pd.DataFrame]:
    """Whether there are peers that one would use in our place, and for each case the row of the fastest peer.

    Args:
        frame: that of a panel. Peers that nobody would use, NO_PEERS, count only if there are no others.
    """
    real = frame[~frame["peer"].isin(NO_PEERS)]
    rows = (real if len(real) else frame).sort_values("ratio")
    return len(real) > 0, rows.groupby("case", sort=False).tail(1)


def _slowest(frame: pd.DataFrame) -> set[str]:
    """The names of the cases that are drawn: at most SHOWN, those in which ours does worst beside the fastest peer."""
    if frame["case"].nunique() <= SHOWN:
        return {*frame["case"]}
    return {*nearest_peers(frame)[1].sort_values("ratio", ascending=False)["case"].head(SHOWN)}


def _rows(run: Run, case: Mapping[Hashable, Any]) -> Iterator[dict[str, Any]]:
    for (name, over, under), logs in run.log_ratios.items():
        if name == case["case"] and under == "mha":
            ratio = stats.ratio_estimate(tuple(-rounds for rounds in logs))
            yield {key: case[key] for key in ("case", *CELL)} | {"peer": over} | frames.columns("ratio", ratio)


def _ratio_axis(axes: Any, frame: pd.DataFrame) -> None:
    least, most = extent(frame, "ratio", "ratio_low", "ratio_high")
    low, high = min(least, 0.9) / 1.05, max(most, 1.1) * 1.05
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("time of ours / time of the peer (paired; below 1 ours is faster)")


def _labels(cells: pd.DataFrame) -> list[str]:
    """A label for each row of `cells`; it names the heads only if the rows differ in them."""
    same = len(cells[["heads_kept", "heads_total", "head_dim"]].drop_duplicates()) == 1
    return [_size(row) if same else _cell(row) for _, row in cells.iterrows()]


def _size(row: pd.Series) -> str:
    tokens = "" if pd.isna(row["seq_len"]) else f" × {row['seq_len']:.0f} tokens"
    return f"batch {row['batch']:.0f}{tokens}"


def _cell(row: pd.Series) -> str:
    heads = f"{row['heads_kept']:.0f}"
    if row["heads_kept"] != row["heads_total"]:
        heads += f" of {row['heads_total']:.0f}"
    width = "" if pd.isna(row["head_dim"]) else f" × {row['head_dim']:.0f}"
    return f"{heads} heads{width}, {_size(row)}"


def _mean(rows: pd.DataFrame) -> float:
    return float(np.exp(np.log(rows["ratio"]).mean()))


def _ends(rows: pd.DataFrame) -> str:
    """The least and the largest ratio as one text, each with its interval and the size of its layer."""
    ordered = rows.sort_values("ratio", kind="stable").iloc[[0, -1] if len(rows) > 1 else [0]]
    return " to ".join(
        f"{row['ratio']:.2f} ({between(row['ratio_low'], row['ratio_high'])}; {_cell(row)})"
        for _, row in ordered.iterrows()
    )


def _by_peer(frame: pd.DataFrame) -> str:
    parts = []
    for peer in _peers(frame):
        rows = frame[frame["peer"] == peer]
        name = PEERS.get(peer, peer)
        if len(rows) == 1:
            low, high = rows[["ratio_low", "ratio_high"]].iloc[0]
            parts.append(f"{name} {_mean(rows):.2f} ({between(low, high)})")
            continue
        faster, slower = int((rows["ratio_high"] < 1).sum()), int((rows["ratio_low"] > 1).sum())
        parts.append(f"{name} {_mean(rows):.2f} (faster in {faster}, slower in {slower})")
    return listed(parts)


def _peers(frame: pd.DataFrame) -> list[str]:
    """The peers in the frame: first those in PEERS, in its order, then others by name."""
    there = {*frame["peer"]}
    return [peer for peer in (*PEERS, *sorted(there - {*PEERS})) if peer in there]
