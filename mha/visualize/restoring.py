"""Attention weights of pruned layers, put back at the places of their original heads."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer, find_attention
from mha.values.errors import PlanError, ShapeError

Layers = Sequence[AttentionLayer]


def restore_heads(
    model: nn.Module,
    weights: Tensor | Sequence[Tensor | None],
    layers: str | Sequence[str] | None = None,
    *,
    fill: float = 0.0,
) -> Tensor | tuple[Tensor, ...]:
    """Attention weights of a pruned model with all of its original heads, with `fill` for those that were pruned.

    Tools that show attention expect as many heads in every layer. What a model of transformers returns as `attentions`
    (or `encoder_attentions`, `decoder_attentions`, `cross_attentions`: one call for each) becomes what the dense model
    would return.

    Args:
        model: the pruned model, which knows what its heads were.
        weights: (b, h, q, k) of one layer, or those of several in their order; None, or h = 0, for one without heads.
        layers: which layers of the model those are: their names, or a pattern, such as "decoder.*.encoder_attn". Not
            needed where how many there are, and how many heads each has, leaves one possibility.
        fill: what pruned heads show; `float("nan")` tells them from heads that attend to nothing.

    Returns:
        (b, original heads, q, k), or a tuple of those; on the weights' device and in their dtype.

    Raises:
        PlanError: no layer has such a name, or the weights may be those of several sets of layers.
        ShapeError: the weights have other numbers of heads than the layers, or none of them shows how many queries and
            keys there are.

    Example:
        >>> model = mha.MultiHeadAttention.square(8, num_heads=4)
        >>> pruned = mha.prune(model, mha.HeadPlan({"": [1, 3]}))
        >>> x = torch.randn(1, 5, 8)
        >>> output, weights = pruned(x, x, x, need_weights=True)
        >>> weights.shape
        torch.Size([1, 2, 5, 5])
        >>> restored = mha.visualize.restore_heads(pruned, weights)
        >>> restored.shape, restored[:, 0].any().item()
        (torch.Size([1, 4, 5, 5]), False)
    """
    known = find_attention(model)
    if isinstance(weights, Tensor):
        (layer,) = _layers_for([weights], known, layers)
        return _restored(layer, weights, fill)
    entries = list(weights)
    chosen = _layers_for(entries, known, layers)
    if len(entries) < len(chosen):
        entries = _with_gaps(entries, chosen)
    like = _example_of(entries)
    return tuple(
        _restored(layer, like.new_zeros(_without_heads(like)) if entry is None else entry, fill)
        for layer, entry in zip(chosen, entries, strict=True)
    )


def _layers_for(
    entries: Sequence[Tensor | None], known: Mapping[str, AttentionLayer], named: str | Sequence[str] | None
) -> Layers:
    """The layers that the weights are of, in the order of the weights.

    Args:
        entries: the weights of one layer each; None for a layer without heads.
        known: all attention layers of the model, by name.
        named: the names of the layers, or patterns; None to find them by how many entries there are, and how many heads
            each has.

    Raises:
        ShapeError: the entries do not fit the named layers, or no set of layers.
        PlanError: no layer has such a name, or several sets of layers are possible.
    """
    if named is not None:
        layers = _named(known, named)
        if not _fit(entries, layers):
            raise ShapeError(
                f"weights: {_shapes(entries)} are not of the layers {[layer.name for layer in layers]}, which have "
                f"{[layer.num_heads for layer in layers]} heads"
            )
        return layers
    possible = [layers for layers in _kinds(known.values()) if _fit(entries, layers)]
    if not possible:
        raise ShapeError(
            f"weights: {_shapes(entries)} are not of this model, whose layers have "
            f"{ {name: layer.num_heads for name, layer in known.items()} } heads"
        )
    if len({_heads_of(layers) for layers in possible}) > 1:
        firsts = [layers[0].name for layers in possible]
        raise PlanError(
            f"weights: several layers have as many heads, those from {firsts} on; name them: "
            f"restore_heads(model, weights, {_kind(firsts[0]).replace('#', '*')!r})"
        )
    return possible[0]


def _named(known: Mapping[str, AttentionLayer], named: str | Sequence[str]) -> Layers:
    """The layers of these names, or whose names match one of these patterns.

    Raises:
        PlanError: a name or pattern that no layer has.
    """
    patterns = [named] if isinstance(named, str) else list(named)
    layers = []
    for pattern in patterns:
        matching = [layer for name, layer in known.items() if name == pattern or fnmatchcase(name, pattern)]
        if not matching:
            raise PlanError(f"no attention layer is called {pattern!r}; there are {list(known)}")
        layers += matching
    return layers


def _kinds(layers: Iterable[AttentionLayer]) -> list[Layers]:
    """The sets of layers that weights may be of: all layers, those with names alike but for numbers, each alone."""
    layers = list(layers)
    kinds: dict[str, list[AttentionLayer]] = {}
    for layer in layers:
        kinds.setdefault(_kind(layer.name), []).append(layer)
    return [layers, *kinds.values(), *([layer] for layer in layers)]


def _kind(name: str) -> str:
    """The name of a layer with a # in place of each number."""
    return re.sub(r"\d+", "#", name)


def _fit(entries: Sequence[Tensor | None], layers: Layers) -> bool:
    """Whether the weights may be of these layers, by how many heads each has.

    There must be an entry for each layer, or for each that has heads, with as many heads as the layer.
    """
    with_heads = [layer for layer in layers if layer.num_heads]
    return any(len(entries) == len(these) and all(map(_is_of, entries, these)) for these in (layers, with_heads))


def _is_of(entry: Tensor | None, layer: AttentionLayer) -> bool:
    """Whether the weights have as many heads as the layer."""
    return _heads(entry) == layer.num_heads


def _heads(entry: Tensor | None) -> int:
    """How many heads the weights are of; -1 where they have too few dimensions to say."""
    return 0 if entry is None else entry.shape[-3] if entry.dim() >= 3 else -1


def _heads_of(layers: Layers) -> tuple[tuple[tuple[int, ...], int], ...]:
    """The original heads of each layer, and how many it was made with: layers that agree in both are restored alike."""
    return tuple((layer.heads, layer.lineage.total_heads) for layer in layers)


def _shapes(entries: Sequence[Tensor | None]) -> list[tuple[int, ...] | None]:
    """The shapes of the weights, for messages."""
    return [None if entry is None else tuple(entry.shape) for entry in entries]


def _with_gaps(entries: Sequence[Tensor | None], layers: Layers) -> list[Tensor | None]:
    """The weights with None added for the layers without heads, of which nothing was returned."""
    returned = iter(entries)
    return [next(returned) if layer.num_heads else None for layer in layers]


def _example_of(entries: Sequence[Tensor | None]) -> Tensor:
    """The first entry that is not None; the entries that are None are to be made with its b, q, k, dtype and device.

    Raises:
        ShapeError: all entries are None, or some are and the others differ in b, q or k.
    """
    tensors = [entry for entry in entries if entry is not None]
    if not tensors:
        raise ShapeError("weights: no layer has any, so that nothing tells of how many queries and keys")
    shapes = {_without_heads(entry) for entry in tensors}
    if len(shapes) > 1 and len(tensors) < len(entries):
        raise ShapeError(
            f"weights: {_shapes(entries)} differ in more than heads, so that nothing tells the shape of those that are "
            "None; give (b, 0, q, k) in their place"
        )
    return tensors[0]


def _without_heads(weights: Tensor) -> tuple[int, ...]:
    """The shape of these weights with 0 heads in the place of theirs."""
    return (*weights.shape[:-3], 0, *weights.shape[-2:])


def _restored(layer: AttentionLayer, weights: Tensor, fill: float) -> Tensor:
    """The weights of a layer, (b, h, q, k), as (b, original heads, q, k), with `fill` for heads that were pruned."""
    whole = weights.new_full((*weights.shape[:-3], layer.lineage.total_heads, *weights.shape[-2:]), fill)
    places = weights.new_tensor(layer.heads, dtype=torch.long)
    return whole.index_copy(-3, places, weights)
