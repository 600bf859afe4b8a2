"""The families that are known, and where in a model they occur."""

from torch import nn

from mha.errors import MhaError
from mha.families.description import AttentionLayer, AttentionMap, Family

_FAMILIES: dict[str, Family] = {}

HOW_TO_REGISTER = "describe it with mha.register_family(mha.Family(...))"


def register_family(description: Family) -> Family:
    """Make a family known, so that `find_attention` finds its modules.

    Raises:
        MhaError: another family has that name, or the description contradicts itself.
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


def families() -> dict[str, Family]:
    """All known families by name (a copy)."""
    return dict(_FAMILIES)


def find_attention(model: nn.Module) -> AttentionMap:
    """Every attention module of the model, by name, in `named_modules()` order; "" is the model itself.

    A module that looks like attention but is of no known family, or of several, is not guessed at: it is
    listed in `.unsupported` with the reason.
    """
    layers: dict[str, AttentionLayer] = {}
    unsupported: dict[str, str] = {}
    for name, module in model.named_modules():
        matching = [family for family in _FAMILIES.values() if family.matches(module)]
        if len(matching) == 1:
            layers[name] = AttentionLayer.of(name, module, matching[0])
        elif matching:
            unsupported[name] = f"several families match: {', '.join(family.name for family in matching)}"
        elif _looks_like_attention(module):
            unsupported[name] = f"{type(module).__name__} is of no known family; {HOW_TO_REGISTER}"
    return AttentionMap(layers, {name: why for name, why in unsupported.items() if not _contains(name, layers)})


def _looks_like_attention(module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    return kind.endswith(("attention", "attn")) and any(True for _ in module.parameters())


def _contains(outer: str, names: dict[str, AttentionLayer]) -> bool:
    """Whether a known layer lies inside: then the outer module is only a wrapper around it."""
    return any(outer == "" or name.startswith(f"{outer}.") for name in names)
