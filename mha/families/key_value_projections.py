"""transformers' attention with one linear for queries and one for keys and values, all keys first."""

from typing import Any, cast

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.reading.explain import Projections, describe, head_width, is_from_transformers
from mha.families.reading.source import UnclearError, text
from mha.values.layout import Axis

NAMES = {"to_q", "to_kv", "to_out"}
HALVES = "key_states, value_states = self.to_kv(hidden_states).chunk(2, dim=-1)"


@register_convention
def key_value_projections(module: nn.Module) -> Family | str | None:
    """Describe a module of transformers with the projections `to_q`, `to_kv` and `to_out`.

    Returns:
        The description; the reason why such a module is refused, as where its code does not take the keys from the
        first half of `to_kv`; None for any other module.
    """
    if not is_from_transformers(module) or not dict(module.named_children()).keys() >= NAMES:
        return None
    d, width = head_width(module), getattr(cast(Any, module).to_out, "in_features", None)
    try:
        if HALVES not in text(module) or not d or width is None or width % d:
            raise UnclearError("its code does not say clearly how queries, keys and values lie")
        rows: dict[str, Axis] = {"to_q": ("(h g d)",), "to_kv": ("(h d)", "(h d)")}
        sizes = {"h": width // d, "g": 1, "d": d, "e": d}
        return describe(module, Projections("to_q, to_kv … to_out", "", rows, "to_out", sizes))
    except UnclearError as reason:
        return str(reason)
