"""The families that are known, and where in a model they occur."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from torch.jit import ScriptModule

from mha.families.base.description import AttentionLayer, AttentionMap, Family
from mha.families.base.emptied import emptied
from mha.families.base.sharing import shared_with_others, sharing
from mha.families.base.wrappers import unwrapped, why_scripted
from mha.runtime.generated_classes import whole
from mha.values.errors import MhaError, UnsupportedModule

Convention = Callable[[nn.Module], Family | str | None]
Relation = Callable[[nn.Module, Mapping[str, AttentionLayer]], Mapping[str, str]]

_FAMILIES: dict[str, Family] = {}
_CONVENTIONS: list[Convention] = []
_RELATIONS: list[Relation] = [shared_with_others]

NAMES = re.compile(r"att(entio)?n(v\d|\dd|nd|cl)?$")
HOW_TO_REGISTER = "describe it with mha.register_family(mha.Family(...))"


def register_family(description: Family) -> Family:
    """Make a family known, so that `find_attention` finds its modules.

    Example:
        >>> class Attention(nn.Module):
        ...     def __init__(self, num_heads, width):
        ...         super().__init__()
        ...         self.num_heads, self.width = num_heads, width
        ...         self.qkv = nn.Linear(16, 3 * num_heads * width)
        ...         self.out = nn.Linear(num_heads * width, 16)
        ...
        ...     def forward(self, x):
        ...         parts = self.qkv(x).chunk(3, dim=-1)
        ...         q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        ...         return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        >>> family = mha.register_family(
        ...     mha.Family(
        ...         name="an example of a family",
        ...         matches=lambda module: isinstance(module, Attention),
        ...         sizes=lambda module: {"h": module.num_heads, "g": 1, "d": module.width},
        ...         rows={"qkv": ("(h g d)", "(h d)", "(h d)")},
        ...         columns={"out": ("(h g d)",)},
        ...         output="out",
        ...         counts={"num_heads": "h g"},
        ...     )
        ... )
        >>> model = nn.Sequential(Attention(num_heads=4, width=5))
        >>> mha.find_attention(model)
        AttentionMap(
          '0': 4 heads (an example of a family)
        )
        >>> mha.check(model, mha.HeadPlan({"0": (1, 2)}), (torch.randn(2, 3, 16),)) < 1e-5
        True

    Raises:
        MhaError: another family has that name, or the description's `output` is not among its `columns`.
    """
    if description.name in _FAMILIES:
        raise MhaError(f"family {description.name!r} is registered already; choose another name")
    if description.output not in description.columns:
        raise MhaError(
            f"family {description.name!r}: the output projection {description.output!r} must stand in "
            f"columns, which has {sorted(description.columns)}: its input features are the heads' context"
        )
    _FAMILIES[description.name] = description
    return description


def register_convention(convention: Convention) -> Convention:
    """Register a function that describes modules by how they are built.

    The function returns a description of the module, or the reason why a module that it recognises is refused, or None
    for any other module.
    """
    _CONVENTIONS.append(convention)
    return convention


def register_relation(relation: Relation) -> Relation:
    """Register a function that finds layers of a model that can't be pruned because of how they depend on each other.

    The function is given the model and the layers in it, by name, and returns the names of those that are refused, each
    with the reason.
    """
    _RELATIONS.append(relation)
    return relation


def families() -> dict[str, Family]:
    """All registered families by name, in a new dictionary."""
    return dict(_FAMILIES)


def find_attention(model: nn.Module) -> AttentionMap:
    """Every attention module of the model, by name, in `named_modules()` order; "" is the model itself.

    In a model that `torch.compile` or data parallelism wrapped, layers have the names of the model inside.

    A module that looks like attention but is of no known family, or of several, is not guessed at: it is
    listed in `.unsupported` with the reason.

    Example:
        >>> model = nn.ModuleDict({"attention": nn.MultiheadAttention(12, 3), "feed_forward": nn.Linear(12, 12)})
        >>> for name, layer in mha.find_attention(model).items():
        ...     print(name, layer.num_heads, "heads of width", layer.head_dim)
        attention 3 heads of width 4
    """
    layers: dict[str, AttentionLayer] = {}
    unsupported: dict[str, str] = {}
    model = unwrapped(model)
    for name, module in model.named_modules():
        if _inside(name, layers):
            continue
        description = _describe(module)
        if isinstance(description, Family):
            layers[name] = AttentionLayer.of(name, module, description)
        elif description is not None:
            unsupported[name] = description  # why it is refused
    while refused := {name: why for relation in _RELATIONS for name, why in relation(model, layers).items()}:
        unsupported |= refused  # others may be tied to these
        layers = {name: layer for name, layer in layers.items() if name not in refused}
    for name, shares in sharing(model, layers).items():
        layers[name] = replace(layers[name], shares=shares)
    return AttentionMap(layers, {name: why for name, why in unsupported.items() if not _contains(name, layers)})


def required_attention(model: nn.Module) -> AttentionMap:
    """The layers that `find_attention` finds, of which there is at least one.

    Raises:
        UnsupportedModule: there is none; the message lists what looks like attention, and why it is refused.
    """
    layers = find_attention(model)
    if not layers:
        listing = "".join(f"\n  {name!r}: {why}" for name, why in layers.unsupported.items())
        raise UnsupportedModule(f"the model has no attention of a known family; {HOW_TO_REGISTER}{listing}")
    return layers


def _describe(module: nn.Module) -> Family | str | None:
    """The module's description, or the reason why it is refused, or None where it does not look like attention.

    It is refused where several families describe it, where a convention gives a reason, and where it looks like
    attention and nothing describes it.
    """
    if (was := emptied(module)) is not None:
        return was.described()
    matching = [family for family in _FAMILIES.values() if family.matches(module)]
    answers = [convention(module) for convention in _CONVENTIONS] if not matching else []
    matching += [answer for answer in answers if isinstance(answer, Family)]
    if len(matching) > 1:
        return f"several families match: {', '.join(family.name for family in matching)}"
    if matching:
        return matching[0]
    reasons = [answer for answer in answers if isinstance(answer, str)]
    if reasons:
        return f"{reasons[0]}; {HOW_TO_REGISTER}"
    if not _looks_like_attention(module):
        return None
    return why_scripted(module) or _why_unknown(module)


def _why_unknown(module: nn.Module) -> str | None:
    """Why a module that looks like attention is of no family: a submodule that replaces a linear, or nothing known.

    None for a module without parameters and without such a submodule, which only calls attention.
    """
    replaced = [(name, type(inner)) for name, inner in module.named_modules() if _replaces_linear(inner)]
    if not replaced and not any(True for _ in module.parameters()):
        return None
    if replaced:
        name, kind = replaced[0]
        return (
            f"{name} is a {kind.__module__}.{kind.__qualname__}, not a plain linear (quantised, sharded or adapted?); "
            "merge it or turn it back first"
        )
    return f"{type(module).__name__} is of no known family; {HOW_TO_REGISTER}"


def _looks_like_attention(module: nn.Module) -> bool:
    """Whether the module's class is named like attention, or its forward calls torch's fused attention.

    Swin's `ShiftedWindowAttentionV2` is so named. That of a pruned module is the class that it had before.
    """
    name: str = module.original_name if isinstance(module, ScriptModule) else whole(module).__name__
    return bool(NAMES.search(name.lower())) or _calls_attention(whole(module))


@functools.cache
def _calls_attention(kind: Any) -> bool:
    """Whether the class's own forward calls torch's fused attention; False where its source can't be read."""
    if kind.__module__.startswith("torch."):
        return False
    try:
        return "scaled_dot_product_attention(" in inspect.getsource(kind.forward)
    except (OSError, TypeError):
        return False


def _replaces_linear(module: nn.Module) -> bool:
    """Whether the module has `in_features` and `out_features` but is no `nn.Linear`, as quantised or adapted ones."""
    return not isinstance(module, nn.Linear | nn.Bilinear) and all(
        isinstance(getattr(module, size, None), int) for size in ("in_features", "out_features")
    )


def _inside(name: str, layers: Mapping[str, AttentionLayer]) -> bool:
    """Whether the module of that name lies inside one of these layers."""
    return any(name.startswith(f"{layer}." if layer else "") and name != layer for layer in layers)


def _contains(name: str, layers: Mapping[str, AttentionLayer]) -> bool:
    """Whether one of these layers lies inside the module of that name, which then is only a wrapper around it."""
    return any(name == "" or layer.startswith(f"{name}.") for layer in layers)
