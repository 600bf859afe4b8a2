"""Our own `MultiHeadAttention`, plain and grouped."""

from typing import cast

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_family
from mha.layer.attention import MultiHeadAttention


def _sizes(module: nn.Module) -> dict[str, int]:
    """The size of each letter in the axes' patterns, as `Family.sizes` returns it for the module."""
    layer = cast(MultiHeadAttention, module)
    per_group = layer.num_heads // layer.num_kv_heads if layer.num_kv_heads else 1
    return {"h": layer.num_kv_heads, "g": per_group, "d": layer.head_dim}


register_family(
    Family(
        name="mha.MultiHeadAttention",
        matches=lambda module: isinstance(module, MultiHeadAttention) and module.num_heads > 0,
        sizes=_sizes,
        rows={"W_q": ("(h g d)",), "W_k": ("(h d)",), "W_v": ("(h d)",)},
        columns={"W_o": ("(h g d)",)},
        output="W_o",
        counts={"num_heads": "h g", "num_kv_heads": "h"},
    )
)

register_family(
    Family(
        name="mha.MultiHeadAttention without heads",  # as its constructor makes it
        matches=lambda module: isinstance(module, MultiHeadAttention) and module.num_heads == 0,
        sizes=_sizes,
        columns={"W_o_without_heads": ("(h g d)",)},
        output="W_o_without_heads",
    )
)
