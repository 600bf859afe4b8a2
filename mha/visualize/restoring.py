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
    """Attention weights of a pruned model with all of its original heads, those that were pruned as zeros.

    Tools that show attention expect as many heads in every layer. What a model of transformers returns as `attentions`
    (or `encoder_attentions`, `decoder_attentions`, `cross_attentions`: one call for each) becomes what the dense model
    would return.

    Args:
        model: the pruned model, which knows what its heads were.
        weights: (b, h, q, k) of one layer, or those of several in their order; None, or h = 0, for one without heads.
        layers: which layers of the model those are: their names, or a pattern, such as "decoder.*.encoder_attn". Told
            from how many there are, and how many heads each has, where that leaves one possibility.
        fill: what pruned heads show; `float("nan")` tells them from heads that attend to nothing.

    Returns:
        (b, original heads, q, k), or a tuple of those; on the weights' device and in their dtype.

    Raises:
        PlanError: no layers of such a name, or several possibilities.
        ShapeError: as many heads as the layers do not have, or no layer that says what queries and keys there are.
    """
    found = find_attention(model)
    if isinstance(weights, Tensor):
        (layer,) = _layers_for([weights], found, layers)
        return _restored(layer, weights, fill)
    entries = list(weights)
    chosen = _layers_for(entries, found, layers)
    if len(entries) < len(chosen):
        entries = _with_gaps(entries, chosen)
    like = _shape_of_all(entries)
    return tuple(
        _restored(layer, like.new_zeros(_without_heads(like)) if entry is None else entry, fill)
        for layer, entry in zip(chosen, entries, strict=True)
    )


def _layers_for(
    entries: Sequence[Tensor | None], found: Mapping[str, AttentionLayer], named: str | Sequence[str] | None
) -> Layers:
    """The layers that the weights are of."""
    if named is not None:
        layers = _named(found, named)
        if not _fit(entries, layers):
            raise ShapeError(
                f"weights: {_told(entries)} are not of the layers {[layer.name for layer in layers]}, which have "
                f"{[layer.num_heads for layer in layers]} heads"
            )
        return layers
    possible = [layers for layers in _kinds(found.values()) if _fit(entries, layers)]
    if not possible:
        raise ShapeError(
            f"weights: {_told(entries)} are not of this model, whose layers have "
            f"{ {name: layer.num_heads for name, layer in found.items()} } heads"
        )
    if len({_heads_of(layers) for layers in possible}) > 1:
        firsts = [layers[0].name for layers in possible]
        raise PlanError(
            f"weights: several layers have as many heads, those from {firsts} on; name them: "
            f"restore_heads(model, weights, {_kind(firsts[0]).replace('#', '*')!r})"
        )
    return possible[0]


def _named(found: Mapping[str, AttentionLayer], named: str | Sequence[str]) -> Layers:
    patterns = [named] if isinstance(named, str) else list(named)
    layers = []
    for pattern in patterns:
        matching = [layer for name, layer in found.items() if name == pattern or fnmatchcase(name, pattern)]
        if not matching:
            raise PlanError(f"no attention layer is called {pattern!r}; there are {list(found)}")
        layers += matching
    return layers


def _kinds(layers: Iterable[AttentionLayer]) -> list[Layers]:
    """All layers; those whose names differ by numbers only, as those of a decoder; each on its own."""
    layers = list(layers)
    kinds: dict[str, list[AttentionLayer]] = {}
    for layer in layers:
        kinds.setdefault(_kind(layer.name), []).append(layer)
    return [layers, *kinds.values(), *([layer] for layer in layers)]


def _kind(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _fit(entries: Sequence[Tensor | None], layers: Layers) -> bool:
    """Whether the weights may be of these layers; of layers without heads there may be none at all."""
    some = [layer for layer in layers if layer.num_heads]
    return any(len(entries) == len(these) and all(map(_is_of, entries, these)) for these in (layers, some))


def _is_of(entry: Tensor | None, layer: AttentionLayer) -> bool:
    return _heads(entry) == layer.num_heads


def _heads(entry: Tensor | None) -> int:
    return 0 if entry is None else entry.shape[-3] if entry.dim() >= 3 else -1


def _heads_of(layers: Layers) -> tuple[tuple[tuple[int, ...], int], ...]:
    return tuple((layer.heads, layer.lineage.total_heads) for layer in layers)


def _told(entries: Sequence[Tensor | None]) -> list[tuple[int, ...] | None]:
    return [None if entry is None else tuple(entry.shape) for entry in entries]


def _with_gaps(entries: Sequence[Tensor | None], layers: Layers) -> list[Tensor | None]:
    """None for layers without heads, of which nothing was returned."""
    given = iter(entries)
    return [next(given) if layer.num_heads else None for layer in layers]


def _shape_of_all(entries: Sequence[Tensor | None]) -> Tensor:
    """One of the weights, by which those of layers that returned none are made."""
    given = [entry for entry in entries if entry is not None]
    if not given:
        raise ShapeError("weights: no layer has any, so that nothing tells of how many queries and keys")
    shapes = {_without_heads(entry) for entry in given}
    if len(shapes) > 1 and len(given) < len(entries):
        raise ShapeError(
            f"weights: {_told(entries)} differ in more than heads, so that nothing tells the shape of those that are "
            "None; give (b, 0, q, k) in their place"
        )
    return given[0]


def _without_heads(weights: Tensor) -> tuple[int, ...]:
    return (*weights.shape[:-3], 0, *weights.shape[-2:])


def _restored(layer: AttentionLayer, weights: Tensor, fill: float) -> Tensor:
    whole = weights.new_full((*weights.shape[:-3], layer.lineage.total_heads, *weights.shape[-2:]), fill)
    places = weights.new_tensor(layer.heads, dtype=torch.long)
    return whole.index_copy(-3, places, weights)
