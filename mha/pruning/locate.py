"""From a plan, which speaks of original head numbers, to positions among the heads that a layer has now.

`heads` are original numbers, which never change. `positions` count from 0 the heads that the layer has now: in a layer
that was pruned to heads 3, 5 and 8, head 5 is at position 1.
"""

from torch import nn

from mha.families import AttentionLayer, AttentionMap
from mha.families.base.find import HOW_TO_REGISTER
from mha.families.base.wrappers import unwrapped
from mha.values.errors import PlanError, UnsupportedModule
from mha.values.plan import HeadPlan
from mha.values.unknown_words import meant


def locate(model: nn.Module, layers: AttentionMap, plan: HeadPlan) -> list[tuple[AttentionLayer, tuple[int, ...]]]:
    """Each layer that the plan names, with the positions of the heads to keep among those that it has now.

    Args:
        layers: the model's, as `find_attention` finds them.

    Raises:
        PlanError: `plan` is no `HeadPlan`; or it names what is no module of the model, a head that the layer never had,
            or one that has been pruned before.
        UnsupportedModule: the plan names a module of no known family, or an attention that can't be pruned.
    """
    if not isinstance(plan, HeadPlan):
        raise PlanError(f"expected a HeadPlan, got {type(plan).__name__}; wrap it: HeadPlan(...)")
    return [(_layer(model, layers, name), _positions(layers[name], heads)) for name, heads in plan.keep.items()]


def _layer(model: nn.Module, layers: AttentionMap, name: str) -> AttentionLayer:
    """The attention layer of that name.

    Raises:
        UnsupportedModule: the module of that name is not supported or of no known family, or the model has no attention
            of a known family at all.
        PlanError: there is no module of that name; the message lists the layers, and suggests the one meant.
    """
    if name in layers:
        return layers[name]
    if name in layers.unsupported:
        raise UnsupportedModule(f"layer {name!r}: {layers.unsupported[name]}")
    module = dict(unwrapped(model).named_modules()).get(name)
    if module is not None:
        raise UnsupportedModule(
            f"layer {name!r} is a {type(module).__name__}, which is of no known attention family; {HOW_TO_REGISTER}"
        )
    if not layers:
        raise UnsupportedModule(f"layer {name!r}: the model has no attention of a known family; {HOW_TO_REGISTER}")
    without_prefix = name.partition(".")[2]
    question = meant(without_prefix if without_prefix in layers else name, layers)
    hint = f"{question} " if question else ""
    raise PlanError(f"layer {name!r} is not in the model; {hint}its attention layers are {list(layers)}")


def _positions(layer: AttentionLayer, heads: tuple[int, ...]) -> tuple[int, ...]:
    """The positions, in the layer as it is now, of these heads, which are given by their original numbers.

    Raises:
        PlanError: the layer never had such a head, or has lost it by pruning.
    """
    if unknown := [head for head in heads if head >= layer.lineage.total_heads]:
        raise PlanError(
            f"layer {layer.name!r}: heads {unknown} do not exist; it was made with "
            f"{layer.lineage.total_heads} heads, numbered from 0"
        )
    if gone := [head for head in heads if head not in layer.heads]:
        raise PlanError(
            f"layer {layer.name!r}: heads {gone} have been pruned before; still present are "
            f"{list(layer.heads)} (plans speak of original numbers)"
        )
    return tuple(layer.heads.index(head) for head in heads)
