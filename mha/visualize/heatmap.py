"""Pictures of attention: a heatmap per head, and a map of importance.

Figures are made without pyplot: nothing has to be closed and no display is needed. Save one with `savefig`, or let a
notebook show it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mha.values.errors import MhaError, ScoresError, ShapeError
from mha.values.optional_packages import needed
from mha.values.plan import HeadScores

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

COLUMNS = 8  # at most so many heatmaps side by side


def show_attention(
    weights: Any,
    *,
    num_heads: int | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
) -> "Figure":
    """A grid of heatmaps, one per head; every example starts a new row.

    All heatmaps share one scale, from 0 to the largest weight, and its colour bar.

    Args:
        weights: (b, h, q, k), (h, q, k), or, with `num_heads`, (b * h, q, k) with the heads of one example next to
            each other. A tensor of any device and dtype, or an array.
        num_heads: how many heads each example has; needed only where `weights` is (b * h, q, k).
        heads: the original number of each head, for a layer that has been pruned; 0, 1, 2, … unless given.
        queries: a label for each query.
        keys: a label for each key.

    Raises:
        ShapeError: weights of another shape or with an empty dimension, `num_heads` that does not fit them, or not as
            many `heads`, `queries` or `keys` as the weights have.
        MhaError: weights that are NaN or infinite.

    Example:
        >>> model, x = mha.MultiHeadAttention.square(8, num_heads=2), torch.randn(1, 5, 8)
        >>> output, weights = model(x, x, x, need_weights=True)
        >>> figure = mha.visualize.show_attention(weights, queries="abcde", keys="abcde")
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['head 0', 'head 1']
    """
    needed("matplotlib", "plot", "to draw heads")
    from matplotlib.figure import Figure

    examples = _by_example_and_head(_as_array(weights), num_heads)
    batch, count, num_queries, num_keys = examples.shape
    numbers = range(count) if heads is None else heads
    _check_count("heads", numbers, count)
    _check_count("queries", queries, num_queries)
    _check_count("keys", keys, num_keys)

    rows_each = math.ceil(count / COLUMNS)
    columns = math.ceil(count / rows_each)
    figure = Figure(
        figsize=_size(batch * rows_each, columns, num_queries, num_keys, queries, keys), layout="constrained"
    )
    grid = figure.add_gridspec(batch * rows_each, columns)
    smooth = "auto" if max(num_queries, num_keys) > 180 else "nearest"  # where pixels are few, no key may fall between
    scale = {"vmin": min(0.0, examples.min()), "vmax": examples.max() or 1.0, "cmap": "viridis"}
    for example, head in np.ndindex(batch, count):
        down, across = divmod(head, columns)
        axes = figure.add_subplot(grid[example * rows_each + down, across])
        axes.imshow(examples[example, head], **scale, aspect="auto", interpolation=smooth)
        axes.set_title(f"head {numbers[head]}" if batch == 1 else f"example {example}, head {numbers[head]}")
        last_row = example == batch - 1 and head + columns >= count
        _name_axis(axes.xaxis, "Keys", keys, rotation=90.0, visible=last_row)
        _name_axis(axes.yaxis, "Queries", queries, visible=across == 0)
        axes.tick_params(labelbottom=last_row, labelleft=across == 0)
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="Attention weight", fraction=0.05, pad=0.02)
    return figure


def show_importance(scores: HeadScores) -> "Figure":
    """A map of importance: one row per layer, one column per original head number.

    Heads without a score stay blank. Scores of both signs are coloured around 0, others from 0 to the largest.

    Raises:
        ScoresError: there is not one score to draw.

    Example:
        >>> scores = mha.HeadScores({"layer 0": torch.tensor([0.5, 2.0]), "layer 1": torch.tensor([1.0, 0.0])})
        >>> figure = mha.visualize.show_importance(scores)
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
        ('Head', 'Layer')
    """
    needed("matplotlib", "plot", "to draw heads")
    from matplotlib.figure import Figure

    if not scores.num_heads:
        raise ScoresError(f"expected the score of at least one head, got none for layers {list(scores.scores)}")
    names = list(scores.scores)
    table = np.full((len(names), 1 + max(max(ids, default=0) for ids in scores.heads.values())), np.nan)
    for row, name in enumerate(names):
        table[row, list(scores.heads[name])] = scores.scores[name].numpy()
    largest = np.nanmax(np.abs(table)) or 1.0
    signed = np.nanmin(table) < 0

    margin = 3.0 + 0.075 * max(len(name) for name in names)  # names of layers are small print; bar, labels
    height = max(0.35 * len(names) + 1.5, 2.0)  # room for the label of the bar
    figure = Figure(figsize=(0.4 * table.shape[1] + margin, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("0.9")
    image = axes.imshow(
        table,
        vmin=-largest if signed else 0.0,
        vmax=largest,
        cmap="RdBu" if signed else "viridis",
        interpolation="nearest",
    )
    _name_axis(axes.xaxis, "Head", None)
    _name_axis(axes.yaxis, "Layer", [name or "(root)" for name in names])
    figure.colorbar(image, ax=axes, label="Importance")
    return figure


def _as_array(weights: Any) -> "NDArray[np.float64]":
    """The weights, a tensor or what numpy takes for an array, as a float64 array of the same shape.

    Raises:
        ShapeError: they have neither three nor four dimensions, or one of size 0.
        MhaError: some are NaN or infinite.
    """
    if isinstance(weights, Tensor):
        weights = weights.detach().cpu().double().numpy()
    array: NDArray[np.float64] = np.asarray(weights, dtype=np.float64)
    if array.ndim not in (3, 4) or 0 in array.shape:
        hint = "; a layer that keeps no head has no attention to draw" if array.shape[-3:-2] == (0,) else ""
        raise ShapeError(
            "weights: expected shape (batch, head, query, key), (head, query, key) or, with num_heads, "
            f"(batch * head, query, key), none of them 0, got {array.shape}{hint}"
        )
    if not np.isfinite(array).all():
        raise MhaError(
            f"weights: {np.count_nonzero(~np.isfinite(array))} of {array.size} are NaN or infinite, the first at "
            f"{tuple(np.argwhere(~np.isfinite(array))[0].tolist())} of {array.shape}; "
            "look for queries that have every key masked"
        )
    return array


def _by_example_and_head(array: "NDArray[np.float64]", num_heads: int | None) -> "NDArray[np.float64]":
    """The weights as (b, h, q, k); b is 1 for three dimensions, (h, q, k), without `num_heads`.

    Args:
        array: (b, h, q, k) or (h, q, k), or with `num_heads` (b * h, q, k).

    Raises:
        ShapeError: `num_heads` is not the second of four dimensions, or does not divide the first of three.
    """
    if array.ndim == 4:
        if num_heads not in (None, array.shape[1]):
            raise ShapeError(f"num_heads={num_heads}, but weights of shape {array.shape} have {array.shape[1]} heads")
        return array
    if num_heads is None:
        return array[None]
    if num_heads < 1 or len(array) % num_heads:
        raise ShapeError(
            f"weights: expected (batch * head, query, key) with a multiple of num_heads={num_heads} in front, "
            f"got {array.shape}"
        )
    return array.reshape(-1, num_heads, *array.shape[1:])


def _check_count(what: str, labels: Sequence[Any] | None, count: int) -> None:
    """Check that labels, if there are any, are as many as `count`; errors call them `what`.

    Raises:
        ShapeError: there are more, or fewer.
    """
    if labels is not None and len(labels) != count:
        raise ShapeError(f"{what}: expected {count}, as many as the weights have, got {len(labels)}: {list(labels)}")


def _size(
    rows: int,
    columns: int,
    num_queries: int,
    num_keys: int,
    queries: Sequence[str] | None,
    keys: Sequence[str] | None,
) -> tuple[float, float]:
    """The figure's width and height in inches: cells about square, but no heatmap a thin strip, and labels legible.

    Args:
        rows, columns: how many heatmaps there are from top to bottom, and side by side.
        num_queries, num_keys: how many cells each heatmap has from top to bottom, and side by side.
        queries, keys: their labels, which need room; None where they are numbered.
    """
    ratio = min(max(num_keys / num_queries, 0.5), 2.0)
    width, height = 1.8 * max(1.0, ratio), 1.8 * max(1.0, 1.0 / ratio)
    margin_left, margin_below = 1.5, 0.5
    if keys is not None:
        width = max(width, min(0.17 * num_keys, 12.0))
        margin_below += 0.08 * max(len(str(label)) for label in keys)
    if queries is not None:
        height = max(height, min(0.17 * num_queries, 12.0))
        margin_left += 0.08 * max(len(str(label)) for label in queries)
    return columns * width + margin_left, rows * height + margin_below


def _name_axis(
    axis: "Axis", name: str, labels: Sequence[str] | None, *, rotation: float = 0.0, visible: bool = True
) -> None:
    """Give an axis its name and its ticks, one for each of `labels`; where that is None, at whole numbers.

    Args:
        rotation: degrees by which the labels are turned.
        visible: whether the name is printed; it is kept either way.
    """
    from matplotlib.ticker import MaxNLocator

    axis.set_label_text(name)
    axis.label.set_visible(visible)
    if labels is None:
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    else:
        axis.set_ticks(range(len(labels)), labels=[str(label) for label in labels])
        axis.set_tick_params(labelrotation=rotation, labelsize="small")
