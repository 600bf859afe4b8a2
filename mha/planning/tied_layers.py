"""Layers that hold the same weights, and what each of them must therefore keep like the others.

`prune` refuses a plan by which layers would keep different entries of what they share (`mha.pruning.shared_weights`).
The ties found here are never weaker than what `prune` checks, so that it accepts every plan which respects them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mha.families import AttentionLayer
from mha.families.base.description import part_of
from mha.families.base.linears import is_conv1d
from mha.values.layout import Axis

LETTER = re.compile(r"[a-z]\w*")  # of a pattern of `mha.values.layout`, whose sums hold numbers too


class Alike(IntEnum):
    """What tied layers keep alike; a later one is stricter."""

    GROUPS = 1  # the same key/value groups: they share keys or values
    HEADS = 2  # the same heads
    EVERYTHING = 3  # all heads or none, since what they share does not hold the heads of both in the same places


@dataclass(frozen=True)
class Tie:
    """Layers that are decided together, since they share weights, and what they must keep alike."""

    layers: tuple[str, ...]
    alike: Alike


def ties_of(layers: Mapping[str, AttentionLayer]) -> list[Tie]:
    """The ties between a model's layers; each layer is in one at most, and one that shares nothing is in none.

    Layers that share weights with one another, directly or by way of other layers, are one tie, which keeps alike what
    the strictest sharing among them asks for. A layer that itself holds a weight twice, in places that hold different
    heads, is a tie of its own.
    """
    sets: dict[str, set[str]] = {name: {name} for name, layer in layers.items() if layer.shares}
    strictest: dict[str, Alike] = {}
    for name, other, alike in _pairs(layers):
        together = sets[name] | sets[other]
        for member in together:
            sets[member] = together
        strictest[name] = max(alike, strictest.get(name, alike))
    tied = dict.fromkeys(tuple(sorted(members, key=list(layers).index)) for members in sets.values())
    ties = [Tie(members, max(strictest[name] for name in members)) for members in tied]
    return [tie for tie in ties if len(tie.layers) > 1 or tie.alike is Alike.EVERYTHING]


def _pairs(layers: Mapping[str, AttentionLayer]) -> Iterable[tuple[str, str, Alike]]:
    """Yield, for each weight held twice, the two layers that hold it (or one, twice) and what they must keep alike."""
    axes = {name: _axes_of(layer) for name, layer in layers.items() if layer.shares}
    for name, layer in layers.items():
        for part, places in layer.shares.items():
            for other, part_there in places:
                assert other is not None  # such layers are unsupported
                there = layers[other]
                yield name, other, _alike(layer, axes[name].get(part, {}), there, axes[other].get(part_there, {}))


def _axes_of(layer: AttentionLayer) -> dict[str, dict[Any, Axis]]:
    """Name of a tensor or submodule of the layer that may hold heads -> which side of it does so -> its axis pattern.

    A side is a dimension, "output" or "input" of a linear layer's weight (with whether that is stored transposed), or
    "selected" for what a submodule's heads are selected from.
    """
    family = layer.description
    axes: dict[str, dict[Any, Axis]] = {name: dict(tensor) for name, tensor in family.tensors.items()}
    for side, linears in (("output", family.rows), ("input", family.columns)):
        for linear, axis in linears.items():
            module = part_of(layer.module, linear, family)
            turned = module is not None and is_conv1d(module)
            axes.setdefault(f"{linear}.weight", {})[side, turned] = axis
            if side == "output":
                axes.setdefault(f"{linear}.bias", {})[side] = axis
    return axes | {name: {"selected": axis} for name, axis in family.selected.items()}


def _alike(
    layer: AttentionLayer, axes: Mapping[Any, Axis], other: AttentionLayer, axes_there: Mapping[Any, Axis]
) -> Alike:
    """What two layers must keep alike so that they keep the same entries of a tensor that both hold.

    Args:
        axes, axes_there: side of the tensor, as in `_axes_of` -> its axis pattern, in `layer` and in `other`.
    """
    letters = {letter for axis in axes.values() for pattern in axis for letter in LETTER.findall(pattern)}
    if axes != axes_there or any(layer.sizes[letter] != other.sizes[letter] for letter in letters):
        return Alike.EVERYTHING
    return Alike.HEADS if "g" in letters else Alike.GROUPS
