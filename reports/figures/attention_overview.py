"""All attention of one example at a glance: every layer and head, before and after pruning."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from reports.analyse.limits import left_out, spread
from reports.base.formatting import listed
from reports.draw.style import BAND, PAPER, color_bar, new_figure, shortened
from reports.figures import Panel
from reports.read.run import AttentionExample, Run

TITLE = "All attention at a glance"
ABOUT = "task"
ABSENT = "All attention at a glance needs attention.npz with weights of the task."
SIDE = 24  # layers and heads; of more, so many from the first to the last
CELLS = 24  # along each side of a head's map
STEP = CELLS + 3  # from one map to the next
BESIDE = 8  # more heads than that, and the pruned model stands below the dense one
LAYERS_NAMED = 12  # in the caption, one by one


@dataclass(frozen=True, eq=False)
class Overview:
    """One example of a task: its name ("" in older runs), and every layer whose attention the run holds."""

    name: str
    layers: tuple[AttentionExample, ...]


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each held-out example of the task whose attention weights the run has; its frame is an Overview."""
    examples: list[list[AttentionExample]] = []
    for layer in (layer for layer in run.attention if layer.task == task):
        last = examples[-1] if examples else []
        if not last or last[0].example != layer.example or layer.layer in {other.layer for other in last}:
            examples.append([])
        examples[-1].append(layer)
    for number, layers in enumerate(examples):
        name = layers[0].example
        yield Panel(f"{number}", f"{task}, {name}" if name else task, Overview(name, tuple(layers)))


def draw(frame: Overview) -> Figure:
    """A figure of one image: a row for each layer, a column for each head, at most SIDE of both, evenly spread.

    The pruned model is right of the dense one, or below it if more than BESIDE heads are shown.
    """
    layers = spread(frame.layers, SIDE)
    heads = _heads(frame)
    rows, columns = len(layers), len(heads)
    beside = columns <= BESIDE
    inches = min(0.5, (9.6 if not beside else 4.8) / columns)
    gap = round(0.45 * STEP / inches)  # for the name of the block, in cells of the image
    down, right = (0, columns * STEP + gap) if beside else (rows * STEP + gap, 0)
    canvas = np.full((down + rows * STEP, right + columns * STEP), np.nan)
    cut: list[Path] = []
    for row, layer in enumerate(layers):
        kept = dict(zip(layer.heads, layer.pruned, strict=True))
        for column, head in enumerate(head for head in heads if head < len(layer.dense)):
            most = layer.dense[head].max() or 1.0
            top, left = row * STEP, column * STEP
            canvas[top : top + CELLS, left : left + CELLS] = _thumbnail(layer.dense[head]) / most
            top, left = top + down, left + right
            if head in kept:
                canvas[top : top + CELLS, left : left + CELLS] = _thumbnail(kept[head]) / most
            else:
                cut.append(_square(top, left))
    scale = inches / STEP
    figure = new_figure(3.6 + scale * canvas.shape[1], 1.4 + scale * canvas.shape[0])
    axes = figure.subplots()
    image = axes.imshow(canvas, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="none")
    if cut:
        axes.add_patch(PathPatch(Path.make_compound_path(*cut), facecolor=PAPER, edgecolor=BAND, hatch="////"))
    _name_rows(axes, layers, rows, down)
    _name_heads(axes, heads, right)
    for name, (top, left) in (("dense", (0, 0)), ("pruned", (down, right))):
        aside = 18 if top == 0 else 4  # above the numbers of the heads, where there are any
        axes.annotate(
            name, (left - 0.5, top - 0.5), xytext=(0, aside), textcoords="offset points", va="bottom",
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    axes.set(xlabel="head", ylabel="layer")
    color_bar(figure, image, axes, "attention weight, share of the head's largest before", aspect=25, shrink=0.7)
    return figure


def caption(frame: Overview) -> str:
    kept = sum(len(layer.heads) for layer in frame.layers)
    total = sum(len(layer.dense) for layer in frame.layers)
    where = f"On the held-out example “{frame.name}”" if frame.name else "On one held-out example"
    many = len(frame.layers) > LAYERS_NAMED
    each = [f"{len(layer.heads)} of {len(layer.dense)} in {layer.layer}" for layer in frame.layers[:LAYERS_NAMED]]
    names = "" if many else f" ({listed(each)})"
    text = f"{where}, {kept} of {total} heads are kept{names}"
    moved = {layer.layer: _moved(layer) for layer in frame.layers if layer.heads}
    if moved:
        weights = np.concatenate(list(moved.values()))
        means = {layer: float(change.mean()) for layer, change in moved.items()}
        least, most = (pick(means, key=lambda layer: means[layer]) for pick in (min, max))
        text += f"; their weights move by {weights.mean():.3f} on average"
        text += f", least in {least} ({means[least]:.3f}), most in {most} ({means[most]:.3f})" if len(means) > 1 else ""
    shown = left_out(min(SIDE, len(frame.layers)), len(frame.layers), "layers")
    widest = max(len(layer.dense) for layer in frame.layers)
    return f"{text}.{shown}{left_out(min(SIDE, widest), widest, 'heads of a layer')}"


def _heads(frame: Overview) -> list[int]:
    return spread(range(max(len(layer.dense) for layer in frame.layers)), SIDE)


def _moved(layer: AttentionExample) -> np.ndarray:
    """The mean absolute change of each kept head's attention weights by pruning, (kept heads,)."""
    return np.asarray(np.abs(layer.pruned - layer.dense[list(layer.heads)]).mean(axis=(1, 2)))


def _thumbnail(weights: np.ndarray) -> np.ndarray:
    """Attention weights (q, k) resampled to (CELLS, CELLS): each cell takes the weight nearest to its middle."""
    rows, columns = (((np.arange(CELLS) + 0.5) * size / CELLS).astype(int) for size in weights.shape)
    return weights[np.ix_(rows, columns)]


def _square(top: int, left: int) -> Path:
    corner = np.array([left - 0.5, top - 0.5])
    return Path(corner + CELLS * np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]), closed=True)


def _name_rows(axes: Axes, layers: list[AttentionExample], rows: int, down: int) -> None:
    middles = [row * STEP + CELLS / 2 for row in range(rows)]
    names = [shortened(layer.layer) for layer in layers]
    below = [middle + down for middle in middles] if down else []
    axes.set_yticks([*middles, *below], labels=[*names, *(names if down else [])])


def _name_heads(axes: Axes, heads: list[int], right: int) -> None:
    middles = [column * STEP + CELLS / 2 for column in range(len(heads))]
    beside = [middle + right for middle in middles] if right else []
    axes.set_xticks([*middles, *beside], labels=[str(head) for head in heads] * (2 if right else 1))
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize="small")
    axes.grid(False)
    axes.spines[:].set_visible(False)
