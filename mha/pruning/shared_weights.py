"""Checks that layers which hold the same weight, or the same submodule, keep the same entries of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from mha.families import AttentionLayer, AttentionMap
from mha.pruning.cut import Cut
from mha.pruning.indices import Indices
from mha.values.errors import PlanError


def check_alike(sharing: Sequence[AttentionLayer], cuts: Mapping[str, Cut], layers: AttentionMap) -> None:
    """Refuse cuts by which layers that share a weight, or a submodule, would keep different entries of it.

    Args:
        sharing: the layers with a cut that share a weight or a submodule with another layer.
        cuts: name of a layer -> its cut; a layer of the model that has none stays whole.
        layers: all attention layers of the model.

    Raises:
        PlanError: two layers would keep different entries; it names the layers, what they share, and their heads.
    """
    for layer in sharing:
        for part, places in layer.shares.items():
            for name, part_there in places:
                assert name is not None  # such layers are unsupported
                cut, cut_there = cuts[layer.name], cuts.get(name) or _whole(layers[name])
                if not _same(cut.kept_of(part), cut_there.kept_of(part_there)):
                    raise PlanError(_why_not_alike(cut, part, cut_there, part_there, named=name in cuts))


def selected_once(sharing: Sequence[AttentionLayer], cuts: Mapping[str, Cut]) -> dict[str, Cut]:
    """The same cuts, name of a layer -> cut, but with each submodule in the `selected` of one cut only.

    Where several layers hold a submodule from whose output features are selected, that is the first one's cut.

    Args:
        sharing: the layers with a cut that share a weight or a submodule, in order.
    """
    left = dict(cuts)
    seen: set[nn.Module] = set()
    for layer in sharing:
        cut = cuts[layer.name]
        modules = {name: layer.module.get_submodule(name) for name in cut.selected}
        first = {name: cut.selected[name] for name, module in modules.items() if module not in seen}
        left[layer.name] = replace(cut, selected=first)
        seen |= set(modules.values())
    return left


def _whole(layer: AttentionLayer) -> Cut:
    """The cut of a layer that keeps all of its heads."""
    return Cut.of(layer, tuple(range(layer.num_heads)))


def _same(kept: Indices, kept_there: Indices) -> bool:
    """Whether both keep the same indices along the same dimensions."""
    return kept.keys() == kept_there.keys() and all(torch.equal(index, kept_there[dim]) for dim, index in kept.items())


def _why_not_alike(cut: Cut, part: str, cut_there: Cut, part_there: str, *, named: bool) -> str:
    """The message of the error that two layers would keep different heads of what they share.

    Args:
        cut, cut_there: the cuts of the two layers.
        part, part_there: the name of what they share in the one and in the other layer.
        named: whether the plan names the layer that `cut_there` is of.
    """
    what = part if part == part_there else f"{part} (there {part_there})"
    unnamed = "" if named else ", which the plan does not name"
    return (
        f"layers {cut.layer!r} and {cut_there.layer!r} share {what}, and it can't keep {_heads_kept(cut)} for one and "
        f"{_heads_kept(cut_there)} for the other{unnamed}; name both in the plan, with the same heads"
    )


def _heads_kept(cut: Cut) -> str:
    """The original numbers of the heads that a cut leaves, as text; and of their groups, unless these are the same."""
    lineage = cut.lineage
    groups = "" if lineage.groups == lineage.heads else f" (key/value groups {list(lineage.groups)})"
    return f"heads {list(lineage.heads)}{groups}"
