"""Layers that hand their keys and values on to later layers, which compute none (Gemma 3n, Gemma 4).

What is handed on, and cached, is for all original key/value groups, so that each layer may keep other heads. A layer
that hands on keeps its projections of keys and values whole, and attends to the groups that it still has; one that is
handed keys takes those of its groups.
"""

import ast
import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.reading.explain import Projections, describe, head_width, is_from_transformers
from mha.families.reading.source import UnclearError, function_of, reading, text
from mha.families.reading.without_heads import Returned, without_heads
from mha.runtime.generated_classes import Members, compiled, making_class, whole
from mha.values.layout import Axis
from mha.values.plan import core_lineage

SHARED = "shared_kv_states"
TAKEN = "key_states, value_states = shared_kv_states[self.layer_type]"
HANDED_ON = "shared_kv_states[self.layer_type] = (key_states, value_states)"


@register_convention
def shared_keys(module: nn.Module) -> Family | str | None:
    """Describe a module of transformers that hands its keys and values on to later layers, or is handed some.

    Returns:
        The description; the reason why such a module is refused, as where its code does not show which of the two; None
        for any other module.
    """
    if not has_shared_keys(module):
        return None
    try:
        code = text(module)
        if TAKEN in code:
            return _takes(module)
        if HANDED_ON in code:
            return _hands_on(module)
        raise UnclearError("its code does not say clearly whose keys and values it attends to")
    except UnclearError as reason:
        return str(reason)


def has_shared_keys(module: nn.Module) -> bool:
    """Whether the module, of transformers, is handed keys and values by another layer or hands its own on to others."""
    if not is_from_transformers(module) or not {"q_proj", "o_proj"} <= dict(module.named_children()).keys():
        return False
    code = reading(module)
    return code is not None and SHARED in code.variables


def _takes(module: nn.Module) -> Family:
    """The description of a module that is handed its keys and values; queries and output lose heads.

    Raises:
        UnclearError: the module can't be described.
    """
    kind, code = whole(module), reading(module)
    projections = _projections(module, "q_proj … o_proj, keys of another layer", ())
    empty = without_heads(kind, Returned("o_proj", code.returned if code else None, cached=False))
    return describe(module, projections, replacement=with_keys_of_another(kind), empty=empty)


def _hands_on(module: nn.Module) -> Family:
    """The description of a module that hands its keys and values on; queries and output lose heads, the others none.

    Raises:
        UnclearError: the module can't be described.
    """
    kept_whole = ("k_proj", "v_proj", "k_norm", "v_norm")
    projections = _projections(module, "q_proj … o_proj, keys for other layers", kept_whole)
    handing_on = with_keys_for_others(whole(module))
    return describe(module, projections, replacement=handing_on, empty=handing_on)


def _projections(module: nn.Module, name: str, kept_whole: tuple[str, ...]) -> Projections:
    """The projections that lose heads, as `describe` takes them: those of queries and output.

    Args:
        name: that of the description.
        kept_whole: the submodules that stay as they are, since they are for all original groups.

    Raises:
        UnclearError: no attribute gives the width of a head or the query heads per group, or the output's width is no
            multiple of their product.
    """
    d, per_group = head_width(module), vars(module).get("num_key_value_groups")
    width = int(cast(Any, module).o_proj.in_features)
    if d is None or not isinstance(per_group, int) or width % (d * per_group):
        raise UnclearError("neither the width nor the number of its heads is clear")
    sizes = {"h": width // d // per_group, "g": per_group, "d": d, "e": d}
    rows: dict[str, Axis] = {"q_proj": ("(h g d)",)}
    return Projections(name, "", rows, "o_proj", sizes, kept_whole, frozenset({SHARED}))


@making_class
def with_keys_of_another(kind: Any) -> tuple[str, Members]:
    """A subclass that uses, of the keys and values that another layer hands to it, those of the groups it still has."""
    signature = inspect.signature(kind.forward)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        handed: Mapping[str, tuple[Tensor, Tensor]] = bound.arguments[SHARED]
        own = tuple(_of_groups(self, states) for states in handed[self.layer_type])
        bound.arguments[SHARED] = {self.layer_type: own}
        return kind.forward(*bound.args, **bound.kwargs)

    return "OfFewerHeads", {"forward": forward}


@making_class
def with_keys_for_others(kind: Any) -> tuple[str, Members]:
    """A subclass that hands on keys and values of all original groups, and attends to those of the groups it still has.

    Raises:
        UnclearError: the code does not hand keys on in exactly one place.
    """
    function = function_of(kind.forward, kind.__name__)
    handed_on = [place for place, statement in enumerate(function.body) if HANDED_ON in ast.unparse(statement)]
    if len(handed_on) != 1:
        raise UnclearError("its code does not say clearly when keys and values are handed on")
    own = "key_states, value_states = (self.of_own_groups(key_states), self.of_own_groups(value_states))"
    function.body.insert(handed_on[0] + 1, ast.parse(own).body[0])
    return "OfFewerHeads", {"forward": compiled(function, kind.forward), "of_own_groups": _of_groups}


def _of_groups(core: nn.Module, states: Tensor) -> Tensor:
    """The part of keys or values, (b, original groups, k, d), that belongs to the groups still here.

    All of them where no plan has named the module.
    """
    lineage = core_lineage(core)
    if lineage is None:
        return states
    return states.index_select(1, torch.tensor(lineage.groups, device=states.device, dtype=torch.long))
