"""Attention before and after pruning: what the kept heads look at once the others are gone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.analyse.limits import left_out
from reports.base.formatting import listed
from reports.draw.style import BAND, INK, PAPER, color_bar, new_figure, shortened
from reports.figures import Panel
from reports.read.run import AttentionExample, Run

TITLE = "Attention before and after pruning"
ABOUT = "task"
ABSENT = "Attention before and after pruning needs attention.npz with weights of the task."
HEADS = 12  # of more, the kept ones that pruning changes most, then cut ones
TOKENS = 96  # along an axis; of more, several share a cell
LONGEST = 12  # letters of a token
WIDE = 14  # more keys than that, and only half as many heads fit beside one another
NAME_INCHES = 0.25  # what the name of a head needs above it
LABEL_POINTS = 8.0  # what one token needs along an axis


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each layer of the task's first example, with the layer's AttentionExample as its frame.

    Further examples are left to attention_overview.
    """
    examples = [example for example in run.attention if example.task == task]
    for example in examples:
        if example.example == examples[0].example:
            of = f", {example.example}" if example.example else ""
            yield Panel(example.layer, f"{task}, layer {example.layer}{of}", example)


def draw(frame: AttentionExample) -> Figure:
    """A figure with two heatmaps for each head: the dense model's, and below it the pruned one's, hatched if cut."""
    down, across = _merged(frame)
    queries, keys = frame.queries[::down], frame.keys[::across]
    shown = _shown(frame)
    grid = _Grid.of(len(shown), len(queries), len(keys))
    width, height = grid.inches
    figure = new_figure(2.2 + width * grid.columns, 1.3 + grid.rows * (height + NAME_INCHES))
    axes = figure.subplots()
    canvas = np.full(grid.size, np.nan)
    for row, heads in ((0, dict(enumerate(frame.dense))), (1, dict(zip(frame.heads, frame.pruned, strict=True)))):
        for place, head in enumerate(shown):
            top, left = grid.corner(place, row)
            if head in heads:
                canvas[top : top + grid.queries, left : left + grid.keys] = _coarse(heads[head], down, across)
            else:
                _cut(axes, grid, top, left)
    # not interpolated, and so written to an SVG as it is: a pixel for each cell
    image = axes.imshow(canvas, cmap="viridis", vmin=0, aspect="auto", interpolation="none")
    _name_heads(axes, grid, shown)
    _name_tokens(axes.yaxis, queries, grid.rows, grid.step[0], 72 * height)
    _name_tokens(axes.xaxis, keys, grid.columns, grid.step[1], 72 * width)
    axes.tick_params(labelsize=6.5, length=0, pad=2)
    axes.tick_params(axis="x", rotation=0 if max(map(len, keys)) == 1 else 90)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="keys", ylabel="queries")
    color_bar(figure, image, axes, "attention weight", aspect=25, pad=0.03, shrink=0.6)
    return figure


def caption(frame: AttentionExample) -> str:
    total, kept = len(frame.dense), list(frame.heads)
    plan = f" under {frame.plan}" if 0 < len(frame.plan) <= 80 else ""
    what = "the kept ones that change most first"
    rest = _merging(frame) + left_out(min(HEADS, total), total, "heads", what)
    if not kept:
        return f"{frame.layer} keeps none of its {total} heads{plan}.{rest}"
    change = np.abs(frame.pruned - frame.dense[kept])
    heads = "all" if len(kept) == total else listed([str(head) for head in kept])
    named = f" ({heads})" if len(kept) <= HEADS or len(kept) == total else ""
    return (
        f"{frame.layer} keeps {len(kept)} of {total} heads{plan}{named}; on this held-out example their weights "
        f"move by {change.mean():.3f} on average and by {change.max():.2f} at most.{rest}"
    )


def _shown(frame: AttentionExample) -> list[int]:
    """The original numbers of the heads that are drawn, ascending, at most HEADS.

    Kept heads come first, those whose weights pruning changes most on average; cut ones fill what room is left.
    """
    change = np.abs(frame.pruned - frame.dense[list(frame.heads)]).mean(axis=(1, 2))
    kept = [frame.heads[place] for place in np.argsort(-change, kind="stable")]
    cut = sorted({*range(len(frame.dense))} - {*kept})
    return sorted([*kept, *cut][:HEADS])


def _merged(frame: AttentionExample) -> tuple[int, int]:
    """How many adjacent queries, and how many adjacent keys, share a cell: a heatmap has at most TOKENS a side."""
    return math.ceil(len(frame.queries) / TOKENS), math.ceil(len(frame.keys) / TOKENS)


def _coarse(weights: np.ndarray, down: int, across: int) -> np.ndarray:
    """Attention weights (q, k) in cells: the largest weight of each block of `down` queries and `across` keys."""
    rows = np.maximum.reduceat(weights, range(0, weights.shape[0], down), axis=0)
    return np.maximum.reduceat(rows, range(0, weights.shape[1], across), axis=1)


def _merging(frame: AttentionExample) -> str:
    down, across = _merged(frame)
    return "" if down == across == 1 else f" A cell is the largest weight of {down} × {across} tokens."


@dataclass(frozen=True)
class _Grid:
    """Where each head's heatmap lies in the one image that holds them all, counted in cells.

    Attributes:
        queries, keys: the cells of one heatmap, down and across.
        columns: how many heatmaps lie side by side.
        rows: how many lie one below the other: a row of the dense model, then one of the pruned model, and so on.
    """

    queries: int
    keys: int
    columns: int
    rows: int

    @classmethod
    def of(cls, heads: int, queries: int, keys: int) -> "_Grid":
        columns = min(heads, 4 if keys > WIDE else 8)
        return cls(queries, keys, columns, 2 * math.ceil(heads / columns))

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height of one heatmap, in inches."""
        width = 2.5 if self.columns <= 4 else 1.3
        return width, width * min(1.2, max(0.5, self.queries / self.keys))

    @property
    def step(self) -> tuple[int, int]:
        """Cells from one heatmap's corner to the next one's, down and right; the gap below is for a head's name."""
        gap = math.ceil(self.queries * NAME_INCHES / self.inches[1])
        return self.queries + gap, self.keys + max(1, round(0.1 * self.keys))

    @property
    def size(self) -> tuple[int, int]:
        down, right = self.step
        return (self.rows - 1) * down + self.queries, (self.columns - 1) * right + self.keys

    def corner(self, head: int, row: int) -> tuple[int, int]:
        block, column = divmod(head, self.columns)
        return (2 * block + row) * self.step[0], column * self.step[1]


def _cut(axes: Axes, grid: _Grid, top: int, left: int) -> None:
    corner = left - 0.5, top - 0.5
    axes.add_patch(Rectangle(corner, grid.keys, grid.queries, facecolor=PAPER, edgecolor=BAND, hatch="///"))
    middle = left + (grid.keys - 1) / 2, top + (grid.queries - 1) / 2
    axes.text(*middle, "cut", ha="center", va="center", color=INK, fontsize="small", bbox={"color": PAPER, "pad": 1})


def _name_heads(axes: Axes, grid: _Grid, heads: Sequence[int]) -> None:
    for place, head in enumerate(heads):
        top, left = grid.corner(place, 0)
        axes.text(left + (grid.keys - 1) / 2, top - 0.7, f"head {head}", ha="center", va="bottom", fontsize="small")
    for row in range(grid.rows):
        axes.text(
            1.008, row * grid.step[0] + (grid.queries - 1) / 2, "pruned" if row % 2 else "dense", rotation=-90,
            transform=axes.get_yaxis_transform(), va="center",
        )  # fmt: skip


def _name_tokens(axis: Axis, tokens: Sequence[str], parts: int, step: int, points: float) -> None:
    """Label an axis with tokens, once for each heatmap along it; where they are too close, only every n-th of them.

    Args:
        tokens: one for each cell of a heatmap along this axis.
        parts: the number of heatmaps along this axis.
        step: cells from the start of one heatmap to that of the next.
        points: the length of one heatmap along this axis, in points of 1/72 inch.
    """
    every = math.ceil(len(tokens) * LABEL_POINTS / points)
    shown = range(0, len(tokens), every)
    axis.set_ticks(
        [part * step + place for part in range(parts) for place in shown],
        labels=[shortened(tokens[place], LONGEST) for place in shown] * parts,
    )
