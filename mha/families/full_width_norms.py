"""transformers' attention that normalises queries and keys over the width of all heads (OLMo 2, 2024, section 2.3).

The norm's statistic needs every head, so the projections of queries and keys and their norms stay whole, and what the
norms return is selected from; values, output and the attention kernel shrink.
"""

import re

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.reading.explain import Projections, describe, head_width, is_from_transformers
from mha.families.reading.source import UnclearError, text

NAMES = {"q_norm", "k_norm", "q_proj", "k_proj", "v_proj", "o_proj"}
NORMALISED = re.compile(r"self\.(q_norm|k_norm)\(self\.(q_proj|k_proj)\(")


@register_convention
def full_width_norms(module: nn.Module) -> Family | str | None:
    """Describe a module of transformers whose queries and keys are normalised over the width of all heads.

    Returns:
        The description; the reason why such a module is refused, as where no attribute gives a head's width; None for
        any other module.
    """
    if not normalises_all_heads(module):
        return None
    try:
        d = head_width(module)
        if d is None:
            raise UnclearError("no attribute gives the width of a head")
        groups, heads = _features(module, "v_proj", 0) // d, _features(module, "o_proj", 1) // d
        sizes = {"h": groups, "g": heads // groups, "d": d, "e": d}
        projections = Projections(
            name="q_proj + norm over all heads … o_proj",
            core="",
            rows={"v_proj": ("(h d)",)},
            output="o_proj",
            sizes=sizes,
            whole=("q_proj", "q_norm", "k_proj", "k_norm"),
            selected={"q_norm": ("(h g d)",), "k_norm": ("(h d)",)},
        )
        return describe(module, projections)
    except UnclearError as reason:
        return str(reason)


def normalises_all_heads(module: nn.Module) -> bool:
    """Whether queries and keys are normalised before they are split into heads, by norms as wide as all heads.

    The code must say so, in a module of transformers that has all of the submodules in `NAMES`.
    """
    children = dict(module.named_children())
    if not is_from_transformers(module) or not children.keys() >= NAMES:
        return False
    if set(NORMALISED.findall(text(module))) != {("q_norm", "q_proj"), ("k_norm", "k_proj")}:
        return False
    widths = [(_features(module, f"{name}_norm", 0), _features(module, f"{name}_proj", 0)) for name in "qk"]
    return all(norm == projection for norm, projection in widths)


def _features(module: nn.Module, name: str, dim: int) -> int:
    """The length of a submodule's weight along this dimension."""
    return int(module.get_submodule(name).get_parameter("weight").shape[dim])
