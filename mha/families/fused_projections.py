"""transformers' attention with queries, keys and values in one linear.

Recognised by the linear's name; how the three lie in it can't be seen from its shape, so the code that takes them
apart must say it.
"""

import re
from collections.abc import Mapping

from torch import nn

from mha.families.description import Family
from mha.families.explain import COUNTS, Projections, describe, head_width, is_from_transformers
from mha.families.registry import register_convention
from mha.families.source import UnclearError, text
from mha.layout import Axis

FUSED = ("qkv", "query_key_value", "c_attn", "qkv_proj", "Wqkv", "att_proj")
OUTPUTS = ("proj", "projection", "dense", "c_proj", "out_proj", "o_proj", "Wo")
THIRDS: Axis = ("(h g d)", "(h d)", "(h d)")
INTERLEAVED: Axis = ("(h s d)",)
JOINT: Axis = ("(h (g+2) d)",)
HEADS = r"self\.(?:num_heads|num_attention_heads|n_heads?)"
KV = r"self\.(?:kv_dim|num_key_value_heads \* self\.head_dim)"
# What the code that takes a fused tensor apart looks like, and the layout that it says.
LAYOUTS: tuple[tuple[str, Axis], ...] = (
    (rf"{HEADS}, 3, self\.head_dim|{HEADS}, 3 \* self\.head|-1, 3 \* self\.head_size", INTERLEAVED),
    (rf"[ (]3, (?:{HEADS}|-1)(?:, |\))", THIRDS),
    (r"\.chunk\(3, dim=2\)|\.split\(self\.(?:split_size|embed_dim), dim=2\)", THIRDS),
    (rf"\.split\([(\[]self\.(?:q_dim|embed_dim|hidden_size), {KV}, {KV}[)\]]", THIRDS),
    (r"query_pos \+ self\.num_key_value_heads", THIRDS),
    (rf"{HEADS} \+ 2, self\.head_dim\)", THIRDS),
    (rf"-1, {HEADS} // self\.num_kv_heads \+ 2, self\.head_dim\)", JOINT),
)


@register_convention
def fused_projections(module: nn.Module) -> Family | str | None:
    """The module's description, the reason why it is refused, or None if it is something else."""
    if not is_from_transformers(module):
        return None
    children = dict(module.named_children())
    fused = next((name for name in FUSED if name in children), None)
    output = next((name for name in OUTPUTS if name in children), None)
    if fused is None or output is None:
        return None
    try:
        layout = _layout(module)
        sizes = _sizes(module, _features(children, fused), _features(children, output), layout)
        return describe(module, Projections(f"{fused} {layout[0]} … {output}", "", {fused: layout}, output, sizes))
    except UnclearError as reason:
        return str(reason)


def _layout(module: nn.Module) -> Axis:
    code = text(module)
    layouts = {layout for pattern, layout in LAYOUTS if re.search(pattern, code)}
    if len(layouts) != 1:
        raise UnclearError(f"its code does not say clearly how queries, keys and values lie ({len(layouts)} readings)")
    return layouts.pop()


def _features(children: Mapping[str, nn.Module], name: str) -> tuple[int, int]:
    """Input and output features of a linear, whichever way round its weight is."""
    weight = children[name].get_parameter("weight")
    if weight.dim() != 2:
        raise UnclearError(f"{name} is a {type(children[name]).__name__}, not a linear")
    rows, columns = weight.shape
    return (rows, columns) if type(children[name]).__name__ == "Conv1D" else (columns, rows)


def _sizes(module: nn.Module, fused: tuple[int, int], output: tuple[int, int], layout: Axis) -> dict[str, int]:
    total, inner = fused[1], output[0]
    d = head_width(module)
    if d is None:
        heads = next((vars(module)[name] for name in COUNTS if name in vars(module) and COUNTS[name] == "h g"), 0)
        if not heads or inner % heads:
            raise UnclearError("neither the width nor the number of heads is clear")
        d = inner // heads
    if inner == 0:
        return {"h": 0, "g": vars(module).get("num_key_value_groups", 1), "d": d, "e": d, "s": 3}
    groups = (total - inner) // (2 * d)
    heads = inner // d
    if (
        inner % d
        or (total - inner) % (2 * d)
        or not groups
        or heads % groups
        or (layout == INTERLEAVED and groups != heads)
    ):
        raise UnclearError(f"{total} rows and {inner} output columns hold no number of heads of width {d}")
    return {"h": groups, "g": heads // groups, "d": d, "e": d, "s": 3}
