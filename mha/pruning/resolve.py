"""A plan resolved: what happens to every layer and every parameter, all of it checked before anything changes."""

from collections.abc import Iterable

from torch import Tensor, nn

from mha.families import AttentionLayer, find_attention
from mha.families.base.wrappers import unwrapped, why_held
from mha.pruning.cut import Cut
from mha.pruning.locate import locate
from mha.pruning.shared_weights import check_alike, selected_once
from mha.runtime.intercept import why_stuck
from mha.values.errors import UnsupportedModule
from mha.values.plan import HeadPlan


def resolve(model: nn.Module, plan: HeadPlan) -> list[Cut]:
    """The cut of each layer that the plan names, but for layers whose heads are all gone already; nothing is changed.

    Raises:
        PlanError: a layer or head that is not there, key/value groups left with different numbers of query heads,
            layers left with different heads of what they share, or weights that contradict the layer's counts.
        UnsupportedModule: a module of no known family, sharded, offloaded or scripted, one whose `forward` was replaced
            on the instance, or one with a projection that can't be sliced.
    """
    layers = find_attention(model)
    located = [(layer, positions) for layer, positions in locate(model, layers, plan) if layer.num_heads]
    for layer, _ in located:
        _check_free(layer, why_held(unwrapped(model), layer.name))
    cuts = {layer.name: Cut.of(layer, positions) for layer, positions in located}
    for layer, _ in located:
        _check_free(layer, layer.why_hidden(cuts[layer.name].becomes))
        for name in layer.description.selected:
            _check_free(layer, why_stuck(layer.module.get_submodule(name), name))
    if sharing := [layer for layer, _ in located if layer.shares]:
        check_alike(sharing, cuts, layers)
        cuts = selected_once(sharing, cuts)
    return list(cuts.values())


def kept_entries(model: nn.Module, plan: HeadPlan) -> dict[str, dict[int, Tensor]]:
    """Every parameter that `prune(model, plan)` slices, by name -> dimension -> ascending indices of what it keeps.

    Raises:
        PlanError: the plan does not fit the model, or keeps heads that slicing can't keep alone.
        UnsupportedModule: the plan names a module of no known family, or one that can't be sliced.
    """
    return entries_of(resolve(model, plan))


def entries_of(cuts: Iterable[Cut]) -> dict[str, dict[int, Tensor]]:
    """Every parameter that these cuts slice, by name -> dimension -> ascending indices of what it keeps."""
    return {cut.name_of(name): dict(indices) for cut in cuts for name, indices in cut.indices.items()}


def moved_parameters(cuts: Iterable[Cut], before: nn.Module, after: nn.Module) -> dict[str, str | None]:
    """Old -> new name of every parameter that moves or disappears, in layers that these cuts leave without heads.

    Args:
        before, after: the model that the cuts are of, and the same model pruned.

    Returns:
        Name in `before` -> name in `after`; None for a parameter that has left with the last head of its layer.
    """
    names = [name for name, _ in before.named_parameters(remove_duplicate=False)]
    left = dict(after.named_parameters(remove_duplicate=False)).keys()
    moved: dict[str, str | None] = {}
    for cut in cuts:
        if cut.emptied is not None:
            moved |= {name: None for name in names if name not in left and name.startswith(cut.name_of(""))}
            moved[cut.name_of(f"{cut.output}.bias")] = cut.name_of(f"{cut.emptied.output}.bias")
    return moved


def _check_free(layer: AttentionLayer, why: str | None) -> None:
    """Refuse the layer if there is a reason why it can't be pruned.

    Args:
        why: the reason; None for none.

    Raises:
        UnsupportedModule: there is a reason; the message is the layer's name and the reason.
    """
    if why is not None:
        raise UnsupportedModule(f"layer {layer.name!r}: {why}")
